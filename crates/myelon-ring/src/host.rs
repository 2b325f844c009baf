//! Rings in memory of our own: one ring, or the windows of all ranks of a process.

use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};

use crate::bytes::AlignedBytes;
use crate::consumer::Consumer;
use crate::error::RingError;
use crate::memory::RawMemory;
use crate::producer::Producer;
use crate::window::WindowLayout;
use crate::words::{LINE, MOVEMENTS, Movement, RingConfig};

/// A ring on the heap: `capacity` slots of `slot_bytes` bytes, whose first sequence is `first`.
///
/// Both ends keep it alive and may go to other threads. The slots are zero at first; they start on a line
/// of 128 bytes if `slot_bytes` is a multiple of it.
///
/// # Errors
///
/// [`RingError::Capacity`], [`RingError::SlotBytes`], [`RingError::Memory`].
///
/// # Example
///
/// ```
/// use std::time::Duration;
/// use myelon_ring::{ring, wait::Yielding};
///
/// let wait = Yielding { deadline: Duration::from_secs(5) };
/// let (mut producer, mut consumer) = ring(8, 16, u64::MAX)?; // the second sequence is 0
/// let worker = std::thread::spawn(move || -> Result<(), myelon_ring::RingFault> {
///     for value in 0..100u64 {
///         producer.copy_into_slot(&value.to_le_bytes(), &wait)?;
///     }
///     Ok(())
/// });
/// let mut bytes = [0; 8];
/// for value in 0..100 {
///     consumer.copy_from_slot(&mut bytes, &wait)?;
///     assert_eq!(u64::from_le_bytes(bytes), value);
/// }
/// worker.join().unwrap()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn ring(capacity: usize, slot_bytes: usize, first: u64) -> Result<(Producer, Consumer), RingError> {
    RingConfig::new(capacity, slot_bytes, 0, 0, 0)?;
    let sequence_at = LINE;
    let data_at = sequence_at + (capacity * size_of::<u64>()).next_multiple_of(LINE);
    let bytes = capacity
        .checked_mul(slot_bytes)
        .and_then(|slots| slots.checked_add(data_at))
        .ok_or(RingError::Memory { bytes: usize::MAX })?;
    let mut memory = AlignedBytes::zeroed(bytes)?;
    memory[..size_of::<u64>()].copy_from_slice(&first.to_ne_bytes());
    for word in memory[sequence_at..data_at].chunks_exact_mut(size_of::<u64>()) {
        word.copy_from_slice(&first.wrapping_sub(1).to_ne_bytes());
    }
    let start = memory.expose();
    let config =
        RingConfig::new(capacity, slot_bytes, start + sequence_at as u64, start, start + data_at as u64)?;
    let owner: Arc<dyn Any + Send + Sync> = Arc::new(memory);
    // SAFETY: the parts lie in `owner` one after the other, exposed above; its words were just written for
    // `first`; only these two ends see it, and they keep it alive.
    unsafe {
        let producer = Producer::new(RawMemory::new(config, Some(owner.clone()))?, first);
        let consumer = Consumer::new(RawMemory::new(config, Some(owner))?, first);
        Ok((producer, consumer))
    }
}

/// The windows of all ranks, for ranks that are threads of this process, or for one rank of several processes.
///
/// Each end of each ring is handed out once, and keeps all windows alive.
///
/// # Example
///
/// ```
/// use myelon_ring::{HostWindows, RingError, WindowLayout, words::Movement};
///
/// let windows = HostWindows::new(WindowLayout::new(2, 1, 4, 64)?, 0)?;
/// let mut producer = windows.producer(Movement::Scatter, 0, 0, 1)?;
/// let mut consumer = windows.consumer(Movement::Scatter, 0, 0, 1)?;
/// assert!(windows.producer(Movement::Scatter, 0, 0, 1).is_err()); // each end once
/// drop(windows);
///
/// assert!(producer.try_copy_into_slot(b"rank 0 to rank 1")?);
/// assert_eq!(&consumer.try_wait()?.unwrap()[..16], b"rank 0 to rank 1");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct HostWindows {
    layout: WindowLayout,
    first: u64,
    addresses: Vec<u64>,
    /// `[end][movement][lane][source][destination]`: which ends are handed out.
    taken: Mutex<Vec<bool>>,
    /// Whose ends are handed out, where it is one rank's only.
    rank: Option<usize>,
    _owner: Arc<dyn Any + Send + Sync>,
}

/// Which end of a ring.
#[derive(Clone, Copy)]
enum End {
    Producer,
    Consumer,
}

