//! Host memory in the two forms that a ring and its users need: our own, on lines, and somebody else's.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use crate::error::RingError;
use crate::words::LINE;

/// Bytes on the heap that start on a line of 128 and are zero at first.
///
/// # Example
///
/// ```
/// use myelon_ring::AlignedBytes;
///
/// let mut bytes = AlignedBytes::zeroed(1000)?;
/// assert!(bytes.as_ptr().addr().is_multiple_of(128) && *bytes == [0; 1000]);
/// bytes[999] = 1;
/// # Ok::<(), myelon_ring::RingError>(())
/// ```
#[derive(Debug)]
pub struct AlignedBytes {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: it owns its bytes, as a `Box<[u8]>` does.
unsafe impl Send for AlignedBytes {}
// SAFETY: a shared reference only reads, as that of a `Box<[u8]>`.
unsafe impl Sync for AlignedBytes {}

impl AlignedBytes {
    /// Allocates `bytes` zero bytes; none is fine.
    ///
    /// # Errors
    ///
    /// [`RingError::Memory`] if there is not so much.
    pub fn zeroed(bytes: usize) -> Result<Self, RingError> {
        let layout = Self::layout(bytes).ok_or(RingError::Memory { bytes })?;
        // SAFETY: the layout has at least one line.
        let start = unsafe { alloc_zeroed(layout) };
        let start = NonNull::new(start).ok_or(RingError::Memory { bytes })?;
        Ok(Self { start, bytes })
    }

    /// At least one line, so that there is always an allocation.
    fn layout(bytes: usize) -> Option<Layout> {
        Layout::from_size_align(bytes.max(LINE), LINE).ok()
    }

    /// The address, from which a ring may make pointers of its own.
    pub(crate) fn expose(&mut self) -> u64 {
        self.start.as_ptr().expose_provenance() as u64
    }
}

impl Drop for AlignedBytes {
    fn drop(&mut self) {
        let layout = Self::layout(self.bytes).expect("the layout it was allocated with");
        // SAFETY: allocated in `zeroed` with this layout, and freed only here.
        unsafe { dealloc(self.start.as_ptr(), layout) };
    }
}

impl Deref for AlignedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `bytes` initialised bytes that we own; the reference keeps us borrowed.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.bytes) }
    }
}

impl DerefMut for AlignedBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: `bytes` initialised bytes that we own; the reference keeps us borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.bytes) }
    }
}

/// Host memory that somebody else owns, as a slice. The duties are those of [`ForeignBytes::new`].
///
/// # Example
///
/// ```
/// use myelon_ring::ForeignBytes;
///
/// let mut theirs = vec![1u8, 2, 3];
/// // SAFETY: `theirs` outlives `bytes` and is not touched meanwhile.
/// let mut bytes = unsafe { ForeignBytes::new(theirs.as_mut_ptr(), theirs.len()) };
/// bytes[0] = 9;
/// drop(bytes);
/// assert_eq!(theirs, [9, 2, 3]);
/// ```
#[derive(Debug)]
pub struct ForeignBytes {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: by `new` nobody else touches the bytes, so it is as good as a `&mut [u8]`.
unsafe impl Send for ForeignBytes {}
// SAFETY: a shared reference only reads, and nobody else writes.
unsafe impl Sync for ForeignBytes {}

impl ForeignBytes {
    /// Takes `bytes` bytes from `start` on; where there are none, `start` may be anything.
    ///
    /// # Panics
    ///
    /// If `start` is null and `bytes` is not zero.
    ///
    /// # Safety
    ///
    /// While the result lives, the bytes are initialised memory of this process, nobody else writes them,
    /// and nobody else reads them while they are written through it.
    pub unsafe fn new(start: *mut u8, bytes: usize) -> Self {
        let start =
            if bytes == 0 { NonNull::dangling() } else { NonNull::new(start).expect("memory at null") };
        Self { start, bytes }
    }
}

impl Deref for ForeignBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: by the duties of `new`, or an empty slice at a dangling address.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.bytes) }
    }
}

impl DerefMut for ForeignBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: by the duties of `new`, or an empty slice at a dangling address.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.bytes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_bytes_are_aligned_zero_and_writable() {
        for bytes in [0, 1, 127, 128, 129, 4096] {
            let mut ours = AlignedBytes::zeroed(bytes).unwrap();
            assert_eq!(ours.len(), bytes);
            assert!(ours.as_ptr().addr().is_multiple_of(LINE) && ours.iter().all(|&b| b == 0));
            ours.fill(0xa5);
            assert!(ours.iter().all(|&b| b == 0xa5));
        }
        let bytes = usize::MAX;
        assert_eq!(AlignedBytes::zeroed(bytes).err(), Some(RingError::Memory { bytes }));
    }

    #[test]
    fn no_foreign_bytes_may_be_anywhere() {
        // SAFETY: no byte is claimed.
        let none = unsafe { ForeignBytes::new(std::ptr::null_mut(), 0) };
        assert!(none.is_empty());
    }
}
