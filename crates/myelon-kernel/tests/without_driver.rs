//! Property: without a CUDA driver every entry answers with an error that says what was tried, and
//! neither the entries nor the printing of the errors panic.
//!
//! Catches: a call into cudarc before the driver was looked for, which panics. Cannot catch anything where
//! there is a driver: there the tests that need none count as ignored.

use libtest_mimic::Arguments;
use myelon_kernel::{Device, KernelError, probe};

#[macro_use]
mod trials;

fn main() {
    let mut trials = trials![probing_says_what_was_tried, opening_a_gpu_says_what_was_tried];
    match probe() {
        Err(KernelError::NoDriver { .. }) => {}
        Err(other) => trials = trials::ignored(trials, &format!("there is a driver, which answers: {other}")),
        Ok(_) => trials = trials::ignored(trials, "there is a driver"),
    }
    trials.extend(trials![every_error_prints_without_a_driver]);
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

fn probing_says_what_was_tried() {
    let error = probe().unwrap_err();
    for text in [error.to_string(), format!("{error:?}")] {
        assert!(text.contains("libcuda.so.1"), "{text}");
        assert!(text.contains("/usr/local/nvidia/lib64/libcuda.so.1"), "{text}");
    }
    assert_eq!(probe().unwrap_err(), error, "asking again is no different");
}

fn opening_a_gpu_says_what_was_tried() {
    let error = Device::open(0).map(|_| ()).unwrap_err();
    assert!(error.to_string().starts_with("no CUDA driver: could not load any of libcuda.so"), "{error}");
}

fn every_error_prints_without_a_driver() {
    let driver = KernelError::Driver { call: "cuInit", code: 34, name: "CUDA_ERROR_STUB_LIBRARY".into() };
    assert_eq!(driver.to_string(), "cuInit failed with CUDA_ERROR_STUB_LIBRARY (34)");
    let resident = KernelError::NotResident { kernel: "k".into(), ordinal: 0, needed: 133, available: 132 };
    assert_eq!(resident.to_string(), "k needs 133 blocks resident together, GPU 0 holds 132");
    let wrong = KernelError::WrongDevice { what: "the buffer", needed: 0, seen: 1 };
    assert_eq!(wrong.to_string(), "the buffer must belong to GPU 0, not to GPU 1");
}
