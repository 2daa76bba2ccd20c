//! exp, expm1 and log of single-precision registers, written once for every instruction set.
//!
//! The polynomials are minimax fits (Lawson's iteration) of the relative error; the errors are tested below against double
//! precision, over the whole range.

use crate::loss::real::Real;

/// What exp and log need of a register beside arithmetic.
pub trait SingleBits: Real {
    /// self * 2^n for an integral n in [-151, 0], rounded once, denormals included. `shifted` is n + 1.5 * 2^23, whose lowest bits
    /// are n.
    fn scale(self, n: Self, shifted: Self) -> Self;
    /// (m, e) with self = m 2^e, sqrt(1/2) <= m < sqrt(2), for positive normal numbers.
    fn split(self) -> (Self, Self);
}

const LN_2: f64 = std::f64::consts::LN_2;
/// The leading ten bits of ln 2: its product with an exponent is exact even where there is no fused multiply-add.
const LN_2_HIGH: f64 = 0.693_359_375;
const LN_2_LOW: f64 = LN_2 - LN_2_HIGH;

/// A number to which this is added has no room for a fraction, and its integer part in the lowest bits.
const MAGIC: f64 = 12_582_912.0;

/// x = n ln 2 + r with |r| <= ln 2 / 2: returns n, n + MAGIC and r.
#[inline(always)]
fn reduce<V: SingleBits>(x: V) -> (V, V, V) {
    // e^x is 0 below the bound, which keeps n in the range of `scale`; a nan passes, since the second operand is the one kept.
    let x = V::splat(-104.5).max(x);
    // One fused multiply-add multiplies and rounds.
    let shifted = x.mul_add(V::splat(std::f64::consts::LOG2_E), V::splat(MAGIC));
    let n = shifted - V::splat(MAGIC);
    (n, shifted, n.mul_add(V::splat(-LN_2_LOW), n.mul_add(V::splat(-LN_2_HIGH), x)))
}

/// q of e^r = 1 + r + r^2 q(r); |error| < 3.1e-9 e^r. Horner's scheme has the fewest operations, and pixels enough run side by side.
#[inline(always)]
fn second_order<V: SingleBits>(r: V) -> V {
    let q = r.mul_add(V::splat(0.001_381_432), V::splat(0.008_368_851));
    let q = r.mul_add(q, V::splat(0.041_668_4));
    let q = r.mul_add(q, V::splat(0.166_665_2));
    r.mul_add(q, V::splat(0.499_999_94))
}

/// e^x for x <= 0, which is all that a softmax needs; denormal below -87.3, 0 below -104, nan for nan.
#[inline(always)]
pub fn exp<V: SingleBits>(x: V) -> V {
    let (n, shifted, r) = reduce(x);
    let slope = r.mul_add(second_order(r), V::one());
    r.mul_add(slope, V::one()).scale(n, shifted)
}

/// (e^x, e^x - 1) for x <= 0, each with its own digits where it is small.
#[inline(always)]
pub fn exp_and_m1<V: SingleBits>(x: V) -> (V, V) {
    let (n, shifted, r) = reduce(x);
    let y = (r * r).mul_add(second_order(r), r);
    // 2^n (e^r - 1) + (2^n - 1): no cancellation, as n <= 0 there.
    let power = V::one().scale(n, shifted);
    (y.mul_add(power, power), y.mul_add(power, power - V::one()))
}

/// log x; -inf for 0, nan below 0, inf for inf, nan for nan.
#[inline(always)]
pub fn ln<V: SingleBits>(x: V) -> V {
    // Denormals are brought into the normal range first.
    let tiny = V::splat(f64::from(f32::MIN_POSITIVE)).greater(x);
    let finite = ln_normal(V::select(tiny, x * V::splat(8_388_608.0), x));
    let finite = V::select(tiny, finite - V::splat(23.0 * LN_2), finite);
    let inf = V::splat(f64::INFINITY);
    let not_positive = V::select(x.equals(V::zero()), -inf, V::splat(f64::NAN));
    let special = V::select(x.equals(inf), inf, not_positive);
    let ordinary = x.greater(V::zero());
    V::select(ordinary, V::select(x.equals(inf), special, finite), special)
}

/// log x for positive normal numbers.
#[inline(always)]
pub fn ln_normal<V: SingleBits>(x: V) -> V {
    let (m, e) = x.split();
    // log(1 + f) = f - f^2 / 2 + f^3 q(f); relative error < 6e-9.
    let f = m - V::one();
    let square = f * f;
    let fourth = square * square;
    let a = f.mul_add(V::splat(-0.250_008_29), V::splat(0.333_333_3));
    let b = f.mul_add(V::splat(-0.166_230_3), V::splat(0.200_011_43));
    let c = f.mul_add(V::splat(-0.131_655_07), V::splat(0.142_035_05));
    let d = f.mul_add(V::splat(-0.076_056_86), V::splat(0.127_510_22));
    let q = fourth.mul_add(square.mul_add(d, c), square.mul_add(b, a));
    let y = (square * f).mul_add(q, e * V::splat(LN_2_LOW));
    let y = square.mul_add(V::splat(-0.5), y);
    e.mul_add(V::splat(LN_2_HIGH), f + y)
}

