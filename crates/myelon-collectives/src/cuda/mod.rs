//! The CUDA backend: ranks are GPUs, of this process or one of each of several, and data moves through rings in device
//! memory, by the kernels of `myelon-kernel`.

mod errors;
mod follow;
mod graph;
mod join;
mod lent;
mod memory;
mod offers;
mod queue;
mod register;
mod registrations;
mod report;
mod watch;

use std::any::Any;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use myelon_kernel::{
    Device, DeviceSpan, DeviceStream, ForeignMemory, ImageChoice, KernelError, RankRings, RingCall,
    SharedMemory, StreamUse,
};
use myelon_lanes::{Machine, Origin, Pool};
use myelon_meet::Watch;
use myelon_recorder::Row;
use myelon_ring::words::FaultCode;
use myelon_ring::{Inbox, Neighbours, WindowLayout};

use self::errors::{error_of, fault_error};
use self::follow::Following;
pub(crate) use self::join::{join, own_device};
use self::memory::CudaMemory;
use self::offers::Offers;
use self::queue::CudaQueue;
use self::registrations::Registrations;
pub use self::report::cuda_report;
use self::watch::Watched;
use crate::backend::{Agreement, Backend, Call, Memory, Opened, Place, Queue, RankBackend};
use crate::builder::Config;
use crate::communicator::Launch;
use crate::error::Error;
use crate::group::Group;
use crate::late;
use crate::memory::Region;
use crate::op::ReduceOp;
use crate::record::{self, Opening, RankRecord};
use crate::settings::Kernels;
use crate::stream::Stream;

/// How long a rank in another process may take to say why it stopped this one's kernels.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);
/// Threads a block that the machine's blocks are counted for; the kernels take no more.
const THREADS: u32 = 512;

/// The ranks of `config` on GPUs.
pub(crate) fn open(config: &Config) -> Result<Opened, Error> {
    let (devices, driver_version) = open_devices(config)?;
    let ranks = devices.len();
    // The rings need the tuning's pool, and the tuning the blocks that the loaded kernels may have. The
    // pool does not depend on these, so it is asked for first.
    let name = devices[0].info().name.clone();
    let multiprocessors = devices.iter().map(|device| device.info().multiprocessors).min().unwrap_or(0);
    let origin = origin(&devices, driver_version);
    let tuned = config.tuned(machine(&name, multiprocessors, THREADS), ranks as u32, origin)?;
    let pool = tuned.tuning.pool(ranks as u32)?;
    let layout = layout(ranks, &pool)?;
    let opened =
        RankRings::open(&devices, layout, config.first_sequence(), image_choice(config)).map_err(error_of)?;
    let mut blocks_max = u32::MAX;
    for rings in &opened {
        blocks_max = blocks_max.min(resident_blocks(rings)?);
    }
    let direct_threads = opened.iter().map(RankRings::direct_threads_max).min().unwrap_or(THREADS);
    let tuned = config.tuned_on(tuned, machine(&name, blocks_max, direct_threads), ranks as u32)?;
    let seen = tuned.tuning.pool(ranks as u32)?;
    debug_assert!(
        pool.holds(&seen),
        "the pool does not depend on the blocks, but on a table that is done without"
    );
    if let Some(rings) = opened.first() {
        tracing::info!(ranks, device = name, image = %rings.image(), blocks_max, window = layout.bytes(), "rings opened");
    }

    let opening = Opening {
        place: &config.record,
        communicator: record::new_communicator(),
        ranks,
        backend: Backend::Cuda,
        deadline: config.deadline(),
    };
    let records = record::open(&opening, 0..ranks);
    let group = Group::new(ranks).recorded(records.iter().all(|record| record.file().is_some()));
    let members = opened.into_iter().zip(records);
    let members =
        members.map(|(rings, record)| Member { rings, record, last_call: Mutex::default() }).collect();
    let registrations = Registrations::new(ranks, None);
    let shared =
        Arc::new(Shared { group, deadline: config.deadline(), members, offers: None, registrations });
    let ranks = (0..ranks).map(|rank| -> Box<dyn RankBackend> {
        Box::new(CudaRank {
            rank,
            ring_bytes: layout.bytes() as u64,
            deadline: config.deadline(),
            blocks_max,
            windows: config.windows,
            following: Some(Following::begin(shared.clone(), rank)),
            shared: shared.clone(),
            watch: None,
        })
    });
    Ok(Opened { ranks: ranks.collect(), tuned })
}

