//! A full-size target for a smaller map of logits: nearest, majority, or class shares of the window behind each pixel.

use std::ops::Range;

use super::labels::{Label, with_labels};
use super::pool;
use super::simd::{Element, InstructionSet, Vector, Work};
use crate::loss::resize::IGNORED;
use crate::tensor::{DType, View};

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
    /// The label of each pixel's nearest neighbour, (N, height, width).
    pub fn nearest(&self) -> Vec<i32> {
        let width = self.to[1];
        let columns: Vec<usize> = (0..width).map(|x| nearest(x, self.from[1], width)).collect();
        let rows = self.rows(|_, sample, y| {
            let start = nearest(y, self.from[0], self.to[0]) * self.from[1];
            // The type is matched once a row, not once a pixel.
            with_labels!(self.target, |L| {
                columns.iter().map(|&x| self.label::<L>(sample, start + x)).collect::<Vec<_>>()
            })
        });
        rows.concat()
    }

    /// The most frequent class of each pixel's window, (N, height, width), [`IGNORED`] where nothing in it is valid. `totals` are the
    /// pixels of each class in the batch.
    pub fn majority(&self, totals: &[u64]) -> Vec<i32> {
        let rows = self.rows(|windows, sample, y| {
            let mut row = vec![IGNORED; self.to[1]];
            self.windows(windows, totals.len(), sample, y, |x, counts, valid| {
                if valid > 0 {
                    row[x] = most(counts, totals);
                }
            });
            row
        });
        rows.concat()
    }

    /// (N, C, height, width) class shares, and (N, height, width) labels that say which pixels have any: 0, or [`IGNORED`] where nothing in
    /// the window is valid and every share is 0.
    pub fn shares<T: Element>(&self, classes: usize) -> (Vec<T>, Vec<i32>) {
        let [height, width] = self.to;
        let rows = self.rows(|windows, sample, y| {
            let mut shares = vec![T::default(); classes * width];
            let mut labels = vec![IGNORED; width];
            self.windows(windows, classes, sample, y, |x, counts, valid| {
                if valid > 0 {
                    labels[x] = 0;
                    for (class, &count) in counts.iter().enumerate() {
                        shares[class * width + x] = T::from_f64(f64::from(count) / f64::from(valid));
                    }
                }
            });
            (shares, labels)
        });
        // (N, height, C, width) to (N, C, height, width).
        let mut shares = vec![T::default(); rows.len() * classes * width];
        for (row, (part, _)) in rows.iter().enumerate() {
            for class in 0..classes {
                let to = ((row / height * classes + class) * height + row % height) * width;
                shares[to..][..width].copy_from_slice(&part[class * width..][..width]);
            }
        }
        (shares, rows.into_iter().flat_map(|(_, labels)| labels).collect())
    }

    /// `fill(windows, sample, y)` for every row of the smaller map, on several threads.
    fn rows<R: Send>(&self, fill: impl Fn(&mut Windows, usize, usize) -> R + Sync) -> Vec<R> {
        let height = self.to[0];
        let small = self.target.samples * self.target.pixels < 1 << 15;
        let threads = if small { 1 } else { self.threads };
        pool::run(threads, self.target.samples * height, Windows::default, |windows, job| {
            fill(windows, job / height, job % height)
        })
    }

    /// `each(x, counts of the classes, valid pixels)` for the windows behind a row of the smaller map.
    fn windows(
        &self,
        windows: &mut Windows,
        classes: usize,
        sample: usize,
        y: usize,
        mut each: impl FnMut(usize, &[u32], u32),
    ) {
        let rows = window(y, self.from[0], self.to[0]);
        let packed = rows.len() <= MAX_ROWS && rows.len() * (self.from[1].div_ceil(self.to[1]) + 1) <= MAX_PIXELS;
        windows.counts.resize(classes, 0);
        if packed {
            windows.columns.clear();
            windows.columns.resize(classes.div_ceil(PACKED) * self.from[1], 0);
            let (target, ignore_index, to) = (self.target, self.ignore_index, &mut windows.columns);
            let columns = Columns { target, sample, rows: rows.clone(), ignore_index, width: self.from[1], to };
            f32::dispatch(InstructionSet::best(), columns);
        }
        for x in 0..self.to[1] {
            let columns = window(x, self.from[1], self.to[1]);
            if packed {
                windows.add_columns(self.from[1], columns);
            } else {
                self.count(&mut windows.counts, sample, rows.clone(), columns);
            }
            each(x, &windows.counts, windows.counts.iter().sum());
        }
    }

    /// The counts of a window, pixel by pixel.
    fn count(&self, counts: &mut [u32], sample: usize, rows: Range<usize>, columns: Range<usize>) {
        counts.fill(0);
        with_labels!(self.target, |L| for row in rows {
            for column in columns.clone() {
                let label = self.label::<L>(sample, row * self.from[1] + column);
                if label != IGNORED {
                    counts[label as usize] += 1;
                }
            }
        });
    }

    /// A label, [`IGNORED`] if it is `ignore_index`; L is the type that `with_labels` gives.
    fn label<L: Label>(&self, sample: usize, pixel: usize) -> i32 {
        // SAFETY: sample and pixel lie in the view, whose labels are of this type.
        let label = unsafe { self.target.at::<L>(sample, 0, pixel).read_unaligned() };
        if label.to_i64() == self.ignore_index { IGNORED } else { label.to_i32() }
    }
}

