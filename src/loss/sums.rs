//! From sums over pixels to the loss, and from the loss back to the coefficients of the gradient.
//!
//! One row of sums is `[pixel loss, weight, valid, I_0.., P_0.., T_0..]`: the pixel losses, their weights and the number of
//! valid pixels, then for each class the intersection sum p y, the prediction sum p and the target sum y. Rows of
//! samples (or of ranks) add up. Without a region term the last three parts are absent.

use super::spec::{Absent, Average, LossSpec, Overlap, PixelLoss, Reduction, RegionTerm};

/// Columns before the class sums.
pub const LEADING: usize = 3;

/// The number of columns of a row.
pub fn row_length(spec: &LossSpec, classes: usize) -> usize {
    LEADING + if spec.region.is_some() { 3 * classes } else { 0 }
}

/// One row of sums.
#[derive(Clone, Copy)]
pub struct Row<'a>(pub &'a [f64]);

impl<'a> Row<'a> {
    fn classes(&self) -> usize {
        (self.0.len() - LEADING) / 3
    }
    fn part(&self, index: usize) -> &'a [f64] {
        let classes = self.classes();
        &self.0[LEADING + index * classes..][..classes]
    }
    /// sum over pixels of p_c y_c.
    pub fn intersection(&self) -> &'a [f64] {
        self.part(0)
    }
    /// sum over pixels of p_c.
    pub fn prediction(&self) -> &'a [f64] {
        self.part(1)
    }
    /// sum over pixels of y_c.
    pub fn target(&self) -> &'a [f64] {
        self.part(2)
    }
    /// I, P and T of one class.
    fn sums(&self, class: usize) -> [f64; 3] {
        [self.intersection()[class], self.prediction()[class], self.target()[class]]
    }
}

/// What the gradient of one row's pixels needs: dL/dz = pixel k (p - y) + dR/dz with dR/dp_c = a_c y_c + b_c, R the region term.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Coefficients {
    /// The factor before each pixel's k.
    pub pixel: f64,
    /// dR/dI_c; empty without a region term.
    pub intersection: Vec<f64>,
    /// dR/dP_c; empty without a region term.
    pub prediction: Vec<f64>,
}

/// What the sum of pixel losses is multiplied with. Without a valid pixel, or with no weight on any, that is 0, not 1/0.
pub fn pixel_factor(spec: &LossSpec, weight: f64, valid: f64) -> f64 {
    let Some((pixel, factor)) = spec.pixel else { return 0.0 };
    match spec.reduction {
        Reduction::Sum | Reduction::None => factor,
        Reduction::Mean => {
            let denominator = match pixel {
                PixelLoss::CrossEntropy { .. } => weight,
                PixelLoss::Focal { .. } => valid,
            };
            if denominator == 0.0 { 0.0 } else { factor / denominator }
        }
    }
}

/// The loss from all rows (only one unless the region term is taken per sample).
pub fn finish(spec: &LossSpec, dice_weight: Option<&[f64]>, rows: &[f64], columns: usize) -> f64 {
    let total = |column: usize| rows.chunks_exact(columns).map(|row| row[column]).sum::<f64>();
    let mut loss = 0.0;
    let factor = pixel_factor(spec, total(1), total(2));
    if factor != 0.0 {
        loss += factor * total(0);
    }
    if let Some((region, factor)) = spec.region {
        let samples = rows.len() / columns;
        let sum: f64 = rows.chunks_exact(columns).map(|row| region_loss(&region, dice_weight, Row(row))).sum();
        if samples > 0 {
            loss += factor * sum / samples as f64;
        }
    }
    loss
}

/// The coefficients of every row, for an incoming gradient of 1.
pub fn coefficients(spec: &LossSpec, dice_weight: Option<&[f64]>, rows: &[f64], columns: usize) -> Vec<Coefficients> {
    let total = |column: usize| rows.chunks_exact(columns).map(|row| row[column]).sum::<f64>();
    let pixel = pixel_factor(spec, total(1), total(2));
    let samples = rows.len() / columns;
    rows.chunks_exact(columns)
        .map(|row| match spec.region {
            None => Coefficients { pixel, ..Default::default() },
            Some((region, factor)) => {
                let (intersection, prediction) =
                    region_gradient(&region, dice_weight, Row(row), factor / samples as f64);
                Coefficients { pixel, intersection, prediction }
            }
        })
        .collect()
}

