//! A rank of the CUDA backend registers memory, and looks whether memory of a call is what was promised.

use std::sync::Arc;

use myelon_kernel::{Operand, SharedMemory};
use myelon_lanes::{Algorithm, Plan};

use super::CudaRank;
use super::memory::CudaMemory;
use crate::backend::Agreement;
use crate::error::Error;
use crate::memory::Region;

impl CudaRank {
    /// The next registration of this rank. Waits only for threads that watch, where peers are processes.
    pub(super) fn register_region(&self, region: &Region) -> Result<(Region, Arc<dyn Agreement>), Error> {
        let operand = CudaMemory::operand(region)?;
        let registration = self.shared.registrations.begin(&self.shared, self.rank);
        let (rank, number, bytes) = (self.rank, registration.number, region.bytes() as u64);
        let registrations = self.shared.registrations.clone();
        let say = move |reached| registrations.say(rank, number, bytes, reached);
        // From here on the part is said, whatever happens.
        let memory = match &operand {
            Operand::Foreign(_) => {
                say(Err("nothing keeps it, as it came by a promise and not with its owner".into()));
                None
            }
            Operand::Shared { memory, .. } if memory.is_foreign() => SharedMemory::part_of(&operand),
            Operand::Shared { .. } => {
                say(self.reached(&operand));
                None
            }
        };
        let operand = match memory {
            None => operand,
            Some(memory) => {
                match &self.shared.offers {
                    Some(offers) => {
                        offers.lend(self.rings(), &memory, operand, self.deadline, Box::new(say));
                    }
                    None => say(self.rings().share(&memory).map_err(|error| error.to_string())),
                }
                Operand::shared(memory)
            }
        };
        let memory = CudaMemory::registered(operand, registration.clone());
        Ok((Region::new(Arc::new(memory), region.bytes()), Arc::new(registration)))
    }

    /// Whether all ranks reach `operand`, which this library allocated; or else why not.
    fn reached(&self, operand: &Operand) -> Result<(), String> {
        if let Some(offers) = &self.shared.offers
            && !self.rings().is_window(operand)
        {
            offers.wait(None, self.deadline).map_err(|error| error.to_string())?;
        }
        if self.rings().is_window(operand) { Ok(()) } else { Err("it is of another communicator".into()) }
    }

    /// Whether one of `regions` was registered with this communicator and has to be staged.
    pub(super) fn any_is_staged(&self, regions: [&Region; 2]) -> Result<bool, Error> {
        let mut staged = false;
        for region in regions {
            let registration = CudaMemory::registration(region);
            let registration = registration.filter(|it| it.belongs_to(&self.shared, self.rank));
            staged |= registration.map(Agreement::settle).transpose()?.flatten().is_some();
        }
        Ok(staged)
    }

    /// Refuses memory that is not what was promised, or what `plan` needs.
    pub(super) fn check_windows(
        &self,
        plan: &Plan,
        operands: [(&'static str, &Region, &Operand); 2],
    ) -> Result<(), Error> {
        let is_direct = plan.algorithm == Algorithm::Direct;
        if !self.windows && !is_direct {
            return Ok(());
        }
        if is_direct {
            // Without the promise nobody has asked so far.
            self.any_is_staged(operands.map(|(_, region, _)| region))?;
        }
        for (what, region, operand) in operands {
            let registration = CudaMemory::registration(region);
            let registration = registration.filter(|it| it.belongs_to(&self.shared, self.rank));
            if let Some(reason) = registration.and_then(|it| it.staged()) {
                if is_direct {
                    let needed = "memory that all ranks reach, as the direct algorithm is forced";
                    return Err(Error::invalid(
                        what,
                        needed,
                        format_args!("memory that is staged: {reason}"),
                    ));
                }
                continue;
            }
            if let Some(offers) = &self.shared.offers
                && !self.rings().is_window(operand)
            {
                offers.wait(None, self.deadline)?;
                if offers.is_over() {
                    // No call can be made any more, and making this one says why.
                    continue;
                }
            }
            if self.windows && !self.rings().is_window(operand) {
                let needed = "memory that a rank of this communicator allocated or registered, as windows were \
                              promised";
                return Err(Error::invalid(what, needed, "other memory"));
            }
        }
        Ok(())
    }
}
