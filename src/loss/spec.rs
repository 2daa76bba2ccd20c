//! Which terms a loss has: cross entropy, focal, Dice, Tversky and their sums are specs, not code paths.

use crate::{Error, Result};

/// Where the focal loss takes the probability of the target class from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProbabilityOfTarget {
    /// p_t = softmax(z)_y, as Lin et al. 2017 have it.
    Softmax,
    /// p_t = exp(-alpha_y ce) = p_y^alpha_y, as code that starts from `cross_entropy(weight=alpha)` has it.
    WeightedCrossEntropy,
}

/// The loss at one pixel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PixelLoss {
    /// -w_y log p_y, with part of the target mass spread over all classes.
    CrossEntropy {
        /// The share of the mass that is spread, in [0, 1].
        label_smoothing: f64,
    },
    /// -alpha_y (1 - p_t)^gamma log p_t.
    Focal {
        /// The focusing exponent, at least 0.
        gamma: f64,
        /// Where p_t comes from.
        pt: ProbabilityOfTarget,
    },
}

impl PixelLoss {
    /// The same for a class of weight 1, whose p_t is p_y either way.
    pub fn of_weight_one(self) -> Self {
        match self {
            Self::Focal { gamma, .. } => Self::Focal { gamma, pt: ProbabilityOfTarget::Softmax },
            Self::CrossEntropy { .. } => self,
        }
    }
}

/// How pixel losses become the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reduction {
    /// Divide the sum by the weights (cross entropy) or by the number of valid pixels (focal).
    Mean,
    /// The sum.
    Sum,
    /// One loss a pixel.
    None,
}

/// How the region term treats classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Average {
    /// One ratio of the sums over all classes.
    Micro,
    /// The (weighted) mean of the ratio of each class.
    Macro,
}

/// What a class without a target pixel gives in the macro average.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Absent {
    /// The plain formula.
    Count,
    /// It is left out of the mean.
    Skip,
}

/// The ratio of a region term, from I = sum p y, P = sum p and T = sum y.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Overlap {
    /// (2 I + s) / (P + T + s).
    Dice,
    /// (I + s) / (I + alpha (P - I) + beta (T - I) + s); alpha = beta = 1/2 is Dice with twice the s.
    Tversky {
        /// The weight of false positives, P - I; at least 0.
        alpha: f64,
        /// The weight of false negatives, T - I; at least 0.
        beta: f64,
    },
}

/// A term of sums over pixels: 1 - a ratio that measures the overlap.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RegionTerm {
    /// Which ratio.
    pub overlap: Overlap,
    /// The s of its formula, at least 0.
    pub smooth: f64,
    /// Over all classes at once, or class by class.
    pub average: Average,
    /// A loss for each sample, then their mean.
    pub per_sample: bool,
    /// Whether class 0 counts.
    pub include_background: bool,
    /// Classes without a target pixel (macro only).
    pub absent: Absent,
}

/// A loss: a pixel term, a region term, or both.
#[derive(Clone, Debug, PartialEq)]
pub struct LossSpec {
    /// The pixel term and the factor before it.
    pub pixel: Option<(PixelLoss, f64)>,
    /// The region term and the factor before it.
    pub region: Option<(RegionTerm, f64)>,
    /// Pixels of this label are in no sum and get no gradient.
    pub ignore_index: i64,
    /// How the pixel losses are reduced.
    pub reduction: Reduction,
}

impl LossSpec {
    /// Check what the types leave open.
    pub fn validate(&self) -> Result<()> {
        if self.pixel.is_none() && self.region.is_none() {
            return Err(Error::value("spec", "no term", "a pixel term, a region term, or both"));
        }
        if let Some((pixel, factor)) = self.pixel {
            match pixel {
                PixelLoss::CrossEntropy { label_smoothing } if !(0.0..=1.0).contains(&label_smoothing) => {
                    return Err(Error::value("label_smoothing", label_smoothing, "a number in [0, 1]"));
                }
                PixelLoss::Focal { gamma, .. } => not_negative("gamma", gamma)?,
                PixelLoss::CrossEntropy { .. } => {}
            }
            finite("lambda_focal", factor)?;
            if self.reduction == Reduction::None && factor != 1.0 {
                return Err(Error::value(
                    "lambda_focal",
                    factor,
                    "1 with reduction \"none\": the loss of each pixel has no factor",
                ));
            }
        }
        if let Some((region, factor)) = self.region {
            not_negative("smooth", region.smooth)?;
            if let Overlap::Tversky { alpha, beta } = region.overlap {
                not_negative("alpha", alpha)?;
                not_negative("beta", beta)?;
            }
            finite("lambda_dice", factor)?;
            if self.reduction == Reduction::None {
                return Err(Error::value(
                    "reduction",
                    "\"none\"",
                    "\"mean\" or \"sum\": a region loss has no value for one pixel",
                ));
            }
        }
        Ok(())
    }

    /// The arguments that the class weights of the pixel and the region term come in.
    pub fn weight_names(&self) -> (&'static str, &'static str) {
        let pixel = if matches!(self.pixel, Some((PixelLoss::Focal { .. }, _))) { "alpha" } else { "weight" };
        (pixel, if self.pixel.is_some() { "dice_weight" } else { "weight" })
    }

    /// Whether the finished loss is one number.
    pub fn is_scalar(&self) -> bool {
        self.reduction != Reduction::None
    }

    /// Whether the gradient needs no sum over the logits of all pixels, so that one pass gives it with the loss.
    pub fn is_one_pass(&self) -> bool {
        self.region.is_none() && self.is_scalar()
    }

    /// Whether sums are kept sample by sample.
    pub fn per_sample(&self) -> bool {
        self.region.is_some_and(|(region, _)| region.per_sample)
    }
}

fn finite(argument: &'static str, value: f64) -> Result<()> {
    if value.is_finite() { Ok(()) } else { Err(Error::value(argument, value, "a finite number")) }
}

fn not_negative(argument: &'static str, value: f64) -> Result<()> {
    if value >= 0.0 && value.is_finite() {
        Ok(())
    } else {
        Err(Error::value(argument, value, "a finite number of at least 0"))
    }
}

/// Class weights must be one for each class, finite and not negative.
pub fn validate_weight(argument: &'static str, weight: &[f64], classes: usize) -> Result<()> {
    if weight.len() != classes {
        return Err(Error::value(
            argument,
            format!("{} values", weight.len()),
            format!("{classes} values, one for each class of input"),
        ));
    }
    match weight.iter().position(|w| !(w.is_finite() && *w >= 0.0)) {
        Some(class) => {
            Err(Error::value(argument, format!("{} for class {class}", weight[class]), "finite numbers of at least 0"))
        }
        None => Ok(()),
    }
}
