//! Class-index targets.

mod kept;

use super::label::{Labels, Mixed, Uniform};
use super::{Bank, LaneSums, Mode, Params, Tile};
use crate::cpu::simd::several::Several;
use crate::cpu::simd::{Element, Vector};
use crate::loss::pixel::{Softmax, pixel_loss};
use crate::loss::real::Real;
use crate::loss::spec::PixelLoss;
use crate::tensor::DType;

/// xBD's background and four grades of damage: a number that the compiler knows, so that loops over classes unroll. It gains 10 %
/// and costs as much compilation as the kernels for all other numbers together.
const XBD_CLASSES: usize = 5;
/// What is taken at a time: the chain from a softmax to its loss and gradient is long, and two of them side by side wait for less.
type Wide<V> = Several<V, 2>;
/// Of these, as many have their exponentials taken before the rest is done.
pub const GROUP: usize = 2;

/// A tile of class-index targets.
///
/// # Safety
/// As for [`super::run`].
#[inline(always)]
pub unsafe fn run<V: Vector, M: Mode>(
    tile: &Tile<V::Element>,
    params: &Params<V::Element>,
    sums: &mut LaneSums,
    banks: [Bank<'_, V::Element>; 3],
) {
    // SAFETY: the caller's promise.
    unsafe {
        if V::Element::DTYPE == DType::Float32 && params.classes == XBD_CLASSES {
            run_for::<Wide<V>, M, XBD_CLASSES>(tile, params, sums, banks);
        } else {
            run_for::<Wide<V>, M, 0>(tile, params, sums, banks);
        }
    }
}

/// [`run`], for C classes, or any number where C is 0.
///
/// # Safety
/// As for [`super::run`]; C is 0 or the number of classes.
#[inline(always)]
unsafe fn run_for<V: Vector, M: Mode, const C: usize>(
    tile: &Tile<V::Element>,
    params: &Params<V::Element>,
    sums: &mut LaneSums,
    [mut e, intersection, prediction]: [Bank<'_, V::Element>; 3],
) {
    let classes = if C > 0 { C } else { params.classes };
    let label_smoothing = match params.pixel {
        Some(PixelLoss::CrossEntropy { label_smoothing }) => label_smoothing / classes as f64,
        _ => 0.0,
    };
    let pixels = Pixels::<V, C> {
        tile: *tile,
        classes,
        pixel: params.pixel,
        weight: &params.weight[..classes],
        region_target: if M::GRADIENT && M::REGION { &params.region_target[..classes] } else { &[] },
        region: if M::GRADIENT && M::REGION { &params.region[..classes] } else { &[] },
        factor: V::splat(params.factor),
        weight_sum: V::splat(params.weight_sum),
        smooths: label_smoothing != 0.0,
        label_smoothing: V::splat(label_smoothing),
    };
    let mut totals = Totals::<V> { loss: V::Register::zero(), intersection, prediction };
    if M::REDUCE && M::REGION {
        for c in 0..classes {
            totals.intersection.set(c, V::Register::zero());
            totals.prediction.set(c, V::Register::zero());
        }
    }
    if M::KEPT {
        for i in (0..tile.len).step_by(V::LANES) {
            // SAFETY: i + LANES <= len, and the bank holds a register for each class.
            unsafe {
                let number = pixels.kept(i, e.part::<V>(0, classes));
                pixels.labelled::<M>(i, number, e.part::<V>(0, classes), &mut totals);
            }
        }
    } else {
        for start in (0..tile.len).step_by(GROUP * V::LANES) {
            let registers = ((tile.len - start) / V::LANES).min(GROUP);
            let mut largest = [V::zero(); GROUP];
            for (r, m) in largest.iter_mut().enumerate().take(registers) {
                // SAFETY: i + LANES <= len, and the bank holds GROUP registers for each class.
                *m = unsafe { pixels.exponentials(start + r * V::LANES, e.part::<V>(r, classes)) };
            }
            for (r, &m) in largest.iter().enumerate().take(registers) {
                // SAFETY: i + LANES <= len, as for its exponentials.
                unsafe { pixels.labelled::<M>(start + r * V::LANES, m, e.part::<V>(r, classes), &mut totals) };
            }
        }
    }
    if M::REDUCE {
        totals.loss.add_to(&mut sums.loss);
        if M::REGION {
            for c in 0..classes {
                totals.intersection.get::<V::Register>(c).add_to(&mut sums.classes[c]);
                totals.prediction.get::<V::Register>(c).add_to(&mut sums.classes[classes + c]);
            }
        }
    }
}

/// What the registers of a tile share. By value: a store through the tile's pointers might otherwise change it for all that the
/// compiler knows, and it would be read again for every register.
struct Pixels<'a, V: Vector, const C: usize> {
    tile: Tile<V::Element>,
    classes: usize,
    pixel: Option<PixelLoss>,
    weight: &'a [V::Element],
    region_target: &'a [V::Element],
    region: &'a [V::Element],
    factor: V,
    weight_sum: V,
    smooths: bool,
    /// Divided by the number of classes.
    label_smoothing: V,
}

/// Sums over the pixels of a tile so far, in one machine register each: stores are what the first pass of a region loss has most of.
struct Totals<'a, V: Vector> {
    /// The pixel losses.
    loss: V::Register,
    /// I_c.
    intersection: Bank<'a, V::Element>,
    /// P_c.
    prediction: Bank<'a, V::Element>,
}

