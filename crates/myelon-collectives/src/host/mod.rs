//! The host backend: ranks are threads of this process, or processes, and data moves through the rings of
//! `myelon-ring`, in heap memory or in memory that all processes map.

mod all_reduce;
mod convert;
mod graph;
mod memory;
mod queue;
mod reduce;

use std::any::Any;
use std::sync::{Arc, Mutex};

use myelon_kernel::{Device, DeviceStream};
use myelon_lanes::{Machine, Origin, Request};
use myelon_meet::{Process, Watch, share_windows};
use myelon_ring::{HostWindows, WindowLayout};

use self::all_reduce::{Engine, Job};
pub(crate) use self::memory::HostMemory;
use self::memory::HostSpan;
use self::queue::{Event, HostQueue, caught, lock};
use crate::backend::{Backend, Call, Memory, Opened, Place, Queue, RankBackend};
use crate::builder::Config;
use crate::communicator::Launch;
use crate::error::Error;
use crate::group::Group;
use crate::memory::Region;
use crate::stream::Stream;
use crate::told::Peers;
use crate::tuning_file::Tuned;

/// The ranks of `config` as threads.
pub(crate) fn open(config: &Config) -> Result<Opened, Error> {
    let ranks = config.host_ranks();
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let Shape { tuned, layout, credit_batch } = shape(config, ranks, cores)?;
    let windows = HostWindows::new(layout, config.first_sequence())?;
    let group = Arc::new(Group::new(ranks));
    let mut opened: Vec<Box<dyn RankBackend>> = Vec::with_capacity(ranks);
    for rank in 0..ranks {
        let engine = Engine::new(rank, &windows, credit_batch, config.deadline(), group.clone())?;
        opened.push(Box::new(HostRank::new(rank, layout, cores, engine, group.clone(), None)));
    }
    Ok(Opened { ranks: opened, tuned })
}

/// One rank of `config` as this process, once all its peers are there.
pub(crate) fn join(config: &Config, process: &Process) -> Result<(Box<dyn RankBackend>, Tuned), Error> {
    let (rank, ranks) = (process.rank(), process.ranks());
    // Those of the node: what this process may use may differ from rank to rank, and plans must not.
    let cores = cores_online();
    let Shape { tuned, layout, credit_batch } = shape(config, ranks, cores)?;
    let mut session = process.join(&[
        ("backend", Backend::Host.to_string()),
        ("lanes of the rings", layout.lanes().to_string()),
        ("slots of a ring", layout.capacity().to_string()),
        ("bytes of a slot", layout.slot_bytes().to_string()),
        ("slots after which credit is returned", credit_batch.to_string()),
        ("deadline", format!("{} ms", config.deadline().as_secs_f64() * 1e3)),
        ("first sequence", config.first_sequence().to_string()),
    ])?;
    let windows = share_windows(&mut session, layout, config.first_sequence(), process.limit())?;
    let voice = session.voice();
    let group = Arc::new(Group::of_process(ranks, Peers { rank, voice: voice.clone() }));
    let engine = Engine::new(rank, &windows, credit_batch, config.deadline(), group.clone())?;
    let hearing = group.clone();
    let watch = session.watch(voice, move |peer, event| hearing.hear(peer, event))?;
    Ok((Box::new(HostRank::new(rank, layout, cores, engine, group, Some(watch))), tuned))
}

/// What all ranks of a communicator have alike.
struct Shape {
    tuned: Tuned,
    layout: WindowLayout,
    credit_batch: usize,
}

fn shape(config: &Config, ranks: usize, cores: usize) -> Result<Shape, Error> {
    let tuned = config.tuned(Machine::host(cores as u32), ranks as u32, origin(cores))?;
    let pool = tuned.tuning.pool(ranks as u32)?;
    // How credit is batched follows from the slots, which all plans share.
    let any = Request { ranks: ranks as u32, bytes: 0, element_bytes: 1 };
    let credit_batch = tuned.tuning.plan(&any)?.plan.credit_batch as usize;
    let layout =
        WindowLayout::new(ranks, pool.lanes as usize, pool.slots as usize, pool.piece_bytes as usize)?;
    Ok(Shape { tuned, layout, credit_batch })
}

/// Processors of this node, whatever this process may use of them.
fn cores_online() -> usize {
    let online = std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    let here = || std::thread::available_parallelism().map_or(1, |cores| cores.get());
    cores_in(&online).unwrap_or_else(here)
}

/// The number of processors in a list such as `0-3,8`.
fn cores_in(list: &str) -> Option<usize> {
    list.trim().split(',').try_fold(0, |sum, part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        Some(sum + (last + 1).checked_sub(first)?)
    })
}