#[cfg(test)]
mod tests {
    use crate::cpu::simd::{Element, InstructionSet, Vector, Work};

    /// The distance of `got` from `truth` in units of the last place of the nearest single.
    fn ulp(got: f32, truth: f64) -> f64 {
        let nearest = truth as f32;
        if got == nearest || (got.is_nan() && truth.is_nan()) {
            return 0.0;
        }
        let spacing = f64::from(f32::from_bits(nearest.abs().to_bits() + 1)) - f64::from(nearest.abs());
        ((f64::from(got) - truth) / spacing).abs()
    }

    /// The largest error of `function` over `inputs`, with the input it is at.
    fn worst<V: Vector<Element = f32>>(
        inputs: &[f32],
        function: impl Fn(V) -> V,
        truth: impl Fn(f64) -> f64,
    ) -> (f64, f32) {
        let mut worst = (0.0, 0.0);
        let mut buffer = vec![0.0f32; V::LANES];
        for chunk in inputs.chunks_exact(V::LANES) {
            // SAFETY: chunk and buffer hold LANES elements.
            unsafe { function(V::load(chunk.as_ptr())).store(buffer.as_mut_ptr()) };
            for (&x, &y) in chunk.iter().zip(&buffer) {
                let error = ulp(y, truth(f64::from(x)));
                if error > worst.0 {
                    worst = (error, x);
                }
            }
        }
        worst
    }

    /// Every `step`th single of one sign, in order: denormals, normals and infinity.
    fn singles(negative: bool, step: usize) -> Vec<f32> {
        let sign = u32::from(negative) << 31;
        (0..=0x7f80_0000u32).step_by(step).map(|bits| f32::from_bits(bits | sign)).collect()
    }

    #[inline(always)]
    fn check<V: Vector<Element = f32>>(name: &str, far: f64) {
        let negative = singles(true, 997);
        let positive = singles(false, 997);
        let near: Vec<f32> = negative.iter().copied().filter(|&x| x > -10.0).collect();
        let from_one: Vec<f32> = positive.iter().copied().filter(|&x| (1.0..f32::INFINITY).contains(&x)).collect();
        for (what, inputs, bound, error) in [
            ("exp- above -10", &near, 1.3, worst::<V>(&near, V::exp, f64::exp)),
            ("exp-", &negative, far, worst::<V>(&negative, V::exp, f64::exp)),
            ("exp- of both", &negative, 1.1, worst::<V>(&negative, |x| x.exp_and_m1().0, f64::exp)),
            ("expm1", &negative, 1.6, worst::<V>(&negative, |x| x.exp_and_m1().1, f64::exp_m1)),
            ("ln", &positive, 1.1, worst::<V>(&positive, V::ln, f64::ln)),
            ("ln_from_one", &from_one, 1.5, worst::<V>(&from_one, V::ln_from_one, f64::ln)),
        ] {
            println!("{name} {what}: {:.3} ulp at {:e}", error.0, error.1);
            assert!(error.0 <= bound, "{name} {what} of {} inputs: {error:?}", inputs.len());
        }
        let special = |function: fn(V) -> V, x: f64| function(V::splat(x)).sum() / V::LANES as f64;
        assert!(special(V::exp, f64::NAN).is_nan() && special(V::ln, f64::NAN).is_nan());
        let exp_m1 = |x: V| x.exp_and_m1().1;
        assert!(special(exp_m1, f64::NAN).is_nan() && special(V::ln, -1.0).is_nan());
        assert_eq!(special(V::exp, f64::NEG_INFINITY), 0.0);
        assert_eq!(special(exp_m1, f64::NEG_INFINITY), -1.0);
        assert_eq!(special(|x| x.exp_and_m1().0, f64::NEG_INFINITY), 0.0);
        assert_eq!(special(V::ln, 0.0), f64::NEG_INFINITY);
        assert_eq!(special(V::ln, f64::INFINITY), f64::INFINITY);
    }

    struct Check(InstructionSet);

    impl Work<f32> for Check {
        type Output = ();
        #[inline(always)]
        fn run<V: Vector<Element = f32>>(self) {
            // With tables ln 2 is one single, whose error counts as often as x holds it.
            check::<V>(self.0.name(), if V::TAKES_LANES { 4.6 } else { 1.1 });
        }
    }

    #[test]
    fn within_the_stated_ulp_everywhere() {
        for set in InstructionSet::available() {
            f32::dispatch(set, Check(set));
        }
    }
}
