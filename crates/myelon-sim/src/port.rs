//! What the model's body of the port calls: `kernels/host/port_model.h`. Each function acts for the simulated
//! thread that runs now.
//!
//! They are `C-unwind` because a world that is given up unwinds its threads through the kernels' frames.

use std::ffi::{CStr, CString, c_char, c_int, c_void};

use myelon_ring::words::AllReduceArgs;

use crate::model::{Address, CopyKind, Order, Scope, Thread, with_current};

/// A kernel's wait notes this, plus its lane, when it gives up; the value is the round's sequence.
pub(crate) const GAVE_UP: u32 = 1 << 16;

/// The address that a kernel means. One that is no address of the model is reported and never followed.
fn address(thread: &Thread, at: *const c_void) -> Address {
    Address::of_kernel(at as u64).unwrap_or_else(|| {
        // Without the address: one of the host is another in every process.
        thread.fail("memory", format!("{} accessed what is no memory of the world", thread.place()));
        unreachable!("a thread that failed does not go on")
    })
}

#[unsafe(no_mangle)]
extern "C-unwind" fn myelon_model_thread() -> u32 {
    with_current(|thread| thread.place().thread)
}

#[unsafe(no_mangle)]
extern "C-unwind" fn myelon_model_threads() -> u32 {
    with_current(Thread::threads_of_block)
}

#[unsafe(no_mangle)]
extern "C-unwind" fn myelon_model_block() -> u32 {
    with_current(|thread| thread.place().block_index)
}

#[unsafe(no_mangle)]
extern "C-unwind" fn myelon_model_mutant() -> u32 {
    with_current(Thread::mutant)
}

#[unsafe(no_mangle)]
extern "C-unwind" fn myelon_model_barrier(barrier: u32, sync: c_int) {
    with_current(
        |thread| if sync != 0 { thread.barrier_sync(barrier) } else { thread.barrier_arrive(barrier) },
    );
}

#[unsafe(no_mangle)]
extern "C-unwind" fn myelon_model_vote(yes: c_int) -> c_int {
    with_current(|thread| thread.warp_all(yes != 0).into())
}

#[unsafe(no_mangle)]
extern "C-unwind" fn myelon_model_block_words() -> *mut u64 {
    with_current(Thread::shared_words)
}

#[unsafe(no_mangle)]
extern "C-unwind" fn myelon_model_load(word: *const c_void, acquire: c_int) -> u64 {
    let order = if acquire != 0 { Order::Ordered } else { Order::Relaxed };
    with_current(|thread| thread.load(address(thread, word), order, Scope::System))
}

#[unsafe(no_mangle)]
extern "C-unwind" fn myelon_model_store(word: *const c_void, value: u64) {
    with_current(|thread| thread.store_relaxed(address(thread, word), value));
}

#[unsafe(no_mangle)]
extern "C-unwind" fn myelon_model_exchange(word: *const c_void, value: u64) -> u64 {
    with_current(|thread| thread.exchange_relaxed(address(thread, word), value))
}

#[unsafe(no_mangle)]
extern "C-unwind" fn myelon_model_tally(total: *const c_void, told: *const c_void, value: u64, step: u64) {
    with_current(|thread| thread.tally(address(thread, total), address(thread, told), value, step));
}

#[unsafe(no_mangle)]
extern "C-unwind" fn myelon_model_after_earlier_work() {
    with_current(Thread::after_earlier_work);
}

#[unsafe(no_mangle)]
extern "C-unwind" fn myelon_model_fence() {
    with_current(Thread::fence);
}

#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn myelon_model_read(from: *const c_void, to: *mut u8, bytes: u64) {
    // SAFETY: `to` is a local of the caller in port_model.h, of `bytes` bytes, which nobody else accesses during
    // the call. It may be uninitialised, so it is written before it becomes a slice.
    let to = unsafe {
        to.write_bytes(0, bytes as usize);
        std::slice::from_raw_parts_mut(to, bytes as usize)
    };
    with_current(|thread| thread.read(address(thread, from), to));
}

#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn myelon_model_write(to: *const c_void, from: *const u8, bytes: u64) {
    // SAFETY: `from` is a value of the caller in port_model.h, of `bytes` bytes.
    let from = unsafe { std::slice::from_raw_parts(from, bytes as usize) };
    with_current(|thread| thread.write(address(thread, to), from));
}

