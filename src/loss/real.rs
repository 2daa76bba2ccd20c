//! What the maths needs of a number.

use std::ops::{Add, Div, Mul, Neg, Sub};

/// A number, or several side by side: `f64` in the reference tests, a register of pixels in `cpu::simd`.
pub trait Real:
    Copy + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + Div<Output = Self> + Neg<Output = Self>
{
    /// One truth value a lane.
    type Mask: Copy;

    /// The same value in every lane.
    fn splat(value: f64) -> Self;
    /// `self * factor + term`, rounded once where the machine can.
    fn mul_add(self, factor: Self, term: Self) -> Self;
    /// The larger of two; which one a nan gives is not specified.
    fn max(self, other: Self) -> Self;
    /// The smaller of two; `other` where `self` is nan.
    fn min(self, other: Self) -> Self;
    /// The square root.
    fn sqrt(self) -> Self;
    /// e^self. `self` must not be positive.
    fn exp(self) -> Self;
    /// (e^self, e^self - 1), the second exact to rounding near 0. `self` must not be positive.
    fn exp_and_m1(self) -> (Self, Self);
    /// The natural logarithm.
    fn ln(self) -> Self;
    /// The natural logarithm of a finite number from 1 on; anything else gives some number or nan.
    fn ln_from_one(self) -> Self;
    /// Lane by lane `self == other`.
    fn equals(self, other: Self) -> Self::Mask;
    /// Lane by lane `self > other`; false for nan.
    fn greater(self, other: Self) -> Self::Mask;
    /// `yes` where the mask holds, else `no`.
    fn select(mask: Self::Mask, yes: Self, no: Self) -> Self;

    /// 0 in every lane.
    #[inline(always)]
    fn zero() -> Self {
        Self::splat(0.0)
    }

    /// 1 in every lane.
    #[inline(always)]
    fn one() -> Self {
        Self::splat(1.0)
    }
}

impl Real for f64 {
    type Mask = bool;

    fn splat(value: f64) -> Self {
        value
    }
    fn mul_add(self, factor: Self, term: Self) -> Self {
        f64::mul_add(self, factor, term)
    }
    fn max(self, other: Self) -> Self {
        f64::max(self, other)
    }
    fn min(self, other: Self) -> Self {
        if self < other { self } else { other }
    }
    fn sqrt(self) -> Self {
        f64::sqrt(self)
    }
    fn exp(self) -> Self {
        f64::exp(self)
    }
    fn exp_and_m1(self) -> (Self, Self) {
        (f64::exp(self), f64::exp_m1(self))
    }
    fn ln(self) -> Self {
        f64::ln(self)
    }
    fn ln_from_one(self) -> Self {
        f64::ln(self)
    }
    fn equals(self, other: Self) -> bool {
        self == other
    }
    fn greater(self, other: Self) -> bool {
        self > other
    }
    fn select(mask: bool, yes: Self, no: Self) -> Self {
        if mask { yes } else { no }
    }
}
