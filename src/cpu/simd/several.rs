//! Several registers of pixels, one operation after the other on each.
//!
//! In a long chain each operation waits for the one before; of several chains side by side, one is sooner ready.

#![allow(clippy::needless_range_loop)] // see `each`

use std::ops::{Add, Div, Mul, Neg, Sub};

use super::Vector;
use crate::loss::real::Real;

/// `N` registers.
#[derive(Clone, Copy)]
pub struct Several<V, const N: usize>(pub [V; N]);

/// The results of `$operation` for each of the registers. A plain loop: iterators and closures may stay functions of their own, without the
/// instruction set of their caller.
macro_rules! each {
    ($first:ident, |$i:ident| $operation:expr) => {{
        let mut result = $first.0;
        for $i in 0..N {
            result[$i] = $operation;
        }
        Several(result)
    }};
}

macro_rules! operator {
    ($operator:ident, $method:ident) => {
        impl<V: Real, const N: usize> $operator for Several<V, N> {
            type Output = Self;
            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                each!(self, |i| $operator::$method(self.0[i], other.0[i]))
            }
        }
    };
}
operator!(Add, add);
operator!(Sub, sub);
operator!(Mul, mul);
operator!(Div, div);

impl<V: Real, const N: usize> Neg for Several<V, N> {
    type Output = Self;
    #[inline(always)]
    fn neg(self) -> Self {
        each!(self, |i| -self.0[i])
    }
}

impl<V: Real, const N: usize> Real for Several<V, N> {
    type Mask = [V::Mask; N];

    #[inline(always)]
    fn splat(value: f64) -> Self {
        Self([V::splat(value); N])
    }
    #[inline(always)]
    fn mul_add(self, factor: Self, term: Self) -> Self {
        each!(self, |i| self.0[i].mul_add(factor.0[i], term.0[i]))
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        each!(self, |i| self.0[i].max(other.0[i]))
    }
    #[inline(always)]
    fn min(self, other: Self) -> Self {
        each!(self, |i| self.0[i].min(other.0[i]))
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        each!(self, |i| self.0[i].sqrt())
    }
    #[inline(always)]
    fn exp(self) -> Self {
        each!(self, |i| self.0[i].exp())
    }
    #[inline(always)]
    fn exp_and_m1(self) -> (Self, Self) {
        let (mut exp, mut m1) = (self, self);
        for i in 0..N {
            (exp.0[i], m1.0[i]) = self.0[i].exp_and_m1();
        }
        (exp, m1)
    }
    #[inline(always)]
    fn ln(self) -> Self {
        each!(self, |i| self.0[i].ln())
    }
    #[inline(always)]
    fn ln_from_one(self) -> Self {
        each!(self, |i| self.0[i].ln_from_one())
    }
    #[inline(always)]
    fn equals(self, other: Self) -> Self::Mask {
        let mut mask = [self.0[0].equals(other.0[0]); N];
        for i in 1..N {
            mask[i] = self.0[i].equals(other.0[i]);
        }
        mask
    }
    #[inline(always)]
    fn greater(self, other: Self) -> Self::Mask {
        let mut mask = [self.0[0].greater(other.0[0]); N];
        for i in 1..N {
            mask[i] = self.0[i].greater(other.0[i]);
        }
        mask
    }
    #[inline(always)]
    fn select(mask: Self::Mask, yes: Self, no: Self) -> Self {
        each!(yes, |i| V::select(mask[i], yes.0[i], no.0[i]))
    }
}

impl<V: Vector, const N: usize> Vector for Several<V, N> {
    type Element = V::Element;
    const LANES: usize = N * V::LANES;
    const REGISTERS: usize = N * V::REGISTERS;
    type Register = V::Register;

    #[inline(always)]
    fn add_up(self, mut sum: V::Register) -> V::Register {
        for i in 0..N {
            sum = self.0[i].add_up(sum);
        }
        sum
    }
    #[inline(always)]
    fn add_products(self, factor: Self, mut sum: V::Register) -> V::Register {
        for i in 0..N {
            sum = self.0[i].add_products(factor.0[i], sum);
        }
        sum
    }

    #[inline(always)]
    fn splat_element(value: V::Element) -> Self {
        Self([V::splat_element(value); N])
    }
    #[inline(always)]
    unsafe fn load(from: *const V::Element) -> Self {
        let mut result = [V::zero(); N];
        for i in 0..N {
            // SAFETY: the caller's promise.
            result[i] = unsafe { V::load(from.add(i * V::LANES)) };
        }
        Self(result)
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut V::Element) {
        for i in 0..N {
            // SAFETY: the caller's promise.
            unsafe { self.0[i].store(to.add(i * V::LANES)) };
        }
    }
    #[inline(always)]
    unsafe fn stream(self, to: *mut V::Element) {
        for i in 0..N {
            // SAFETY: the caller's promise.
            unsafe { self.0[i].stream(to.add(i * V::LANES)) };
        }
    }
    #[inline(always)]
    fn add_to(self, sums: &mut [f64]) {
        for i in 0..N {
            self.0[i].add_to(&mut sums[i * V::LANES..][..V::LANES]);
        }
    }
    #[inline(always)]
    fn all(mask: Self::Mask) -> bool {
        let mut all = true;
        for i in 0..N {
            all &= V::all(mask[i]);
        }
        all
    }
    #[inline(always)]
    fn any(mask: Self::Mask) -> bool {
        let mut any = false;
        for i in 0..N {
            any |= V::any(mask[i]);
        }
        any
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::simd::{Element, InstructionSet, Work};

    struct Check;

    impl Work<f32> for Check {
        type Output = ();
        #[inline(always)]
        fn run<V: Vector<Element = f32>>(self) {
            type Six<V> = Several<Several<V, 2>, 3>;
            assert_eq!((Six::<V>::REGISTERS, Six::<V>::LANES), (6, 6 * V::LANES));
            let numbers: Vec<f32> = (0..6 * V::LANES).map(|i| i as f32).collect();
            // SAFETY: there are as many numbers as lanes.
            let all = unsafe { Six::<V>::load(numbers.as_ptr()) };
            let half = <Six<V> as Vector>::Register::splat(0.5);
            let lanes = |sum: <Six<V> as Vector>::Register| {
                let mut lanes = vec![0.0; V::LANES];
                // SAFETY: there is room for a register.
                unsafe { sum.store(lanes.as_mut_ptr()) };
                lanes
            };
            let sums = |of: fn(f32) -> f32| -> Vec<f32> {
                (0..V::LANES)
                    .map(|lane| numbers.iter().skip(lane).step_by(V::LANES).map(|&x| of(x)).sum::<f32>())
                    .collect()
            };
            let more = |sums: Vec<f32>| sums.into_iter().map(|sum| sum + 0.5).collect::<Vec<_>>();
            assert_eq!(lanes(all.add_up(half)), more(sums(|x| x)));
            assert_eq!(lanes(all.add_products(all, half)), more(sums(|x| x * x)));
        }
    }

    #[test]
    fn registers_are_added_up_lane_by_lane() {
        for set in InstructionSet::available() {
            f32::dispatch(set, Check);
        }
    }
}
