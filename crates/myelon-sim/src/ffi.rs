//! The C interface of `kernels/host/host_launch.cc`, each function behind a safe one.

use std::ffi::{CStr, CString, c_char, c_int};

use myelon_ring::RingConfig;
use myelon_ring::words::{AllReduceArgs, Movement};

// SAFETY: the signatures are those of kernels/host/host_launch.cc; the structures are held equal on both
// sides by compile-time assertions and by a test over `layout()`.
unsafe extern "C" {
    fn myelon_host_launch(
        name: *const c_char,
        args: *const AllReduceArgs,
        blocks: u32,
        threads: u32,
    ) -> c_int;
    fn myelon_host_layout(index: u64, name: *mut *const c_char, offset: *mut u64) -> c_int;
    fn myelon_host_piece(args: *const AllReduceArgs, lane: u32, round: u64, owner: u32, out: *mut u64);
    fn myelon_host_ring(
        args: *const AllReduceArgs,
        movement: u32,
        lane: u32,
        source: u32,
        destination: u32,
        out: *mut RingConfig,
    );
    fn myelon_host_ring_to_next(args: *const AllReduceArgs, lane: u32, rank: u32, out: *mut RingConfig);
    safe fn myelon_host_f32_from_f16(bits: u32) -> u32;
    safe fn myelon_host_f16_from_f32(bits: u32) -> u32;
    safe fn myelon_host_bf16_from_f32(bits: u32) -> u32;
}

/// Runs a kernel for one rank and returns when all of its threads have ended.
///
/// # Safety
///
/// Every address in `args` must point to live memory of the size that the kernel touches, which nobody
/// accesses in another way until the launches of all ranks have returned.
pub(crate) unsafe fn launch(kernel: &str, args: &AllReduceArgs, blocks: u32, threads: u32) -> bool {
    let name = CString::new(kernel).expect("a kernel's name has no zero byte");
    // SAFETY: `name` and `args` outlive the call; the rest is the caller's promise.
    unsafe { myelon_host_launch(name.as_ptr(), args, blocks, threads) == 0 }
}

/// Every shared word as the C++ compiler sees it: `(type.field, offset)`, and `(type, size)`.
pub fn layout() -> Vec<(String, usize)> {
    let mut rows = Vec::new();
    loop {
        let (mut name, mut offset) = (std::ptr::null(), 0);
        // SAFETY: both out-pointers are valid; the function writes them or returns 0.
        if unsafe { myelon_host_layout(rows.len() as u64, &mut name, &mut offset) } == 0 {
            return rows;
        }
        // SAFETY: the name is a string literal of the C++ side.
        let name = unsafe { CStr::from_ptr(name) }.to_str().expect("ASCII").to_owned();
        rows.push((name, offset as usize));
    }
}

/// What the kernel takes a piece to be: `(rounds of the lane, first vector, vectors)`.
///
/// `round` must be below the lane's rounds.
pub fn kernel_piece(args: &AllReduceArgs, lane: u32, round: u64, owner: u32) -> (u64, u64, u64) {
    let mut out = [0; 3];
    // SAFETY: `args` is valid and `out` holds the three words that are written; no address is followed.
    unsafe { myelon_host_piece(args, lane, round, owner, out.as_mut_ptr()) };
    (out[0], out[1], out[2])
}

/// Where the kernel takes a ring to be.
pub fn kernel_ring(
    args: &AllReduceArgs,
    movement: Movement,
    lane: u32,
    source: u32,
    destination: u32,
) -> RingConfig {
    let mut out = bytemuck::Zeroable::zeroed();
    // SAFETY: `args` is valid and `out` is one RingConfig; no address is followed.
    unsafe { myelon_host_ring(args, movement as u32, lane, source, destination, &mut out) };
    out
}

/// Where the kernel takes the ring from `rank` to the next one to be, by the offsets of such rings.
pub fn kernel_ring_to_next(args: &AllReduceArgs, lane: u32, rank: u32) -> RingConfig {
    let mut out = bytemuck::Zeroable::zeroed();
    // SAFETY: as above.
    unsafe { myelon_host_ring_to_next(args, lane, rank, &mut out) };
    out
}

/// The host port's conversion: bits of an f16 to bits of the f32 with the same value.
pub fn f32_from_f16(bits: u16) -> u32 {
    myelon_host_f32_from_f16(bits.into())
}

/// The host port's conversion: bits of an f32 to bits of the nearest f16, ties to even.
pub fn f16_from_f32(bits: u32) -> u16 {
    myelon_host_f16_from_f32(bits) as u16
}

/// The host port's conversion: bits of an f32 to bits of the nearest bf16, ties to even.
pub fn bf16_from_f32(bits: u32) -> u16 {
    myelon_host_bf16_from_f32(bits) as u16
}
