//! The host backend: ranks are threads of this process, or processes, and data moves through the rings of
//! `myelon-ring`, in heap memory or in memory that all processes map.

mod all_reduce;
mod convert;
mod graph;
mod join;
mod memory;
mod patience;
mod queue;
mod reduce;

use std::any::Any;
use std::sync::{Arc, Mutex};

use myelon_kernel::{Device, DeviceStream};
use myelon_lanes::{Machine, Origin, Request};
use myelon_meet::Watch;
use myelon_recorder::Row;
use myelon_ring::{HostWindows, WindowLayout};

use self::all_reduce::{Engine, Job};
pub(crate) use self::join::join;
pub(crate) use self::memory::HostMemory;
use self::memory::HostSpan;
use self::queue::{Event, HostQueue, caught, follows, lock, next_follows};
use crate::backend::{Agreement, Backend, Call, Memory, Opened, Place, Queue, RankBackend};
use crate::builder::Config;
use crate::communicator::Launch;
use crate::error::Error;
use crate::group::Group;
use crate::memory::Region;
use crate::record::{self, Opening, RankRecord};
use crate::stream::Stream;
use crate::tuning_file::Tuned;

/// The ranks of `config` as threads.
pub(crate) fn open(config: &Config) -> Result<Opened, Error> {
    let ranks = config.host_ranks();
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let Shape { tuned, layout, credit_batch } = shape(config, ranks, cores)?;
    let windows = HostWindows::new(layout, config.first_sequence())?;
    let opening = Opening {
        place: &config.record,
        communicator: record::new_communicator(),
        ranks,
        backend: Backend::Host,
        deadline: config.deadline(),
    };
    let records = record::open(&opening, 0..ranks);
    let group = Arc::new(Group::new(ranks).recorded(records.iter().all(|record| record.file().is_some())));
    let mut opened: Vec<Box<dyn RankBackend>> = Vec::with_capacity(ranks);
    for (rank, record) in records.into_iter().enumerate() {
        let engine =
            Engine::new(rank, &windows, credit_batch, config.deadline(), group.clone(), record.clone())?;
        let (group, engine) = (group.clone(), Mutex::new(engine));
        let calls = HostCalls { rank, group, record, engine, last_call: Mutex::default() };
        let ring_bytes = layout.bytes() as u64;
        opened.push(Box::new(HostRank { ring_bytes, cores, calls: Arc::new(calls), watch: None }));
    }
    Ok(Opened { ranks: opened, tuned })
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
    let any = Request { ranks: ranks as u32, bytes: 0, element_bytes: 1, floats: true };
    let credit_batch = tuned.tuning.plan(&any)?.plan.credit_batch as usize;
    let layout =
        WindowLayout::new(ranks, pool.lanes as usize, pool.slots as usize, pool.piece_bytes as usize)?;
    Ok(Shape { tuned, layout, credit_batch })
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

/// What makes the calls of a rank, one by one or by a graph.
struct HostCalls {
    rank: usize,
    group: Arc<Group>,
    record: Arc<RankRecord>,
    engine: Mutex<Engine>,
    /// Happens when the call made last has ended, on whatever stream it is.
    last_call: Mutex<Option<Arc<Event>>>,
}

impl HostCalls {
    fn first_error(&self) -> Option<Error> {
        self.group.first_error().cloned()
    }

    /// Makes the calls of `made` on `queue`, behind the earlier ones: `run` gets what carries a call out.
    fn enqueue(
        self: &Arc<Self>,
        queue: &HostQueue,
        made: Row,
        run: impl FnOnce(&mut dyn FnMut(&Job) -> Result<(), Error>) -> Result<(), Error> + Send + 'static,
    ) -> Result<(), Error> {
        let mut last_call = lock(&self.last_call);
        let last = self.group.make_calls(self.rank, made.calls);
        let first = last.inspect_err(|error| self.record.failed(error, false))? + 1 - made.calls;
        let (stream, flags) = (queue.number(), made.flags & Row::GRAPH);
        let made_ns = self.record.made(Row { number: first, stream, ..made });
        let ended = Arc::new(Event::default());
        let before = last_call.replace(ended.clone());
        let this = self.clone();
        queue.enqueue_call(Box::new(move || {
            // The call before may be held up by a task on its own stream. Once the communicator has failed, nothing
            // is begun any more, and nobody has to wait for that.
            if let Some(before) = before {
                before.wait_unless(|| this.group.first_error().is_some());
            }
            let (mut number, mut runs) = (first, false);
            let mut call = |job: &Job| {
                if let Some(error) = this.group.first_error() {
                    return Err(error.clone());
                }
                let row = Row { number, stream, made_ns, flags: job.row.flags | flags, ..job.row };
                number += 1;
                let mut engine = lock(&this.engine);
                this.record.start(row, follows(&this));
                runs = true;
                let waits = engine.run(job, number - 1)?;
                this.record.done(&waits);
                runs = false;
                next_follows(&this);
                Ok(())
            };
            let result = caught(|| run(&mut call));
            let result = result.map_err(|error| {
                let error = this.group.poison(error).clone();
                this.record.failed(&error, runs);
                error
            });
            ended.set(());
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
        let row = record::row(call, input, output, queue.number());
        let job = Job {
            row,
            word: call.word,
            dtype: call.dtype,
            op: call.op,
            geometry: plan.geometry(bytes)?,
            input: HostSpan::new(input),
            output: HostSpan::new(output),
        };
        match &mut *queue.recorded() {
            Some(recorded) => recorded.push_call(&self.calls, job)?,
            None => self.calls.enqueue(queue, row, move |call| call(&job))?,
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

    fn record(&self) -> &RankRecord {
        &self.calls.record
    }

    fn register(&self, region: &Region) -> Result<(Region, Arc<dyn Agreement>), Error> {
        Ok((region.clone(), Arc::new(Staged)))
    }

    fn is_staged(&self, _regions: [&Region; 2]) -> Result<bool, Error> {
        // There is no other way, so no plan differs by it.
        Ok(false)
    }

    fn device(&self) -> Option<&Device> {
        None
    }

    fn adopt_stream(&self, _stream: DeviceStream) -> Arc<dyn Queue> {
        unreachable!("a rank without a device adopts no stream")
    }
}

/// What ranks of the host agree on: memory of others is used as it is, and nothing has to be registered.
struct Staged;

impl Agreement for Staged {
    fn settle(&self) -> Result<Option<String>, Error> {
        Ok(Some("the host backend moves all data through its rings, and needs no registration".into()))
    }
}

impl Drop for HostRank {
    fn drop(&mut self) {
        let HostCalls { group, record, rank, .. } = &*self.calls;
        group.drop_rank(*rank);
        record.close(group.first_error().is_some());
    }
}
