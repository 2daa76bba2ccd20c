//! A full-size target for a smaller map of logits: nearest, majority, or class shares of the window behind each pixel.

mod nearest;

use std::cmp::Reverse;
use std::ops::Range;

use super::labels::{Label, with_labels};
use super::pool;
use super::simd::{Element, InstructionSet, Vector, Work};
use crate::loss::resize::IGNORED;
use crate::tensor::{DType, View, expect_shape};
use crate::{Error, Result};

/// (N, height, width) labels, and the sizes to bring them to.
pub struct Resize<'a> {
    /// The labels, (N, height * width).
    pub target: View<'a>,
    /// Their height and width.
    pub from: [usize; 2],
    /// The height and width of the logits.
    pub to: [usize; 2],
    /// The label of ignored pixels. Every other one was checked to be a class.
    pub ignore_index: i64,
    /// The largest number of threads.
    pub threads: usize,
}

impl Resize<'_> {
    /// The most frequent class of each pixel's window, into (N, height * width) of int32, [`IGNORED`] where nothing in it is valid.
    /// Of several, it is the one with the fewest pixels in the batch, then the last. `totals` are the pixels of each class in the batch.
    pub fn majority(&self, totals: &[u64], to: View<'_>) -> Result<()> {
        let mut order: Vec<usize> = (0..totals.len()).collect();
        order.sort_by_key(|&class| (totals[class], Reverse(class)));
        self.label_rows(to, self.target.samples * self.target.pixels, |windows, sample, y, row| {
            self.count_windows(windows, totals.len(), sample, y);
            f32::dispatch(InstructionSet::best(), Majority { counts: &windows.counts, order: &order, to: row });
        })
    }

    /// (N, C, height, width) class shares, and (N, height, width) labels that say which pixels have any: 0, or [`IGNORED`] where nothing in
    /// the window is valid and every share is 0.
    pub fn shares<T: Element>(&self, classes: usize) -> (Vec<T>, Vec<i32>) {
        let [height, width] = self.to;
        let shape = [self.target.samples, classes, height * width];
        let strides = [(classes * height * width) as isize, (height * width) as isize, 1];
        let mut shares = vec![T::default(); shape.iter().product()];
        // SAFETY: the vector has this shape and outlives the view.
        let view = unsafe { View::new(shares.as_mut_ptr().cast(), T::DTYPE, &shape, &strides, true) };
        let view = view.expect("contiguous");
        let label_shape = [shape[0], shape[2]];
        let mut labels = vec![0; label_shape[0] * label_shape[1]];
        let (pointer, label_strides) = (labels.as_mut_ptr().cast(), [shape[2] as isize, 1]);
        // SAFETY: as above.
        let to = unsafe { View::new(pointer, DType::Int32, &label_shape, &label_strides, false) }.expect("contiguous");
        let done = self.label_rows(to, self.target.samples * self.target.pixels, |windows, sample, y, labels| {
            self.count_windows(windows, classes, sample, y);
            for class in 0..classes {
                let counts = &windows.counts[class * width..][..width];
                // SAFETY: the row lies in the vector, and only this job has it.
                let to = unsafe { std::slice::from_raw_parts_mut(view.at::<T>(sample, class, y * width), width) };
                f32::dispatch(InstructionSet::best(), Shares { counts, valid: &windows.valid, to });
            }
            for (label, &valid) in labels.iter_mut().zip(&windows.valid) {
                *label = if valid > 0 { 0 } else { IGNORED };
            }
        });
        done.expect("they have that shape");
        (shares, labels)
    }

    /// `fill(windows, sample, y, row)` for every row of labels of the smaller map, [`IGNORED`] so far, on several threads if
    /// that many labels to read are worth it.
    fn label_rows(
        &self,
        to: View<'_>,
        reads: usize,
        fill: impl Fn(&mut Windows, usize, usize, &mut [i32]) + Sync,
    ) -> Result<()> {
        let [height, width] = self.to;
        expect_shape("labels", &[to.samples, to.pixels], &[self.target.samples, height * width], "that of the logits")?;
        if to.dtype() != DType::Int32 || to.strides[2] != 1 {
            return Err(Error::type_("labels", to.dtype().name(), "contiguous int32"));
        }
        let threads = if reads < SERIAL_READS { 1 } else { self.threads };
        let rows_a_job = (JOB_PIXELS * height / self.target.pixels.max(1)).clamp(1, height.max(1));
        let jobs = height.div_ceil(rows_a_job);
        pool::run(threads, self.target.samples * jobs, Windows::default, |windows, job| {
            let (sample, first) = (job / jobs, job % jobs * rows_a_job);
            for y in first..height.min(first + rows_a_job) {
                // SAFETY: the row lies in the view, and only this job has it; its memory may be new.
                let row = unsafe {
                    let row = to.at::<i32>(sample, 0, y * width);
                    (0..width).for_each(|x| row.add(x).write(IGNORED));
                    std::slice::from_raw_parts_mut(row, width)
                };
                fill(windows, sample, y, row);
            }
        });
        Ok(())
    }

    /// The counts of the windows behind row y of the smaller map.
    fn count_windows(&self, windows: &mut Windows, classes: usize, sample: usize, y: usize) {
        let width = self.to[1];
        let rows = window(y, self.from[0], self.to[0]);
        let clear = |counts: &mut Vec<u32>, len: usize| {
            counts.clear();
            counts.resize(len, 0);
        };
        clear(&mut windows.counts, classes * width);
        clear(&mut windows.valid, width);
        let countable = MAX_ROWS.min(MAX_PIXELS / (self.from[1].div_ceil(width) + 1));
        if countable > 0 {
            if windows.bounds.is_empty() {
                windows.bounds.extend((0..width).map(|x| window(x, self.from[1], width)));
            }
            windows.sums.iter_mut().for_each(|sums| sums.resize(width, 0));
            let (target, ignore_index) = (self.target, self.ignore_index);
            for start in rows.clone().step_by(countable) {
                windows.columns.clear();
                windows.columns.resize(classes.div_ceil(PACKED) * self.from[1], 0);
                let rows = start..rows.end.min(start + countable);
                f32::dispatch(
                    InstructionSet::best(),
                    Packed { target, sample, rows, ignore_index, from: self.from[1], width, windows },
                );
            }
            return;
        }
        for x in 0..width {
            let columns = window(x, self.from[1], width);
            with_labels!(self.target, |L| for pixel in
                rows.clone().flat_map(|row| columns.clone().map(move |column| row * self.from[1] + column))
            {
                let label = self.label::<L>(sample, pixel);
                // Also what is no class: somebody may have changed the labels since they were counted.
                if (label as usize) < classes {
                    windows.counts[label as usize * width + x] += 1;
                    windows.valid[x] += 1;
                }
            });
        }
    }

    /// A label, [`IGNORED`] if it is `ignore_index`; L is the type that `with_labels` gives.
    fn label<L: Label>(&self, sample: usize, pixel: usize) -> i32 {
        // SAFETY: sample and pixel lie in the view, whose labels are of this type.
        self.valid(unsafe { self.target.at::<L>(sample, 0, pixel).read_unaligned() })
    }

    /// The label, [`IGNORED`] if it is `ignore_index`.
    fn valid<L: Label>(&self, label: L) -> i32 {
        if label.to_i64() == self.ignore_index { IGNORED } else { label.to_i32() }
    }
}

