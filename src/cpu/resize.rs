//! A full-size target for a smaller map of logits: nearest, majority, or class shares of the window behind each pixel.

use super::labels::{Label, with_labels};
use super::pool;
use super::simd::Element;
use crate::loss::resize::{IGNORED, TargetMode};
use crate::tensor::{DType, View};

/// (N, height, width) labels, and the sizes to bring them to.
pub struct Resize<'a> {
    /// The labels, (N, height * width).
    pub target: View<'a>,
    /// Their height and width.
    pub from: [usize; 2],
    /// The height and width of the logits.
    pub to: [usize; 2],
    /// The label of ignored pixels.
    pub ignore_index: i64,
    /// Pixels of each class in the batch; every label was checked.
    pub counts: &'a [u64],
    /// The largest number of threads.
    pub threads: usize,
}

impl Resize<'_> {
    /// (N, height, width) labels, [`IGNORED`] where nothing in the window is valid.
    pub fn labels(&self, mode: TargetMode) -> Vec<i32> {
        match mode {
            TargetMode::Nearest => {
                let columns: Vec<usize> = (0..self.to[1]).map(|x| nearest(x, self.from[1], self.to[1])).collect();
                self.rows(1, |sample, y, row| {
                    let start = nearest(y, self.from[0], self.to[0]) * self.from[1];
                    for (slot, &x) in row.iter_mut().zip(&columns) {
                        *slot = self.label(sample, start + x);
                    }
                })
            }
            _ => self.rows(1, |sample, y, row| {
                self.windows(sample, y, |x, counts, valid| {
                    row[x] = if valid == 0 { IGNORED } else { self.most(counts) }
                });
            }),
        }
    }

    /// (N, C, height, width) class shares; 0 for every class where nothing in the window is valid.
    pub fn shares<T: Element>(&self) -> Vec<T> {
        let (classes, [height, width]) = (self.counts.len(), self.to);
        let by_row = self.rows(classes, |sample, y, row: &mut [T]| {
            self.windows(sample, y, |x, counts, valid| {
                for (class, &count) in counts.iter().enumerate() {
                    row[class * width + x] = T::from_f64(f64::from(count) / f64::from(valid.max(1)));
                }
            });
        });
        // (N, height, C, width) to (N, C, height, width).
        let mut shares = vec![T::default(); by_row.len()];
        for (from, row) in by_row.chunks_exact(width.max(1)).enumerate() {
            let (sample, y, class) = (from / (height * classes), from / classes % height, from % classes);
            shares[((sample * classes + class) * height + y) * width..][..width].copy_from_slice(row);
        }
        shares
    }

    /// A label for each pixel of [`Resize::shares`]: 0 where it has any, [`IGNORED`] where nothing in its window is valid.
    pub fn valid<T: Element>(&self, shares: &[T]) -> Vec<i32> {
        let pixels = self.to[0] * self.to[1];
        let mut valid = vec![IGNORED; self.target.samples * pixels];
        for (i, share) in shares.iter().enumerate() {
            if share.to_f64() > 0.0 {
                valid[i / (self.counts.len() * pixels) * pixels + i % pixels] = 0;
            }
        }
        valid
    }

    /// `fill(sample, y, row)` for every row of `depth` times the width, on several threads.
    fn rows<R: Copy + Default + Send>(&self, depth: usize, fill: impl Fn(usize, usize, &mut [R]) + Sync) -> Vec<R> {
        let [height, width] = self.to;
        let small = self.target.samples * self.target.pixels < 1 << 15;
        let rows = pool::run(
            if small { 1 } else { self.threads },
            self.target.samples * height,
            || (),
            |(), job| {
                let mut row = vec![R::default(); depth * width];
                fill(job / height, job % height, &mut row);
                row
            },
        );
        rows.concat()
    }

    /// `each(x, counts of the classes, valid pixels)` for the windows behind a row of the smaller map.
    fn windows(&self, sample: usize, y: usize, mut each: impl FnMut(usize, &[u32], u32)) {
        let mut counts = vec![0u32; self.counts.len()];
        let rows = window(y, self.from[0], self.to[0]);
        for x in 0..self.to[1] {
            counts.fill(0);
            let mut valid = 0;
            for row in rows.clone() {
                for column in window(x, self.from[1], self.to[1]) {
                    let label = self.label(sample, row * self.from[1] + column);
                    if label != IGNORED {
                        counts[label as usize] += 1;
                        valid += 1;
                    }
                }
            }
            each(x, &counts, valid);
        }
    }

    fn label(&self, sample: usize, pixel: usize) -> i32 {
        // SAFETY: sample and pixel lie in the view, whose dtype `with_labels` goes by.
        let label = unsafe { with_labels!(self.target, |L| (*self.target.at::<L>(sample, 0, pixel)).to_i64()) };
        if label == self.ignore_index { IGNORED } else { label as i32 }
    }

    /// The class with the largest count; of several, the one with the fewest pixels in the batch, then the last.
    fn most(&self, counts: &[u32]) -> i32 {
        let rank = |&class: &usize| (counts[class], std::cmp::Reverse(self.counts[class]), class);
        (0..counts.len()).max_by_key(rank).expect("there is a class") as i32
    }
}