#[unsafe(no_mangle)]
extern "C-unwind" fn myelon_model_shared(at: *const c_void, bytes: u64, writes: c_int) {
    with_current(|thread| thread.touch_shared(at as u64, bytes as usize, writes != 0));
}

#[unsafe(no_mangle)]
extern "C-unwind" fn myelon_model_stage(bytes: u64) -> u64 {
    with_current(|thread| thread.stage(bytes as usize).0)
}

fn copy_kind(bulk: c_int) -> CopyKind {
    if bulk != 0 { CopyKind::Bulk } else { CopyKind::Thread }
}

#[unsafe(no_mangle)]
extern "C-unwind" fn myelon_model_copy(bulk: c_int, to: *const c_void, from: *const c_void, bytes: u64) {
    with_current(|thread| {
        thread.copy(copy_kind(bulk), address(thread, to), address(thread, from), bytes as usize);
    });
}

#[unsafe(no_mangle)]
extern "C-unwind" fn myelon_model_copy_commit(bulk: c_int) {
    with_current(|thread| thread.copy_commit(copy_kind(bulk)));
}

#[unsafe(no_mangle)]
extern "C-unwind" fn myelon_model_copy_wait(bulk: c_int, pending: u32) {
    with_current(|thread| thread.copy_wait(copy_kind(bulk), pending as usize));
}

#[unsafe(no_mangle)]
extern "C-unwind" fn myelon_model_copy_wait_read(pending: u32) {
    with_current(|thread| thread.copy_wait_read(pending as usize));
}

#[unsafe(no_mangle)]
extern "C-unwind" fn myelon_model_proxy_fence() {
    with_current(Thread::proxy_fence);
}

#[unsafe(no_mangle)]
extern "C-unwind" fn myelon_model_pause() {
    with_current(Thread::pause);
}

#[unsafe(no_mangle)]
extern "C-unwind" fn myelon_model_clock_ns() -> u64 {
    with_current(Thread::clock_ns)
}

#[unsafe(no_mangle)]
extern "C-unwind" fn myelon_model_gave_up(lane: u32, sequence: u64) {
    with_current(|thread| thread.note(GAVE_UP + lane, sequence));
}

// SAFETY: the signatures are those of kernels/host/model_launch.cc.
unsafe extern "C-unwind" {
    fn myelon_model_find(name: *const c_char) -> c_int;
    fn myelon_model_run(kernel: c_int, args: *const AllReduceArgs);
    fn myelon_model_mutant_name(number: u32, name: *mut *const c_char, about: *mut *const c_char) -> c_int;
}

/// A kernel's number, for [`run_kernel`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kernel(c_int);

/// The kernel of that name, if there is one.
pub(crate) fn kernel(name: &str) -> Option<Kernel> {
    let name = CString::new(name).ok()?;
    // SAFETY: the name is a string that outlives the call.
    let number = unsafe { myelon_model_find(name.as_ptr()) };
    (number >= 0).then_some(Kernel(number))
}

/// Runs the kernel as the simulated thread that calls. Its accesses are the model's; nothing else is touched.
pub(crate) fn run_kernel(kernel: Kernel, args: &AllReduceArgs) {
    // SAFETY: a Kernel is a number that myelon_model_find gave. Every address in `args` goes to the model,
    // which refuses those that are not its own; only the block's own words are accessed directly.
    unsafe { myelon_model_run(kernel.0, args) }
}

/// Name of mutant `number` of the kernels, from 1, and what it weakens.
pub(crate) fn mutant(number: u32) -> Option<(&'static str, &'static str)> {
    let (mut name, mut about) = (std::ptr::null(), std::ptr::null());
    // SAFETY: both out-pointers are valid; the function writes them or returns 0.
    if unsafe { myelon_model_mutant_name(number, &mut name, &mut about) } == 0 {
        return None;
    }
    // SAFETY: both are string literals of the C++ side, which live for ever.
    let text = |text: *const c_char| unsafe { CStr::from_ptr(text) }.to_str().expect("ASCII");
    Some((text(name), text(about)))
}