/// How much class c weighs in the region term: 0 leaves it out.
fn class_weight(region: &RegionTerm, weight: Option<&[f64]>, row: Row<'_>, class: usize) -> f64 {
    let left_out = (class == 0 && !region.include_background)
        || (region.average == Average::Macro && region.absent == Absent::Skip && row.target()[class] == 0.0);
    if left_out { 0.0 } else { weight.map_or(1.0, |w| w[class]) }
}

/// Every region term as one ratio, R = N / D of
///
/// ```text
/// N = 2 I + s
/// D = a P + b T + h I + s
/// ```
///
/// Dice has a = b = 1 and h = 0. Tversky, multiplied by 2, has a = 2 alpha, b = 2 beta, h = 2 - a - b and twice its s.
#[derive(Clone, Copy, Debug)]
pub struct Ratio {
    /// a
    pub prediction: f64,
    /// b
    pub target: f64,
    /// h
    pub intersection: f64,
    /// s
    pub smooth: f64,
}

impl From<&RegionTerm> for Ratio {
    fn from(region: &RegionTerm) -> Self {
        let (prediction, target, smooth) = match region.overlap {
            Overlap::Dice => (1.0, 1.0, region.smooth),
            Overlap::Tversky { alpha, beta } => (2.0 * alpha, 2.0 * beta, 2.0 * region.smooth),
        };
        Self { prediction, target, intersection: 2.0 - prediction - target, smooth }
    }
}

impl Ratio {
    /// (N, D) of I, P and T.
    fn parts(&self, [i, p, t]: [f64; 3]) -> (f64, f64) {
        (2.0 * i + self.smooth, self.prediction * p + self.target * t + self.intersection * i + self.smooth)
    }

    /// 1 - N / D; nothing in either counts as a perfect match.
    fn loss(&self, sums: [f64; 3]) -> f64 {
        let (numerator, denominator) = self.parts(sums);
        if denominator == 0.0 { 0.0 } else { 1.0 - numerator / denominator }
    }

    /// (dL/dI, dL/dP) of `factor` times the loss: (h N - 2 D) / D^2 and a N / D^2.
    ///
    /// Without a target pixel dL/dI, which may be beyond any number, is multiplied by y = 0 everywhere: it is 0 then.
    fn gradient(&self, factor: f64, sums: [f64; 3]) -> (f64, f64) {
        let (numerator, denominator) = self.parts(sums);
        if factor == 0.0 || denominator == 0.0 {
            return (0.0, 0.0);
        }
        let slope = factor * (numerator / denominator) / denominator;
        let intersection = if sums[2] == 0.0 { 0.0 } else { self.intersection * slope - 2.0 * factor / denominator };
        (intersection, self.prediction * slope)
    }
}

/// The weighted sums over the classes, (I, P, T), that a micro average is the ratio of.
fn micro_sums(row: Row<'_>, w: impl Fn(usize) -> f64) -> [f64; 3] {
    [row.intersection(), row.prediction(), row.target()].map(|part| (0..row.classes()).map(|c| w(c) * part[c]).sum())
}

/// The region loss of one row.
///
/// ```text
/// micro:  1 - R(sum_c w_c I_c, sum_c w_c P_c, sum_c w_c T_c)
/// macro:  sum_c w_c (1 - R(I_c, P_c, T_c)) / sum_c w_c      over the classes that count
/// ```
fn region_loss(region: &RegionTerm, weight: Option<&[f64]>, row: Row<'_>) -> f64 {
    let ratio = Ratio::from(region);
    let w = |c| class_weight(region, weight, row, c);
    match region.average {
        Average::Micro => ratio.loss(micro_sums(row, w)),
        Average::Macro => {
            let weights: f64 = (0..row.classes()).map(w).sum();
            if weights == 0.0 {
                return 0.0;
            }
            let counted = (0..row.classes()).filter(|&c| w(c) != 0.0);
            counted.map(|c| w(c) * ratio.loss(row.sums(c))).sum::<f64>() / weights
        }
    }
}

