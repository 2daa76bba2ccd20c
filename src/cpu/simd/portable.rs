//! Plain Rust: four singles or doubles in an array, which the compiler turns into whatever registers the target has.

use std::ops::{Add, Div, Mul, Neg, Sub};

use super::Vector;
use super::elementary::{self, SingleBits};
use crate::loss::real::Real;

/// Four singles: one register of SSE or NEON.
#[derive(Clone, Copy)]
pub struct F32x4([f32; 4]);

/// Four doubles.
#[derive(Clone, Copy)]
pub struct F64x4([f64; 4]);

/// a b + c: fused where the target has the instruction (elsewhere it would be a library call a lane).
macro_rules! fused {
    ($a:expr, $b:expr, $c:expr) => {
        if cfg!(any(target_feature = "fma", target_arch = "aarch64")) { $a.mul_add($b, $c) } else { $a * $b + $c }
    };
}

/// An array of what `f` gives for each lane.
// Not `array::from_fn` or `map`: those were left as calls with closures, a lane at a time.
#[inline(always)]
fn each_lane<T: Copy + Default, const N: usize>(f: impl Fn(usize) -> T) -> [T; N] {
    let mut lanes = [T::default(); N];
    for (i, lane) in lanes.iter_mut().enumerate() {
        *lane = f(i);
    }
    lanes
}

/// The parts of [`Real`] and [`Vector`] that are alike for both.
macro_rules! lanes {
    ($name:ident, $element:ty, $lanes:literal, $exp:expr, $exp_and_m1:expr, $ln:expr, $ln_from_one:expr) => {
        impl $name {
            #[inline(always)]
            fn zip(self, other: Self, f: impl Fn($element, $element) -> $element) -> Self {
                Self(each_lane(|i| f(self.0[i], other.0[i])))
            }
        }
        impl Add for $name {
            type Output = Self;
            #[inline(always)]
            fn add(self, other: Self) -> Self {
                self.zip(other, |a, b| a + b)
            }
        }
        impl Sub for $name {
            type Output = Self;
            #[inline(always)]
            fn sub(self, other: Self) -> Self {
                self.zip(other, |a, b| a - b)
            }
        }
        impl Mul for $name {
            type Output = Self;
            #[inline(always)]
            fn mul(self, other: Self) -> Self {
                self.zip(other, |a, b| a * b)
            }
        }
        impl Div for $name {
            type Output = Self;
            #[inline(always)]
            fn div(self, other: Self) -> Self {
                self.zip(other, |a, b| a / b)
            }
        }
        impl Neg for $name {
            type Output = Self;
            #[inline(always)]
            fn neg(self) -> Self {
                Self(each_lane(|i| -self.0[i]))
            }
        }
        impl Real for $name {
            type Mask = [bool; $lanes];
            #[inline(always)]
            fn splat(value: f64) -> Self {
                Self([value as $element; $lanes])
            }
            #[inline(always)]
            fn mul_add(self, factor: Self, term: Self) -> Self {
                Self(each_lane(|i| fused!(self.0[i], factor.0[i], term.0[i])))
            }
            // As the x86 instructions: the second operand where one is nan.
            #[inline(always)]
            fn max(self, other: Self) -> Self {
                self.zip(other, |a, b| if a > b { a } else { b })
            }
            #[inline(always)]
            fn min(self, other: Self) -> Self {
                self.zip(other, |a, b| if a < b { a } else { b })
            }
            #[inline(always)]
            fn sqrt(self) -> Self {
                Self(each_lane(|i| self.0[i].sqrt()))
            }
            #[inline(always)]
            fn exp(self) -> Self {
                $exp(self)
            }
            #[inline(always)]
            fn exp_and_m1(self) -> (Self, Self) {
                $exp_and_m1(self)
            }
            #[inline(always)]
            fn ln(self) -> Self {
                $ln(self)
            }
            #[inline(always)]
            fn ln_from_one(self) -> Self {
                $ln_from_one(self)
            }
            #[inline(always)]
            fn equals(self, other: Self) -> Self::Mask {
                each_lane(|i| self.0[i] == other.0[i])
            }
            #[inline(always)]
            fn greater(self, other: Self) -> Self::Mask {
                each_lane(|i| self.0[i] > other.0[i])
            }
            #[inline(always)]
            fn select(mask: Self::Mask, yes: Self, no: Self) -> Self {
                Self(each_lane(|i| if mask[i] { yes.0[i] } else { no.0[i] }))
            }
        }
        impl Vector for $name {
            type Element = $element;
            const LANES: usize = $lanes;
            single_register!();
            #[inline(always)]
            fn splat_element(value: $element) -> Self {
                Self([value; $lanes])
            }
            #[inline(always)]
            unsafe fn load(from: *const $element) -> Self {
                // SAFETY: the caller's promise.
                Self(unsafe { from.cast::<[$element; $lanes]>().read_unaligned() })
            }
            #[inline(always)]
            unsafe fn store(self, to: *mut $element) {
                // SAFETY: the caller's promise.
                unsafe { to.cast::<[$element; $lanes]>().write_unaligned(self.0) }
            }
            #[inline(always)]
            fn add_to(self, sums: &mut [f64]) {
                for (sum, lane) in sums.iter_mut().zip(self.0) {
                    *sum += f64::from(lane);
                }
            }
            #[inline(always)]
            fn all(mask: Self::Mask) -> bool {
                mask == [true; $lanes]
            }
            #[inline(always)]
            fn any(mask: Self::Mask) -> bool {
                mask != [false; $lanes]
            }
        }
    };
}

lanes!(F32x4, f32, 4, elementary::exp, elementary::exp_and_m1, elementary::ln, elementary::ln_normal);
// Double precision is there to be exact, not fast: the standard library's functions, lane by lane.
lanes!(F64x4, f64, 4, each_exp, each_exp_and_m1, each_ln, each_ln);

fn each_exp(x: F64x4) -> F64x4 {
    F64x4(each_lane(|i| x.0[i].exp()))
}

fn each_exp_and_m1(x: F64x4) -> (F64x4, F64x4) {
    (each_exp(x), F64x4(each_lane(|i| x.0[i].exp_m1())))
}

fn each_ln(x: F64x4) -> F64x4 {
    F64x4(each_lane(|i| x.0[i].ln()))
}

impl SingleBits for F32x4 {
    #[inline(always)]
    fn scale(self, _: Self, shifted: Self) -> Self {
        // As AVX2 does it.
        self.zip(shifted, |x, shifted| {
            let power = (shifted.to_bits() << 23).wrapping_add((127 + 64) << 23);
            x * f32::from_bits(power) * f32::from_bits((127 - 64) << 23)
        })
    }
    #[inline(always)]
    fn split(self) -> (Self, Self) {
        const SQRT_HALF: i32 = 0x3f35_04f3;
        let exponents: [i32; 4] = each_lane(|i| (self.0[i].to_bits() as i32).wrapping_sub(SQRT_HALF) >> 23);
        let mantissas =
            each_lane(|i| f32::from_bits((self.0[i].to_bits() as i32).wrapping_sub(exponents[i] << 23) as u32));
        (Self(mantissas), Self(each_lane(|i| exponents[i] as f32)))
    }
}
