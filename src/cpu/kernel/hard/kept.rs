//! The exponentials of a softmax, kept in the gradient's memory from the pass that reduces to the one that writes the gradient.
//!
//! The gradient of a region term needs sums over all pixels, so pixels are visited twice; exponentials and logarithms are most of the
//! work, and the memory of the gradient is there, as large as the logits, and not yet written. e_c = exp(z_c - m) is 1 for the largest
//! class, so that class's place (of several, each) is free for one more number of the pixel, k of its loss or 1 / sum e, which is told
//! from the others by its sign. Nothing is rounded on the way: the gradient has the bits that a second softmax would give.

use super::{Labels, Pixels};
use crate::cpu::kernel::{Bank, Mode};
use crate::cpu::simd::Vector;
use crate::loss::pixel::Softmax;

/// The least number that is told from 0: k may be 0.
const LEAST: f64 = f32::MIN_POSITIVE as f64;

impl<V: Vector, const C: usize> Pixels<'_, V, C> {
    /// Keep the e_c of the register at `i`, and `number`, which is not negative.
    ///
    /// # Safety
    /// i + LANES <= len.
    #[inline(always)]
    pub unsafe fn keep(&self, i: usize, e: &Bank<'_, V::Element>, number: V) {
        let number = -V::splat(LEAST).max(number);
        for c in 0..self.classes() {
            let e_c: V = e.get(c);
            // SAFETY: the caller's promise.
            unsafe { self.write(c, i, V::select(e_c.equals(V::one()), number, e_c)) };
        }
    }

    /// The e_c of the register at `i` into the bank; returns the number kept with them.
    ///
    /// # Safety
    /// i + LANES <= len, and the tile's logits are what [`Pixels::keep`] wrote.
    #[inline(always)]
    pub unsafe fn kept(&self, i: usize, mut e: Bank<'_, V::Element>) -> V {
        let mut number = V::zero();
        for c in 0..self.classes() {
            // SAFETY: the caller's promise.
            let kept = unsafe { self.logit(c, i) };
            let free = V::zero().greater(kept);
            number = V::select(free, kept, number);
            e.set(c, V::select(free, V::one(), kept));
        }
        -number
    }

    /// The gradient at the register of pixels at `i`, whose e_c are in the bank, and the number that was kept with them.
    ///
    /// # Safety
    /// i + LANES <= len, and the labels are below the number of classes.
    #[inline(always)]
    pub unsafe fn register_from_kept<M: Mode>(
        &self,
        i: usize,
        number: V,
        e: Bank<'_, V::Element>,
        labels: impl Labels<V>,
    ) {
        let ([e_y], others) = labels.split(self.classes(), |c| [e.get(c)], |c, sum: V| sum + e.get(c));
        let softmax = if M::PIXEL {
            Softmax::new(V::zero(), e_y, others)
        } else {
            Softmax { distance: V::zero(), target: e_y, others, inverse: number }
        };
        // SAFETY: the caller's promise.
        unsafe { self.gradient::<M>(i, &softmax, number, e, labels) };
    }
}
