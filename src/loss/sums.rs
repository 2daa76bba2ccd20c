//! From sums over pixels to the loss, and from the loss back to the coefficients of the gradient.
//!
//! One row of sums is `[pixel loss, weight, valid, I_0.., P_0.., T_0..]`: the pixel losses, their weights and the number of
//! valid pixels, then for each class the intersection sum p y, the prediction sum p and the target sum y. Rows of
//! samples (or of ranks) add up. Without a region term the last three parts are absent.

use super::spec::{Absent, Average, DiceTerm, LossSpec, PixelLoss, Reduction};

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
}

/// What the gradient of one row's pixels needs: dL/dz = pixel k (p - y) + dDice/dz with dDice/dp_c = a_c y_c + b_c.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Coefficients {
    /// The factor before each pixel's k.
    pub pixel: f64,
    /// dDice/dI_c; empty without a region term.
    pub intersection: Vec<f64>,
    /// dDice/dP_c; empty without a region term.
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

/// The loss from all rows (only one unless Dice is taken per sample).
pub fn finish(spec: &LossSpec, dice_weight: Option<&[f64]>, rows: &[f64], columns: usize) -> f64 {
    let total = |column: usize| rows.chunks_exact(columns).map(|row| row[column]).sum::<f64>();
    let mut loss = 0.0;
    let factor = pixel_factor(spec, total(1), total(2));
    if factor != 0.0 {
        loss += factor * total(0);
    }
    if let Some((dice, factor)) = spec.region {
        let samples = rows.len() / columns;
        let sum: f64 = rows.chunks_exact(columns).map(|row| dice_loss(&dice, dice_weight, Row(row))).sum();
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
            Some((dice, factor)) => {
                let (intersection, prediction) = dice_gradient(&dice, dice_weight, Row(row), factor / samples as f64);
                Coefficients { pixel, intersection, prediction }
            }
        })
        .collect()
}

/// How much class c weighs in Dice: 0 leaves it out.
fn class_weight(dice: &DiceTerm, weight: Option<&[f64]>, row: Row<'_>, class: usize) -> f64 {
    let left_out = (class == 0 && !dice.include_background)
        || (dice.average == Average::Macro && dice.absent == Absent::Skip && row.target()[class] == 0.0);
    if left_out { 0.0 } else { weight.map_or(1.0, |w| w[class]) }
}

/// (2 I + s) / (P + T + s) as (numerator, denominator); nothing in either counts as a perfect match.
fn ratio(numerator: f64, denominator: f64) -> f64 {
    if denominator == 0.0 { 1.0 } else { numerator / denominator }
}

/// The Dice loss of one row.
///
/// ```text
/// micro:  1 - (2 sum_c w_c I_c + s) / (sum_c w_c (P_c + T_c) + s)
/// macro:  sum_c w_c (1 - (2 I_c + s) / (P_c + T_c + s)) / sum_c w_c      over the classes that count
/// ```
fn dice_loss(dice: &DiceTerm, weight: Option<&[f64]>, row: Row<'_>) -> f64 {
    let (i, p, t) = (row.intersection(), row.prediction(), row.target());
    let s = dice.smooth;
    let w = |c| class_weight(dice, weight, row, c);
    let classes = 0..row.classes();
    match dice.average {
        Average::Micro => {
            let numerator = 2.0 * classes.clone().map(|c| w(c) * i[c]).sum::<f64>() + s;
            let denominator = classes.map(|c| w(c) * (p[c] + t[c])).sum::<f64>() + s;
            1.0 - ratio(numerator, denominator)
        }
        Average::Macro => {
            let weights: f64 = classes.clone().map(w).sum();
            if weights == 0.0 {
                return 0.0;
            }
            let sum: f64 =
                classes.filter(|&c| w(c) != 0.0).map(|c| w(c) * (1.0 - ratio(2.0 * i[c] + s, p[c] + t[c] + s))).sum();
            sum / weights
        }
    }
}

