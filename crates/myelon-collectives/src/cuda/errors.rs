//! What kernels and the driver report, as errors of this crate.

use myelon_kernel::KernelError;
use myelon_ring::words::{Fault, FaultCode, WaitingFor};

use crate::call::CallWord;
use crate::error::Error;

/// The driver's code for "out of memory".
const OUT_OF_MEMORY: u32 = 2;

pub(super) fn error_of(error: KernelError) -> Error {
    let reason = error.to_string();
    match error {
        KernelError::NoDriver { .. } => {
            Error::NoDriver { probe: "libcuda".into(), reason: "there is none on this machine".into() }
        }
        KernelError::OldDriver { missing } => {
            Error::NoDriver { probe: "libcuda".into(), reason: format!("it is too old and lacks {missing}") }
        }
        KernelError::NoDevice => Error::NoDevice { needed: "a GPU".into(), seen: "none".into() },
        KernelError::NoSuchDevice { ordinal, devices } => {
            Error::NoDevice { needed: format!("GPU {ordinal}"), seen: format!("{devices} GPUs") }
        }
        KernelError::NoPeerAccess { from, to } => Error::NoPeerAccess { device: from, peer: to, reason },
        KernelError::NoVirtualMemory { .. } => Error::Unsupported { what: "memory of peers".into(), reason },
        KernelError::WrongDevice { what, needed, seen } => Error::WrongDevice { what, needed, seen },
        KernelError::Captured { what } => Error::Capturing { what },
        KernelError::NotResident { ordinal, needed, available, .. } => {
            Error::NotResident { device: ordinal, blocks_needed: needed, blocks_resident: available }
        }
        KernelError::OutOfMemory { ordinal, needed, .. } => {
            Error::OutOfMemory { what: format!("{needed} bytes of GPU {ordinal}"), reason }
        }
        KernelError::Driver { call, code: OUT_OF_MEMORY, .. } => {
            Error::OutOfMemory { what: format!("GPU memory ({call})"), reason }
        }
        _ => Error::Driver { call: "the CUDA backend".into(), reason },
    }
}

/// What a kernel has recorded.
pub(super) fn fault_error(fault: &Fault) -> Error {
    let (rank, peer, lane) = (fault.rank as usize, fault.peer as usize, fault.lane as usize);
    let (needed, seen) = (fault.needed, fault.seen);
    let call = CallWord::from_bits(fault.call);
    let waiting_for = WaitingFor::ALL[fault.waiting_for as usize % WaitingFor::ALL.len()];
    if fault.code == FaultCode::Disagreement as u32 {
        let peer_call = CallWord::from_bits(fault.call_seen);
        return Error::Disagreement { rank, peer, lane, call, peer_call };
    }
    if fault.code == FaultCode::Stalled as u32 {
        let waited_us = fault.waited_ns / 1000;
        return Error::Stalled { rank, peer, lane, waiting_for, needed, seen, waited_us, call };
    }
    Error::Protocol { rank, peer, lane, waiting_for, needed, seen }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn every_fault_becomes_its_error() {
        let fault = |code: FaultCode| Fault {
            code: code as u32,
            rank: 1,
            peer: 3,
            lane: 2,
            waiting_for: WaitingFor::GatherSlot as u32,
            reserved: 0,
            needed: 9,
            seen: 8,
            waited_ns: 5_000_000,
            call: 7,
            call_seen: 6,
        };
        let stalled = fault_error(&fault(FaultCode::Stalled));
        assert!(
            matches!(
                stalled,
                Error::Stalled {
                    rank: 1,
                    peer: 3,
                    lane: 2,
                    waiting_for: WaitingFor::GatherSlot,
                    needed: 9,
                    seen: 8,
                    waited_us: 5000,
                    ..
                }
            ),
            "{stalled}"
        );
        assert_eq!(fault_error(&fault(FaultCode::Disagreement)).kind(), ErrorKind::Disagreement);
        assert_eq!(fault_error(&fault(FaultCode::Protocol)).kind(), ErrorKind::Protocol);
    }

    #[test]
    fn the_driver_s_errors_keep_their_kind() {
        let kind = |error| error_of(error).kind();
        assert_eq!(kind(KernelError::NoDriver { tried: "libcuda.so".into() }), ErrorKind::NoDriver);
        assert_eq!(kind(KernelError::NoSuchDevice { ordinal: 3, devices: 2 }), ErrorKind::NoDevice);
        assert_eq!(kind(KernelError::NoPeerAccess { from: 0, to: 1 }), ErrorKind::NoPeerAccess);
        assert_eq!(kind(KernelError::OldDriver { missing: "cuInit" }), ErrorKind::NoDriver);
        assert_eq!(kind(KernelError::NoDevice), ErrorKind::NoDevice);
        assert_eq!(kind(KernelError::NoVirtualMemory { ordinal: 0 }), ErrorKind::Unsupported);
        let wrong = KernelError::WrongDevice { what: "the input", needed: 0, seen: 1 };
        assert_eq!(kind(wrong), ErrorKind::WrongDevice);
        let kernel = "all_reduce_ring_f32_sum".to_owned();
        let resident = KernelError::NotResident { kernel, ordinal: 2, needed: 135, available: 132 };
        let expected = Error::NotResident { device: 2, blocks_needed: 135, blocks_resident: 132 };
        assert_eq!(error_of(resident), expected);
        assert_eq!(kind(KernelError::Captured { what: "a wait" }), ErrorKind::Capturing);
        let driver = |code| KernelError::Driver { call: "cuMemCreate", code, name: String::new() };
        assert_eq!(kind(driver(OUT_OF_MEMORY)), ErrorKind::OutOfMemory);
        let short = error_of(KernelError::OutOfMemory { ordinal: 1, needed: 5 << 20, free: 3 << 20 });
        assert_eq!(
            short.to_string(),
            "the system did not give 5242880 bytes of GPU 1: GPU 1 has 3145728 bytes left, and 5242880 are needed"
        );
        assert_eq!(kind(driver(700)), ErrorKind::Driver);
    }
}
