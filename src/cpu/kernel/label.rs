//! The labels of one register of pixels.
//!
//! Most registers of a segmentation mask lie inside one region: their pixels share a class, and what is done for the class of each
//! pixel is then done once, without a comparison for each class.
//!
//! Each closure is called at one place in a method: at two, the compiler may leave it a function of its own, without the
//! instruction set of its caller.

use super::Bank;
use crate::cpu::simd::Vector;

/// The target classes of a register of pixels.
pub trait Labels<V: Vector>: Copy {
    /// The class of all pixels, if they share one.
    fn class(self) -> Option<usize>;
    /// The value, or 0 where the pixel is ignored.
    fn valid(self, value: V) -> V;
    /// The values of each pixel's target class, and the sum over its other classes, to which `fold` adds one.
    fn split<const N: usize>(
        self,
        classes: usize,
        value: impl Fn(usize) -> [V; N],
        fold: impl Fn(usize, V) -> V,
    ) -> ([V; N], V);
    /// `bank[y] += value(y)` for each pixel's target class y. The bank has a machine register for each class.
    fn add(self, bank: &mut Bank<'_, V::Element>, value: impl Fn(usize) -> V, classes: usize);
    /// `write(c, value)` for every class, with `target(c)` for pixels of the class and `other(c)` for the others; 0 if ignored.
    fn write(self, classes: usize, target: impl Fn(usize) -> V, other: impl Fn(usize) -> V, write: impl Fn(usize, V));
}

/// All pixels are valid and of this class. Where the compiler is to see its number, `KNOWN` makes it a type of its own: what is called at two
/// places may stay a function, as above.
#[derive(Clone, Copy)]
pub struct Uniform<const KNOWN: bool>(pub usize);

impl<V: Vector, const KNOWN: bool> Labels<V> for Uniform<KNOWN> {
    #[inline(always)]
    fn class(self) -> Option<usize> {
        Some(self.0)
    }
    #[inline(always)]
    fn valid(self, value: V) -> V {
        value
    }
    #[inline(always)]
    fn split<const N: usize>(
        self,
        classes: usize,
        value: impl Fn(usize) -> [V; N],
        fold: impl Fn(usize, V) -> V,
    ) -> ([V; N], V) {
        let mut sum = V::zero();
        for c in 0..classes {
            if c != self.0 {
                sum = fold(c, sum);
            }
        }
        (value(self.0), sum)
    }
    #[inline(always)]
    fn add(self, bank: &mut Bank<'_, V::Element>, value: impl Fn(usize) -> V, _classes: usize) {
        bank.set(self.0, value(self.0).add_up(bank.get::<V::Register>(self.0)));
    }
    #[inline(always)]
    fn write(self, classes: usize, target: impl Fn(usize) -> V, other: impl Fn(usize) -> V, write: impl Fn(usize, V)) {
        for c in 0..classes {
            write(c, if c == self.0 { target(c) } else { other(c) });
        }
    }
}

/// Each pixel has a label of its own; -1 where it is ignored.
#[derive(Clone, Copy)]
pub struct Mixed<V: Vector> {
    labels: V,
    valid: V::Mask,
    whole: bool,
}

impl<V: Vector> Mixed<V> {
    /// Of a register of labels.
    #[inline(always)]
    pub fn new(labels: V) -> Self {
        let valid = labels.greater(V::splat(-0.5));
        Self { labels, valid, whole: V::all(valid) }
    }
}

impl<V: Vector> Labels<V> for Mixed<V> {
    #[inline(always)]
    fn class(self) -> Option<usize> {
        None
    }
    #[inline(always)]
    fn valid(self, value: V) -> V {
        if self.whole { value } else { V::select(self.valid, value, V::zero()) }
    }
    #[inline(always)]
    fn split<const N: usize>(
        self,
        classes: usize,
        value: impl Fn(usize) -> [V; N],
        fold: impl Fn(usize, V) -> V,
    ) -> ([V; N], V) {
        let (mut values, mut sum) = ([V::zero(); N], V::zero());
        let mut class = V::zero(); // c in every lane: adding 1 is cheaper than converting c
        for c in 0..classes {
            let is_target = self.labels.equals(class);
            for (value, new) in values.iter_mut().zip(value(c)) {
                *value = V::select(is_target, new, *value);
            }
            sum = V::select(is_target, sum, fold(c, sum));
            class = class + V::one();
        }
        (values, sum)
    }
    #[inline(always)]
    fn add(self, bank: &mut Bank<'_, V::Element>, value: impl Fn(usize) -> V, classes: usize) {
        let mut class = V::zero();
        for c in 0..classes {
            let value = V::select(self.labels.equals(class), value(c), V::zero());
            bank.set(c, value.add_up(bank.get::<V::Register>(c)));
            class = class + V::one();
        }
    }
    #[inline(always)]
    fn write(self, classes: usize, target: impl Fn(usize) -> V, other: impl Fn(usize) -> V, write: impl Fn(usize, V)) {
        let mut class = V::zero();
        for c in 0..classes {
            write(c, self.valid(V::select(self.labels.equals(class), target(c), other(c))));
            class = class + V::one();
        }
    }
}
