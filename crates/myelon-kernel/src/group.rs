//! What the ranks of a communicator share: their windows, and how each reaches the memory of the others.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use myelon_ring::WindowLayout;
use myelon_ring::words::RANKS_MAX;

use crate::device::Device;
use crate::error::KernelError;
use crate::fault::FaultPage;
use crate::image::ImageChoice;
use crate::kernel::Kernels;
use crate::memory::DeviceMemory;
use crate::operand::Operand;
use crate::peer::PeerMemory;
use crate::rings::RankRings;
use crate::shared::{Farewell, SharedMemory, Users, reap};
use crate::stream::DeviceStream;

/// What the ranks of this process share. Every rank holds it, so it outlives the first that is dropped.
pub(crate) struct Group {
    pub layout: WindowLayout,
    pub users: Arc<Users>,
    reach: Reach,
    /// `None` only while it is dropped.
    parts: Option<Parts>,
}

/// How the ranks reach each other's memory.
enum Reach {
    /// All are on these GPUs of this process, which know memory by the same addresses.
    Devices(Vec<Device>),
    /// Each is a process, and knows memory by addresses of its own.
    Processes,
}

/// What kernels of this process's ranks touch.
pub(crate) struct Parts {
    /// In rank order.
    windows: Vec<Window>,
    /// `[ranks]`; none of a rank in another process.
    faults: Vec<Option<Page>>,
    imports: Mutex<Vec<Import>>,
}

/// The window of a rank.
enum Window {
    Own(DeviceMemory),
    Peer(PeerMemory),
}

/// Memory that a peer in another process lets this one reach.
struct Import {
    peer: usize,
    /// What the peer calls it.
    number: u64,
    memory: PeerMemory,
}

/// Pages that no kernel knows any more. They are used again and never freed, because the driver waits for
/// all kernels of a GPU before it gives pinned memory back.
static FREE_PAGES: Mutex<Vec<FaultPage>> = Mutex::new(Vec::new());

/// A page that goes back to those that are free when it is dropped.
struct Page(Option<FaultPage>);

fn fault_page(device: &Device) -> Result<Page, KernelError> {
    let mut free = lock(&FREE_PAGES);
    let page = match free.iter().position(|page| page.device().ordinal() == device.ordinal()) {
        Some(index) => {
            let page = free.swap_remove(index);
            page.clear();
            page
        }
        None => FaultPage::new(device)?,
    };
    Ok(Page(Some(page)))
}

impl Drop for Page {
    fn drop(&mut self) {
        lock(&FREE_PAGES).extend(self.0.take());
    }
}

/// What has been loaded: `(ordinal, choice, kernels)`.
static LOADED: Mutex<Vec<(usize, ImageChoice, Arc<Kernels>)>> = Mutex::new(Vec::new());

/// The kernels of a GPU, loaded once for the process and never unloaded: nobody could tell when the last
/// launch that was queued has begun.
fn kernels(device: &Device, choice: ImageChoice) -> Result<Arc<Kernels>, KernelError> {
    let mut loaded = lock(&LOADED);
    let found = loaded.iter().find(|entry| (entry.0, entry.1) == (device.ordinal(), choice));
    if let Some((_, _, kernels)) = found {
        return Ok(kernels.clone());
    }
    let kernels = Arc::new(Kernels::load(device, choice)?);
    loaded.push((device.ordinal(), choice, kernels.clone()));
    Ok(kernels)
}

/// A window on `device` with its first words, for ranks that are on `devices`.
fn window(
    device: &Device,
    layout: &WindowLayout,
    first_sequence: u64,
    devices: &[Device],
) -> Result<DeviceMemory, KernelError> {
    let window = DeviceMemory::allocate(device, layout.bytes(), devices)?;
    let words = layout.initial_words(first_sequence);
    window.write(&DeviceStream::new(device)?, 0, bytemuck::cast_slice(&words))?;
    Ok(window)
}

