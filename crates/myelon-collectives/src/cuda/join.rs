//! A rank that is a process: it takes a GPU, meets its peers, and maps their windows.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex};

use myelon_kernel::{Device, LoneRank, PeerMemory, RankRings, leave_captures_alone};
use myelon_meet::{Event, Process, Session, Told};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::errors::error_of;
use super::follow::Following;
use super::offers::Offers;
use super::registrations::Registrations;
use super::{CudaRank, Member, Shared, THREADS, image_choice, layout, machine, origin, resident_blocks};
use crate::backend::{Backend, RankBackend};
use crate::builder::Config;
use crate::error::Error;
use crate::group::Group;
use crate::record::{self, Opening};
use crate::told::{Note, Peers};
use crate::tuning_file::Tuned;

/// The GPU of this process: the one that `config` names, else the one of its number on the node, else the only one that
/// it is shown, where that was said.
pub(crate) fn own_device(config: &Config, process: &Process) -> Result<(Device, u32), Error> {
    let node = myelon_kernel::probe().map_err(error_of)?;
    let (seen, local) = (node.devices.len(), process.local_rank());
    let is_shown_one = seen == 1 && std::env::var_os("CUDA_VISIBLE_DEVICES").is_some();
    let ordinal = match config.devices[..] {
        [] if seen >= process.ranks() => local,
        [] if is_shown_one => 0,
        [] => {
            let needed = format!("{} GPUs, one a rank", process.ranks());
            return Err(Error::NoDevice { needed, seen: format!("{seen} GPUs") });
        }
        [ordinal] => ordinal,
        _ => return Err(Error::invalid("devices", "one for a rank that is a process", config.devices.len())),
    };
    Ok((Device::open(ordinal).map_err(error_of)?, node.driver_version))
}

/// What a rank tells of itself first.
#[derive(Serialize, Deserialize)]
struct Begun {
    /// Rank 0's is the communicator's.
    communicator: u64,
    /// Where its GPU is: processes may count GPUs differently.
    place: String,
    /// Bytes of its window as it is mapped; the descriptor goes along.
    window: usize,
}

/// One rank of `config` on `device` as this process, once all its peers are there.
pub(crate) fn join(
    config: &Config,
    process: &Process,
    (device, driver_version): (Device, u32),
) -> Result<(Box<dyn RankBackend>, Tuned), Error> {
    let (rank, ranks) = (process.rank(), process.ranks());
    let info = device.info().clone();
    let origin = origin(std::slice::from_ref(&device), driver_version);
    let tuned = config.tuned(machine(&info.name, info.multiprocessors, THREADS), ranks as u32, origin)?;
    let pool = tuned.tuning.pool(ranks as u32)?;
    let layout = layout(ranks, &pool)?;
    let mut session = process.join(&[
        ("backend", Backend::Cuda.to_string()),
        ("model of the GPU", info.name.clone()),
        ("rings", pool.to_string()),
        ("window", format!("{} bytes", layout.bytes())),
        ("promise of windows", config.windows.to_string()),
        ("permission of any order", config.any_order.to_string()),
        ("deadline", format!("{} ms", config.deadline().as_secs_f64() * 1e3)),
        ("first sequence", config.first_sequence().to_string()),
    ])?;

    let own = LoneRank::begin(&device, rank, layout, config.first_sequence(), image_choice(config));
    let own = own.and_then(|own| own.export().map(|handle| (own, handle))).map_err(error_of);
    let begun = own.as_ref().map(|(_, (_, window))| Begun {
        communicator: record::new_communicator(),
        place: info.pci_bus_id.clone(),
        window: *window,
    });
    let handle: Vec<BorrowedFd<'_>> = own.iter().map(|(_, (handle, _))| handle.as_fd()).collect();
    let (told, begun) = agree(&mut session, process, begun, &handle)?;
    drop(handle);
    let (own, _) = own?;
    let share = begun.iter().filter(|other| other.place == info.pci_bus_id).count();
    if config.devices.is_empty() {
        refuse_shared_gpu(&begun)?;
    }

    let rings = reach(&device, rank, own, &told, &begun, share);
    // Its model is the same for all, so threads of the direct kernel are, too.
    let blocks = rings.as_ref().map_err(Clone::clone).and_then(resident_blocks);
    let (_, blocks) = agree(&mut session, process, blocks.as_ref().copied(), &[])?;
    let (rings, blocks_max) = (rings?, blocks.into_iter().min().unwrap_or(0));
    let machine = machine(&info.name, blocks_max, rings.direct_threads_max());
    let tuned = config.tuned_on(tuned, machine, ranks as u32)?;
    tracing::info!(rank, ranks, device = info.name, image = %rings.image(), blocks_max, window = layout.bytes(), "rings joined");

    let opening = Opening {
        place: &config.record,
        communicator: begun[0].communicator,
        ranks,
        backend: Backend::Cuda,
        deadline: config.deadline(),
    };
    let record = record::open(&opening, [rank]).remove(0);
    let voice = session.voice();
    let group = Group::of_process(ranks, Peers { rank, voice: voice.clone() });
    let group = group.recorded(record.file().is_some());
    let offers = Some(Arc::new(Offers::new(rank, ranks, voice.clone())));
    let members = vec![Member { rings, record, last_call: Mutex::default() }];
    let registrations = Registrations::new(ranks, Some((rank, voice.clone())));
    let shared = Arc::new(Shared { group, deadline: config.deadline(), members, offers, registrations });
    let (hearing, mut is_alone) = (shared.clone(), false);
    let watch = session.watch(voice, move |peer, event| {
        // Peers say what makes this thread map and unmap memory, whatever is captured here just then.
        if !std::mem::replace(&mut is_alone, true)
            && let Err(error) = leave_captures_alone()
        {
            tracing::debug!(%error, "what peers say may break a capture of others");
        }
        hearing.hear(peer, event);
    })?;
    let rank = CudaRank {
        rank,
        ring_bytes: layout.bytes() as u64,
        deadline: config.deadline(),
        blocks_max,
        windows: config.windows,
        following: Some(Following::begin(shared.clone(), rank)),
        shared,
        watch: Some(watch),
    };
    Ok((Box::new(rank), tuned))
}