/// What lies where in the window of each of `ranks` ranks.
fn layout(ranks: usize, pool: &Pool) -> Result<WindowLayout, Error> {
    let inbox = Inbox {
        lanes: pool.inbox.lanes as usize,
        packets: pool.inbox.packets as usize,
        cells: pool.inbox.cells as usize,
    };
    let neighbours = Neighbours {
        lanes: pool.neighbours.lanes as usize,
        capacity: pool.neighbours.slots as usize,
        piece_bytes: pool.neighbours.piece_bytes as usize,
    };
    let layout =
        WindowLayout::new(ranks, pool.lanes as usize, pool.slots as usize, pool.piece_bytes as usize)?;
    Ok(layout.with_inbox(inbox)?.with_neighbours(neighbours)?)
}

fn image_choice(config: &Config) -> ImageChoice {
    match config.kernels {
        Kernels::Auto => ImageChoice::Auto,
        Kernels::Aot => ImageChoice::Aot,
        Kernels::Nvrtc => ImageChoice::Nvrtc,
    }
}

/// Blocks that a rank may launch, of which it needs one a role.
fn resident_blocks(rings: &RankRings) -> Result<u32, Error> {
    let resident = rings.resident_blocks(THREADS).map_err(error_of)?;
    if resident < 3 {
        let device = rings.device().ordinal();
        return Err(Error::NotResident { device, blocks_needed: 3, blocks_resident: resident });
    }
    Ok(resident)
}

fn machine(name: &str, blocks_max: u32, direct_threads_max: u32) -> Machine {
    let known = if name.contains("H200") { Machine::h200() } else { Machine::unknown_gpu(name, blocks_max) };
    Machine { blocks_max, direct_threads_max, ..known }
}

/// What a tuning of GPUs depends on: the library, their model, the kernels' text and the driver.
fn origin(devices: &[Device], driver_version: u32) -> Origin {
    let mut names: Vec<&str> = devices.iter().map(|device| device.info().name.as_str()).collect();
    names.dedup();
    let kernels = format!("{:016x}", myelon_kernel::sources_hash());
    let driver = format!("CUDA {}.{}", driver_version / 1000, driver_version % 1000 / 10);
    Origin::new(env!("CARGO_PKG_VERSION"), &names.join(", "), &kernels, &driver)
}

/// The devices, and the version of the driver.
fn open_devices(config: &Config) -> Result<(Vec<Device>, u32), Error> {
    let (named, ranks) = (config.devices.as_slice(), config.ranks);
    let node = myelon_kernel::probe().map_err(error_of)?;
    let seen = node.devices.len();
    let ordinals = match (named, ranks) {
        ([], Some(ranks)) => (0..ranks).collect(),
        ([], None) => (0..seen.min(myelon_ring::words::RANKS_MAX)).collect(),
        (named, _) => named.to_vec(),
    };
    if ordinals.len() < 2 || ordinals.iter().any(|&ordinal| ordinal >= seen) {
        let needed = match (named, ranks) {
            ([], ranks) => format!("{} GPUs, one a rank", ranks.unwrap_or(2)),
            (named, _) => format!("GPUs {named:?}"),
        };
        return Err(Error::NoDevice { needed, seen: format!("{seen} GPUs") });
    }
    let devices = ordinals.into_iter().map(|ordinal| Device::open(ordinal).map_err(error_of));
    Ok((devices.collect::<Result<_, _>>()?, node.driver_version))
}

/// What those ranks of a communicator share that are of this process.
struct Shared {
    group: Group,
    deadline: Duration,
    /// In rank order: all ranks, or one.
    members: Vec<Member>,
    /// Memory that the ranks in other processes map; none where there are no others.
    offers: Option<Arc<Offers>>,
    registrations: Arc<Registrations>,
}

/// A rank of this process.
struct Member {
    rings: RankRings,
    record: Arc<RankRecord>,
    /// The last call: the next one comes after it, whatever stream it is on.
    last_call: Mutex<Option<StreamUse>>,
}

impl Shared {
    /// What belongs to `rank`, which is of this process.
    fn member(&self, rank: usize) -> &Member {
        &self.members[rank - self.members[0].rings.rank()]
    }

    /// The last call of `rank`. As long as the guard is held, the rank makes no other call.
    fn last_call(&self, rank: usize) -> MutexGuard<'_, Option<StreamUse>> {
        // Nothing panics while it is held.
        self.member(rank).last_call.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes what comes next on `stream` wait for the last call. Where that one's stream is being captured, the next is
    /// refused, before it counts.
    fn chain(&self, last_call: Option<&StreamUse>, stream: &DeviceStream) -> Result<(), Error> {
        last_call.map_or(Ok(()), |last| last.precede(stream)).map_err(|error| match error {
            KernelError::Captured { .. } => error_of(error),
            error => self.poison(error_of(error)),
        })
    }

    /// The error that ends every call, once there is one: a host's, or the first that a kernel recorded.
    fn first_error(&self) -> Option<Error> {
        if let Some(first) = self.group.first_error() {
            return Some(first.clone());
        }
        self.fault().map(|why| self.group.poison(why).clone())
    }