impl Group {
    fn new(layout: WindowLayout, reach: Reach, windows: Vec<Window>, faults: Vec<Option<Page>>) -> Arc<Self> {
        let parts = Some(Parts { windows, faults, imports: Mutex::default() });
        Arc::new(Self { layout, reach, parts, users: Arc::default() })
    }

    fn parts(&self) -> &Parts {
        self.parts.as_ref().expect("taken only by drop")
    }

    /// The addresses of the windows.
    pub fn windows(&self) -> [u64; RANKS_MAX] {
        let mut addresses = [0; RANKS_MAX];
        for (address, window) in addresses.iter_mut().zip(&self.parts().windows) {
            *address = match window {
                Window::Own(memory) => memory.address(),
                Window::Peer(memory) => memory.address(),
            };
        }
        addresses
    }

    /// The page of `rank`, if it is of this process.
    pub fn fault_page(&self, rank: usize) -> Option<&FaultPage> {
        self.parts().faults[rank].as_ref()?.0.as_ref()
    }

    /// The pages of this process's ranks.
    pub fn fault_pages(&self) -> impl Iterator<Item = &FaultPage> {
        self.parts().faults.iter().flatten().flat_map(|page| &page.0)
    }

    /// `[ranks]` addresses at which each rank reaches `operand`, if all do.
    pub fn addresses_of(&self, operand: &Operand) -> Option<[u64; RANKS_MAX]> {
        operand.reached_at(|memory| match &self.reach {
            Reach::Devices(devices) if memory.is_reached_by(devices) => Some([memory.address(); RANKS_MAX]),
            Reach::Devices(_) | Reach::Processes => memory.offered_to(&self.users),
        })
    }

    /// Lets all ranks, which are of this process, reach `memory`, which is somebody else's.
    pub fn share(&self, memory: &SharedMemory) -> Result<(), KernelError> {
        let Reach::Devices(devices) = &self.reach else {
            let reason = "the ranks are processes, and get it by its handles".into();
            return Err(KernelError::NotShareable { reason });
        };
        if memory.is_reached_by(devices) {
            return Ok(());
        }
        let mut users: Vec<&Device> = Vec::new();
        for device in devices {
            if !users.iter().any(|user| user.ordinal() == device.ordinal()) {
                users.push(device);
            }
        }
        let (mapped, offset) = memory.map_again(&users)?;
        let reached_at = OnceLock::from([mapped.address() + offset; RANKS_MAX]);
        memory.offer(&self.users, Arc::new(reached_at), Box::new(move || drop(mapped)));
        Ok(())
    }

    /// Keeps `memory` of `peer`, which calls it `number`, until [`Group::leave`].
    pub fn keep(&self, peer: usize, number: u64, memory: PeerMemory) {
        lock(&self.parts().imports).push(Import { peer, number, memory });
    }

    /// Unmaps those of `peer` whose number is `wanted`, once nothing that is queued can use them, or at once where the rank
    /// `is_idle`; never waits. `closed` is then told those that the peer must keep until then, if there are any.
    pub fn leave(
        &self,
        peer: usize,
        wanted: impl Fn(u64) -> bool,
        is_idle: bool,
        closed: impl FnOnce(Vec<u64>) + Send + Sync + 'static,
    ) {
        let left = |import: &mut Import| import.peer == peer && wanted(import.number);
        let left: Vec<Import> = lock(&self.parts().imports).extract_if(.., left).collect();
        if left.is_empty() {
            return;
        }
        let lent = left.iter().filter(|import| import.memory.is_lent());
        let lent: Vec<u64> = lent.map(|import| import.number).collect();
        let farewell =
            (!lent.is_empty()).then(|| -> Box<dyn FnOnce() + Send + Sync> { Box::new(move || closed(lent)) });
        // They go first, and then it is said. The thread that watches does this, so it reaps nothing.
        // Streams that have other work than calls to do use nothing of peers.
        let users = if is_idle { &[][..] } else { std::slice::from_ref(&self.users) };
        Users::default().bury(users, Box::new((left, Farewell(farewell))));
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        reap();
        self.users.bury(&[], Box::new(self.parts.take()));
    }
}

