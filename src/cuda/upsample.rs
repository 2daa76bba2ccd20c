//! Upsampled logits on the device: where the pixels of the target lie between those of the logits, and how both are cut into parts.

use super::arguments::{Axis, PassArguments};
use super::variant::{Source, Variant};

/// Rows of a band that is gone through several times: `upsampled_gradient.cu`.
const MAX_ROWS: i64 = 16;
/// Rows of a band at least: the gradient visits those between two bands twice.
const MIN_ROWS: i64 = 8;

impl Axis {
    /// From `map` to `full` elements, as `F.interpolate(mode="bilinear")` has it:
    ///
    /// ```text
    /// align_corners:  i (map - 1) / (full - 1), or 0 for one element
    /// else:           (i + 1/2) map / full - 1/2, at least 0
    /// ```
    fn new(map: usize, full: usize, align_corners: bool) -> Self {
        let (map, full) = (map as i64, full as i64);
        let (step, begin, divisor) = if !align_corners {
            (2 * map, map - full, 2 * full)
        } else if full > 1 {
            (map - 1, 0, full - 1)
        } else {
            (0, 0, 1)
        };
        Self { map, full, step, begin, divisor }
    }

    /// The most neighbours of the map that `threads` elements of the target always cover, with all that touch them; at least 1,
    /// for which there may be too few threads.
    fn strip(&self, threads: i64) -> i64 {
        // Those of k neighbours lie on k + 1 intervals, and one more comes in where these begin between two of them.
        let intervals = if self.step == 0 { 0 } else { (threads - 1) * self.step / self.divisor };
        (intervals - 1).clamp(1, threads / 2)
    }
}

/// How many numbers a block of the second pass keeps in the caller's memory: `upsampled_gradient.cu`.
pub fn owed_len(variant: &Variant, classes: usize) -> usize {
    let padded = (variant.threads + variant.threads / 32) as usize;
    if variant.classes == 0 { 3 * classes * padded } else { 0 }
}

/// Cut the work of a pass into parts for the blocks that the device holds at a time.
pub fn cut(arguments: &mut PassArguments, map: [usize; 2], full: [usize; 2], align_corners: bool, variant: &Variant) {
    let axis = |i: usize| Axis::new(map[i], full[i], align_corners);
    let (vertical, horizontal) = (axis(0), axis(1));
    let threads = i64::from(variant.threads);
    // The first pass goes over the target, the second over the logits.
    let (rows, columns, strip) = match variant.source {
        Source::Gradient => (vertical.map, horizontal.map, horizontal.strip(threads)),
        _ => (vertical.full, horizontal.full, threads),
    };
    let strips = ceil(columns, strip);
    let wanted = ceil(i64::from(arguments.blocks) * i64::from(arguments.rows), arguments.samples.max(1) * strips);
    let mut band = ceil(rows, wanted).max(MIN_ROWS);
    if strip == 1 {
        band = band.min(MAX_ROWS);
    }
    (arguments.vertical, arguments.horizontal) = (vertical, horizontal);
    (arguments.full, arguments.map) = (full.into(), map.into());
    (arguments.band, arguments.bands) = (band, ceil(rows, band));
    (arguments.strip, arguments.strips) = (strip, strips);
}

fn ceil(a: i64, b: i64) -> i64 {
    (a + b - 1) / b
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::upsample::Axis as Exact;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn positions_are_those_of_the_cpu(map in 1usize..60, full in 1usize..90, align_corners: bool) {
            let axis = Axis::new(map, full, align_corners);
            let exact = Exact::new(map, full, align_corners);
            for i in 0..full {
                let position = (axis.step * i as i64 + axis.begin).max(0) as f64 / axis.divisor as f64;
                let (first, share) = exact.tap(i);
                prop_assert!((position - (first as f64 + share)).abs() < 1e-12 * (1.0 + position));
            }
        }

        #[test]
        fn a_strip_is_covered(map in 1usize..60, full in 1usize..2000, align_corners: bool, threads in prop::sample::select(vec![32i64, 64, 128])) {
            let axis = Axis::new(map, full, align_corners);
            let exact = Exact::new(map, full, align_corners);
            let strip = axis.strip(threads);
            for left in (0..map).step_by(strip as usize) {
                let right = (left + strip as usize).min(map);
                let touching = (0..full).filter(|&i| (left.saturating_sub(1)..right).contains(&exact.tap(i).0)).count();
                prop_assert!(strip == 1 || touching as i64 <= threads, "{touching}");
            }
        }
    }
}
