//! Class-index targets.

use super::label::{Labels, Mixed, Uniform};
use super::{Bank, LaneSums, Mode, Params, Tile};
use crate::cpu::simd::{Element, Vector};
use crate::loss::pixel::{Softmax, pixel_loss};
use crate::loss::spec::PixelLoss;

/// A tile of class-index targets.
///
/// # Safety
/// As for [`super::run`].
#[inline(always)]
pub unsafe fn run<V: Vector, M: Mode>(
    tile: &Tile<V::Element>,
    params: &Params<V::Element>,
    sums: &mut LaneSums,
    [e, mut intersection, mut prediction]: [Bank<'_, V::Element>; 3],
) {
    let classes = params.classes;
    if M::REDUCE && M::REGION {
        for c in 0..classes {
            intersection.set(c, V::zero());
            prediction.set(c, V::zero());
        }
    }
    let label_smoothing = match params.pixel {
        Some(PixelLoss::CrossEntropy { label_smoothing }) => label_smoothing / classes as f64,
        _ => 0.0,
    };
    let mut pixels = Pixels { tile, params, label_smoothing, e, intersection, prediction, loss: V::zero() };
    for i in (0..tile.len).step_by(V::LANES) {
        // SAFETY: i + LANES <= len; every label is below `classes`, as all labels were counted before, or -1.
        unsafe {
            let (first, labels) = (*tile.labels.add(i), V::load(tile.labels.add(i)));
            if !V::all(labels.equals(V::splat_element(first))) {
                pixels.register::<M>(i, Mixed::new(labels));
            } else if first.to_f64() >= 0.0 {
                pixels.register::<M>(i, Uniform(first.to_f64() as usize));
            } else {
                pixels.ignored::<M>(i);
            }
        }
    }
    if M::REDUCE {
        pixels.loss.add_to(&mut sums.loss);
        if M::REGION {
            for c in 0..classes {
                pixels.intersection.get::<V>(c).add_to(&mut sums.classes[c]);
                pixels.prediction.get::<V>(c).add_to(&mut sums.classes[classes + c]);
            }
        }
    }
}

/// One register of pixels, at `i`.
///
/// i + LANES <= len for the tile, and its methods take classes below `classes` alone.
struct Register<'a, V: Vector, L> {
    tile: &'a Tile<V::Element>,
    params: &'a Params<V::Element>,
    i: usize,
    labels: L,
}

impl<V: Vector, L: Labels<V>> Register<'_, V, L> {
    /// z_c; 0 at an ignored pixel: what stands there, nan and inf included, must not matter.
    #[inline(always)]
    fn logit(&self, c: usize) -> V {
        debug_assert!(c < self.params.classes);
        let tile = self.tile;
        // SAFETY: i + LANES <= len and c < classes, so the tile holds the address.
        self.labels.valid(unsafe { V::load(tile.logits.offset(c as isize * tile.logits_stride).add(self.i)) })
    }

    /// The value of a class in every lane.
    #[inline(always)]
    fn one_of(&self, values: &[V::Element], c: usize) -> V {
        debug_assert!(c < values.len());
        // SAFETY: c < classes, and weights and coefficients have as many elements.
        unsafe { V::splat_element(*values.get_unchecked(c)) }
    }

    /// w_c.
    #[inline(always)]
    fn weight(&self, c: usize) -> V {
        if self.params.weight.is_empty() { V::one() } else { self.one_of(&self.params.weight, c) }
    }

    /// The value times the incoming gradient.
    #[inline(always)]
    fn incoming(&self, value: V) -> V {
        let incoming = self.tile.incoming;
        // SAFETY: i + LANES <= len; it is not null.
        if incoming.is_null() { value } else { value * unsafe { V::load(incoming.add(self.i)) } }
    }

    /// (dL/dz_c) / e_c for c != y.
    #[inline(always)]
    fn slope<M: Mode>(&self, c: usize, base: V, inverse: V) -> V {
        if M::REGION { inverse.mul_add(self.one_of(&self.params.region, c), base) } else { base }
    }

    /// dL/dz_c with the part of label smoothing, `factor` (W p_c - w_c).
    #[inline(always)]
    fn smoothed(&self, gradient: V, c: usize, p: V, factor: V) -> V {
        factor.mul_add(p.mul_add(V::splat(self.params.weight_sum), -self.weight(c)), gradient)
    }
}

/// What the registers of a tile share.
struct Pixels<'a, V: Vector> {
    tile: &'a Tile<V::Element>,
    params: &'a Params<V::Element>,
    /// Divided by the number of classes.
    label_smoothing: f64,
    e: Bank<'a, V::Element>,
    /// I_c so far.
    intersection: Bank<'a, V::Element>,
    /// P_c so far.
    prediction: Bank<'a, V::Element>,
    /// The sum of the pixel losses so far.
    loss: V,
}