/// Rows of the smaller map are done together until they have about this many pixels of the target behind them.
const JOB_PIXELS: usize = 1 << 14;
/// Fewer labels are not worth waking a thread for.
const SERIAL_READS: usize = 1 << 17;
/// Classes counted in one word, a byte each.
const PACKED: usize = 8;
/// The bytes of classes of even number; each has room for another.
const EVEN: u64 = 0x00ff_00ff_00ff_00ff;
/// Windows whose majority is looked for at a time.
const BLOCK: usize = 64;
/// Rows that a byte can count.
const MAX_ROWS: usize = 0xff;
/// Pixels that two bytes can count.
const MAX_PIXELS: usize = 0xffff;

/// Counts of one row of windows.
#[derive(Default)]
struct Windows {
    /// (words, columns): how often each class occurs in each column of the full-size target, among the rows of the windows.
    columns: Vec<u64>,
    /// The columns of each window; the same in every row.
    bounds: Vec<Range<usize>>,
    /// Sums of columns over each window, for classes of even and of odd number.
    sums: [Vec<u64>; 2],
    /// (C, width): of each window.
    counts: Vec<u32>,
    /// (width): their sum.
    valid: Vec<u32>,
}

/// Add the classes of some rows of a row of windows to its counts, eight in a word.
struct Packed<'a, 'b> {
    /// The target, (N, pixels); every label was checked.
    target: View<'a>,
    sample: usize,
    rows: Range<usize>,
    ignore_index: i64,
    /// Columns of the target.
    from: usize,
    /// Windows.
    width: usize,
    /// Whose columns are cleared.
    windows: &'b mut Windows,
}

