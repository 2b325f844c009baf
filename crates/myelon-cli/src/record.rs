//! One measured line, and how it is written for programs: JSON lines and CSV.

use serde::Serialize;

/// What one size, type, operation and placement gave. The names of the fields are the names in JSON and CSV.
#[derive(Clone, Debug, Serialize)]
pub struct Record {
    /// `host` or `cuda`.
    pub backend: String,
    /// Number of ranks.
    pub ranks: usize,
    /// Payload of a rank in bytes: `count` elements.
    pub bytes: u64,
    /// Elements of a rank.
    pub count: usize,
    /// Element type.
    pub dtype: String,
    /// Reduction.
    pub op: String,
    /// Whether the result replaced the input.
    pub in_place: bool,
    /// Time of one call in microseconds, of the slowest rank of each sample: the median of the samples.
    pub time_us: f64,
    /// Payload over time, in 1e9 bytes a second.
    pub algbw_gbps: f64,
    /// `algbw_gbps * 2 * (ranks - 1) / ranks`: what each rank's link carried, in 1e9 bytes a second.
    pub busbw_gbps: f64,
    /// Wrong elements over all ranks and checked calls; nothing where the check was off.
    pub wrong: Option<u64>,
    /// The kernel that was launched.
    pub kernel: String,
    /// The plan that was launched.
    pub plan: String,
    /// Blocks of the launch.
    pub grid: u32,
    /// Threads of a block.
    pub block: u32,
    /// Shared memory of a block in bytes.
    pub shared_bytes: u32,
    /// Why this kernel and plan.
    pub why: String,
    /// The time that 99 of 100 samples do not exceed.
    pub time_p99_us: f64,
    /// The time of the slowest sample.
    pub time_max_us: f64,
    /// `stream`, `graph` or `isolated`.
    pub mode: String,
    /// Samples.
    pub samples: u32,
    /// Calls of a sample, of which its time is the mean.
    pub sample_calls: u32,
}

/// Payload over time and what each link carried, both in 1e9 bytes a second.
pub fn bandwidths(bytes: u64, ranks: usize, time_us: f64) -> (f64, f64) {
    if bytes == 0 || time_us <= 0.0 {
        return (0.0, 0.0);
    }
    let algbw = bytes as f64 / time_us / 1e3;
    (algbw, algbw * 2.0 * (ranks as f64 - 1.0) / ranks as f64)
}

/// The record as one line of JSON.
pub fn json_line(record: &impl Serialize) -> String {
    serde_json::to_string(record).expect("a record holds only numbers and text")
}

/// The fields in the order of the columns of CSV.
const FIELDS: [&str; 22] = [
    "backend",
    "ranks",
    "bytes",
    "count",
    "dtype",
    "op",
    "in_place",
    "time_us",
    "algbw_gbps",
    "busbw_gbps",
    "wrong",
    "kernel",
    "plan",
    "grid",
    "block",
    "shared_bytes",
    "why",
    "time_p99_us",
    "time_max_us",
    "mode",
    "samples",
    "sample_calls",
];

/// The first line of CSV.
pub fn csv_header() -> String {
    FIELDS.join(",")
}

/// The record as one line of CSV; text with a comma, a quote or a line break is quoted (RFC 4180).
pub fn csv_line(record: &Record) -> String {
    csv_cells(&FIELDS, record)
}

/// The fields that are named, in their order, as one line of CSV.
pub fn csv_cells(fields: &[&str], record: &impl Serialize) -> String {
    let values = serde_json::to_value(record).expect("a record holds only numbers and text");
    let cells: Vec<String> = fields.iter().map(|field| csv_cell(&values[field])).collect();
    cells.join(",")
}

fn csv_cell(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Null => String::new(),
        serde_json::Value::String(text) if text.contains([',', '"', '\n', '\r']) => {
            format!("\"{}\"", text.replace('"', "\"\""))
        }
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A record with plain values, for tests.
#[cfg(test)]
pub fn example(bytes: u64, in_place: bool) -> Record {
    Record {
        backend: "host".into(),
        ranks: 4,
        bytes,
        count: bytes as usize / 4,
        dtype: "f32".into(),
        op: "sum".into(),
        in_place,
        time_us: 12.5,
        algbw_gbps: 1.0,
        busbw_gbps: 1.5,
        wrong: Some(0),
        kernel: "host_ring".into(),
        plan: "2 lanes, 4 slots".into(),
        grid: 1,
        block: 32,
        shared_bytes: 0,
        why: "said \"so\"".into(),
        time_p99_us: 13.5,
        time_max_us: 14.0,
        mode: "stream".into(),
        samples: 20,
        sample_calls: 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bandwidths_follow_nccl_tests() {
        // 1 GiB in 10 ms: 107.37 GB/s; the bus factor is 1 for 2 ranks and 1.75 for 8.
        let (algbw, busbw) = bandwidths(1 << 30, 8, 10_000.0);
        assert!((algbw - 107.3741824).abs() < 1e-9);
        assert!((busbw - 1.75 * algbw).abs() < 1e-9);
        assert_eq!(bandwidths(1000, 2, 1.0), (1.0, 1.0));
        assert_eq!(bandwidths(0, 2, 1.0), (0.0, 0.0));
        assert_eq!(bandwidths(8, 2, 0.0), (0.0, 0.0));
    }

    #[test]
    fn csv_names_every_field_of_the_record() {
        let values = serde_json::to_value(example(64, true)).unwrap();
        let mut names: Vec<&str> = values.as_object().unwrap().keys().map(String::as_str).collect();
        let mut fields = FIELDS.to_vec();
        names.sort_unstable();
        fields.sort_unstable();
        assert_eq!(names, fields);
    }

    #[test]
    fn csv_quotes_what_needs_it() {
        let line = csv_line(&Record { wrong: None, ..example(64, true) });
        assert_eq!(
            line,
            "host,4,64,16,f32,sum,true,12.5,1.0,1.5,,host_ring,\"2 lanes, 4 slots\",1,32,0,\"said \"\"so\"\"\",13.5,14.0,stream,20,10"
        );
    }

    #[test]
    fn a_json_line_is_one_line_and_keeps_null_apart_from_zero() {
        let line = json_line(&Record { wrong: None, why: "a\nb".into(), ..example(64, false) });
        assert!(!line.contains('\n'));
        let back: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert!(back["wrong"].is_null());
        assert_eq!(back["in_place"], false);
        assert_eq!(back["why"], "a\nb");
    }
}