/// Tells all ranks how this one fares, and returns what each told, in rank order.
///
/// # Errors
///
/// [`Error::PeerFailed`] with the first peer that had an error. This rank's own is the caller's to return: `own` is then
/// an error, and nothing is returned by the others either.
fn agree<T: Serialize + DeserializeOwned>(
    session: &mut Session,
    process: &Process,
    own: Result<T, &Error>,
    handles: &[BorrowedFd<'_>],
) -> Result<(Vec<Told>, Vec<T>), Error> {
    let failed = own.as_ref().err().copied().cloned();
    let bytes = serde_json::to_vec(&own.map_err(ToString::to_string)).expect("numbers and text");
    let told = session.exchange(&bytes, handles, process.limit())?;
    if let Some(error) = failed {
        return Err(error);
    }
    let mut all = Vec::with_capacity(told.len());
    for (peer, told) in told.iter().enumerate() {
        let read: Result<T, String> =
            serde_json::from_slice(&told.bytes).unwrap_or_else(|error| Err(error.to_string()));
        all.push(read.map_err(|message| Error::PeerFailed { peer, message })?);
    }
    Ok((told, all))
}

/// Refuses ranks that have one GPU together, which nobody asked for.
fn refuse_shared_gpu(begun: &[Begun]) -> Result<(), Error> {
    for (rank, one) in begun.iter().enumerate() {
        if let Some(other) = begun[..rank].iter().position(|other| other.place == one.place) {
            let needed = "a GPU for each rank, or devices that are named".into();
            return Err(Error::NoDevice {
                needed,
                seen: format!("ranks {other} and {rank} on GPU {}", one.place),
            });
        }
    }
    Ok(())
}

/// Maps the windows of the peers.
fn reach(
    device: &Device,
    rank: usize,
    own: LoneRank,
    told: &[Told],
    begun: &[Begun],
    share: usize,
) -> Result<RankRings, Error> {
    let mut windows = Vec::with_capacity(told.len());
    for (peer, (told, begun)) in told.iter().zip(begun).enumerate() {
        if peer == rank {
            windows.push(None);
            continue;
        }
        let [handle] = &told.fds[..] else {
            let message = format!("it gave {} descriptors for its window", told.fds.len());
            return Err(Error::PeerFailed { peer, message });
        };
        let memory = PeerMemory::import(device, handle.as_fd(), begun.window);
        windows.push(Some(memory.map_err(|error| Error::Driver {
            call: format!("mapping the window of rank {peer}, on GPU {}", begun.place),
            reason: error.to_string(),
        })?));
    }
    Ok(own.reach(windows, share as u32))
}

impl Shared {
    /// Something happened to `peer`. Never waits but for the driver, where memory is mapped.
    fn hear(&self, peer: usize, event: Event<'_>) {
        let (is_last, is_dead) = (!matches!(event, Event::Note { .. }), matches!(event, Event::Dead(_)));
        let (rings, offers) =
            (&self.members[0].rings, self.offers.as_ref().expect("there are other processes"));
        if offers.is_closed() {
            // The rank is dropped, and only waits for peers to close what it lent them.
            if let Event::Note { bytes, .. } = event
                && let Ok(note @ (Note::Reached { .. } | Note::Refused { .. } | Note::Closed { .. })) =
                    Note::read(peer, bytes)
            {
                offers.hear(rings, peer, note, &[]);
            } else if is_last {
                offers.gone(peer, is_dead);
            }
            return;
        }
        // What a kernel has recorded is told before it is asked for.
        self.first_error();
        if let Some((note, fds)) = self.group.hear(peer, event) {
            match note {
                Note::Registered { said } => {
                    self.registrations.hear(peer, said);
                    offers.voice().tell_one(peer, &Note::Noted.bytes());
                }
                Note::Noted => self.registrations.noted(peer),
                note => offers.hear(rings, peer, note, &fds),
            }
        }
        if is_last {
            offers.gone(peer, is_dead);
            self.registrations.gone(peer);
            offers.leave_all(rings, peer, false);
        }
        if let Some(error) = self.group.first_error() {
            self.end(error);
        }
    }
}
