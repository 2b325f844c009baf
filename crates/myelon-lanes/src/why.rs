//! Why a plan is as it is.

use std::fmt;

use crate::algorithm::Algorithm;
use crate::settings::{Forced, Policy, format_bytes};
use crate::table::Row;
use crate::{gpu, host};

/// Where the numbers of a plan come from. Prints as a sentence for people.
///
/// # Example
///
/// ```
/// use myelon_lanes::{Forced, Machine, Policy, Request, Tuning};
///
/// let request = Request { ranks: 8, bytes: 1 << 30, element_bytes: 2, floats: true };
/// let why = |tuning: Tuning| tuning.plan(&request).map(|choice| choice.why.to_string());
/// assert_eq!(
///     why(Tuning::new(Machine::h200()))?,
///     "automatic for H200: a lane for every 2KiB a rank, at most 28; the rings hold 9633792 bytes, \
///      the link needs 3400000 (2 x 340 GB/s x 5 us)",
/// );
/// assert_eq!(
///     why(Tuning::new(Machine::h200()).policy(Policy::Harness))?,
///     "policy harness: wanted lanes=128 slot=1MiB; the rings have room for lanes=128 slot=2KiB",
/// );
/// let forced = Forced { slots: Some(2), ..Forced::default() };
/// assert!(why(Tuning::new(Machine::h200()).forced(forced))?.starts_with("forced slots=2; else automatic"));
/// # Ok::<(), myelon_lanes::PlanError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub enum Why {
    /// The user insisted on some values; the others have their own reason.
    Forced {
        /// The values.
        forced: Forced,
        /// Where the others come from.
        others: Box<Why>,
    },
    /// A row of the tuning table.
    Row {
        /// Its place in the table, from 0.
        place: usize,
        /// The row.
        row: Row,
    },
    /// The automatic choice of an algorithm, or a forced one with automatic lanes and threads.
    Family {
        /// Name of the machine.
        machine: String,
        /// Which algorithm.
        algorithm: Algorithm,
        /// Number of ranks.
        ranks: u32,
        /// The largest payload for which it is chosen; 0 where it is not chosen for any.
        most: u64,
    },
    /// The rule for calls by neighbours, which are forced.
    Neighbour {
        /// Lanes of the rings.
        lanes_max: u32,
        /// Payload bytes that a rank's rings hold at once under this plan.
        in_flight_bytes: u64,
    },
    /// The automatic rule for GPUs.
    Gpu {
        /// Name of the machine.
        machine: String,
        /// Lanes of the pool by the rule.
        lanes_max: u32,
        /// Payload bytes that a rank's rings hold at once under this plan.
        in_flight_bytes: u64,
        /// Payload bytes that keep the link busy.
        in_flight_bytes_least: u64,
        /// Rate of the link, in 1e9 bytes a second.
        link_gbps: f64,
        /// From the push of a slot to the credit for it.
        round_trip_us: f64,
    },
    /// The automatic rule for host ranks.
    Host {
        /// Name of the machine.
        machine: String,
    },
    /// A policy kept for comparison.
    Policy {
        /// Which.
        policy: Policy,
        /// Lanes that it wants.
        lanes_wanted: u32,
        /// Payload bytes of a slot that it wants.
        piece_bytes_wanted: u32,
        /// Lanes that the rings have.
        lanes_max: u32,
        /// Payload bytes that the slots of the rings hold.
        piece_bytes_max: u32,
    },
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forced { forced, others } => write!(f, "forced {forced}; else {others}"),
            Self::Row { place, row } => write!(f, "row {place} of the tuning table: {row}"),
            Self::Family { machine, algorithm, ranks, most } => {
                write!(f, "automatic for {machine}: {algorithm} ")?;
                match *most {
                    0 => write!(f, "is never the fastest of {ranks} ranks"),
                    u64::MAX => write!(f, "is the fastest of {ranks} ranks for all that is larger"),
                    most => write!(f, "is the fastest of {ranks} ranks up to {}", format_bytes(most)),
                }
            }
            Self::Neighbour { lanes_max, in_flight_bytes } => {
                let step = format_bytes(gpu::LANE_BYTES_PER_RANK);
                write!(f, "a lane for every {step} a rank, at most {lanes_max}, in rounds that are alike; ")?;
                write!(f, "the rings to the next rank hold {in_flight_bytes} bytes")
            }
            Self::Gpu {
                machine,
                lanes_max,
                in_flight_bytes,
                in_flight_bytes_least,
                link_gbps,
                round_trip_us,
            } => {
                let step = format_bytes(gpu::LANE_BYTES_PER_RANK);
                write!(f, "automatic for {machine}: a lane for every {step} a rank, at most {lanes_max}; ")?;
                write!(f, "the rings hold {in_flight_bytes} bytes, the link needs {in_flight_bytes_least} ")?;
                write!(f, "(2 x {link_gbps} GB/s x {round_trip_us} us)")
            }
            Self::Host { machine } => {
                let from = format_bytes(host::TWO_LANES_BYTES);
                write!(f, "automatic for {machine}: {} lanes from {from}, else 1", host::LANES_MAX)
            }
            Self::Policy { policy, lanes_wanted, piece_bytes_wanted, lanes_max, piece_bytes_max } => {
                let slot = format_bytes((*piece_bytes_wanted).into());
                write!(f, "policy {policy}: wanted lanes={lanes_wanted} slot={slot}")?;
                if lanes_wanted <= lanes_max && piece_bytes_wanted <= piece_bytes_max {
                    return Ok(());
                }
                let slot = format_bytes((*piece_bytes_max).into());
                write!(f, "; the rings have room for lanes={lanes_max} slot={slot}")
            }
        }
    }
}
