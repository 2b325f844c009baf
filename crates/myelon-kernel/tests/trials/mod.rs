//! Lists of tests of which those that cannot be tried on this machine count as ignored.

use libtest_mimic::Trial;

/// The functions as trials under their own names. One that is in no list is dead code, which clippy refuses.
macro_rules! trials {
    ($($test:ident),+ $(,)?) => {
        vec![$(libtest_mimic::Trial::test(stringify!($test), || {
            $test();
            Ok(())
        })),+]
    };
}

/// Marks `trials` as ignored and says why, once for all; `--ignored` still runs them.
pub fn ignored(trials: Vec<Trial>, because: &str) -> Vec<Trial> {
    eprintln!("SKIPPED: {} tests, because {because}", trials.len());
    trials.into_iter().map(|trial| trial.with_ignored_flag(true)).collect()
}
