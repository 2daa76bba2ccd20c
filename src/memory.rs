//! Large memory whose size somebody else decides: where there is none, an error and not the end of the process.

use std::alloc::{Layout, alloc_zeroed};

/// Numbers.
///
/// # Safety
///
/// Bytes of 0 must be a value, the zero.
pub(crate) unsafe trait Number: Copy {}

// SAFETY: it is 0.
unsafe impl Number for u8 {}

// SAFETY: it is 0.
unsafe impl Number for u64 {}

// SAFETY: it is 0.0.
unsafe impl Number for f32 {}

/// Zeros, if there is memory for them. Pages that are not touched take none, as with `vec![0; length]`.
pub(crate) fn zeros<T: Number>(length: usize) -> Option<Vec<T>> {
    let layout = Layout::array::<T>(length).ok()?;
    if layout.size() == 0 {
        return Some(Vec::new());
    }
    // SAFETY: the layout has a size.
    let start = unsafe { alloc_zeroed(layout) }.cast::<T>();
    // SAFETY: allocated just now by the global allocator with the layout of `length` values, all of them zero as `Number` says.
    (!start.is_null()).then(|| unsafe { Vec::from_raw_parts(start, length, length) })
}
