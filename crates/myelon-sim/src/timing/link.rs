//! The few constants of a machine that time is predicted from.

/// What links, fences and blocks cost. See [the module](super) for how they are put together.
#[derive(Clone, Debug, PartialEq)]
pub struct LinkModel {
    /// From a store to a peer until the peer's memory shows it, in microseconds.
    pub hop_us: f64,
    /// Payload that leaves a GPU, and that enters it, in 1e9 bytes a second: two resources of each GPU.
    pub link_gbps: f64,
    /// What a slot takes of the link beyond its payload: trailer, flag, change of destination.
    pub message_us: f64,
    /// A fence, beyond the round trip of the bytes that it waits for.
    pub fence_us: f64,
    /// One look of the signal warp at every edge of its block.
    pub look_us: f64,
    /// What a round costs the movers whatever it moves: two barriers, addresses.
    pub round_us: f64,
    /// What a pass costs the movers: each loads what it holds in registers, waits for it, and stores it.
    pub pass_us: f64,
    /// What one block copies beyond that, in 1e9 bytes a second.
    pub copy_gbps: f64,
    /// What one block sums beyond that, counted as the bytes of all ranks that it reads.
    pub sum_gbps: f64,
    /// What a call costs beyond its rounds: the launch on a stream, behind another call.
    pub launch_us: f64,
}

impl LinkModel {
    /// H200s joined by NVLink 4 and NVSwitch.
    ///
    /// Measured on 8 x H200, 2026-11-20: `hop_us`, a hop of data that carries its flag; `link_gbps`, 16-byte
    /// stores to all peers by 132 blocks of 4 GPUs. Fitted on the sweep and the all-reduces of 4 ranks
    /// (`benches/record/h200-x4/2026-11-21-lane-sweep-p4.csv`,
    /// `benches/record/h200-x4/2026-11-21-all-reduce-p4.csv`): the other eight. As far as anything like them was
    /// measured, they agree: one more look at local memory takes 0.27 to 0.31 us, and a look here is two; a
    /// hop behind a fence takes 1.25 to 1.32 us, here `hop_us + fence_us` 1.25; an empty kernel on a stream
    /// takes 3.6 to 5.5 us.
    pub fn h200() -> Self {
        Self {
            hop_us: 0.83,
            link_gbps: 350.0,
            message_us: 0.005,
            fence_us: 0.42,
            look_us: 0.5,
            round_us: 0.4,
            pass_us: 0.7,
            copy_gbps: 49.0,
            sum_gbps: 40.0,
            launch_us: 3.8,
        }
    }

    /// Rates must be positive, costs must not be negative, and all of them finite.
    pub(super) fn check(&self) {
        let rates = [self.link_gbps, self.copy_gbps, self.sum_gbps];
        let costs = [self.hop_us, self.message_us, self.fence_us, self.look_us, self.round_us, self.pass_us];
        assert!(rates.iter().all(|rate| rate.is_finite() && *rate > 0.0), "{self:?}");
        assert!(costs.iter().all(|cost| cost.is_finite() && *cost >= 0.0), "{self:?}");
        assert!(self.launch_us.is_finite() && self.launch_us >= 0.0, "{self:?}");
    }
}