impl<V: Vector, const C: usize> Pixels<'_, V, C> {
    #[inline(always)]
    fn classes(&self) -> usize {
        if C > 0 { C } else { self.classes }
    }

    /// z_c of the register at `i`.
    ///
    /// # Safety
    /// i + LANES <= len and c < classes.
    #[inline(always)]
    unsafe fn logit(&self, c: usize, i: usize) -> V {
        // SAFETY: the caller's promise, and that of the tile.
        unsafe { V::load(self.tile.logits.offset(c as isize * self.tile.logits_stride).add(i)) }
    }

    /// w_c.
    #[inline(always)]
    fn weight(&self, c: usize) -> V {
        V::splat_element(self.weight[c])
    }

    /// The value times the incoming gradient of the register at `i`.
    ///
    /// # Safety
    /// i + LANES <= len.
    #[inline(always)]
    unsafe fn incoming(&self, value: V, i: usize) -> V {
        let incoming = self.tile.incoming;
        // SAFETY: the caller's promise; it is not null.
        if incoming.is_null() { value } else { value * unsafe { V::load(incoming.add(i)) } }
    }

    /// (dL/dz_c) / e_c for c != y.
    #[inline(always)]
    fn slope<M: Mode>(&self, c: usize, base: V, inverse: V) -> V {
        if M::REGION { inverse.mul_add(V::splat_element(self.region[c]), base) } else { base }
    }

    /// dL/dz_c with the part of label smoothing, `factor` (W p_c - w_c).
    #[inline(always)]
    fn smoothed(&self, gradient: V, c: usize, p: V, factor: V) -> V {
        factor.mul_add(p.mul_add(self.weight_sum, -self.weight(c)), gradient)
    }

    /// `action` for the first pixel of each machine register of the register at `i`.
    #[inline(always)]
    fn each_register(&self, i: usize, action: impl Fn(usize)) {
        for r in 0..V::REGISTERS {
            action(i + r * (V::LANES / V::REGISTERS));
        }
    }

    /// e_c of the register at `i` into the bank; returns m.
    ///
    /// # Safety
    /// i + LANES <= len.
    #[inline(always)]
    unsafe fn exponentials(&self, i: usize, mut e: Bank<'_, V::Element>) -> V {
        let classes = self.classes();
        // SAFETY: the caller's promise; there is a class.
        let mut m = unsafe { self.logit(0, i) };
        for c in 0..classes {
            self.each_register(i, |i| self.tile.next_logits.read(c, i));
            if c > 0 {
                // SAFETY: the caller's promise.
                m = m.max(unsafe { self.logit(c, i) });
            }
        }
        for c in 0..classes {
            // SAFETY: the caller's promise.
            e.set(c, unsafe { self.logit(c, i) - m }.exp());
        }
        m
    }

    /// The register of pixels at `i`, whose e_c are in the bank, by what its labels are; `number` is m, or what was kept with the e_c.
    ///
    /// # Safety
    /// i + LANES <= len.
    #[inline(always)]
    unsafe fn labelled<M: Mode>(&self, i: usize, number: V, e: Bank<'_, V::Element>, totals: &mut Totals<'_, V>) {
        // SAFETY: the caller's promise, and a label that becomes an address is below `classes`.
        unsafe {
            let (first, labels) = (*self.tile.labels.add(i), V::load(self.tile.labels.add(i)));
            if !V::all(labels.equals(V::splat_element(first))) {
                self.register::<M>(i, number, e, Mixed::new(labels), totals);
            } else if C > 0 && first.to_f64() == 0.0 {
                // Most registers: where the compiler knows the class, unrolled loops over classes need not ask for it.
                self.register::<M>(i, number, e, Uniform::<true>(0), totals);
            } else if first.to_f64() >= 0.0 && (first.to_f64() as usize) < self.classes() {
                self.register::<M>(i, number, e, Uniform::<false>(first.to_f64() as usize), totals);
            } else {
                // Also what is no class: somebody may have changed the labels since they were counted.
                self.ignored::<M>(i);
            }
        }
    }

    /// A register of ignored pixels at `i`.
    ///
    /// # Safety
    /// i + LANES <= len.
    #[inline(always)]
    unsafe fn ignored<M: Mode>(&self, i: usize) {
        // SAFETY: the caller's promise, and that of the tile.
        unsafe {
            if M::GRADIENT || M::KEEP {
                (0..self.classes()).for_each(|c| self.write(c, i, V::zero()));
            }
            if M::REDUCE && M::PIXEL && !self.tile.loss.is_null() {
                V::zero().store(self.tile.loss.add(i));
            }
        }
    }

    /// The register of pixels at `i`, whose m is given and whose e_c are in the bank. With m = max z, e_c = exp(z_c - m) and
    /// p_c = e_c / sum e, label smoothing e has L += e/C (W log sum e + sum_c w_c (m - z_c)).
    ///
    /// # Safety
    /// i + LANES <= len, and the labels are below the number of classes.
    #[inline(always)]
    unsafe fn register<M: Mode>(
        &self,
        i: usize,
        m: V,
        e: Bank<'_, V::Element>,
        labels: impl Labels<V>,
        totals: &mut Totals<'_, V>,
    ) {
        if M::KEPT {
            // SAFETY: the caller's promise.
            return unsafe { self.register_from_kept::<M>(i, m, e, labels) };
        }
        let classes = self.classes();
        // SAFETY: the caller's promise.
        let logit = |c: usize| unsafe { self.logit(c, i) };
        let add_e = |c: usize, sum: V| sum + e.get(c);
        let ([e_y, z_y, w_y], others) = if M::PIXEL {
            labels.split(classes, |c| [e.get(c), logit(c), self.weight(c)], add_e)
        } else {
            let ([e_y], others) = labels.split(classes, |c| [e.get(c)], add_e);
            ([e_y, m, V::one()], others)
        };
        let softmax = Softmax::new(m - z_y, e_y, others);
        let mut k = V::zero();
        if M::PIXEL {
            let log_sum = softmax.log_sum();
            let mut pixel = self.pixel.expect("the mode has a pixel term");
            if labels.class().is_some_and(|y| self.weight[y].to_f64() == 1.0) {
                // Background, in most weightings: one exponential less.
                pixel = pixel.of_weight_one();
            }
            let result = pixel_loss(pixel, &softmax, log_sum, w_y);
            k = result.slope;
            if M::REDUCE {
                let mut loss = result.loss;
                if self.smooths {
                    let mut spread = log_sum * self.weight_sum;
                    for c in 0..classes {
                        spread = self.weight(c).mul_add(m - logit(c), spread);
                    }
                    loss = spread.mul_add(self.label_smoothing, loss);
                }
                loss = labels.valid(loss);
                totals.loss = loss.add_up(totals.loss);
                if !self.tile.loss.is_null() {
                    // SAFETY: the caller's promise; it is not null.
                    unsafe { loss.store(self.tile.loss.add(i)) };
                }
            }
        }
        if M::REDUCE && M::REGION {
            let inverse = labels.valid(softmax.inverse);
            for c in 0..classes {
                // What stands at an ignored pixel, nan and inf included, must not matter.
                let valid = labels.valid(e.get::<V>(c));
                totals.prediction.set(c, valid.add_products(inverse, totals.prediction.get(c)));
            }
            labels.add(&mut totals.intersection, |c| e.get::<V>(c) * inverse, classes);
        }
        if M::KEEP {
            // SAFETY: the caller's promise.
            unsafe { self.keep(i, &e, if M::PIXEL { k } else { softmax.inverse }) };
        }
        if M::GRADIENT {
            // SAFETY: the caller's promise.
            unsafe { self.gradient::<M>(i, &softmax, k, e, labels) };
        }
    }

    /// The gradient at the register of pixels at `i`, whose e_c are in the bank:
    ///
    /// ```text
    /// dL/dz_c = K (p_c - y_c) + p_c (q_c - sum_j p_j q_j),      K = factor k, q_c = a_c y_c + b_c
    /// for c = y, without cancellation: p_y (q_y (1 - p_y) - rest) - K (1 - p_y),  rest = sum_{j != y} p_j b_j
    /// label smoothing e:  dL/dz_c += factor e/C (W p_c - w_c)
    /// ```
    ///
    /// # Safety
    /// As for [`Pixels::register`].
    #[inline(always)]
    unsafe fn gradient<M: Mode>(
        &self,
        i: usize,
        softmax: &Softmax<V>,
        k: V,
        e: Bank<'_, V::Element>,
        labels: impl Labels<V>,
    ) {
        let classes = self.classes();
        let (p_y, complement) = (softmax.probability(), softmax.complement());
        // SAFETY: the caller's promise.
        let mut base = if M::PIXEL { unsafe { self.incoming(k * self.factor, i) } } else { V::zero() };
        let mut at_target = -(base * complement);
        if M::REGION {
            let ([q_y], rest) = labels.split(
                classes,
                |c| [V::splat_element(self.region_target[c])],
                |c, sum| e.get::<V>(c).mul_add(V::splat_element(self.region[c]), sum),
            );
            let rest = rest * softmax.inverse;
            base = base - q_y.mul_add(p_y, rest);
            at_target = p_y.mul_add(q_y.mul_add(complement, -rest), at_target);
        }
        let base = base * softmax.inverse;
        // SAFETY: the caller's promise.
        let write = |c: usize, g: V| unsafe { self.write(c, i, g) };
        if M::PIXEL && self.smooths {
            // SAFETY: the caller's promise.
            let factor = unsafe { self.incoming(self.factor * self.label_smoothing, i) };
            let target = |c| self.smoothed(at_target, c, e.get::<V>(c) * softmax.inverse, factor);
            let other = |c| {
                let e_c: V = e.get(c);
                self.smoothed(e_c * self.slope::<M>(c, base, softmax.inverse), c, e_c * softmax.inverse, factor)
            };
            labels.write(classes, target, other, write);
        } else {
            let other = |c| e.get::<V>(c) * self.slope::<M>(c, base, softmax.inverse);
            labels.write(classes, |_| at_target, other, write);
        }
    }

    /// dL/dz_c of the register at `i`.
    ///
    /// # Safety
    /// i + LANES <= len and c < classes.
    #[inline(always)]
    unsafe fn write(&self, c: usize, i: usize, value: V) {
        self.each_register(i, |i| self.tile.next_gradient.write(c, i));
        // SAFETY: the caller's promise, and that of the tile.
        unsafe {
            let to = self.tile.gradient.offset(c as isize * self.tile.gradient_stride).add(i);
            if self.tile.streams { value.stream(to) } else { value.store(to) }
        }
    }
}
