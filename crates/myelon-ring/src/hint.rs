//! The one hint to the processor that the standard library has no word for.

use std::sync::LazyLock;

/// Tells the processor that the line at `address` will be written soon, so that it fetches the line for
/// writing now, and not when a store already waits for it.
///
/// A slot that comes round again lies in the consumer's cache. ASSUMPTION: stores leave a core in order, one
/// missed line after the other. Asked for some slots ahead, the lines come while others are written: the bench
/// `ring_handoff` shows it. It never changes what a program computes.
///
/// # Safety
///
/// [`can_will_write`] has said yes.
#[inline]
pub(crate) unsafe fn will_write(address: *const u8) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: the processor has the instruction, which takes any address, faults on none and changes neither
    // memory nor registers.
    unsafe {
        std::arch::asm!("prefetchw [{}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = address;
}

/// Whether this processor has the instruction.
pub(crate) fn can_will_write() -> bool {
    *CAN
}

/// Asked once a process: the question itself takes a while, above all in a virtual machine.
#[cfg(all(target_arch = "x86_64", not(miri)))]
static CAN: LazyLock<bool> = LazyLock::new(|| {
    use std::arch::x86_64::__cpuid;
    #[allow(unused_unsafe, reason = "it became safe after our oldest compiler")]
    // SAFETY: every x86-64 processor has `cpuid` and answers these leaves.
    let (highest, features) = unsafe { (__cpuid(0x8000_0000).eax, __cpuid(0x8000_0001).ecx) };
    highest >= 0x8000_0001 && features & 1 << 8 != 0
});

#[cfg(not(all(target_arch = "x86_64", not(miri))))]
static CAN: LazyLock<bool> = LazyLock::new(|| false);