/// What a tuning of host ranks depends on: the library, the processor and how many of it there are.
fn origin(cores: usize) -> Origin {
    let processors = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = processors.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let model = model.map_or("a processor without a name", |(_, model)| model.trim());
    let machine = format!("{}, {model}", Machine::host(cores as u32).name);
    Origin::new(env!("CARGO_PKG_VERSION"), &machine, "none", "none")
}

/// One rank of the host backend.
struct HostRank {
    ring_bytes: u64,
    cores: usize,
    calls: Arc<HostCalls>,
    /// Sees what happens to the peers, where they are other processes.
    watch: Option<Watch>,
}

impl HostRank {
    fn new(
        rank: usize,
        layout: WindowLayout,
        cores: usize,
        engine: Engine,
        group: Arc<Group>,
        watch: Option<Watch>,
    ) -> Self {
        let calls = HostCalls { rank, group, engine: Mutex::new(engine), last_call: Mutex::default() };
        Self { ring_bytes: layout.bytes() as u64, cores, calls: Arc::new(calls), watch }
    }
}

/// What makes the calls of a rank, one by one or by a graph.
struct HostCalls {
    rank: usize,
    group: Arc<Group>,
    engine: Mutex<Engine>,
    /// Happens when the call made last has ended, on whatever stream it is.
    last_call: Mutex<Option<Arc<Event>>>,
}

impl HostCalls {
    fn first_error(&self) -> Option<Error> {
        self.group.first_error().cloned()
    }

    /// Makes `calls` calls on `queue`, behind the earlier ones: `run` gets what carries a call out.
    fn enqueue(
        self: &Arc<Self>,
        queue: &HostQueue,
        calls: u64,
        run: impl FnOnce(&mut dyn FnMut(&Job) -> Result<(), Error>) -> Result<(), Error> + Send + 'static,
    ) -> Result<(), Error> {
        let mut last_call = lock(&self.last_call);
        self.group.make_calls(self.rank, calls)?;
        let ended = Arc::new(Event::default());
        let before = last_call.replace(ended.clone());
        let this = self.clone();
        queue.enqueue(Box::new(move || {
            if let Some(before) = before {
                before.wait();
            }
            let result = caught(|| run(&mut |job| lock(&this.engine).run(job)));
            let result = result.map_err(|error| this.group.poison(error).clone());
            ended.set();
            result
        }));
        Ok(())
    }
}

impl RankBackend for HostRank {
    fn place(&self) -> Place {
        Place { backend: Backend::Host, device: Some(self.calls.rank) }
    }

    fn device_name(&self) -> String {
        let what = if self.watch.is_some() { "processes" } else { "threads" };
        format!("host {what}, {} cores", self.cores)
    }

    fn ring_bytes(&self) -> u64 {
        self.ring_bytes
    }

    fn first_error(&self) -> Option<Error> {
        self.calls.first_error()
    }

    fn allocate(&self, bytes: usize) -> Result<Arc<dyn Memory>, Error> {
        Ok(Arc::new(HostMemory::zeroed(self.calls.rank, bytes)?))
    }

    fn new_stream(&self) -> Result<Arc<dyn Queue>, Error> {
        Ok(Arc::new(HostQueue::new(self.calls.rank)?))
    }

    fn all_reduce(
        &mut self,
        call: &Call,
        input: &Region,
        output: &Region,
        stream: &Stream,
    ) -> Result<Launch, Error> {
        let queue: &dyn Any = &*stream.queue;
        let queue: &HostQueue = queue.downcast_ref().expect("the call has checked the backend");
        let plan = call.choice.plan;
        let bytes = input.bytes() as u64;
        let job = Job {
            word: call.word,
            dtype: call.dtype,
            op: call.op,
            geometry: plan.geometry(bytes)?,
            input: HostSpan::new(input),
            output: HostSpan::new(output),
        };
        match &mut *queue.recorded() {
            Some(recorded) => recorded.push_call(&self.calls, job)?,
            None => self.calls.enqueue(queue, 1, move |call| call(&job))?,
        }
        Ok(Launch {
            kernel: format!("host_ring_{}_{}", call.dtype, call.op),
            grid: 1,
            block: 1,
            shared_bytes: 0,
            plan,
            why: call.choice.why.clone(),
            bytes,
            ranks: plan.ranks as usize,
        })
    }

    fn device(&self) -> Option<&Device> {
        None
    }

    fn adopt_stream(&self, _stream: DeviceStream) -> Arc<dyn Queue> {
        unreachable!("a rank without a device adopts no stream")
    }
}

impl Drop for HostRank {
    fn drop(&mut self) {
        self.calls.group.drop_rank(self.calls.rank);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_counted_from_the_list_of_the_system() {
        assert_eq!([cores_in("0-3,8\n"), cores_in("0"), cores_in("0-1")], [Some(5), Some(1), Some(2)]);
        assert_eq!([cores_in(""), cores_in("3-1"), cores_in("a")], [None; 3]);
        assert!(cores_online() > 0);
    }
}
