//! Class-index targets: checking and counting them, and bringing them into tiles.

#![allow(clippy::needless_range_loop)] // see the comment in `count`

use std::mem::MaybeUninit;

use super::ahead;
use super::simd::{Element, InstructionSet, Vector, Work};
use crate::tensor::{DType, View};

/// An integer type that labels come in.
pub trait Label: Copy + PartialEq {
    /// Widened.
    fn to_i64(self) -> i64;
    /// As 32 bits; the label fits.
    fn to_i32(self) -> i32;
    /// Itself below [`OTHER`], else that.
    fn narrow(self) -> u8;
    /// From a number, if it is one of the type's.
    fn from_i64(value: i64) -> Option<Self>;
}

macro_rules! label {
    ($($integer:ty, $unsigned:ty);*) => {
        $(impl Label for $integer {
            #[inline(always)]
            fn to_i64(self) -> i64 {
                i64::from(self)
            }
            #[inline(always)]
            fn to_i32(self) -> i32 {
                self as i32
            }
            #[inline(always)]
            fn narrow(self) -> u8 {
                // Negative ones become large.
                (self as $unsigned).min(<$unsigned>::from(OTHER)) as u8
            }
            #[inline(always)]
            fn from_i64(value: i64) -> Option<Self> {
                value.try_into().ok()
            }
        })*
    };
}
label!(u8, u8; i16, u16; i32, u32; i64, u64);

/// `$body` with `$label` as the integer type that the view's labels have.
macro_rules! with_labels {
    (@as $integer:ty, $label:ident, $body:expr) => {{
        type $label = $integer;
        $body
    }};
    ($view:expr, |$label:ident| $body:expr) => {
        match $view.dtype() {
            DType::UInt8 => with_labels!(@as u8, $label, $body),
            DType::Int16 => with_labels!(@as i16, $label, $body),
            DType::Int32 => with_labels!(@as i32, $label, $body),
            DType::Int64 => with_labels!(@as i64, $label, $body),
            _ => unreachable!("checked before: labels are integers"),
        }
    };
}
pub(crate) use with_labels;

/// Labels that are counted at a time.
const BLOCK: usize = 4096;
/// Bytes compared at a time; a block has fewer than 256 such rows.
const ROW: usize = 64;
/// Above this many classes a table is faster than a comparison for each class.
pub const MAX_COMPARED: usize = 16;
/// Narrowed labels that are no class.
const OTHER: u8 = 253;
/// The narrowed label of ignored pixels.
pub const IGNORED: u8 = 254;
/// Values that are counted at a time: xBD's five classes and the ignored pixels in two turns.
const COUNTED: usize = 3;
/// Bytes between the labels that are counted and those that are asked for.
const AHEAD: usize = 2048;

/// Add to `counts[c]` the labels equal to c; those equal to `ignore_index` are not counted.
///
/// Returns the offset of the first label that is neither, if there is one. Up to [`MAX_COMPARED`] classes, `narrowed` may ask for the
/// labels as bytes, with [`IGNORED`] for `ignore_index`.
///
/// # Safety
/// `len` labels, `stride` elements apart, must be readable, and `narrowed` null or `len` bytes writable.
#[inline(always)]
pub unsafe fn count<L: Label>(
    from: *const L,
    stride: isize,
    len: usize,
    ignore_index: i64,
    counts: &mut [u64],
    narrowed: *mut u8,
) -> Option<usize> {
    let classes = counts.len() as u64;
    let is_bad = |label: i64| label != ignore_index && label as u64 >= classes;
    for start in (0..len).step_by(BLOCK) {
        let len = BLOCK.min(len - start);
        // SAFETY: the block's labels are among those of the caller's promise.
        unsafe {
            let from = from.offset(start as isize * stride);
            let at = |i: usize| from.offset(i as isize * stride).read_unaligned().to_i64();
            let good = if classes <= MAX_COMPARED as u64 {
                let to = if narrowed.is_null() { narrowed } else { narrowed.add(start) };
                count_few(from, stride, len, ignore_index, counts, to) == len as u64
            } else {
                count_many(from, stride, len, ignore_index, counts)
            };
            if !good {
                return (0..len).find(|&i| is_bad(at(i))).map(|i| start + i);
            }
        }
    }
    None
}

/// Count the labels of a block in a table; false, with nothing counted, where one is no class and not ignored.
///
/// # Safety
/// As for [`count`].
#[inline(always)]
unsafe fn count_many<L: Label>(
    from: *const L,
    stride: isize,
    len: usize,
    ignore_index: i64,
    counts: &mut [u64],
) -> bool {
    let classes = counts.len() as u64;
    // SAFETY: i < len.
    let at = |i: usize| unsafe { from.offset(i as isize * stride).read_unaligned() }.to_i64();
    // Plain index loops: iterator adapters are not always inlined into a function of another instruction set.
    let mut bad = false;
    for i in 0..len {
        bad |= at(i) != ignore_index && at(i) as u64 >= classes;
    }
    if bad {
        return false;
    }
    for i in 0..len {
        if at(i) != ignore_index {
            counts[at(i) as usize] += 1;
        }
    }
    true
}

