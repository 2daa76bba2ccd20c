//! exp and log of single-precision registers with short polynomials, where a table of sixteen entries is looked up by one instruction.

use super::elementary::SingleBits;

/// What this needs of a register.
pub trait Tables: SingleBits {
    /// The entry that the lowest four bits of each lane number.
    fn look_up(self, table: &[f32; 16]) -> Self;
    /// self * 2^floor(n), rounded once, denormals included.
    fn scale_by_floor(self, n: Self) -> Self;
    /// (m, e, i) of positive normal numbers m 2^e with 1 <= m < 2: the lowest four bits of i are the first four of m's fraction.
    fn digits(self) -> (Self, Self, Self);
}

/// 2^(i / 16).
#[allow(clippy::excessive_precision)] // nine digits name a single
const POWERS: [f32; 16] = [
    1.0,
    1.044_273_73,
    1.090_507_75,
    1.138_788_58,
    1.189_207_08,
    1.241_857_77,
    1.296_839_59,
    1.354_255_56,
    1.414_213_54,
    1.476_826_19,
    1.542_210_82,
    1.610_490_32,
    1.681_792_86,
    1.756_252_17,
    1.834_008_10,
    1.915_206_55,
];

/// About 16 / (16 + i + 1/2), chosen so that the next table is almost exact. The first is 1: a small logarithm keeps its digits.
#[allow(clippy::excessive_precision)]
const INVERSES: [f32; 16] = [
    1.0,
    0.914_476_097,
    0.864_595_890,
    0.820_661_068,
    0.780_449_152,
    0.744_424_522,
    0.711_086_273,
    0.681_020_498,
    0.652_947_783,
    0.627_183_974,
    0.603_858_888,
    0.581_756_234,
    0.561_426_818,
    0.542_617_679,
    0.524_453_163,
    0.507_909_000,
];

/// -log of those.
#[allow(clippy::excessive_precision)]
const LOGARITHMS: [f32; 16] = [
    0.0,
    0.089_403_949_7,
    0.145_493_060,
    0.197_645_083,
    0.247_885_689,
    0.295_143_813,
    0.340_961_516,
    0.384_162_873,
    0.426_258_117,
    0.466_515_362,
    0.504_414_737,
    0.541_703_761,
    0.577_273_846,
    0.611_350_298,
    0.645_399_153,
    0.677_452_981,
];

const LN_2: f64 = std::f64::consts::LN_2;

/// e^x for x <= 0; denormal below -87.3, 0 below -104, nan for nan.
///
/// x = n ln 2 + r with n in sixteenths and |r| <= ln 2 / 32: e^x = 2^floor(n) 2^(i / 16) e^r, where e^r takes a polynomial of degree 3
/// (relative error 9e-9). ln 2 is one single: n times its error is 2e-9 n, less than the rounding of an x that is a difference.
#[inline(always)]
pub fn exp<V: Tables>(x: V) -> V {
    // The bound keeps r finite; a nan passes, since the second operand is the one kept.
    let x = V::splat(-150.0).max(x);
    // Adding 1.5 * 2^19 leaves room for four binary digits of the fraction, which are then the lowest bits.
    let magic = V::splat(786_432.0);
    let shifted = x.mul_add(V::splat(std::f64::consts::LOG2_E), magic);
    let n = shifted - magic;
    let r = n.mul_add(V::splat(-LN_2), x);
    let slope = r.mul_add(r.mul_add(V::splat(1.0 / 6.0), V::splat(0.5)), V::one());
    let power = shifted.look_up(&POWERS);
    (r * slope).mul_add(power, power).scale_by_floor(n)
}

/// log x for x >= 1; inf for inf, nan for nan.
///
/// log(m 2^e) = e ln 2 - log c + log(1 + r) with r = m c - 1, -0.029 < r <= 1/16, c from the table; log(1 + r) = r + r^2 q(r) with a relative
/// error below 3e-9.
#[inline(always)]
pub fn ln_from_one<V: Tables>(x: V) -> V {
    let (m, e, i) = x.digits();
    let r = m.mul_add(i.look_up(&INVERSES), -V::one());
    let q = r.mul_add(V::splat(0.188_480_59), V::splat(-0.250_062_67));
    let q = r.mul_add(q, V::splat(0.333_344_55));
    let q = r.mul_add(q, V::splat(-0.5));
    e.mul_add(V::splat(LN_2), i.look_up(&LOGARITHMS)) + (r * r).mul_add(q, r)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_what_they_say() {
        for i in 0..16 {
            let near = |got: f32, truth: f64, tolerance: f64| (f64::from(got) / truth - 1.0).abs() < tolerance;
            assert!(near(POWERS[i], (i as f64 / 16.0).exp2(), 6e-8), "{i}");
            assert!(i == 0 || near(INVERSES[i], 16.0 / (16.5 + i as f64), 0.002), "{i}");
            assert!(i == 0 || near(LOGARITHMS[i], -f64::from(INVERSES[i]).ln(), 1e-10), "{i}");
        }
        assert_eq!((POWERS[0], INVERSES[0], LOGARITHMS[0]), (1.0, 1.0, 0.0));
    }
}
