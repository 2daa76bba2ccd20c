//! The loss at one pixel and its derivative, from the pieces of a softmax.

use super::real::Real;
use super::spec::{PixelLoss, ProbabilityOfTarget};

/// The softmax of one pixel, seen from its target class y.
///
/// With m = max z and e_c = exp(z_c - m), every quantity is formed without cancellation, so that a pixel that is
/// almost right keeps all digits of its small loss.
#[derive(Clone, Copy)]
pub struct Softmax<R> {
    /// m - z_y.
    pub distance: R,
    /// e_y.
    pub target: R,
    /// The sum of e_c over all other classes.
    pub others: R,
    /// 1 / (e_y + others).
    pub inverse: R,
}

impl<R: Real> Softmax<R> {
    /// From the distance of the target logit to the largest one, e_y, and the sum of the other e_c.
    #[inline(always)]
    pub fn new(distance: R, target: R, others: R) -> Self {
        Self { distance, target, others, inverse: R::one() / (target + others) }
    }

    /// log sum_c e_c, with all digits where y is the largest class, so that e_y = 1, and the others are small.
    #[inline(always)]
    pub fn log_sum(&self) -> R {
        let sum = self.target + self.others;
        // What rounding took from the sum, exact where e_y >= others (fast two-sum); elsewhere the logarithm is not small.
        let lost = self.others - (sum - self.target);
        // log(sum + lost) = log(sum) + lost / sum. The sum lies between 1 and C, or a nan or an infinity in it makes `lost` nan.
        lost.mul_add(self.inverse, sum.ln_from_one())
    }

    /// p_y.
    #[inline(always)]
    pub fn probability(&self) -> R {
        self.target * self.inverse
    }

    /// 1 - p_y.
    #[inline(always)]
    pub fn complement(&self) -> R {
        self.others * self.inverse
    }
}

/// The loss at a pixel, and k = dL/d(ce): the gradient by the logits is k (p - onehot(y)).
#[derive(Clone, Copy)]
pub struct PixelResult<R> {
    /// L.
    pub loss: R,
    /// k.
    pub slope: R,
}

/// L and k for the hard target y. `weight` is w_y or alpha_y, `log_sum` that of `softmax`; label smoothing adds its own part.
///
/// ```text
/// cross entropy:  L = w ce                      k = w
/// focal:          L = u^g s  (times alpha for softmax)
///                 s = ce, u = 1 - p_y           pt = "softmax"
///                 s = alpha ce, u = 1 - exp(-s) pt = "weighted_ce"
///                 k = alpha (g u^(g-1) p_t s + u^g)     in both, since du/ds = p_t
/// ```
#[inline(always)]
pub fn pixel_loss<R: Real>(loss: PixelLoss, softmax: &Softmax<R>, log_sum: R, weight: R) -> PixelResult<R> {
    let ce = softmax.distance + log_sum;
    match loss {
        PixelLoss::CrossEntropy { label_smoothing } => {
            let slope = weight * R::splat(1.0 - label_smoothing);
            PixelResult { loss: slope * ce, slope }
        }
        PixelLoss::Focal { gamma, pt } => {
            let (s, u, p, outer) = match pt {
                ProbabilityOfTarget::Softmax => (ce, softmax.complement(), softmax.probability(), weight),
                ProbabilityOfTarget::WeightedCrossEntropy => {
                    let s = weight * ce;
                    let (p, m1) = (-s).exp_and_m1();
                    // So that it makes no difference whether `PixelLoss::of_weight_one` was asked for.
                    let plain = weight.equals(R::one());
                    let u = R::select(plain, softmax.complement(), -m1);
                    (s, u, R::select(plain, softmax.probability(), p), R::one())
                }
            };
            // p_t s -> 0 as s -> inf, but 0 * inf is nan: bound s first.
            let ps = p * R::splat(1e30).min(s);
            let (power, slope) = focal_power(gamma, u, ps);
            PixelResult { loss: outer * power * s, slope: weight * slope }
        }
    }
}