/// Count the labels of a block by comparisons, a byte each; how many are a class or ignored.
///
/// # Safety
/// As for [`count`]; `len` is at most [`BLOCK`].
#[inline(always)]
unsafe fn count_few<L: Label>(
    from: *const L,
    stride: isize,
    len: usize,
    ignore_index: i64,
    counts: &mut [u64],
    narrowed: *mut u8,
) -> u64 {
    let (ignored, mark) = marked(ignore_index, IGNORED, 0);
    // SAFETY: i < len in all calls.
    let at = |i: usize| unsafe { from.offset(i as isize * stride).read_unaligned() };
    let narrow = |label: L| if label == ignored { mark } else { label.narrow() };
    let whole = len - len % ROW;
    let mut block = [MaybeUninit::<u8>::uninit(); BLOCK];
    let to = if narrowed.is_null() { block.as_mut_ptr().cast() } else { narrowed };
    // SAFETY: i < len in all calls, and there is a byte for each label.
    let put = |i: usize| unsafe { to.add(i).write(narrow(at(i))) };
    if stride == 1 {
        for start in (0..whole).step_by(ROW) {
            ahead::read_bytes(from.wrapping_add(start).cast::<u8>().wrapping_add(AHEAD), size_of::<L>() * ROW);
            // A number of labels that the compiler knows fills registers.
            for i in 0..ROW {
                put(start + i);
            }
        }
    } else {
        for i in 0..whole {
            put(i);
        }
    }
    // SAFETY: these were written.
    let mut good = unsafe { count_bytes(std::slice::from_raw_parts(to, whole), counts) };
    for i in whole..len {
        put(i);
        let label = at(i).to_i64();
        let is_ignored = label == ignore_index;
        if !is_ignored && (label as u64) < counts.len() as u64 {
            counts[label as usize] += 1;
            good += 1;
        }
        good += u64::from(is_ignored);
    }
    good
}

/// Count narrowed labels, whole rows of them; how many are a class or ignored.
#[inline(always)]
fn count_bytes(rows: &[u8], counts: &mut [u64]) -> u64 {
    let mut good = 0;
    // The ignored ones come behind the classes.
    let ignored = counts.len();
    for first in (0..=ignored).step_by(COUNTED) {
        let mut values = [IGNORED; COUNTED];
        for k in 0..COUNTED.min(ignored - first) {
            values[k] = (first + k) as u8;
        }
        let found = count_equal(rows, values);
        for k in 0..COUNTED.min(ignored - first + 1) {
            good += found[k];
            if first + k < ignored {
                counts[first + k] += found[k];
            }
        }
    }
    good
}

/// The label of ignored pixels, and what it is to become. A number that the type does not have marks nothing: then 0 becomes
/// `zero`, as it does anyway.
#[inline(always)]
fn marked<L: Label, T>(ignore_index: i64, mark: T, zero: T) -> (L, T) {
    match L::from_i64(ignore_index) {
        Some(label) => (label, mark),
        None => (L::from_i64(0).expect("every integer type has 0"), zero),
    }
}

/// How many bytes equal each of the values: byte-wide counters, none of which can overflow in the rows of one block.
#[inline(always)]
fn count_equal(bytes: &[u8], values: [u8; COUNTED]) -> [u64; COUNTED] {
    let mut counters = [[0u8; ROW]; COUNTED];
    for row in 0..bytes.len() / ROW {
        let row = &bytes[row * ROW..][..ROW];
        for k in 0..COUNTED {
            for i in 0..ROW {
                counters[k][i] += u8::from(row[i] == values[k]);
            }
        }
    }
    let mut counts = [0; COUNTED];
    for k in 0..COUNTED {
        for i in 0..ROW {
            counts[k] += u64::from(counters[k][i]);
        }
    }
    counts
}

/// The labels of a run of pixels, from (sample, pixel) on, as numbers of a tile, -1 for ignored ones.
///
/// # Safety
/// The pixels must lie in the view.
pub unsafe fn gather<T: Element>(
    set: InstructionSet,
    view: View<'_>,
    (sample, pixel): (usize, usize),
    ignore_index: i64,
    to: &mut [T],
) {
    T::dispatch(set, Gather { view, sample, pixel, ignore_index, to });
}

struct Gather<'a, 'b, T> {
    view: View<'a>,
    sample: usize,
    pixel: usize,
    ignore_index: i64,
    to: &'b mut [T],
}