/// The index that nearest-exact picks: floor((i + 0.5) from / to), with torch's single-precision scale.
fn nearest(i: usize, from: usize, to: usize) -> usize {
    let scale = from as f32 / to as f32;
    let source = ((i as f64 + 0.5) * f64::from(scale)) as f32;
    (source.floor() as usize).min(from - 1)
}

/// The window of adaptive pooling: floor(i from / to) to ceil((i + 1) from / to).
fn window(i: usize, from: usize, to: usize) -> std::ops::Range<usize> {
    i * from / to..((i + 1) * from).div_ceil(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resize<'a>(labels: &'a mut [u8], from: [usize; 2], to: [usize; 2], counts: &'a [u64]) -> Resize<'a> {
        let shape = [1, from[0], from[1]];
        let strides = [(from[0] * from[1]) as isize, from[1] as isize, 1];
        // SAFETY: the slice has this shape.
        let target = unsafe { View::new(labels.as_mut_ptr(), DType::UInt8, &shape, &strides, false) }.unwrap();
        Resize { target, from, to, ignore_index: 255, counts, threads: 1 }
    }

    #[test]
    fn a_small_building_survives_a_tie() {
        let mut labels = [0, 0, 1, 1, 255, 255, 255, 2];
        let counts = [2, 2, 1];
        let resize = resize(&mut labels, [2, 4], [1, 2], &counts);
        // Left: two of class 0, nothing else valid. Right: two of class 1, one of class 2.
        assert_eq!(resize.labels(TargetMode::Majority), [0, 1]);
        assert_eq!(resize.shares::<f64>(), [1.0, 0.0, 0.0, 2.0 / 3.0, 0.0, 1.0 / 3.0]);
    }

    #[test]
    fn ties_go_to_the_rarer_class() {
        let mut labels = [0, 1, 1, 0];
        assert_eq!(resize(&mut labels, [2, 2], [1, 1], &[5, 9]).labels(TargetMode::Majority), [0]);
        assert_eq!(resize(&mut labels, [2, 2], [1, 1], &[9, 5]).labels(TargetMode::Majority), [1]);
    }

    #[test]
    fn windows_cover_every_pixel() {
        for (from, to) in [(7, 3), (8, 2), (5, 5), (3, 7), (100, 1)] {
            let windows: Vec<_> = (0..to).map(|i| window(i, from, to)).collect();
            assert!((0..from).all(|pixel| windows.iter().any(|w| w.contains(&pixel))), "{from} to {to}");
            assert!(windows.iter().all(|w| !w.is_empty() && w.end <= from), "{from} to {to}");
        }
    }
}