impl HostWindows {
    /// Allocates a window for each rank of `layout`, whose rings all begin with sequence `first`.
    ///
    /// # Errors
    ///
    /// [`RingError::Memory`].
    pub fn new(layout: WindowLayout, first: u64) -> Result<Arc<Self>, RingError> {
        let words = layout.initial_words(first);
        let words: &[u8] = bytemuck::cast_slice(&words);
        let mut windows = Vec::with_capacity(layout.ranks());
        for _ in 0..layout.ranks() {
            let mut window = AlignedBytes::zeroed(layout.bytes())?;
            window[..words.len()].copy_from_slice(words);
            windows.push(window);
        }
        let addresses = windows.iter_mut().map(AlignedBytes::expose).collect();
        Ok(Self::over(layout, first, None, addresses, Arc::new(windows)))
    }

    /// Windows at `addresses`, in rank order, that several processes map; `owner` keeps them mapped. Only the ends of
    /// `rank` are handed out.
    ///
    /// # Panics
    ///
    /// If there is not an address a rank, or no rank `rank`.
    ///
    /// # Safety
    ///
    /// * At each address are [`WindowLayout::bytes`] bytes of memory that this process may read and write, on a line
    ///   of 128 bytes, with exposed provenance, disjoint, and so as long as `owner` lives.
    /// * Each window began with [`WindowLayout::initial_words`] for `first`, and was touched only by rings since.
    /// * The ends of each rank are handed out once, by one process.
    pub unsafe fn mapped(
        layout: WindowLayout,
        first: u64,
        rank: usize,
        addresses: Vec<u64>,
        owner: Arc<dyn Any + Send + Sync>,
    ) -> Arc<Self> {
        assert!(addresses.len() == layout.ranks() && rank < layout.ranks(), "a window a rank");
        Self::over(layout, first, Some(rank), addresses, owner)
    }

    fn over(
        layout: WindowLayout,
        first: u64,
        rank: Option<usize>,
        addresses: Vec<u64>,
        owner: Arc<dyn Any + Send + Sync>,
    ) -> Arc<Self> {
        let ends = 2 * MOVEMENTS * layout.lanes() * layout.ranks() * layout.ranks();
        let taken = Mutex::new(vec![false; ends]);
        Arc::new(Self { layout, first, addresses, taken, rank, _owner: owner })
    }

    /// How each window is laid out.
    pub fn layout(&self) -> WindowLayout {
        self.layout
    }

    /// The producer of the ring from `source` to `destination`.
    ///
    /// # Errors
    ///
    /// [`RingError::NoRing`], and [`RingError::Taken`] from the second time on.
    pub fn producer(
        self: &Arc<Self>,
        movement: Movement,
        lane: usize,
        source: usize,
        destination: usize,
    ) -> Result<Producer, RingError> {
        let config = self.take(End::Producer, movement, lane, source, destination)?;
        // SAFETY: `take` gives each ring's producer once, and no other process does. The rings of a layout do not
        // overlap, lie within the windows, whose words were made for `first`, and nothing else touches the windows,
        // which the end keeps alive; their addresses are exposed. All that is done by `new` or promised to `mapped`.
        unsafe { Ok(Producer::new(RawMemory::new(config, Some(self.clone()))?, self.first)) }
    }

    /// The consumer of the ring from `source` to `destination`.
    ///
    /// # Errors
    ///
    /// [`RingError::NoRing`], and [`RingError::Taken`] from the second time on.
    pub fn consumer(
        self: &Arc<Self>,
        movement: Movement,
        lane: usize,
        source: usize,
        destination: usize,
    ) -> Result<Consumer, RingError> {
        let config = self.take(End::Consumer, movement, lane, source, destination)?;
        // SAFETY: as in `producer`, for the consumer.
        unsafe { Ok(Consumer::new(RawMemory::new(config, Some(self.clone()))?, self.first)) }
    }

    fn take(
        &self,
        end: End,
        movement: Movement,
        lane: usize,
        source: usize,
        destination: usize,
    ) -> Result<RingConfig, RingError> {
        let (lanes, ranks) = (self.layout.lanes(), self.layout.ranks());
        let is_pair = movement != Movement::Neighbour && source != destination;
        if lane >= lanes || source >= ranks || destination >= ranks || !is_pair {
            return Err(RingError::NoRing { lane, source_rank: source, destination, lanes, ranks });
        }
        let owner = match end {
            End::Producer => source,
            End::Consumer => destination,
        };
        if self.rank.is_some_and(|rank| rank != owner) {
            return Err(RingError::Elsewhere { rank: owner });
        }
        let ring = ((movement as usize * lanes + lane) * ranks + source) * ranks + destination;
        let index = end as usize * MOVEMENTS * lanes * ranks * ranks + ring;
        // A panic while it was held cannot have left it half changed.
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut taken[index], true) {
            let end = match end {
                End::Producer => "producer",
                End::Consumer => "consumer",
            };
            return Err(RingError::Taken { end, movement, lane, source_rank: source, destination });
        }
        Ok(self.layout.ring(&self.addresses, movement, lane, source, destination))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_that_cannot_be_are_refused() {
        assert_eq!(ring(3, 16, 0).err(), Some(RingError::Capacity { capacity: 3 }));
        assert_eq!(ring(4, 8, 0).err(), Some(RingError::SlotBytes { slot_bytes: 8 }));
        assert!(matches!(ring(1 << 30, 1 << 30, 0), Err(RingError::Memory { .. })));
    }