impl Work<f32> for Packed<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector<Element = f32>>(self) {
        let Self { target, sample, rows, ignore_index, from: columns, width, windows } = self;
        let stride = target.strides[2];
        let classes = windows.counts.len() / width.max(1);
        // Plain index loops: iterator adapters are not always inlined into a function of another instruction set.
        for word in 0..classes.div_ceil(PACKED) {
            let first = word * PACKED;
            let packed = &mut windows.columns[word * columns..][..columns];
            for row in rows.start..rows.end {
                // SAFETY: the row lies in the view.
                unsafe {
                    with_labels!(target, |L| {
                        let from = target.at::<L>(sample, 0, row * columns).cast_const();
                        // Apart, so that the usual one becomes vector code.
                        if stride == 1 {
                            count_row(from, 1, ignore_index, first, packed);
                        } else {
                            count_row(from, stride, ignore_index, first, packed);
                        }
                    });
                }
            }
            for x in 0..width {
                // Two bytes for each class, so that they do not overflow.
                let (mut even, mut odd) = (0, 0);
                for &column in &packed[windows.bounds[x].clone()] {
                    even += column & EVEN;
                    odd += column >> 8 & EVEN;
                }
                windows.sums[0][x] = even;
                windows.sums[1][x] = odd;
            }
            for class in first..classes.min(first + PACKED) {
                let (sums, shift) = (&windows.sums[class % 2][..width], 16 * ((class - first) / 2));
                let (counts, valid) = (&mut windows.counts[class * width..][..width], &mut windows.valid[..width]);
                for x in 0..width {
                    let count = u32::from((sums[x] >> shift) as u16);
                    counts[x] += count;
                    valid[x] += count;
                }
            }
        }
    }
}

/// The most frequent class of each window of a row.
struct Majority<'a> {
    /// (C, width)
    counts: &'a [u32],
    /// Classes, those first that win ties.
    order: &'a [usize],
    /// Holds [`IGNORED`].
    to: &'a mut [i32],
}

impl Work<f32> for Majority<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector<Element = f32>>(self) {
        let Self { counts, order, to } = self;
        let width = to.len();
        // A block's largest counts stay in registers.
        let mut largest = [0u32; BLOCK];
        for start in (0..width).step_by(BLOCK) {
            let len = BLOCK.min(width - start);
            let to = &mut to[start..][..len];
            largest[..len].fill(0);
            for &class in order {
                let counts = &counts[class * width + start..][..len];
                for x in 0..len {
                    let more = counts[x] > largest[x];
                    largest[x] = if more { counts[x] } else { largest[x] };
                    to[x] = if more { class as i32 } else { to[x] };
                }
            }
        }
    }
}

/// The shares that a class has of each window of a row.
struct Shares<'a, T> {
    /// (width)
    counts: &'a [u32],
    /// (width): of all classes.
    valid: &'a [u32],
    to: &'a mut [T],
}

impl<T: Element> Work<f32> for Shares<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector<Element = f32>>(self) {
        let Self { counts, valid, to } = self;
        for x in 0..to.len().min(counts.len()).min(valid.len()) {
            // Nothing of nothing is 0.
            to[x] = T::from_f64(f64::from(counts[x]) / f64::from(valid[x].max(1)));
        }
    }
}

/// Count the labels `first..first + PACKED` of a row, a byte each.
///
/// # Safety
/// `to.len()` labels, `stride` elements apart, must be readable.
#[inline(always)]
unsafe fn count_row<L: Label>(from: *const L, stride: isize, ignore_index: i64, first: usize, to: &mut [u64]) {
    // A plain index loop: iterator adapters are not always inlined into a function of another instruction set.
    #[allow(clippy::needless_range_loop)]
    for x in 0..to.len() {
        // SAFETY: x < to.len().
        let label = unsafe { from.offset(x as isize * stride).read_unaligned() }.to_i64();
        let byte = (label as u64).wrapping_sub(first as u64);
        let counts = label != ignore_index && byte < PACKED as u64;
        to[x] += u64::from(counts) << (8 * (byte % PACKED as u64));
    }
}

