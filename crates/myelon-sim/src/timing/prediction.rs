//! What a prediction says.

use std::fmt;

/// What the movers of a role do with their time, from the first block's start to the last one's end.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Shares {
    /// Copying or summing, at the block's own rate.
    pub moving: f64,
    /// Slower than that, or waiting for a longer fence, because the link is full.
    pub link: f64,
    /// Waiting for a peer's slot.
    pub slot: f64,
    /// Waiting for a peer's credit.
    pub credit: f64,
    /// Waiting for the own signal warp: its looks and its fence.
    pub signal: f64,
    /// Before the rank has started, and behind the last round.
    pub rest: f64,
}

/// The share of the time from which on a link counts as full.
const LINK_BUSY: f64 = 0.8;

/// What a call is bound by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// The link is full.
    Link,
    /// Producers wait for slots to come back: more slots would help.
    Credit,
    /// Blocks copy and sum all the time: more lanes would help.
    Block,
    /// Rounds follow each other as fast as looks and fences let them: larger slots or more lanes would help.
    Signal,
    /// There are too few rounds for anything to overlap: hops and fences, one behind the other.
    Latency,
}

/// The time of a call, and where it goes.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    /// From the call until the last rank has finished, in microseconds.
    pub time_us: f64,
    /// Bus bandwidth as nccl-tests defines it, in 1e9 bytes a second.
    pub busbw_gbps: f64,
    /// When each rank has finished, in microseconds.
    pub finished_us: Vec<f64>,
    /// Payload bytes that each rank has sent.
    pub sent_bytes: Vec<u64>,
    /// How much of the time, without the launch, the busiest rank's link carries its payload.
    pub link_busy: f64,
    /// Scatter, reduce and gather, each over all of its blocks; the shares of a role sum to 1.
    pub roles: [Shares; 3],
    /// What bound the call.
    pub bound: Bound,
}

impl Bound {
    /// A link that is nearly always busy is the reason. Else the role that waits least for others holds them
    /// up, and what it does most is the reason. Where even that role waits most of the time, it is a loop that
    /// all wait for: of credit, where scatter misses it.
    pub(super) fn of(link_busy: f64, roles: &[Shares; 3]) -> Self {
        if link_busy >= LINK_BUSY {
            return Self::Link;
        }
        let waits = |shares: &&Shares| shares.slot + shares.credit;
        let role = roles.iter().min_by(|a, b| waits(a).total_cmp(&waits(b))).expect("three roles");
        let Shares { moving, link, slot, credit, signal, rest } = *role;
        let scatter = &roles[0];
        let (loop_of_credit, chain) =
            if scatter.credit > scatter.rest { (slot + credit, rest) } else { (0.0, slot + credit + rest) };
        let reasons = [
            (Self::Link, link),
            (Self::Credit, loop_of_credit),
            (Self::Block, moving),
            (Self::Signal, signal),
            (Self::Latency, chain),
        ];
        reasons.into_iter().max_by(|a, b| a.1.total_cmp(&b.1)).expect("five reasons").0
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Link => "the link",
            Self::Credit => "credit",
            Self::Block => "its blocks",
            Self::Signal => "looks and fences",
            Self::Latency => "latency",
        })
    }
}

impl fmt::Display for Prediction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { time_us, busbw_gbps, link_busy, roles, bound, .. } = self;
        let busy = link_busy * 100.0;
        writeln!(f, "{time_us:.2} us, {busbw_gbps:.1} GB/s, bound by {bound}; link busy {busy:.0} %")?;
        write!(f, "per cent  moving  link  slot  credit  signal  rest")?;
        for (name, shares) in ["scatter", "reduce", "gather"].into_iter().zip(roles) {
            let Shares { moving, link, slot, credit, signal, rest } = *shares;
            let [moving, link, slot, credit, signal, rest] =
                [moving, link, slot, credit, signal, rest].map(|share| share * 100.0);
            write!(f, "\n{name:8}  {moving:6.0}  {link:4.0}  {slot:4.0}  {credit:6.0}")?;
            write!(f, "  {signal:6.0}  {rest:4.0}")?;
        }
        Ok(())
    }
}