    #[test]
    fn every_ring_of_the_windows_carries_its_own_bytes() {
        let (ranks, lanes, first) = (4, 2, u64::MAX - 1);
        let windows = HostWindows::new(WindowLayout::new(ranks, lanes, 2, 48).unwrap(), first).unwrap();
        let mut ends = Vec::new();
        for movement in [Movement::Scatter, Movement::Gather] {
            for lane in 0..lanes {
                for source in 0..ranks {
                    for destination in (0..ranks).filter(|&d| d != source) {
                        let producer = windows.producer(movement, lane, source, destination).unwrap();
                        let consumer = windows.consumer(movement, lane, source, destination).unwrap();
                        ends.push((producer, consumer));
                    }
                }
            }
        }
        drop(windows);
        for lap in 0..3 {
            for (id, (producer, _)) in ends.iter_mut().enumerate() {
                for slot in 0..2 {
                    let whole_slot = vec![id as u8 ^ (lap * 2 + slot) << 6; 48 + 80 + 128];
                    assert!(producer.try_copy_into_slot(&whole_slot).unwrap());
                }
                assert!(!producer.try_copy_into_slot(&[]).unwrap());
            }
            for (id, (_, consumer)) in ends.iter_mut().enumerate() {
                for slot in 0..2 {
                    let bytes = consumer.try_wait().unwrap().unwrap();
                    assert!(bytes.iter().all(|&b| b == id as u8 ^ (lap * 2 + slot) << 6));
                    bytes.release();
                }
                assert!(consumer.try_wait().unwrap().is_none());
            }
        }
    }

    #[test]
    fn mapped_windows_hand_out_the_ends_of_one_rank() {
        let layout = WindowLayout::new(2, 1, 2, 16).unwrap();
        let owner = HostWindows::new(layout, 7).unwrap();
        let of = |rank| {
            // SAFETY: the addresses are those of `owner`, which lives as long and hands out no end itself.
            unsafe { HostWindows::mapped(layout, 7, rank, owner.addresses.clone(), owner.clone()) }
        };
        let (zero, one) = (of(0), of(1));
        let mut producer = zero.producer(Movement::Scatter, 0, 0, 1).unwrap();
        let mut consumer = one.consumer(Movement::Scatter, 0, 0, 1).unwrap();
        assert_eq!(zero.consumer(Movement::Scatter, 0, 0, 1).err(), Some(RingError::Elsewhere { rank: 1 }));
        assert_eq!(one.producer(Movement::Scatter, 0, 0, 1).err(), Some(RingError::Elsewhere { rank: 0 }));
        assert!(producer.try_copy_into_slot(b"from rank 0").unwrap());
        assert_eq!(&consumer.try_wait().unwrap().unwrap()[..11], b"from rank 0");
    }

    #[test]
    fn each_end_is_handed_out_once() {
        let windows = HostWindows::new(WindowLayout::new(2, 1, 2, 16).unwrap(), 0).unwrap();
        let _first = windows.consumer(Movement::Gather, 0, 1, 0).unwrap();
        let again = windows.consumer(Movement::Gather, 0, 1, 0).err().unwrap();
        assert_eq!(
            again.to_string(),
            "the consumer of the Gather ring in lane 0 from rank 1 to rank 0 is taken"
        );
        assert!(windows.producer(Movement::Gather, 0, 1, 0).is_ok());
        assert!(windows.consumer(Movement::Gather, 0, 0, 1).is_ok());
        assert!(windows.consumer(Movement::Scatter, 0, 1, 0).is_ok());
        for (lane, source, destination) in [(1, 0, 1), (0, 2, 1), (0, 0, 2), (0, 1, 1)] {
            let refused = windows.producer(Movement::Scatter, lane, source, destination).err();
            assert!(matches!(refused, Some(RingError::NoRing { .. })), "{refused:?}");
        }
    }
}
