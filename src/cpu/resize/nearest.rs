//! The label of the nearest pixel.

#![allow(clippy::needless_range_loop)] // see the comment in `Middles`

use super::{IGNORED, Resize, with_labels};
use crate::Result;
use crate::cpu::simd::{Element, InstructionSet, Vector, Work};
use crate::tensor::{DType, View};

impl Resize<'_> {
    /// The label of each pixel's nearest neighbour, into (N, height * width) of int32, [`IGNORED`] for ignored ones.
    pub fn nearest(&self, to: View<'_>) -> Result<()> {
        let (width, stride) = (self.to[1], self.target.strides[2]);
        let columns: Vec<usize> = (0..width).map(|x| nearest(x, self.from[1], width)).collect();
        let bytes = self.target.dtype() == DType::UInt8 && stride == 1;
        let step = [2, 4, 8].into_iter().find(|&step| bytes && are_middles(&columns, step, self.from[1]));
        self.label_rows(to, to.samples * to.pixels, |_, sample, y, row| {
            let start = nearest(y, self.from[0], self.to[0]) * self.from[1];
            if let Some(step) = step {
                // SAFETY: the row of the target begins there, and has `step` labels for each of this one.
                let from = unsafe { self.target.at::<u8>(sample, 0, start) };
                let middles = Middles { from, step, ignore_index: self.ignore_index, to: row };
                return f32::dispatch(InstructionSet::best(), middles);
            }
            // The type is matched once a row, not once a pixel.
            with_labels!(self.target, |L| {
                // SAFETY: start and x are a row and a column of the target.
                let from = unsafe { self.target.at::<L>(sample, 0, start) };
                for (label, &x) in row.iter_mut().zip(&columns) {
                    // SAFETY: as above.
                    let value = unsafe { from.offset(x as isize * stride).read_unaligned() };
                    *label = self.valid(value);
                }
            });
        })
    }
}

/// The index that nearest-exact picks: floor((i + 0.5) from / to), with torch's single-precision scale.
fn nearest(i: usize, from: usize, to: usize) -> usize {
    let scale = from as f32 / to as f32;
    let source = ((i as f64 + 0.5) * f64::from(scale)) as f32;
    (source.floor() as usize).min(from - 1)
}

/// Whether these are the middles of groups of `step` columns, of `all` in total.
fn are_middles(columns: &[usize], step: usize, all: usize) -> bool {
    columns.len() * step == all && columns.iter().enumerate().all(|(x, &column)| column == x * step + step / 2)
}

/// The middle labels of groups of 2, 4 or 8 bytes, a word each: the usual scales of a decoder's maps.
struct Middles<'a> {
    /// (to.len() * step)
    from: *const u8,
    step: usize,
    ignore_index: i64,
    to: &'a mut [i32],
}

impl Work<f32> for Middles<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector<Element = f32>>(self) {
        let Self { from, step, ignore_index, to } = self;
        // A number that is no label marks nothing.
        let ignored = i32::try_from(ignore_index).unwrap_or(IGNORED);
        macro_rules! words {
            ($word:ty) => {
                // A plain index loop: iterator adapters are not always inlined into a function of another instruction set.
                for x in 0..to.len() {
                    // SAFETY: x < to.len().
                    let word = unsafe { from.cast::<$word>().add(x).read_unaligned() };
                    let label = (<$word>::from_le(word) >> (<$word>::BITS / 2)) as u8;
                    to[x] = if i32::from(label) == ignored { IGNORED } else { i32::from(label) };
                }
            };
        }
        match step {
            2 => words!(u16),
            4 => words!(u32),
            _ => words!(u64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn each_label_is_that_of_the_nearest_pixel(
            labels in prop::collection::vec(any::<u8>(), 1..3000),
            to in (1usize..30, 1usize..30),
            step in 1usize..10,
            ignore_index in prop::sample::select(vec![-100, 0, 7, 255, 256, 1 << 40]),
            stride in 1usize..3,
        ) {
            let from = [labels.len().div_ceil(to.1 * step * stride), to.1 * step];
            let mut labels: Vec<u8> = labels.into_iter().cycle().take(from[0] * from[1] * stride).collect();
            let (shape, strides) = ([1, from[0] * from[1]], [0, stride as isize]);
            // SAFETY: the vector has this shape.
            let target = unsafe { View::new(labels.as_mut_ptr(), DType::UInt8, &shape, &strides, false) }.unwrap();
            let resize = Resize { target, from, to: [to.0, to.1], ignore_index, threads: 1 };
            let mut got = vec![7; to.0 * to.1];
            let (shape, strides) = ([1, got.len()], [0, 1]);
            // SAFETY: as above; it is read when the view is not used any more.
            let view = unsafe { View::new(got.as_mut_ptr().cast(), DType::Int32, &shape, &strides, false) }.unwrap();
            resize.nearest(view).unwrap();
            for (i, got) in got.into_iter().enumerate() {
                let (y, x) = (nearest(i / to.1, from[0], to.0), nearest(i % to.1, from[1], to.1));
                let label = labels[(y * from[1] + x) * stride];
                let expected = if i64::from(label) == ignore_index { IGNORED } else { i32::from(label) };
                prop_assert_eq!(got, expected, "{:?} to {:?}, {}", from, to, i);
            }
        }
    }

    #[test]
    fn middles_of_groups_are_found() {
        assert!(are_middles(&[2, 6, 10], 4, 12) && are_middles(&[1], 2, 2));
        assert!(!are_middles(&[2, 6, 10], 4, 13) && !are_middles(&[2, 6, 11], 4, 12));
    }
}