impl<T: Element> Work<T> for Gather<'_, '_, T> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector<Element = T>>(self) {
        let Self { view, sample, pixel, ignore_index, to } = self;
        // SAFETY: the promise of the caller of `gather`, the only one to make this.
        unsafe { with_labels!(view, |L| fill(view.at::<L>(sample, 0, pixel), view.strides[2], ignore_index, to)) };
    }
}

/// Labels as numbers of the tile, -1 for ignored ones.
///
/// # Safety
/// `to.len()` labels, `stride` elements apart, must be readable.
#[inline(always)]
unsafe fn fill<T: Element, L: Label>(from: *const L, stride: isize, ignore_index: i64, to: &mut [T]) {
    let (ignored, mark) = marked(ignore_index, T::from_i32(-1), T::from_i32(0));
    // The labels were counted before, so they fit in 32 bits, which convert faster.
    let convert = |label: L| if label == ignored { mark } else { T::from_i32(label.to_i32()) };
    if stride == 1 {
        for i in 0..to.len() {
            // SAFETY: i < to.len().
            to[i] = convert(unsafe { from.add(i).read_unaligned() });
        }
    } else {
        for i in 0..to.len() {
            // SAFETY: i < to.len().
            to[i] = convert(unsafe { from.offset(i as isize * stride).read_unaligned() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// [`count`] of labels of one type against the plain loop.
    fn check_count<L: Label>(labels: &[L], classes: usize, ignore_index: i64, stride: usize) {
        let mut counts = vec![0; classes];
        let len = labels.len().div_ceil(stride);
        let mut narrowed = vec![255; len];
        let to = if classes <= MAX_COMPARED { narrowed.as_mut_ptr() } else { std::ptr::null_mut() };
        // SAFETY: the slice holds that many labels, and so does the vector.
        let bad = unsafe { count(labels.as_ptr(), stride as isize, len, ignore_index, &mut counts, to) };
        let labels: Vec<i64> = labels.iter().step_by(stride).map(|label| label.to_i64()).collect();
        let is_bad = |&label: &i64| label != ignore_index && (label < 0 || label >= classes as i64);
        assert_eq!(bad, labels.iter().position(is_bad));
        if bad.is_none() {
            for (class, &got) in counts.iter().enumerate() {
                let truth = labels.iter().filter(|&&l| l == class as i64 && l != ignore_index).count() as u64;
                assert_eq!(got, truth, "class {class} of {classes}, ignoring {ignore_index}");
            }
            if classes <= MAX_COMPARED {
                let byte = |label: &i64| if *label == ignore_index { IGNORED } else { *label as u8 };
                assert_eq!(narrowed, labels.iter().map(byte).collect::<Vec<_>>());
            }
        }
    }

    proptest! {
        #[test]
        fn counts_equal_the_plain_loop_in_every_type(
            labels in prop::collection::vec(0i64..40, 0..9000),
            odd in prop::collection::vec((any::<prop::sample::Index>(), prop::sample::select(vec![-1, 127, 252, 253, 254, 255, -100])), 0..3),
            classes in 1usize..50,
            ignore_index in prop::sample::select(vec![-100, -1, 0, 2, 7, 253, 254, 255, 1 << 40]),
            stride in 1usize..3,
        ) {
            let mut labels: Vec<i64> = labels.into_iter().map(|label| label % classes as i64).collect();
            if !labels.is_empty() {
                for (at, label) in odd {
                    let at = at.index(labels.len());
                    labels[at] = label;
                }
            }
            check_count(&labels, classes, ignore_index, stride);
            check_count(&labels.iter().map(|&l| l as i32).collect::<Vec<_>>(), classes, ignore_index, stride);
            check_count(&labels.iter().map(|&l| l as i16).collect::<Vec<_>>(), classes, ignore_index, stride);
            check_count(&labels.iter().map(|&l| l as u8).collect::<Vec<_>>(), classes, ignore_index, stride);
        }

        #[test]
        fn tiles_hold_the_labels(labels in prop::collection::vec(0u8..5, 0..100), ignore_index in -2i64..6) {
            let mut tile = vec![9.0f32; labels.len()];
            let truth: Vec<f32> =
                labels.iter().map(|&l| if i64::from(l) == ignore_index { -1.0 } else { f32::from(l) }).collect();
            // SAFETY: the tile has as many places as there are labels.
            unsafe { fill(labels.as_ptr(), 1, ignore_index, &mut tile) };
            prop_assert_eq!(&tile, &truth);
            let wide: Vec<i64> = labels.iter().map(|&l| i64::from(l)).collect();
            // SAFETY: as above.
            unsafe { fill(wide.as_ptr(), 1, ignore_index, &mut tile) };
            prop_assert_eq!(tile, truth);
        }
    }
}
