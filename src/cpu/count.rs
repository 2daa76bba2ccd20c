//! Counting and checking all labels of a target, on several threads.

use super::labels::{self, Label, MAX_COMPARED, with_labels};
use super::pool;
use super::simd::{Element, InstructionSet, Vector, Work};
use crate::tensor::{DType, View, expect_shape};
use crate::{Error, Result};

/// Labels of one job at most.
const JOB: usize = 1 << 15;
/// And at least.
const LEAST_JOB: usize = 1 << 12;

/// How many pixels of each class the target has; or the error for the first label that is no class and not ignored.
pub fn count_labels(target: View<'_>, classes: usize, ignore_index: i64, threads: usize) -> Result<Vec<u64>> {
    let threads = if target.samples * target.pixels < JOB { 1 } else { threads };
    count_rows(target, 1, classes, ignore_index, None, threads, InstructionSet::best())
}

/// How many pixels of each class each of `rows` equal parts of the target has, (rows, classes); or the error for the first label that
/// is no class and not ignored. `narrowed`, (N, pixels) bytes, is filled with the labels, and [`labels::IGNORED`] for ignored pixels.
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
        check_narrowed(&target, &view, classes)?;
    }
    let row_pixels = target.samples * target.pixels / rows.max(1);
    let job_pixels = (row_pixels / pool::JOBS).next_multiple_of(LEAST_JOB).clamp(LEAST_JOB, JOB);
    let jobs = row_pixels.div_ceil(job_pixels);
    let results = pool::run(
        threads,
        rows * jobs,
        || (),
        |(), job| {
            let (row, from) = (job / jobs, job % jobs * job_pixels);
            let (from, to) = (row * row_pixels + from, row * row_pixels + row_pixels.min(from + job_pixels));
            let mut counts = vec![0u64; classes];
            let count = Count { target, ignore_index, from, to, counts: &mut counts, narrowed };
            let bad = f32::dispatch(instruction_set, count);
            (row, counts, bad)
        },
    );
    let mut counts = vec![0u64; rows * classes];
    for (row, partial, bad) in results {
        if let Some(bad) = bad {
            return Err(wrong_label(bad, &target, classes, ignore_index));
        }
        counts[row * classes..].iter_mut().zip(partial).for_each(|(sum, n)| *sum += n);
    }
    Ok(counts)
}

/// Labels of that target can become bytes, and there is a byte for each.
pub fn check_narrowed(target: &View<'_>, narrowed: &View<'_>, classes: usize) -> Result<()> {
    let shape = [narrowed.samples, narrowed.pixels];
    expect_shape("narrowed", &shape, &[target.samples, target.pixels], "that of target")?;
    if narrowed.dtype() != DType::UInt8 || narrowed.strides[2] != 1 || narrowed.strides[0] != narrowed.pixels as isize {
        return Err(Error::type_("narrowed", narrowed.dtype().name(), "contiguous uint8"));
    }
    if classes > MAX_COMPARED {
        return Err(Error::value("narrowed", format!("{classes} classes"), format!("at most {MAX_COMPARED}")));
    }
    Ok(())
}

/// A label that is no class, and the pixel, counted through all samples, that has it.
pub type WrongLabel = (usize, i64);

/// The error for it.
pub fn wrong_label((pixel, label): WrongLabel, target: &View<'_>, classes: usize, ignore_index: i64) -> Error {
    let position = vec![pixel / target.pixels, pixel % target.pixels];
    Error::Label { label, position, classes, ignore_index }
}

/// Count the labels of `from..to`, as [`labels::count`] does.
pub struct Count<'a, 'b> {
    /// The labels, (N, pixels).
    pub target: View<'a>,
    /// The label of ignored pixels.
    pub ignore_index: i64,
    /// The first pixel.
    pub from: usize,
    /// The one behind the last.
    pub to: usize,
    /// One count a class.
    pub counts: &'b mut [u64],
    /// Where the labels go as bytes: contiguous, of the target's shape.
    pub narrowed: Option<View<'a>>,
}

impl Work<f32> for Count<'_, '_> {
    /// The first one.
    type Output = Option<WrongLabel>;

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
