//! Registration: memory of somebody else that all ranks shall reach.

use std::fmt;
use std::sync::Arc;

use crate::backend::Agreement;
use crate::communicator::Communicator;
use crate::error::Error;
use crate::graph::refuse_in_capture;
use crate::memory::Region;

/// What a registration has come to, the same on all ranks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// Every rank reaches the memory of every rank: data may go from buffer to buffer.
    Shared,
    /// Calls go through the rings, as with memory that nobody registered.
    Staged {
        /// The rank whose memory can't be reached by all, and why.
        reason: String,
    },
}

/// Memory of one rank that was registered with its communicator: see [`Communicator::register`].
///
/// Dropping it ends the registration, and never waits. What was enqueued before keeps the memory until it is done, on
/// every rank, and so does a graph that recorded it.
#[derive(Clone)]
pub struct Registered {
    region: Region,
    agreement: Arc<dyn Agreement>,
}

impl Registered {
    /// The memory, for calls. Slices of it are registered, too.
    pub fn region(&self) -> &Region {
        &self.region
    }

    /// What the registration has come to. Waits until all ranks have registered; later calls say the same at once.
    ///
    /// # Errors
    ///
    /// * [`Error::RegistrationsDiffer`] if ranks registered different numbers of bytes, or in another order. It is the
    ///   same on all ranks.
    /// * [`Error::Unregistered`] if a rank has not registered within the deadline, or was dropped before it did.
    /// * [`Error::PeerFailed`] if a rank in another process does not answer within the deadline.
    /// * [`Error::Poisoned`] if a call failed before.
    pub fn settle(&self) -> Result<Sharing, Error> {
        let staged = self.agreement.settle()?;
        Ok(staged.map_or(Sharing::Shared, |reason| Sharing::Staged { reason }))
    }

    /// Whether every rank reaches the memory of every rank.
    ///
    /// # Errors
    ///
    /// Those of [`Registered::settle`].
    pub fn is_shared(&self) -> Result<bool, Error> {
        Ok(self.settle()? == Sharing::Shared)
    }
}

impl fmt::Debug for Registered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registered").field("region", &self.region).finish_non_exhaustive()
    }
}

impl Communicator {
    /// Registers memory of somebody else, so that every rank reaches it where that can be; it is staged where it can't,
    /// and [`Registered::settle`] says which, and why.
    ///
    /// A collective: all ranks register in the same order, each memory of its own with the same number of bytes. It waits
    /// for no peer to register, so one thread may do it for all ranks; the first call with the region does, or
    /// [`Registered::settle`], until the deadline. So **all ranks register before one of them calls**.
    ///
    /// Which memory can be shared:
    ///
    /// | memory that came by [`Region::device_owned`] | GPUs of one process | a process a rank |
    /// |---|---|---|
    /// | pages that are mapped (`cuMemCreate`; PyTorch's expandable segments) | yes | if it was made with descriptors |
    /// | a plain allocation (`cuMemAlloc`, `cudaMalloc`; PyTorch's caching segments) | staged | yes |
    /// | memory of a pool (`cuMemAllocAsync`, as many bindings allocate) | staged | staged |
    ///
    /// Memory that this communicator allocated is shared already, and may be registered all the same. That of
    /// [`Region::device_foreign`] is staged: nothing keeps it. If the memory of one rank can't be shared, that of all is
    /// staged. A call for [`crate::Builder::windows`] is planned so that data goes from buffer to buffer if all of its
    /// regions are shared, and through the rings if one is registered and staged; all ranks must agree on that, too.
    /// Without that promise registration changes nothing.
    ///
    /// A plain allocation of a rank in another process must not be freed before the peers have closed it; so its owner is
    /// dropped only when they have, or not at all where one said goodbye in the middle of a call.
    ///
    /// On the host nothing has to be registered: every call goes through the rings, and [`Registered::settle`] says so.
    ///
    /// # Errors
    ///
    /// The rank has then not registered:
    ///
    /// * [`Error::WrongBackend`], [`Error::WrongDevice`] if the region is elsewhere.
    /// * [`Error::Poisoned`] if an earlier call failed; [`Error::Capturing`] while this thread captures a stream.
    ///
    /// # Example
    ///
    /// ```
    /// use myelon_collectives::{Communicator, DataType, ReduceOp, Sharing};
    ///
    /// let mut ranks = Communicator::builder().ranks(2).windows(true).build()?;
    /// let mut registered = Vec::new();
    /// for rank in &mut ranks {
    ///     let tensor = rank.region(400)?; // stands for one of somebody else
    ///     registered.push(rank.register(&tensor)?);
    /// }
    /// for (rank, tensor) in ranks.iter_mut().zip(&registered) {
    ///     let stream = rank.stream().clone();
    ///     rank.all_reduce_region(tensor.region(), tensor.region(), DataType::F32, ReduceOp::Sum, &stream)?;
    ///     if let Sharing::Staged { reason } = tensor.settle()? {
    ///         println!("rank {} goes through the rings: {reason}", rank.rank());
    ///     }
    /// }
    /// for rank in &ranks {
    ///     rank.stream().synchronize()?;
    /// }
    /// # Ok::<(), myelon_collectives::Error>(())
    /// ```
    pub fn register(&mut self, region: &Region) -> Result<Registered, Error> {
        refuse_in_capture("a registration")?;
        if let Some(first) = self.backend.first_error() {
            return Err(Error::Poisoned { first: Arc::new(first) });
        }
        self.backend.place().check("memory to register", region.place())?;
        let (region, agreement) = self.backend.register(region)?;
        Ok(Registered { region, agreement })
    }
}
