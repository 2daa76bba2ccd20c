//! Class-index targets: checking and counting them, and bringing them into tiles.

#![allow(clippy::needless_range_loop)] // see the comment in `count`

use super::simd::Element;

/// An integer type that labels come in.
pub trait Label: Copy {
    /// Widened.
    fn to_i64(self) -> i64;
}

macro_rules! label {
    ($($integer:ty),*) => {
        $(impl Label for $integer {
            #[inline(always)]
            fn to_i64(self) -> i64 {
                i64::from(self)
            }
        })*
    };
}
label!(u8, i16, i32, i64);

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
            _ => unreachable!("checked by cpu::problem: labels are integers"),
        }
    };
}
pub(super) use with_labels;

/// Labels a scan takes at a time.
const BLOCK: usize = 4096;
/// Bytes compared at a time; a block has fewer than 256 such rows.
const ROW: usize = 64;
/// Above this many classes a table is faster than a comparison for each class.
const MAX_COMPARED: usize = 16;

/// Add to `counts[c]` the labels equal to c; those equal to `ignore_index` are not counted.
///
/// Returns the offset of the first label that is neither, if there is one.
///
/// # Safety
/// `len` labels, `stride` elements apart, must be readable.
#[inline(always)]
pub unsafe fn count<L: Label>(
    from: *const L,
    stride: isize,
    len: usize,
    ignore_index: i64,
    counts: &mut [u64],
) -> Option<usize> {
    let classes = counts.len() as u64;
    let small = classes <= MAX_COMPARED as u64;
    let mut block = [u8::MAX; BLOCK];
    for start in (0..len).step_by(BLOCK) {
        let end = len.min(start + BLOCK);
        // SAFETY: i < len.
        let at = |i: usize| unsafe { from.offset(i as isize * stride).read_unaligned() }.to_i64();
        let is_bad = |label: i64| label != ignore_index && label as u64 >= classes;
        let mut bad = false;
        // Plain index loops: iterator adapters are not always inlined into a function of another instruction set.
        if small {
            let block = &mut block[..end - start];
            for i in 0..block.len() {
                let label = at(start + i);
                bad |= is_bad(label);
                block[i] = if label == ignore_index { u8::MAX } else { label as u8 };
            }
        } else {
            for i in start..end {
                bad |= is_bad(at(i));
            }
        }
        if bad {
            return (start..end).find(|&i| is_bad(at(i)));
        }
        if small {
            let rows = (end - start).next_multiple_of(ROW);
            block[end - start..rows].fill(u8::MAX);
            for class in 0..counts.len() {
                counts[class] += count_equal(&block[..rows], class as u8);
            }
        } else {
            for i in start..end {
                let label = at(i);
                if label != ignore_index {
                    counts[label as usize] += 1;
                }
            }
        }
    }
    None
}

/// How many bytes equal `value`: byte-wide counters, none of which can overflow in the rows of one block.
#[inline(always)]
fn count_equal(bytes: &[u8], value: u8) -> u64 {
    let mut counters = [0u8; ROW];
    for row in 0..bytes.len() / ROW {
        let row = &bytes[row * ROW..][..ROW];
        for i in 0..ROW {
            counters[i] += u8::from(row[i] == value);
        }
    }
    let mut count = 0;
    for counter in counters {
        count += u64::from(counter);
    }
    count
}

/// Labels as numbers of the tile, -1 for ignored ones.
///
/// # Safety
/// `to.len()` labels, `stride` elements apart, must be readable.
#[inline(always)]
pub unsafe fn fill<T: Element, L: Label>(from: *const L, stride: isize, ignore_index: i64, to: &mut [T]) {
    // The labels were counted before, so they fit in 32 bits, which convert faster.
    let convert = |label: i64| if label == ignore_index { T::from_i32(-1) } else { T::from_i32(label as i32) };
    if stride == 1 {
        for i in 0..to.len() {
            // SAFETY: i < to.len().
            to[i] = convert(unsafe { from.add(i).read_unaligned() }.to_i64());
        }
    } else {
        for i in 0..to.len() {
            // SAFETY: i < to.len().
            to[i] = convert(unsafe { from.offset(i as isize * stride).read_unaligned() }.to_i64());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn counts_equal_the_plain_loop(labels in prop::collection::vec(0i64..40, 0..9000), classes in 1usize..50) {
            let mut counts = vec![0; classes];
            // SAFETY: the vector holds that many labels.
            let bad = unsafe { count(labels.as_ptr(), 1, labels.len(), 7, &mut counts) };
            let is_bad = |&label: &i64| label != 7 && label as usize >= classes;
            prop_assert_eq!(bad, labels.iter().position(is_bad));
            if bad.is_none() {
                for (class, &got) in counts.iter().enumerate() {
                    let truth = labels.iter().filter(|&&l| l as usize == class && l != 7).count() as u64;
                    prop_assert_eq!(got, truth);
                }
            }
        }

        #[test]
        fn tiles_hold_the_labels(labels in prop::collection::vec(0u8..5, 0..100)) {
            let mut tile = vec![9.0f32; labels.len()];
            // SAFETY: the tile has as many places as there are labels.
            unsafe { fill(labels.as_ptr(), 1, 3, &mut tile) };
            let truth: Vec<f32> = labels.iter().map(|&l| if l == 3 { -1.0 } else { f32::from(l) }).collect();
            prop_assert_eq!(tile, truth);
        }
    }
}
