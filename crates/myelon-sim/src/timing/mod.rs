//! A model of time: how long the ring all-reduce takes on one NVLink node, without a GPU and without a clock.
//!
//! [`LinkModel::predict`] runs the events of one call in the order of their times: every rank, lane, role and
//! round of `kernels/src/all_reduce_ring.cu`, with the geometry of `myelon-lanes`. It is for studying lanes, slots
//! and blocks; data does not move here, and orderings are the business of the other modes of this crate.
//!
//! ```
//! use myelon_lanes::{Forced, Machine, Request, Tuning};
//! use myelon_sim::timing::{Bound, LinkModel};
//!
//! let request = Request { ranks: 4, bytes: 64 << 20, element_bytes: 2, floats: true };
//! let predict = |lanes| {
//!     let forced = Forced { lanes: Some(lanes), piece_bytes: Some(16 << 10), ..Forced::default() };
//!     let plan = Tuning::new(Machine::h200()).forced(forced).plan(&request)?.plan;
//!     LinkModel::h200().predict(&plan, request.bytes)
//! };
//! let (few, many) = (predict(4)?, predict(32)?);
//! println!("{few}\n{many}");
//! assert!(many.time_us < few.time_us / 3.0); // recorded: 1281 us and 326 us
//! assert_eq!((few.bound, many.bound), (Bound::Block, Bound::Link));
//! # Ok::<(), myelon_lanes::PlanError>(())
//! ```
//!
//! # What takes time
//!
//! | what | how long |
//! |---|---|
//! | the movers' round | `round_us`, `pass_us` for each time that all movers load what their registers hold, and the bytes at `copy_gbps` or `sum_gbps` |
//! | a slot on its way | the bytes at `link_gbps` and `message_us`, on the sender's link and on the receiver's, each in the order of the calls; then `hop_us`. Movers go no faster than their link |
//! | telling | the fence ends when trailer and slots have landed and word of it is back, `hop_us` each, and `fence_us`; then the flag takes `hop_us`. Trailer and flag queue behind what the rank has sent |
//! | a look at the edges | `look_us`: once where a round is waited for, else before and behind the movers' round, as the signal warp does |
//! | credit | a fence and a flag, by batches; the movers of the next round go on meanwhile |
//! | the rest of a call | `launch_us` |
//!
//! # How well it agrees
//!
//! With the records of 4 x H200, as `crates/myelon-sim/tests/timing.rs` compares them: the median error is 1 to
//! 4 %, nine calls in ten are within 3 to 15 %, and of 61 settings the one predicted best was 1.3 % (1 MiB) and
//! 1.1 % (64 MiB) slower than the best one measured. `docs/decisions/0006-time-is-predicted-from-few-constants.md`
//! has the table, and which records the constants were not fitted on.
//!
//! # What it does not cover
//!
//! - Loads that take longer while links and memory are busy. So it is up to 14 % too fast where a link is
//!   busy between 60 and 85 % of the time, as it is with few lanes of small slots.
//! - Rings larger than the L2, tails of odd alignment, types other than those whose sum takes eight vectors a
//!   mover, and other work on the GPU.
//! - More than 4 ranks: nothing is recorded yet to compare with.
//! - The host: calls faster than it can queue them, and the first call of a communicator.
//! - Chance. Ranks differ by what they are told to be late, and by nothing else.

mod link;
mod prediction;
mod simulation;

use myelon_lanes::{Algorithm, Plan, PlanError};

pub use link::LinkModel;
pub use prediction::{Bound, Prediction, Shares};

impl LinkModel {
    /// Predicts one call of `bytes` bytes a rank, with all ranks calling at once.
    ///
    /// A pure function of its arguments. It takes about 0.1 s for 1 GiB in a release build.
    ///
    /// # Errors
    ///
    /// Those of [`Plan::check`] and [`Plan::geometry`].
    ///
    /// # Panics
    ///
    /// Where a constant of the model is negative or not finite, or a rate is 0.
    pub fn predict(&self, plan: &Plan, bytes: u64) -> Result<Prediction, PlanError> {
        self.predict_late(plan, bytes, &[])
    }

    /// Predicts one call whose rank `r` calls `late_us[r]` microseconds late; ranks that the slice does not
    /// name call at once. The time counts from the first moment on.
    ///
    /// ```
    /// # use myelon_lanes::{Algorithm, Forced, Machine, Request, Tuning};
    /// # use myelon_sim::timing::LinkModel;
    /// let request = Request { ranks: 4, bytes: 4096, element_bytes: 2, floats: true };
    /// let forced = Forced { algorithm: Some(Algorithm::Ring), ..Forced::default() };
    /// let plan = Tuning::new(Machine::h200()).forced(forced).plan(&request)?.plan;
    /// let late = LinkModel::h200().predict_late(&plan, request.bytes, &[0.0, 50.0])?;
    /// assert!(late.finished_us.iter().all(|&us| us > 50.0), "everybody waits for rank 1");
    /// # Ok::<(), myelon_lanes::PlanError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`LinkModel::predict`].
    ///
    /// # Panics
    ///
    /// As [`LinkModel::predict`].
    pub fn predict_late(&self, plan: &Plan, bytes: u64, late_us: &[f64]) -> Result<Prediction, PlanError> {
        self.check();
        if plan.algorithm != Algorithm::Ring {
            return Err(PlanError::NotModelled { algorithm: plan.algorithm });
        }
        Ok(simulation::Simulation::new(self, plan, bytes, late_us)?.run(self.launch_us))
    }
}
