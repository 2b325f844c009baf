//! What a collective is made of: the algorithms, what each needs, and how much it can carry.

use std::fmt;
use std::str::FromStr;

use crate::error::SettingError;
use crate::geometry::VECTOR_BYTES;

/// What a collective is made of.
///
/// | name | hops | on the link, times the payload | needs |
/// |---|---|---|---|
/// | `one-shot` | 1 | `2 (p - 1)` | room in the inbox |
/// | `two-shot` | 2 | `4 (p - 1) / p` | room in the inbox |
/// | `one-shot-lamport` | 1 | `p - 1` | room in the inbox; floats |
/// | `two-shot-lamport` | 2 | `2 (p - 1) / p` | room in the inbox; floats |
/// | `direct` | 2, and two meetings | `2 (p - 1) / p` | buffers that are windows |
/// | `ring` | 2, in a pipeline | `2 (p - 1) / p` | nothing |
/// | `neighbour` | `2 (p - 1)`, in a pipeline | `2 (p - 1) / p` | permission to sum in any order; to be forced; 3 ranks |
///
/// # Example
///
/// ```
/// use myelon_lanes::Algorithm;
///
/// assert_eq!("two-shot".parse(), Ok(Algorithm::TwoShot));
/// assert_eq!(
///     "tree".parse::<Algorithm>().unwrap_err().to_string(),
///     "unknown algorithm `tree`; known: one-shot, two-shot, one-shot-lamport, two-shot-lamport, direct, ring, neighbour",
/// );
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// Every rank sends its payload to every other, as packets that carry their flags, and sums for itself.
    OneShot,
    /// Every rank sends each owner its piece, and the owner sends the sum to all, both as packets.
    TwoShot,
    /// The one-shot by cells: 16 bytes of payload, which have come when they are no longer the mark, a NaN.
    OneShotLamport,
    /// The two-shot by cells.
    TwoShotLamport,
    /// Each owner reads its piece from every rank's input and writes the sum into every rank's output.
    Direct,
    /// The persistent producer-consumer kernel over slotted credit rings, between all pairs of ranks.
    Ring,
    /// The same from each rank to the next one alone, around a ring of ranks. The order in which it sums depends on the
    /// plan, so it is never chosen: it is forced, where that order is allowed.
    Neighbour,
}

impl Algorithm {
    /// All of them, those for small payloads first.
    pub const ALL: [Self; 7] = [
        Self::OneShot,
        Self::TwoShot,
        Self::OneShotLamport,
        Self::TwoShotLamport,
        Self::Direct,
        Self::Ring,
        Self::Neighbour,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::OneShot => "one-shot",
            Self::TwoShot => "two-shot",
            Self::OneShotLamport => "one-shot-lamport",
            Self::TwoShotLamport => "two-shot-lamport",
            Self::Direct => "direct",
            Self::Ring => "ring",
            Self::Neighbour => "neighbour",
        }
    }

    /// Whether it carries floats only.
    pub fn needs_floats(self) -> bool {
        matches!(self, Self::OneShotLamport | Self::TwoShotLamport)
    }

    /// Whether it goes through slots, and waits for credit.
    pub fn has_slots(self) -> bool {
        matches!(self, Self::Ring | Self::Neighbour)
    }

    /// Bytes of payload that a thread of it moves at once.
    pub(crate) fn unit_bytes(self) -> u64 {
        match self {
            Self::OneShot | Self::TwoShot => PACKET_PAYLOAD_BYTES,
            Self::OneShotLamport | Self::TwoShotLamport => PACKET_BYTES,
            Self::Direct | Self::Ring | Self::Neighbour => VECTOR_BYTES,
        }
    }

    /// The largest payload that it carries between `ranks` ranks with that inbox; `u64::MAX` where nothing
    /// bounds it.
    ///
    /// ```
    /// use myelon_lanes::{Algorithm, Inbox};
    ///
    /// let inbox = Inbox { lanes: 128, packets: 16384, cells: 16384 };
    /// assert_eq!(Algorithm::OneShot.bytes_max(8, inbox), 128 << 10);
    /// assert_eq!(Algorithm::TwoShot.bytes_max(8, inbox), 512 << 10);
    /// assert_eq!(Algorithm::TwoShotLamport.bytes_max(8, inbox), 1 << 20);
    /// assert_eq!(Algorithm::Ring.bytes_max(8, inbox), u64::MAX);
    /// ```
    pub fn bytes_max(self, ranks: u32, inbox: Inbox) -> u64 {
        let room = if self.needs_floats() { inbox.cells } else { inbox.packets };
        let payload = u64::from(room) * self.unit_bytes();
        match self {
            Self::OneShot | Self::OneShotLamport => payload,
            // Half of the room is for pieces, half for sums; the longest piece is what is rounded up.
            Self::TwoShot | Self::TwoShotLamport => u64::from(ranks) * (payload / 2),
            Self::Direct | Self::Ring | Self::Neighbour => u64::MAX,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Algorithm {
    type Err = SettingError;

    fn from_str(text: &str) -> Result<Self, SettingError> {
        let known = "one-shot, two-shot, one-shot-lamport, two-shot-lamport, direct, ring, neighbour";
        let unknown = SettingError::Unknown { what: "algorithm", seen: text.into(), known };
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == text).ok_or(unknown)
    }
}

/// Bytes of payload in a flagged packet.
pub const PACKET_PAYLOAD_BYTES: u64 = 8;
/// Bytes of a packet, and of payload in a cell.
const PACKET_BYTES: u64 = 16;
/// Packets with which a lane begins and ends.
const HEADERS: u64 = 4;

/// Room for packets in a rank's window: from every peer, twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inbox {
    /// Lanes that calls may have.
    pub lanes: u32,
    /// Flagged packets of payload from each peer.
    pub packets: u32,
    /// Cells of payload from each peer.
    pub cells: u32,
}

impl Inbox {
    /// No inbox: then only the ring can run.
    pub const NONE: Self = Self { lanes: 0, packets: 0, cells: 0 };

    /// Bytes of the packets, of the cells, and of the epochs of the lanes.
    pub(crate) fn bytes(self, ranks: u32) -> u64 {
        let places = 2 * u64::from(ranks.saturating_sub(1)) * PACKET_BYTES;
        let packets = places * (HEADERS * u64::from(self.lanes) + u64::from(self.packets));
        let cells = places * u64::from(self.cells);
        [packets, cells, u64::from(self.lanes) * 8].map(|bytes| bytes.next_multiple_of(128)).iter().sum()
    }
}