impl RankRings {
    /// Opens the rings of one communicator: rank `r` on `devices[r]`, with its window in that GPU's memory.
    ///
    /// Several ranks may be on one GPU, for tests: then they share its multiprocessors. Every kernel is
    /// loaded on every GPU, the windows are written, and all of that is done on return, so no later call
    /// loads code or allocates.
    ///
    /// # Errors
    ///
    /// [`KernelError::NoPeerAccess`] where a GPU does not reach another, and what [`Kernels::load`],
    /// [`DeviceMemory::allocate`] and [`FaultPage::new`] report. Nothing stays allocated.
    pub fn open(
        devices: &[Device],
        layout: WindowLayout,
        first_sequence: u64,
        choice: ImageChoice,
    ) -> Result<Vec<Self>, KernelError> {
        let all_kernels =
            devices.iter().map(|device| kernels(device, choice)).collect::<Result<Vec<_>, _>>()?;
        let (mut windows, mut faults) = (Vec::new(), Vec::new());
        for device in devices {
            windows.push(Window::Own(window(device, &layout, first_sequence, devices)?));
            faults.push(Some(fault_page(device)?));
        }
        let share =
            |device: &Device| devices.iter().filter(|other| other.ordinal() == device.ordinal()).count();
        let group = Group::new(layout, Reach::Devices(devices.to_vec()), windows, faults);
        let ranks = devices.iter().zip(all_kernels).enumerate().map(|(rank, (device, kernels))| {
            Self::new(rank, device.clone(), group.clone(), kernels, share(device) as u32)
        });
        Ok(ranks.collect())
    }
}

/// One rank's rings before it reaches the windows of its peers, which are in other processes.
pub struct LoneRank {
    rank: usize,
    device: Device,
    layout: WindowLayout,
    kernels: Arc<Kernels>,
    window: DeviceMemory,
    fault: Page,
}

impl LoneRank {
    /// Loads the kernels, and makes the window of `rank` on `device` and writes it.
    ///
    /// # Errors
    ///
    /// Those of [`RankRings::open`]. Nothing stays allocated.
    pub fn begin(
        device: &Device,
        rank: usize,
        layout: WindowLayout,
        first_sequence: u64,
        choice: ImageChoice,
    ) -> Result<Self, KernelError> {
        let kernels = kernels(device, choice)?;
        let window = window(device, &layout, first_sequence, &[])?;
        Ok(Self { rank, device: device.clone(), layout, kernels, window, fault: fault_page(device)? })
    }

    /// What the peers map to reach the window, and its size, for [`PeerMemory::import`].
    ///
    /// # Errors
    ///
    /// Those of [`DeviceMemory::export`].
    pub fn export(&self) -> Result<(OwnedFd, usize), KernelError> {
        Ok((self.window.export()?, self.window.mapped_bytes()))
    }

    /// The rank's rings, with the windows of its peers: `[ranks]`, none at its own place. `share` ranks are on its GPU,
    /// itself among them.
    ///
    /// # Panics
    ///
    /// Where the windows are not of all the other ranks.
    pub fn reach(self, peers: Vec<Option<PeerMemory>>, share: u32) -> RankRings {
        let Self { rank, device, layout, kernels, window, fault } = self;
        assert_eq!(peers.len(), layout.ranks(), "a place for each rank");
        let (mut windows, mut faults) = (Vec::new(), Vec::new());
        let mut own = Some((window, fault));
        for (peer, memory) in peers.into_iter().enumerate() {
            let (window, fault) = match (memory, peer == rank) {
                (Some(memory), false) => (Window::Peer(memory), None),
                (None, true) => {
                    let (window, fault) = own.take().expect("one place is the rank's own");
                    (Window::Own(window), Some(fault))
                }
                _ => panic!("the windows of all other ranks, and none at place {rank}"),
            };
            windows.push(window);
            faults.push(fault);
        }
        RankRings::new(rank, device, Group::new(layout, Reach::Processes, windows, faults), kernels, share)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it is held.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
