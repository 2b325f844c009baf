//! Several words that are read as one while their one writer goes on: a sequence in front of them.
//!
//! The sequence is odd while the words are written. Whoever reads takes them only where it saw the same even
//! sequence before and after. Writing waits for nobody; reading tries again, a bounded number of times.

use std::sync::atomic::{AtomicU64, Ordering, fence};

/// A word, as the protocol touches it: so that the text which runs on pages is the text that a model checker runs.
pub(crate) trait Word {
    fn load(&self, order: Ordering) -> u64;
    fn store(&self, value: u64, order: Ordering);
    fn fence(order: Ordering);
}

impl Word for AtomicU64 {
    #[inline]
    fn load(&self, order: Ordering) -> u64 {
        self.load(order)
    }

    #[inline]
    fn store(&self, value: u64, order: Ordering) {
        self.store(value, order);
    }

    #[inline]
    fn fence(order: Ordering) {
        fence(order);
    }
}

/// Looks that a reader takes before it says that the words are being written.
#[cfg(not(test))]
const LOOKS: usize = 100;
#[cfg(test)]
const LOOKS: usize = 2;

/// Writes `values` behind the sequence `words[0]`. One writer at a time.
#[inline]
pub(crate) fn write<W: Word>(words: &[W], values: &[u64]) {
    assert_eq!(words.len(), 1 + values.len());
    write_some(words, values.iter().copied().enumerate());
}

/// Writes some of the values behind the sequence `words[0]`, each at its place. One writer at a time.
#[inline]
pub(crate) fn write_some<W: Word>(words: &[W], values: impl IntoIterator<Item = (usize, u64)>) {
    let (sequence, words) = words.split_first().expect("a sequence is in front");
    // ORDER: Relaxed is enough. Only this writer stores it.
    let before = sequence.load(Ordering::Relaxed);
    sequence.store(before.wrapping_add(1), Ordering::Relaxed);
    // ORDER recorder/torn: Release pairs with the second fence of `read`: who sees a value below sees the odd
    // sequence too. Without it a reader could take a new value between two looks at the old sequence.
    W::fence(Ordering::Release);
    for (place, value) in values {
        // ORDER: Relaxed is enough. The sequence says whether it may be used.
        words[place].store(value, Ordering::Relaxed);
    }
    // ORDER recorder/row: Release pairs with the first fence of `read`. Without it a reader could see the even
    // sequence before the values.
    sequence.store(before.wrapping_add(2), Ordering::Release);
}

/// Reads the words behind the sequence `words[0]` into `values`; `false` where nothing was written yet, or where it
/// is being written however often one looks. Only loads: the memory may be mapped for reading alone.
pub(crate) fn read<W: Word>(words: &[W], values: &mut [u64]) -> bool {
    let (sequence, words) = words.split_first().expect("a sequence is in front");
    assert_eq!(words.len(), values.len());
    for _ in 0..LOOKS {
        // ORDER: Relaxed is enough. The fence below acquires what it saw. (A load with an order of its own may
        // write on some machines.)
        let before = sequence.load(Ordering::Relaxed);
        if before == 0 {
            return false;
        }
        if before % 2 == 1 {
            std::hint::spin_loop();
            continue;
        }
        // ORDER recorder/row: Acquire pairs with the writer's last store of the sequence.
        W::fence(Ordering::Acquire);
        for (value, word) in values.iter_mut().zip(words) {
            // ORDER: Relaxed is enough, as in `write`.
            *value = word.load(Ordering::Relaxed);
        }
        // ORDER recorder/torn: Acquire pairs with the writer's fence behind the odd sequence.
        W::fence(Ordering::Acquire);
        // ORDER: Relaxed is enough. The fence above orders it behind the values.
        if sequence.load(Ordering::Relaxed) == before {
            return true;
        }
    }
    false
}

/// Property: what is read was written together, in every order that the memory model lets two threads see.
///
/// Catches: either fence or the release store weakened or left out; each was weakened once, and failed. Cannot
/// catch: more than two rounds of writing.
#[cfg(test)]
mod tests {
    use loom::sync::Arc;
    use loom::sync::atomic;

    use super::*;

    impl Word for atomic::AtomicU64 {
        fn load(&self, order: Ordering) -> u64 {
            self.load(order)
        }

        fn store(&self, value: u64, order: Ordering) {
            self.store(value, order);
        }

        fn fence(order: Ordering) {
            atomic::fence(order);
        }
    }

    #[test]
    fn a_reader_never_sees_half_of_what_was_written() {
        loom::model(|| {
            let words: Arc<[atomic::AtomicU64; 3]> =
                Arc::new(std::array::from_fn(|_| atomic::AtomicU64::new(0)));
            let theirs = words.clone();
            // The reader is the thread that comes second: loom lets a load see older values, not later ones.
            let reader = loom::thread::spawn(move || {
                let mut values = [7; 2];
                if read(&theirs[..], &mut values) {
                    assert!(values == [1, 1] || values == [2, 2], "torn: {values:?}");
                }
            });
            write(&words[..], &[1, 1]);
            write(&words[..], &[2, 2]);
            reader.join().unwrap();
            let mut values = [7; 2];
            assert!(read(&words[..], &mut values) && values == [2, 2]);
        });
    }

    #[test]
    fn what_was_never_written_is_not_read() {
        let words: [AtomicU64; 2] = Default::default();
        assert!(!read(&words, &mut [0]));
        write(&words, &[5]);
        let mut values = [0];
        assert!(read(&words, &mut values) && values == [5]);
        // As after a death in the middle of writing.
        words[0].store(5, Ordering::Relaxed);
        assert!(!read(&words, &mut values));
    }
}