/// (dL/dI_c, dL/dP_c) of `factor` times [`dice_loss`].
///
/// With N = 2 I + s and D = P + T + s: dL/dI = -2 w / D and dL/dP = w N / D^2.
fn dice_gradient(dice: &DiceTerm, weight: Option<&[f64]>, row: Row<'_>, factor: f64) -> (Vec<f64>, Vec<f64>) {
    let (i, p, t) = (row.intersection(), row.prediction(), row.target());
    let s = dice.smooth;
    let w = |c| class_weight(dice, weight, row, c);
    let classes = row.classes();
    let pair = |w: f64, numerator: f64, denominator: f64| {
        if w == 0.0 || denominator == 0.0 {
            (0.0, 0.0)
        } else {
            (-2.0 * w / denominator, w * numerator / (denominator * denominator))
        }
    };
    match dice.average {
        Average::Micro => {
            let numerator = 2.0 * (0..classes).map(|c| w(c) * i[c]).sum::<f64>() + s;
            let denominator = (0..classes).map(|c| w(c) * (p[c] + t[c])).sum::<f64>() + s;
            (0..classes).map(|c| pair(factor * w(c), numerator, denominator)).unzip()
        }
        Average::Macro => {
            let weights: f64 = (0..classes).map(w).sum();
            (0..classes)
                .map(|c| match w(c) {
                    0.0 => (0.0, 0.0),
                    w => pair(factor * w / weights, 2.0 * i[c] + s, p[c] + t[c] + s),
                })
                .unzip()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(average: Average, smooth: f64) -> LossSpec {
        let dice = DiceTerm { smooth, average, per_sample: false, include_background: true, absent: Absent::Count };
        LossSpec { pixel: None, region: Some((dice, 1.0)), ignore_index: -100, reduction: Reduction::Mean }
    }

    #[test]
    fn overlap_table_of_the_course() {
        // 100 target pixels, 100 predicted pixels, of which `overlap` agree.
        for (overlap, dice) in [(100.0, 1.00), (80.0, 0.80), (50.0, 0.50), (10.0, 0.10), (0.0, 0.00)] {
            let row = [0.0, 0.0, 100.0, overlap, 100.0, 100.0];
            let loss = finish(&spec(Average::Micro, 0.0), None, &row, row.len());
            assert!((1.0 - loss - dice).abs() < 1e-12, "{overlap}: {loss}");
        }
    }

    #[test]
    fn gradient_is_the_derivative() {
        let weights = [0.5, 2.0, 1.0];
        let row = [0.0, 0.0, 9.0, 1.0, 2.0, 0.5, 3.0, 4.0, 2.0, 2.0, 5.0, 2.0];
        for average in [Average::Micro, Average::Macro] {
            for weight in [None, Some(&weights[..])] {
                let spec = spec(average, 0.1);
                let gradient = &coefficients(&spec, weight, &row, row.len())[0];
                for class in 0..3 {
                    for (part, analytic) in [(0, gradient.intersection[class]), (1, gradient.prediction[class])] {
                        let at = |step: f64| {
                            let mut row = row;
                            row[LEADING + 3 * part + class] += step;
                            finish(&spec, weight, &row, row.len())
                        };
                        let numeric = (at(1e-6) - at(-1e-6)) / 2e-6;
                        assert!((numeric - analytic).abs() < 1e-8, "{average:?} {class} {part}: {numeric} {analytic}");
                    }
                }
            }
        }
    }

    #[test]
    fn nothing_valid_gives_zero() {
        let row = [0.0; 12];
        for average in [Average::Micro, Average::Macro] {
            assert_eq!(finish(&spec(average, 0.0), None, &row, row.len()), 0.0);
            let gradient = &coefficients(&spec(average, 0.0), None, &row, row.len())[0];
            assert_eq!((&gradient.intersection[..], &gradient.prediction[..]), (&[0.0; 3][..], &[0.0; 3][..]));
        }
    }

    #[test]
    fn absent_classes_are_skipped_on_request() {
        let mut spec = spec(Average::Macro, 1e-6);
        let row = [0.0, 0.0, 10.0, 4.0, 0.0, 6.0, 4.0, 10.0, 0.0]; // class 1 is nowhere, but predicted
        let counted = finish(&spec, None, &row, row.len());
        spec.region.as_mut().unwrap().0.absent = Absent::Skip;
        let skipped = finish(&spec, None, &row, row.len());
        assert!((skipped - (1.0 - 8.0 / 16.0)).abs() < 1e-6);
        assert!((counted - (skipped + 1.0) / 2.0).abs() < 1e-6);
    }
}