/// The window of adaptive pooling: floor(i from / to) to ceil((i + 1) from / to).
fn window(i: usize, from: usize, to: usize) -> Range<usize> {
    i * from / to..((i + 1) * from).div_ceil(to)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn resize(labels: &mut [u8], from: [usize; 2], to: [usize; 2]) -> Resize<'_> {
        let shape = [1, from[0], from[1]];
        let strides = [(from[0] * from[1]) as isize, from[1] as isize, 1];
        // SAFETY: the slice has this shape.
        let target = unsafe { View::new(labels.as_mut_ptr(), DType::UInt8, &shape, &strides, false) }.unwrap();
        Resize { target, from, to, ignore_index: 255, threads: 1 }
    }

    fn majority(resize: &Resize<'_>, totals: &[u64]) -> Vec<i32> {
        let shape = [1, resize.to[0] * resize.to[1]];
        let mut labels = vec![7; shape[1]];
        // SAFETY: the vector has this shape and outlives the view.
        let view =
            unsafe { View::new(labels.as_mut_ptr().cast(), DType::Int32, &shape, &[shape[1] as isize, 1], false) };
        resize.majority(totals, view.unwrap()).unwrap();
        labels
    }

    #[test]
    fn labels_that_were_changed_since_they_were_checked_are_no_addresses() {
        // Windows too wide for the packed counts, and narrow ones.
        for width in [70_000, 8] {
            let mut labels = vec![0; width];
            labels[5] = 200;
            labels[6] = 1;
            let resize = resize(&mut labels, [1, width], [1, 1]);
            let valid = (width - 1) as f64;
            let (shares, ignored) = resize.shares::<f64>(3);
            assert_eq!((shares, ignored), (vec![(valid - 1.0) / valid, 1.0 / valid, 0.0], vec![0]));
        }
    }

    #[test]
    fn a_small_building_survives_a_tie() {
        let mut labels = [0, 0, 1, 1, 255, 255, 255, 2];
        let resize = resize(&mut labels, [2, 4], [1, 2]);
        // Left: two of class 0, nothing else valid. Right: two of class 1, one of class 2.
        assert_eq!(majority(&resize, &[2, 2, 1]), [0, 1]);
        assert_eq!(resize.shares::<f64>(3), (vec![1.0, 0.0, 0.0, 2.0 / 3.0, 0.0, 1.0 / 3.0], vec![0, 0]));
    }

    #[test]
    fn ties_go_to_the_rarer_class() {
        let mut labels = [0, 1, 1, 0];
        assert_eq!(majority(&resize(&mut labels, [2, 2], [1, 1]), &[5, 9]), [0]);
        assert_eq!(majority(&resize(&mut labels, [2, 2], [1, 1]), &[9, 5]), [1]);
        assert_eq!(majority(&resize(&mut [255; 4], [2, 2], [1, 1]), &[9, 5]), [IGNORED]);
    }

    #[test]
    fn windows_cover_every_pixel() {
        for (from, to) in [(7, 3), (8, 2), (5, 5), (3, 7), (100, 1)] {
            let windows: Vec<_> = (0..to).map(|i| window(i, from, to)).collect();
            assert!((0..from).all(|pixel| windows.iter().any(|w| w.contains(&pixel))), "{from} to {to}");
            assert!(windows.iter().all(|w| !w.is_empty() && w.end <= from), "{from} to {to}");
        }
    }

    proptest! {
        #[test]
        fn packed_counts_equal_those_pixel_by_pixel(
            labels in prop::collection::vec(0u8..20, 1..4000),
            width in 1usize..300,
            to in (1usize..40, 1usize..40),
            classes in 1usize..20,
            ignore_index in prop::sample::select(vec![-100, 0, 3, 8, 255]),
        ) {
            let mut labels: Vec<u8> = labels.iter().map(|&label| label % classes as u8).collect();
            let from = [labels.len().div_ceil(width), width];
            labels.resize(from[0] * width, if ignore_index == 255 { 255 } else { 0 });
            check_windows(&mut labels, from, [to.0, to.1], classes, ignore_index);
        }
    }

    #[test]
    fn windows_of_many_pixels_are_counted() {
        for from in [[255, 256], [256, 255], [257, 3], [3, 70_000], [255, 300], [600, 300]] {
            let mut labels: Vec<u8> = (0..from[0] * from[1]).map(|i| u8::from(i % 1000 == 0)).collect();
            check_windows(&mut labels, from, [1, 1], 2, -100);
        }
    }

    fn check_windows(labels: &mut [u8], from: [usize; 2], to: [usize; 2], classes: usize, ignore_index: i64) {
        let resize = Resize { ignore_index, ..resize(labels, from, to) };
        let mut windows = Windows::default();
        for y in 0..to[0] {
            resize.count_windows(&mut windows, classes, 0, y);
            for x in 0..to[1] {
                let mut expected = vec![0; classes];
                for row in window(y, from[0], to[0]) {
                    for column in window(x, from[1], to[1]) {
                        let label = resize.label::<u8>(0, row * from[1] + column);
                        if label != IGNORED {
                            expected[label as usize] += 1;
                        }
                    }
                }
                let got: Vec<u32> = windows.counts.chunks_exact(to[1]).map(|counts| counts[x]).collect();
                assert_eq!(got, expected, "{y}, {x}");
                assert_eq!(windows.valid[x], expected.iter().sum::<u32>());
            }
        }
    }
}