/// The class with the largest count; of several, the one with the fewest pixels in the batch, then the last.
fn most(counts: &[u32], totals: &[u64]) -> i32 {
    let largest = counts.iter().copied().max().expect("there is a class");
    let mut most = (0..counts.len()).filter(|&class| counts[class] == largest);
    let first = most.next().expect("one has the largest count");
    most.fold(first, |best, class| if totals[class] <= totals[best] { class } else { best }) as i32
}

/// Classes counted in one word, a byte each.
const PACKED: usize = 8;
/// Rows that a byte can count.
const MAX_ROWS: usize = 0xff;
/// Pixels that two bytes can count.
const MAX_PIXELS: usize = 0xffff;

/// Counts of one row of windows.
#[derive(Default)]
struct Windows {
    /// (words, columns): how often each class occurs in each column of the full-size target, among the rows of the windows.
    columns: Vec<u64>,
    /// Of one window.
    counts: Vec<u32>,
}

impl Windows {
    /// The counts of a window from those of its columns, of which there are `width` in all.
    fn add_columns(&mut self, width: usize, window: Range<usize>) {
        const EVEN: u64 = 0x00ff_00ff_00ff_00ff;
        for (columns, counts) in self.columns.chunks_exact(width).zip(self.counts.chunks_mut(PACKED)) {
            // Two bytes for each class, so that they do not overflow.
            let mut halves = [0; 2];
            for column in &columns[window.clone()] {
                halves[0] += column & EVEN;
                halves[1] += (column >> 8) & EVEN;
            }
            for (class, count) in counts.iter_mut().enumerate() {
                *count = u32::from((halves[class % 2] >> (16 * (class / 2))) as u16);
            }
        }
    }
}

/// Add the labels of rows of a target to the counts of each column.
struct Columns<'a, 'b> {
    /// The target, (N, pixels); every label was checked.
    target: View<'a>,
    sample: usize,
    rows: Range<usize>,
    ignore_index: i64,
    /// Columns.
    width: usize,
    /// (words, columns)
    to: &'b mut [u64],
}

impl Work<f32> for Columns<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector<Element = f32>>(self) {
        let Self { target, sample, rows, ignore_index, width, to } = self;
        let stride = target.strides[2];
        for row in rows {
            for (word, to) in to.chunks_exact_mut(width).enumerate() {
                let first = word * PACKED;
                // SAFETY: the row lies in the view.
                unsafe {
                    with_labels!(target, |L| {
                        let from = target.at::<L>(sample, 0, row * width).cast_const();
                        // Apart, so that the usual one becomes vector code.
                        if stride == 1 {
                            count_row(from, 1, ignore_index, first, to);
                        } else {
                            count_row(from, stride, ignore_index, first, to);
                        }
                    });
                }
            }
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

/// The index that nearest-exact picks: floor((i + 0.5) from / to), with torch's single-precision scale.
fn nearest(i: usize, from: usize, to: usize) -> usize {
    let scale = from as f32 / to as f32;
    let source = ((i as f64 + 0.5) * f64::from(scale)) as f32;
    (source.floor() as usize).min(from - 1)
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

    #[test]
    fn a_small_building_survives_a_tie() {
        let mut labels = [0, 0, 1, 1, 255, 255, 255, 2];
        let resize = resize(&mut labels, [2, 4], [1, 2]);
        // Left: two of class 0, nothing else valid. Right: two of class 1, one of class 2.
        assert_eq!(resize.majority(&[2, 2, 1]), [0, 1]);
        assert_eq!(resize.shares::<f64>(3), (vec![1.0, 0.0, 0.0, 2.0 / 3.0, 0.0, 1.0 / 3.0], vec![0, 0]));
    }

    #[test]
    fn ties_go_to_the_rarer_class() {
        let mut labels = [0, 1, 1, 0];
        assert_eq!(resize(&mut labels, [2, 2], [1, 1]).majority(&[5, 9]), [0]);
        assert_eq!(resize(&mut labels, [2, 2], [1, 1]).majority(&[9, 5]), [1]);
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
        for from in [[255, 256], [256, 255], [257, 3], [3, 70_000], [255, 300]] {
            let mut labels: Vec<u8> = (0..from[0] * from[1]).map(|i| u8::from(i % 1000 == 0)).collect();
            check_windows(&mut labels, from, [1, 1], 2, -100);
        }
    }

    fn check_windows(labels: &mut [u8], from: [usize; 2], to: [usize; 2], classes: usize, ignore_index: i64) {
        let resize = Resize { ignore_index, ..resize(labels, from, to) };
        for y in 0..to[0] {
            resize.windows(&mut Windows::default(), classes, 0, y, |x, got, valid| {
                let mut expected = vec![0; classes];
                resize.count(&mut expected, 0, window(y, from[0], to[0]), window(x, from[1], to[1]));
                assert_eq!(got, expected, "{y}, {x}");
                assert_eq!(valid, expected.iter().sum::<u32>());
            });
        }
    }
}