/// u^g, and g u^(g-1) p_t s + u^g; u = 0 counts as 0, so that any g >= 0 is safe there.
#[inline(always)]
fn focal_power<R: Real>(gamma: f64, u: R, ps: R) -> (R, R) {
    if gamma == 2.0 {
        (u * u, u * ps.mul_add(R::splat(2.0), u))
    } else if gamma == 0.0 {
        (R::one(), R::one())
    } else if gamma == 1.0 {
        (u, ps + u)
    } else {
        let positive = u.greater(R::zero());
        let safe = R::select(positive, u, R::one());
        let power = if gamma == 0.5 { safe.sqrt() } else { (safe.ln() * R::splat(gamma)).exp() };
        // g u^(g-1) p s = u^g (g p s / u): s / u stays finite as both go to 0.
        let ratio = ps / safe;
        let slope = power * ratio.mul_add(R::splat(gamma), R::one());
        // A nan (nan logits) fails `positive` too: hand it on instead of 0.
        let zero = R::zero().min(u); // u is 0 here, or nan
        (R::select(positive, power, zero), R::select(positive, slope, zero))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pieces of the softmax of `logits`, the plain way.
    fn softmax(logits: &[f64], y: usize) -> Softmax<f64> {
        let m = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let others = logits.iter().enumerate().filter(|(c, _)| *c != y).map(|(_, z)| (z - m).exp()).sum();
        Softmax::new(m - logits[y], (logits[y] - m).exp(), others)
    }

    /// Logits of two classes with p_y = p.
    fn with_probability(p: f64) -> Softmax<f64> {
        softmax(&[(p / (1.0 - p)).ln(), 0.0], 0)
    }

    fn loss_at(loss: PixelLoss, p: f64, weight: f64) -> f64 {
        let softmax = with_probability(p);
        pixel_loss(loss, &softmax, softmax.log_sum(), weight).loss
    }

    const CE: PixelLoss = PixelLoss::CrossEntropy { label_smoothing: 0.0 };

    fn focal(gamma: f64, pt: ProbabilityOfTarget) -> PixelLoss {
        PixelLoss::Focal { gamma, pt }
    }

    #[test]
    fn figures_of_the_course() {
        assert!((loss_at(CE, 0.2, 1.0) - 1.61).abs() < 5e-3);
        assert!((loss_at(CE, 0.2, 20.0) - 32.2).abs() < 5e-2);
        for (p, value, tolerance) in
            [(0.95, 0.00013, 5e-6), (0.5, 0.173, 5e-4), (0.1, 1.865, 5e-4), (0.05, 2.704, 5e-4)]
        {
            let got = loss_at(focal(2.0, ProbabilityOfTarget::Softmax), p, 1.0);
            assert!((got - value).abs() < tolerance, "p = {p}: {got}");
        }
    }

    #[test]
    fn slope_is_the_derivative_by_the_cross_entropy() {
        // dL/dz_y = k (p_y - 1), checked by central differences over z_y.
        for pt in [ProbabilityOfTarget::Softmax, ProbabilityOfTarget::WeightedCrossEntropy] {
            for gamma in [0.0, 0.5, 1.0, 1.7, 2.0, 5.0] {
                for weight in [0.3, 1.0, 7.0] {
                    for z in [-3.0, 0.0, 0.4, 4.0] {
                        let at = |z: f64| {
                            let s = softmax(&[0.3, z, -0.2], 1);
                            (pixel_loss(focal(gamma, pt), &s, s.log_sum(), weight), s.complement())
                        };
                        let step = 1e-5;
                        let numeric = (at(z + step).0.loss - at(z - step).0.loss) / (2.0 * step);
                        let (result, complement) = at(z);
                        let analytic = -result.slope * complement;
                        assert!(
                            (numeric - analytic).abs() <= 1e-7 * (1.0 + analytic.abs()),
                            "{pt:?} gamma {gamma} weight {weight} z {z}: {numeric} {analytic}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn saturated_pixels_are_finite() {
        for gamma in [0.0, 0.5, 1.0, 1.3, 2.0, 5.0] {
            for pt in [ProbabilityOfTarget::Softmax, ProbabilityOfTarget::WeightedCrossEntropy] {
                let right = softmax(&[1e4, -1e4], 0);
                let result = pixel_loss(focal(gamma, pt), &right, right.log_sum(), 2.0);
                assert_eq!(result.loss, 0.0);
                assert!(result.slope.is_finite());
                let wrong = softmax(&[1e4, -1e4], 1);
                let result = pixel_loss(focal(gamma, pt), &wrong, wrong.log_sum(), 2.0);
                assert_eq!(result.loss, 4e4);
                assert_eq!(result.slope, 2.0);
            }
        }
    }

    #[test]
    fn weight_one_gives_the_same_bits_either_way() {
        for gamma in [0.0, 0.5, 1.0, 1.7, 2.0] {
            let weighted = focal(gamma, ProbabilityOfTarget::WeightedCrossEntropy);
            assert_eq!(weighted.of_weight_one(), focal(gamma, ProbabilityOfTarget::Softmax));
            for z in [-200.0, -3.0, 0.1, 4.0, 30.0] {
                let s = softmax(&[z, 0.3, -0.2], 0);
                let both = [weighted, weighted.of_weight_one()].map(|loss| {
                    let result = pixel_loss(loss, &s, s.log_sum(), 1.0);
                    [result.loss, result.slope]
                });
                assert_eq!(both[0], both[1], "gamma {gamma} z {z}");
            }
        }
        assert_eq!(CE.of_weight_one(), CE);
    }

    #[test]
    fn small_losses_keep_their_digits() {
        // ce = log1p(e^-30), which 1 + e^-30 would round to 0 in single precision and to 3 digits in double.
        let s = softmax(&[30.0, 0.0], 0);
        let truth = (-30.0f64).exp().ln_1p();
        assert!((pixel_loss(CE, &s, s.log_sum(), 1.0).loss / truth - 1.0).abs() < 1e-15);
    }
}
