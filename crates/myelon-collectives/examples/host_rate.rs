//! How fast host ranks sum, beside how fast one thread copies: `cargo run --release --example host_rate`.
//!
//! Prints, for each size, the payload bytes a second of the best of several sums of f32, the bytes
//! that one thread copies a second in the same run, and their ratio. Sums are checked before a time is printed.

use std::time::Instant;

use myelon_collectives::{Backend, Communicator, Error, ReduceOp};

const REPEATS: usize = 50;

fn main() -> Result<(), Error> {
    let ranks: usize = std::env::args().nth(1).map_or(2, |text| text.parse().expect("a number of ranks"));
    for bytes in [4 << 10, 256 << 10, 1 << 20, 16 << 20, 64 << 20] {
        let count = bytes / size_of::<f32>();
        let mut communicators = Communicator::builder().backend(Backend::Host).ranks(ranks).build()?;
        let mut buffers = Vec::new();
        for communicator in &mut communicators {
            let mut input = communicator.buffer::<f32>(count)?;
            input.write(communicator.stream(), &vec![1.0; count])?;
            buffers.push((input, communicator.buffer::<f32>(count)?));
        }
        let mut call = || -> Result<f64, Error> {
            let start = Instant::now();
            for (communicator, (input, output)) in communicators.iter_mut().zip(&mut buffers) {
                let stream = communicator.stream().clone();
                communicator.all_reduce(input, output, ReduceOp::Sum, &stream)?;
            }
            for communicator in &communicators {
                communicator.stream().synchronize()?;
            }
            Ok(start.elapsed().as_secs_f64())
        };
        call()?;
        let mut best = f64::MAX;
        for _ in 0..REPEATS {
            best = best.min(call()?);
        }
        for (communicator, (_, output)) in communicators.iter().zip(&buffers) {
            assert!(output.read(communicator.stream())?.iter().all(|&x| x == ranks as f32));
        }
        let rate = bytes as f64 / best / 1e9;
        let copied = copy_rate(bytes);
        println!(
            "{ranks} ranks, {bytes:>9} bytes: {:>9.1} us, {rate:6.2} GB/s; one thread copies {copied:6.2} GB/s; \
             ratio {:.2}; {}",
            best * 1e6,
            rate / copied,
            communicators[0].last_launch().expect("there was a call").plan
        );
    }
    Ok(())
}

/// Bytes that one thread copies in a second, in 1e9.
fn copy_rate(bytes: usize) -> f64 {
    let from = vec![1u8; bytes];
    let mut to = vec![0u8; bytes];
    let mut best = f64::MAX;
    for _ in 0..REPEATS {
        let start = Instant::now();
        to.copy_from_slice(std::hint::black_box(&from));
        std::hint::black_box(&mut to);
        best = best.min(start.elapsed().as_secs_f64());
    }
    bytes as f64 / best / 1e9
}