    /// The first that a kernel recorded, so far.
    fn fault(&self) -> Option<Error> {
        // Those who were told to stop know nothing; whoever told them has recorded why before. A rank that
        // calls on after a stall may look like one that disagrees, so a disagreement comes last.
        let faults = self.members.iter().filter_map(|member| member.rings.fault(member.rings.rank()));
        let why = faults.filter(|fault| fault.code != FaultCode::Aborted as u32);
        let why = why.min_by_key(|fault| fault.code == FaultCode::Disagreement as u32);
        why.map(|fault| fault_error(&fault))
    }

    /// The error that ended the calls of `rank`, once they are done. Where a rank in another process told its kernels to
    /// stop, that one is asked why.
    fn why_ended(&self, rank: usize) -> Option<Error> {
        let known = self.first_error();
        if known.is_some() || !self.group.has_processes() {
            return known;
        }
        let fault = self.member(rank).rings.fault(rank)?;
        self.group.ask();
        let start = Instant::now();
        while start.elapsed() < ANSWER_LIMIT {
            if let Some(error) = self.first_error() {
                return Some(error);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let (peer, message) =
            (fault.peer as usize, "its kernel told this rank to stop, and it does not say why".into());
        Some(self.poison(Error::PeerFailed { peer, message }))
    }

    /// Ends every call of every rank with `error`.
    fn poison(&self, error: Error) -> Error {
        let first = self.group.poison(error).clone();
        self.end(&first);
        first
    }

    /// Ends the calls of this process's ranks with `error`, which is known to the others.
    fn end(&self, error: &Error) {
        self.members[0].rings.abort();
        if let Some(offers) = &self.offers {
            offers.end();
        }
        self.members.iter().for_each(|member| member.record.failed(error, false));
    }
}

impl Watched for Shared {
    fn look(&self, rank: usize) {
        self.tell_waits(rank);
    }

    fn late(&self, rank: usize, call: u64, waited: Duration) {
        if self.group.has_processes() {
            // Who is late does not answer sooner, and who answers does so at once.
            self.group.ask();
            std::thread::sleep(Duration::from_millis(100));
        }
        let ranks = self.members[0].rings.ranks();
        let mut behind = (0..ranks).map(|peer| (peer, self.group.calls_made(peer)));
        // Work of the program's own may take long. A peer that has not even called is another matter.
        if let Some((peer, made)) = behind.find(|&(_, made)| made < call) {
            late::warn_uncalled(rank, call, peer, made, waited, self.deadline);
        }
    }
}

/// One rank of the CUDA backend.
struct CudaRank {
    rank: usize,
    ring_bytes: u64,
    deadline: Duration,
    /// Blocks that this rank may launch.
    blocks_max: u32,
    /// Every buffer of every call is a window.
    windows: bool,
    /// `None` only while it is dropped.
    following: Option<Following>,
    shared: Arc<Shared>,
    /// Sees what happens to the peers, where they are other processes.
    watch: Option<Watch>,
}

impl CudaRank {
    fn rings(&self) -> &RankRings {
        &self.shared.member(self.rank).rings
    }
}

impl RankBackend for CudaRank {
    fn place(&self) -> Place {
        Place { backend: Backend::Cuda, device: Some(self.rings().device().ordinal()) }
    }

    fn device_name(&self) -> String {
        let info = self.rings().device().info();
        format!("GPU {}, {}", info.ordinal, info.name)
    }

    fn ring_bytes(&self) -> u64 {
        self.ring_bytes
    }

    fn first_error(&self) -> Option<Error> {
        self.shared.first_error()
    }

    fn allocate(&self, bytes: usize) -> Result<Arc<dyn Memory>, Error> {
        let device = self.rings().device();
        // An empty region has an address too.
        let peers: Vec<Device> =
            self.shared.members.iter().map(|member| member.rings.device().clone()).collect();
        let memory = SharedMemory::allocate(device, bytes.max(1), &peers).map_err(error_of)?;
        let stream = DeviceStream::new(device).map_err(error_of)?;
        memory.fill(&stream, 0).map_err(error_of)?;
        if let Some(offers) = &self.shared.offers {
            let offered = offers.make(self.rings(), &memory, self.deadline);
            // Without the promise nothing but a call that is forced needs it, and that waits by itself.
            match offered {
                Ok(Some(number)) if self.windows => offers.wait(Some(number), self.deadline)?,
                Err(error) if self.windows => return Err(error),
                Err(error) => tracing::debug!(%error, rank = self.rank, bytes, "peers do not reach a buffer"),
                Ok(_) => {}
            }
        }
        Ok(Arc::new(CudaMemory::shared(memory)))
    }

    fn new_stream(&self) -> Result<Arc<dyn Queue>, Error> {
        let stream = DeviceStream::new(self.rings().device()).map_err(error_of)?;
        Ok(self.adopt_stream(stream))
    }

    fn all_reduce(
        &mut self,
        call: &Call,
        input: &Region,
        output: &Region,
        stream: &Stream,
    ) -> Result<Launch, Error> {
        let queue: &dyn Any = &*stream.queue;
        let queue: &CudaQueue = queue.downcast_ref().expect("the call has checked the backend");
        queue.check_belongs(&self.shared, self.rank)?;
        let plan = call.choice.plan;
        let average = call.op == ReduceOp::Avg;
        let ring_call = RingCall {
            dtype: call.dtype.name(),
            op: if average { ReduceOp::Sum.name() } else { call.op.name() },
            average,
            word: call.word.bits(),
            plan: &plan,
            deadline: self.deadline,
        };
        let (from, to) = (CudaMemory::operand(input)?, CudaMemory::operand(output)?);
        self.check_windows(&plan, [("input", input, &from), ("output", output, &to)])?;
        if plan.blocks > self.blocks_max {
            let device = self.rings().device().ordinal();
            let (blocks_needed, blocks_resident) = (plan.blocks, self.blocks_max);
            return Err(Error::NotResident { device, blocks_needed, blocks_resident });
        }

        let launch = || self.rings().all_reduce(&ring_call, &from, &to, queue.stream());
        let mut recorded = queue.recorded();
        let launched = if let Some(calls) = recorded.as_mut() {
            // Nothing is made, so nobody waits for it.
            let launched = launch().map_err(error_of)?;
            record::join(calls, &record::row(call, input, output, queue.number()));
            launched
        } else {
            drop(recorded);
            let _eager = queue.check_eager("a call")?;
            let mut last_call = self.shared.last_call(self.rank);
            self.shared.chain(last_call.as_ref(), queue.stream())?;
            let number = self.shared.group.make_call(self.rank);
            let number = number.inspect_err(|error| self.record().failed(error, false))?;
            // The peers' calls can't complete without this one.
            let launched = launch().map_err(|error| self.shared.poison(error_of(error)))?;
            let row = record::row(call, input, output, queue.number());
            self.record().made(Row { number, ..row });
            last_call.clone_from(&launched.work);
            queue.carries_call(number);
            launched
        };
        Ok(Launch {
            kernel: launched.kernel,
            grid: launched.shape.blocks,
            block: launched.shape.threads,
            shared_bytes: launched.shape.shared_bytes,
            plan,
            why: call.choice.why.clone(),
            bytes: input.bytes() as u64,
            ranks: plan.ranks as usize,
        })
    }

    fn record(&self) -> &RankRecord {
        &self.shared.member(self.rank).record
    }

    fn register(&self, region: &Region) -> Result<(Region, Arc<dyn Agreement>), Error> {
        self.register_region(region)
    }

    fn is_staged(&self, regions: [&Region; 2]) -> Result<bool, Error> {
        self.any_is_staged(regions)
    }

    fn device(&self) -> Option<&Device> {
        Some(self.rings().device())
    }

    fn adopt_stream(&self, stream: DeviceStream) -> Arc<dyn Queue> {
        Arc::new(CudaQueue::new(stream, self.shared.clone(), self.rank))
    }
}

impl Drop for CudaRank {
    fn drop(&mut self) {
        drop(self.following.take());
        let group = &self.shared.group;
        // Held until the rank counts as dropped, so that no graph of it is launched meanwhile.
        let last_call = self.shared.last_call(self.rank);
        let idle = last_call.as_ref().is_none_or(StreamUse::is_done);
        if idle && self.shared.first_error().is_none() {
            group.complete_to(self.rank, group.calls_made(self.rank));
        }
        let before = group.first_error().is_some();
        if let Some(offers) = &self.shared.offers {
            // The peers hear before the goodbye what this rank has closed.
            offers.close(self.rings(), idle);
        }
        group.drop_rank(self.rank);
        drop(last_call);
        if !before && group.first_error().is_some() {
            self.rings().abort();
        }
        self.record().close(group.first_error().is_some());
        if let (Some(offers), Some(watch)) = (&self.shared.offers, self.watch.take()) {
            offers.outlive(watch);
        }
    }
}

/// Device memory of somebody else with what keeps it, as a region.
pub(crate) fn owned_region(memory: ForeignMemory) -> Region {
    let memory = CudaMemory::owned(memory);
    let bytes = memory.bytes();
    Region::new(Arc::new(memory), bytes)
}

/// Device memory of somebody else, as a region.
pub(crate) fn foreign_region(span: DeviceSpan) -> Region {
    let bytes = span.bytes();
    Region::new(Arc::new(CudaMemory::foreign(span)), bytes)
}
