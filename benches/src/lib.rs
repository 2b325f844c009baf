//! What the benches in `benches/` share: their options.

/// `--smoke` (or `MYELON_BENCH_SMOKE=1`): small, its figures mean nothing. `--csv FILE`: where the figures go, too.
#[derive(Debug)]
pub struct Options {
    /// Whether to run small.
    pub smoke: bool,
    csv: Option<String>,
}

impl Options {
    /// Those of this process.
    ///
    /// # Panics
    ///
    /// For any other argument.
    pub fn of_process() -> Self {
        let mut options = Self {
            smoke: std::env::var_os("MYELON_BENCH_SMOKE").is_some_and(|value| value == "1"),
            csv: None,
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--bench" => {} // what cargo says
                "--smoke" => options.smoke = true,
                "--csv" => options.csv = Some(arguments.next().expect("--csv needs a file")),
                other => panic!("unknown argument {other:?}; known are --smoke and --csv FILE"),
            }
        }
        options
    }

    /// Writes `table` where `--csv` says, if it does.
    ///
    /// # Panics
    ///
    /// Where the file can't be written.
    pub fn write(&self, table: &str) {
        if let Some(file) = &self.csv {
            std::fs::write(file, table).unwrap_or_else(|error| panic!("{file}: {error}"));
        }
    }
}
