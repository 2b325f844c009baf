//! What a plan needs to know of a machine.

/// The few figures of a machine that plans depend on.
///
/// The fields are public: a caller that knows better, say how many blocks of a kernel are resident
/// together, changes a field of one of the machines below.
///
/// # Example
///
/// ```
/// use myelon_lanes::Machine;
///
/// let machine = Machine { blocks_max: 264, ..Machine::h200() };
/// assert_eq!(machine.in_flight_bytes_least(), 3_400_000);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Machine {
    /// What people call it.
    pub name: String,
    /// What one rank sends to its peers at best, in 1e9 bytes a second and one direction; 0 where
    /// nobody knows.
    pub link_gbps: f64,
    /// From the push of a slot to the credit for it, in microseconds; 0 where nobody knows.
    pub round_trip_us: f64,
    /// Blocks of the kernel that are certain to be resident together on one GPU. A launch never has
    /// more: a block that waits for one that cannot start would wait for ever.
    pub blocks_max: u32,
    /// Threads that a block of the direct kernel can have: each takes shared memory. A multiple of 32.
    pub direct_threads_max: u32,
    /// Ranks are host threads. A rank is then one thread that serves every block of the plan, so
    /// `threads` is 1 and `blocks_max` binds nothing.
    pub host: bool,
}

/// All-peer bulk pushes carry 343-349 GB/s with 8 GPUs, 16-byte stores 335: measured on 8 x H200,
/// 2026-11-20. Between the two, because the ring's trailers and flags take their share.
const H200_LINK_GBPS: f64 = 340.0;
/// ASSUMPTION: push 1.6 + released flag 1.3 + consume 1 + credit return 1.3 us, a model from measured
/// hops (H200, 2026-11-20), rounded. The loop as a whole has not been measured.
const H200_ROUND_TRIP_US: f64 = 5.0;
/// Multiprocessors of an H200: with one block on each, all are resident whatever they use.
const H200_BLOCKS_MAX: u32 = 132;

impl Machine {
    /// H200s joined by NVLink 4 and NVSwitch.
    pub fn h200() -> Self {
        Self {
            name: "H200".into(),
            link_gbps: H200_LINK_GBPS,
            round_trip_us: H200_ROUND_TRIP_US,
            blocks_max: H200_BLOCKS_MAX,
            direct_threads_max: 512,
            host: false,
        }
    }

    /// A GPU that nobody has measured, with `blocks_max` blocks resident together.
    ///
    /// ASSUMPTION: its link and round trip are an H200's. A slower link needs less in flight, so the
    /// rings are then larger than they must be, which costs memory and no time.
    ///
    /// ```
    /// let machine = myelon_lanes::Machine::unknown_gpu("NVIDIA A100-SXM4-80GB", 108);
    /// assert_eq!(machine.blocks_max, 108);
    /// ```
    pub fn unknown_gpu(name: &str, blocks_max: u32) -> Self {
        Self { name: format!("{name} (not measured)"), blocks_max, ..Self::h200() }
    }

    /// Ranks as threads of this process, on a host with `cores` cores.
    ///
    /// ```
    /// assert_eq!(myelon_lanes::Machine::host(16).name, "host, 16 cores");
    /// ```
    pub fn host(cores: u32) -> Self {
        let name = format!("host, {cores} cores");
        Self {
            name,
            link_gbps: 0.0,
            round_trip_us: 0.0,
            blocks_max: u32::MAX,
            direct_threads_max: 0,
            host: true,
        }
    }

    /// The least number of bytes that the rings of a rank must hold so that its link never idles:
    /// twice what the link carries in one round trip.
    pub fn in_flight_bytes_least(&self) -> u64 {
        (2.0 * self.link_gbps * self.round_trip_us * 1e3) as u64
    }
}