/// (dL/dI_c, dL/dP_c) of `factor` times [`region_loss`].
fn region_gradient(region: &RegionTerm, weight: Option<&[f64]>, row: Row<'_>, factor: f64) -> (Vec<f64>, Vec<f64>) {
    let ratio = Ratio::from(region);
    let w = |c| class_weight(region, weight, row, c);
    let classes = 0..row.classes();
    match region.average {
        Average::Micro => {
            let sums = micro_sums(row, w);
            classes.map(|c| ratio.gradient(factor * w(c), sums)).unzip()
        }
        Average::Macro => {
            let weights: f64 = classes.clone().map(w).sum();
            classes
                .map(|c| match w(c) {
                    0.0 => (0.0, 0.0),
                    w => ratio.gradient(factor * w / weights, row.sums(c)),
                })
                .unzip()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TVERSKY: Overlap = Overlap::Tversky { alpha: 0.3, beta: 0.9 };

    fn spec(overlap: Overlap, average: Average, smooth: f64) -> LossSpec {
        let (per_sample, include_background, absent) = (false, true, Absent::Count);
        let region = RegionTerm { overlap, smooth, average, per_sample, include_background, absent };
        LossSpec { pixel: None, region: Some((region, 1.0)), ignore_index: -100, reduction: Reduction::Mean }
    }

    /// Every overlap with every average.
    fn terms() -> impl Iterator<Item = (Overlap, Average)> {
        let averages = |overlap| [Average::Micro, Average::Macro].map(|average| (overlap, average));
        [Overlap::Dice, TVERSKY].into_iter().flat_map(averages)
    }

    #[test]
    fn overlap_table_of_the_course() {
        // 100 target pixels, 100 predicted pixels, of which `overlap` agree.
        for (overlap, dice) in [(100.0, 1.00), (80.0, 0.80), (50.0, 0.50), (10.0, 0.10), (0.0, 0.00)] {
            let row = [0.0, 0.0, 100.0, overlap, 100.0, 100.0];
            let loss = finish(&spec(Overlap::Dice, Average::Micro, 0.0), None, &row, row.len());
            assert!((1.0 - loss - dice).abs() < 1e-12, "{overlap}: {loss}");
        }
    }

    #[test]
    fn tversky_weighs_what_is_too_much_and_what_is_missing() {
        // 30 right, 10 too much, 20 missing.
        let row = [0.0, 0.0, 100.0, 30.0, 40.0, 50.0];
        let loss = |overlap| finish(&spec(overlap, Average::Macro, 0.5), None, &row, row.len());
        assert!((1.0 - loss(TVERSKY) - 30.5 / (30.0 + 0.3 * 10.0 + 0.9 * 20.0 + 0.5)).abs() < 1e-15);
        let jaccard = Overlap::Tversky { alpha: 1.0, beta: 1.0 };
        assert!((1.0 - loss(jaccard) - 30.5 / 60.5).abs() < 1e-15);
    }

    #[test]
    fn gradient_is_the_derivative() {
        let weights = [0.5, 2.0, 1.0];
        let row = [0.0, 0.0, 9.0, 1.0, 2.0, 0.5, 3.0, 4.0, 2.0, 2.0, 5.0, 2.0];
        for (overlap, average) in terms() {
            for weight in [None, Some(&weights[..])] {
                let spec = spec(overlap, average, 0.1);
                let gradient = &coefficients(&spec, weight, &row, row.len())[0];
                for class in 0..3 {
                    for (part, analytic) in [(0, gradient.intersection[class]), (1, gradient.prediction[class])] {
                        let at = |step: f64| {
                            let mut row = row;
                            row[LEADING + 3 * part + class] += step;
                            finish(&spec, weight, &row, row.len())
                        };
                        let numeric = (at(1e-6) - at(-1e-6)) / 2e-6;
                        assert!((numeric - analytic).abs() < 1e-8, "{spec:?} {class} {part}: {numeric} {analytic}");
                    }
                }
            }
        }
    }

    #[test]
    fn nothing_valid_gives_zero() {
        let row = [0.0; 12];
        for (overlap, average) in terms() {
            let spec = spec(overlap, average, 0.0);
            assert_eq!(finish(&spec, None, &row, row.len()), 0.0);
            let gradient = &coefficients(&spec, None, &row, row.len())[0];
            assert_eq!((&gradient.intersection[..], &gradient.prediction[..]), (&[0.0; 3][..], &[0.0; 3][..]));
        }
    }

    #[test]
    fn absent_classes_are_skipped_on_request() {
        let mut spec = spec(Overlap::Dice, Average::Macro, 1e-6);
        let row = [0.0, 0.0, 10.0, 4.0, 0.0, 6.0, 4.0, 10.0, 0.0]; // class 1 is nowhere, but predicted
        let counted = finish(&spec, None, &row, row.len());
        spec.region.as_mut().unwrap().0.absent = Absent::Skip;
        let skipped = finish(&spec, None, &row, row.len());
        assert!((skipped - (1.0 - 8.0 / 16.0)).abs() < 1e-6);
        assert!((counted - (skipped + 1.0) / 2.0).abs() < 1e-6);
    }
}
