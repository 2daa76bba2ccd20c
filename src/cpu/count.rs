//! Counting and checking all labels of a target, on several threads.

use super::labels::{self, Label, MAX_COMPARED, with_labels};
use super::pool;
use super::simd::{Element, InstructionSet, Vector, Work};
use crate::tensor::{DType, View, expect_shape};
use crate::{Error, Result};

/// Labels of one job.
const JOB: usize = 1 << 15;

/// How many pixels of each class the target has; or the error for the first label that is no class and not ignored. `narrowed`, (N, pixels)
/// bytes, is filled with the labels, and [`labels::IGNORED`] for ignored pixels.
pub fn count_labels(
    target: View<'_>,
    classes: usize,
    ignore_index: i64,
    narrowed: Option<View<'_>>,
    threads: usize,
) -> Result<Vec<u64>> {
    let threads = if target.samples * target.pixels < JOB { 1 } else { threads };
    count_rows(target, 1, classes, ignore_index, narrowed, threads, InstructionSet::best())
}

/// How many pixels of each class each of `rows` equal parts of the target has, (rows, classes); or the error for the first label that
/// is no class and not ignored. `narrowed` is as for [`count_labels`].
pub fn count_rows(
    target: View<'_>,
    rows: usize,
    classes: usize,
    ignore_index: i64,
    narrowed: Option<View<'_>>,
    threads: usize,
    instruction_set: InstructionSet,
) -> Result<Vec<u64>> {
    if let Some(view) = narrowed {
        let shape = [view.samples, view.pixels];
        expect_shape("narrowed", &shape, &[target.samples, target.pixels], "that of target")?;
        if view.dtype() != DType::UInt8 || view.strides[2] != 1 || view.strides[0] != view.pixels as isize {
            return Err(Error::type_("narrowed", view.dtype().name(), "contiguous uint8"));
        }
        if classes > MAX_COMPARED {
            return Err(Error::value("narrowed", format!("{classes} classes"), format!("at most {MAX_COMPARED}")));
        }
    }
    let row_pixels = target.samples * target.pixels / rows.max(1);
    let jobs = row_pixels.div_ceil(JOB);
    let results = pool::run(
        threads,
        rows * jobs,
        || (),
        |(), job| {
            let (row, from) = (job / jobs, job % jobs * JOB);
            let (from, to) = (row * row_pixels + from, row * row_pixels + row_pixels.min(from + JOB));
            let mut counts = vec![0u64; classes];
            let count = Count { target, ignore_index, from, to, counts: &mut counts, narrowed };
            let bad = f32::dispatch(instruction_set, count);
            (row, counts, bad)
        },
    );
    let mut counts = vec![0u64; rows * classes];
    for (row, partial, bad) in results {
        if let Some((pixel, label)) = bad {
            let position = vec![pixel / target.pixels, pixel % target.pixels];
            return Err(Error::Label { label, position, classes, ignore_index });
        }
        counts[row * classes..].iter_mut().zip(partial).for_each(|(sum, n)| *sum += n);
    }
    Ok(counts)
}

/// Count the labels of `from..to`, as [`labels::count`] does.
struct Count<'a, 'b> {
    /// The labels, (N, pixels).
    target: View<'a>,
    /// The label of ignored pixels.
    ignore_index: i64,
    /// The first pixel.
    from: usize,
    /// The one behind the last.
    to: usize,
    /// One count a class.
    counts: &'b mut [u64],
    /// Where the labels go as bytes: contiguous, of the target's shape.
    narrowed: Option<View<'a>>,
}

impl Work<f32> for Count<'_, '_> {
    /// (pixel, label) of the first label that is no class.
    type Output = Option<(usize, i64)>;

    #[inline(always)]
    fn run<V: Vector<Element = f32>>(self) -> Self::Output {
        let Self { target, ignore_index, from, to, counts, narrowed } = self;
        let mut position = from;
        while position < to {
            let (sample, pixel) = (position / target.pixels, position % target.pixels);
            let len = (target.pixels - pixel).min(to - position);
            let stride = target.strides[2];
            // SAFETY: the pixels lie in the views, and no other job has them.
            let bad = unsafe {
                let bytes = narrowed.map_or(std::ptr::null_mut(), |view| view.at::<u8>(sample, 0, pixel));
                with_labels!(target, |L| {
                    let from = target.at::<L>(sample, 0, pixel);
                    labels::count(from, stride, len, ignore_index, counts, bytes)
                        .map(|i| (position + i, from.offset(i as isize * stride).read_unaligned().to_i64()))
                })
            };
            if bad.is_some() {
                return bad;
            }
            position += len;
        }
        None
    }
}
