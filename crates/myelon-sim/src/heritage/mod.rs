//! Faults that the harness and its kin really had, as small protocols in the [`model`](crate::model).
//!
//! Each protocol has a right form, in which no seed finds anything, and the weaknesses that were once in use:
//! [`mutants`] names them. What Myelon does instead stands in `docs/protocols/heritage.md`. One protocol more,
//! `copies`, is a kernel's own text: the asynchronous copies of the port, in the smallest use of them.
//!
//! # Example
//!
//! ```
//! use myelon_sim::heritage;
//!
//! assert!((0..50).all(|seed| heritage::run("pull", None, seed).is_ok()));
//! let weak = Some("bulk/credit"); // credit goes back before every thread has read the slot
//! let failure = (0..50).find_map(|seed| heritage::run("bulk", weak, seed).err()).expect("some seed finds it");
//! assert_eq!(failure.violation.rule, "race");
//! ```

mod bulk;
mod equality;
mod prefetch;
mod pull;
mod replay;
mod staged;

use crate::model::{Address, Failure, Random, Schedule, Thread, World};

/// A protocol's name, and what makes its memory and threads.
type Protocol = (&'static str, fn(&mut Scene));

const PROTOCOLS: [Protocol; 6] = [
    ("prefetch", prefetch::build),
    ("pull", pull::build),
    ("bulk", bulk::build),
    ("replay", replay::build),
    ("equality", equality::build),
    ("copies", staged::build),
];

const NAMES: [&str; PROTOCOLS.len()] = {
    let mut names = [""; PROTOCOLS.len()];
    let mut i = 0;
    while i < names.len() {
        names[i] = PROTOCOLS[i].0;
        i += 1;
    }
    names
};

const MUTANTS: [(&str, &str); 18] = [
    ("prefetch/refetch", "a stage is fetched into its buffer before the stage in there was used"),
    ("prefetch/drain", "two groups of copies may be unfinished at the end too"),
    ("prefetch/barrier", "no barrier between a thread's wait for its copies and their use by others"),
    ("pull/entry", "a peer's input is read before the peer has entered the call"),
    ("pull/exit", "a call ends before the peers have read its input"),
    ("bulk/read-completion", "a slot is published when its copy has been read, not when it has landed"),
    ("bulk/proxy", "no proxy fence between the writes of the staging buffer and the bulk copy of it"),
    ("bulk/credit", "credit goes back before every thread has read the slot"),
    ("replay/host-counter", "the base of the sequences is a launch argument, which a graph replays"),
    ("equality/lap", "a wait ends at the epoch that it needs only, and not at a later one"),
    ("copies/stage.unwaited", "nobody waits for the copies into a stage"),
    ("copies/stage.barrier", "the sender does not wait for the other threads' copies"),
    ("copies/stage.proxy", "no proxy fence between copies into a stage and the bulk copy"),
    ("copies/reuse.early", "a stage is filled again before the sender has waited for its bulk copy"),
    ("copies/reuse.unwaited", "the sender does not wait until its bulk copy was read"),
    ("copies/landed.read", "a chunk is told of when its source was read, not when it landed"),
    ("copies/landed.fence", "the flag is stored without the fence behind the landed copies"),
    ("copies/landed.acquire", "the output is read without acquiring the flag"),
];

/// Every weakness: its name, which begins with its protocol's, and what is weakened.
pub fn mutants() -> &'static [(&'static str, &'static str)] {
    &MUTANTS
}

/// The names of the protocols.
pub fn protocols() -> &'static [&'static str] {
    &NAMES
}

/// Runs a protocol in its right form, or with a mutant of it; the steps it took.
///
/// Sizes, the first sequence and the schedule follow from the seed too.
///
/// # Errors
///
/// The first rule that was broken.
///
/// # Panics
///
/// Where there is no such protocol, or the mutant is not one of it.
pub fn run(protocol: &str, mutant: Option<&str>, seed: u64) -> Result<u64, Failure> {
    watch(protocol, mutant, seed, 0).0
}

/// Runs as [`run`] does and keeps the last `trace` steps of a failure; the names of the memory's segments besides.
pub(crate) fn watch(
    protocol: &str,
    mutant: Option<&str>,
    seed: u64,
    trace: usize,
) -> (Result<u64, Failure>, Vec<&'static str>) {
    let of_protocol = |name: &str| name.split('/').next() == Some(protocol);
    if let Some(mutant) = mutant {
        let known = MUTANTS.iter().any(|known| known.0 == mutant);
        assert!(known && of_protocol(mutant), "{mutant} is no mutant of {protocol}");
    }
    let known = PROTOCOLS.iter().find(|known| known.0 == protocol);
    let &(_, build) = known.unwrap_or_else(|| panic!("there is no protocol {protocol}"));

    let mut chance = Random::new(seed);
    let schedule = chance.pick(&[Schedule::Random, Schedule::Priority { changes: 3, steps: 200 }]);
    let mut world = World::new(chance.bits(), schedule);
    world.keep_trace(trace);
    world.steps_max(100_000);
    let mut scene = Scene { world, chance, names: Vec::new(), mutant: mutant.unwrap_or_default().to_owned() };
    build(&mut scene);
    (scene.world.run().map(|ended| ended.steps()), scene.names)
}

/// What a protocol is built in.
struct Scene {
    world: World,
    /// For sizes and the first sequence.
    chance: Random,
    names: Vec<&'static str>,
    mutant: String,
}

impl Scene {
    /// Makes memory of so many u64, each of which races apart from the others.
    fn words(&mut self, name: &'static str, words: usize) -> Words {
        self.names.push(name);
        Words(self.world.memory(name, 8 * words, 8))
    }

    /// The same, with a first value.
    fn words_of(&mut self, name: &'static str, values: impl ExactSizeIterator<Item = u64>) -> Words {
        let words = self.words(name, values.len());
        for (i, value) in values.enumerate() {
            self.world.set(words.at(i), &value.to_le_bytes());
        }
        words
    }

    /// Whether this is what is weakened.
    fn weak(&self, mutant: &str) -> bool {
        self.mutant == mutant
    }

    fn between(&mut self, from: usize, to: usize) -> usize {
        from + self.chance.below(to - from + 1)
    }

    /// A sequence to begin with: 0, or just before the wrap.
    fn first(&mut self) -> u64 {
        self.chance.pick(&[0, 0u64.wrapping_sub(2), 0u64.wrapping_sub(5)])
    }
}

/// Memory that consists of u64.
#[derive(Clone, Copy)]
struct Words(Address);

impl Words {
    fn at(self, index: usize) -> Address {
        self.0.plus(8 * index)
    }

    /// A plain read.
    fn get(self, t: &Thread, index: usize) -> u64 {
        let mut bytes = [0; 8];
        t.read(self.at(index), &mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// A plain write.
    fn put(self, t: &Thread, index: usize, value: u64) {
        t.write(self.at(index), &value.to_le_bytes());
    }
}

/// Whether a word that shows `seen` has come at least to `needed`, also across the wrap.
fn reached(seen: u64, needed: u64) -> bool {
    seen.wrapping_sub(needed).cast_signed() >= 0
}

/// Polls with acquire until the word has come at least to `needed`.
fn await_reached(t: &Thread, word: Address, needed: u64) {
    while !reached(t.load_acquire(word), needed) {
        t.pause();
    }
}

/// Ends the world where a value is not what it must be.
fn must_be(t: &Thread, what: &str, seen: u64, needed: u64) {
    if seen != needed {
        t.fail("payload", format!("{}: {what} is {seen}, needed {needed}", t.place()));
    }
}