impl<V: Vector> Pixels<'_, V> {
    /// A register of ignored pixels at `i`.
    ///
    /// # Safety
    /// i + LANES <= len.
    #[inline(always)]
    unsafe fn ignored<M: Mode>(&self, i: usize) {
        // SAFETY: the caller's promise, and that of the tile.
        unsafe {
            if M::GRADIENT {
                (0..self.params.classes).for_each(|c| self.write(c, i, V::zero()));
            }
            if M::REDUCE && M::PIXEL && !self.tile.loss.is_null() {
                V::zero().store(self.tile.loss.add(i));
            }
        }
    }

    /// A register of pixels at `i`. Per pixel, with m = max z, e_c = exp(z_c - m) and p_c = e_c / sum e:
    ///
    /// ```text
    /// dL/dz_c = K (p_c - y_c) + p_c (q_c - sum_j p_j q_j),      K = factor k, q_c = a_c y_c + b_c
    /// for c = y, without cancellation: p_y (q_y (1 - p_y) - rest) - K (1 - p_y),  rest = sum_{j != y} p_j b_j
    /// label smoothing e:  L += e/C (W log sum e + sum_c w_c (m - z_c)),  dL/dz_c += factor e/C (W p_c - w_c)
    /// ```
    ///
    /// # Safety
    /// i + LANES <= len, and the labels are below the number of classes.
    #[inline(always)]
    unsafe fn register<M: Mode>(&mut self, i: usize, labels: impl Labels<V>) {
        let (tile, params, classes) = (self.tile, self.params, self.params.classes);
        let at = Register { tile, params, i, labels };
        let mut m = V::splat(f64::NEG_INFINITY);
        for c in 0..classes {
            let z = at.logit(c);
            self.e.set(c, z);
            m = m.max(z);
        }
        for c in 0..classes {
            self.e.set(c, (self.e.get::<V>(c) - m).exp());
        }
        let e = &self.e;
        let add_e = |c: usize, sum: V| sum + e.get(c);
        let ([e_y, z_y, w_y], others) = if M::PIXEL {
            labels.split(classes, |c| [e.get(c), at.logit(c), at.weight(c)], add_e)
        } else {
            let ([e_y], others) = labels.split(classes, |c| [e.get(c)], add_e);
            ([e_y, m, V::one()], others)
        };
        let softmax = Softmax::new(m - z_y, e_y, others);
        let mut slope = V::zero();
        if M::PIXEL {
            let log_sum = softmax.log_sum();
            let pixel = params.pixel.expect("the mode has a pixel term");
            let result = pixel_loss(pixel, &softmax, log_sum, w_y);
            slope = at.incoming(result.slope * V::splat(params.factor));
            if M::REDUCE {
                let mut loss = result.loss;
                if self.label_smoothing != 0.0 {
                    let mut spread = log_sum * V::splat(params.weight_sum);
                    for c in 0..classes {
                        spread = at.weight(c).mul_add(m - at.logit(c), spread);
                    }
                    loss = spread.mul_add(V::splat(self.label_smoothing), loss);
                }
                loss = labels.valid(loss);
                self.loss = self.loss + loss;
                if !tile.loss.is_null() {
                    // SAFETY: the caller's promise; it is not null.
                    unsafe { loss.store(tile.loss.add(i)) };
                }
            }
        }
        if M::REDUCE && M::REGION {
            let inverse = labels.valid(softmax.inverse);
            for c in 0..classes {
                self.prediction.set(c, e.get::<V>(c).mul_add(inverse, self.prediction.get(c)));
            }
            labels.add(&mut self.intersection, |c| e.get::<V>(c) * inverse, classes);
        }
        if M::GRADIENT {
            let (p_y, complement) = (softmax.probability(), softmax.complement());
            let mut base = slope;
            let mut at_target = -(slope * complement);
            if M::REGION {
                let ([q_y], rest) = labels.split(
                    classes,
                    |c| [at.one_of(&params.region_target, c)],
                    |c, sum| e.get::<V>(c).mul_add(at.one_of(&params.region, c), sum),
                );
                let rest = rest * softmax.inverse;
                base = base - q_y.mul_add(p_y, rest);
                at_target = p_y.mul_add(q_y.mul_add(complement, -rest), at_target);
            }
            let base = base * softmax.inverse;
            // SAFETY: the caller's promise.
            let write = |c: usize, g: V| unsafe { self.write(c, i, g) };
            if M::PIXEL && self.label_smoothing != 0.0 {
                let factor = at.incoming(V::splat(params.factor * self.label_smoothing));
                let target = |c| at.smoothed(at_target, c, e.get::<V>(c) * softmax.inverse, factor);
                let other = |c| {
                    let e_c: V = e.get(c);
                    at.smoothed(e_c * at.slope::<M>(c, base, softmax.inverse), c, e_c * softmax.inverse, factor)
                };
                labels.write(classes, target, other, write);
            } else {
                let other = |c| e.get::<V>(c) * at.slope::<M>(c, base, softmax.inverse);
                labels.write(classes, |_| at_target, other, write);
            }
        }
    }

    /// dL/dz_c of the register at `i`.
    ///
    /// # Safety
    /// i + LANES <= len and c < classes.
    #[inline(always)]
    unsafe fn write(&self, c: usize, i: usize, value: V) {
        // SAFETY: the caller's promise, and that of the tile.
        unsafe { value.store(self.tile.gradient.offset(c as isize * self.tile.gradient_stride).add(i)) };
    }
}
