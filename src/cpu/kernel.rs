//! The loss and its gradient over one tile, a register of pixels at a time: class-index targets.

use super::simd::{MAX_LANES, Vector};
use crate::loss::pixel::{Softmax, pixel_loss};
use crate::loss::spec::PixelLoss;

/// Pixels in class-major order: class c of pixel i is at `logits + c * logits_stride + i`.
pub struct Tile<T> {
    /// Pixels; a multiple of [`MAX_LANES`].
    pub len: usize,
    /// (C, len).
    pub logits: *const T,
    /// Elements from one class to the next.
    pub logits_stride: isize,
    /// (len): class indices, or -1 where the pixel is ignored.
    pub labels: *const T,
    /// (C, len), for soft targets only.
    pub soft: *const T,
    /// Elements from one class to the next.
    pub soft_stride: isize,
    /// (C, len): where dL/dlogits goes.
    pub gradient: *mut T,
    /// Elements from one class to the next.
    pub gradient_stride: isize,
    /// (len): where the loss of each pixel goes, or null.
    pub loss: *mut T,
    /// (len): the incoming gradient of each pixel, or null.
    pub incoming: *const T,
}

/// What a kernel needs beside the pixels.
#[derive(Clone, Default)]
pub struct Params<T> {
    /// C.
    pub classes: usize,
    /// The pixel term.
    pub pixel: Option<PixelLoss>,
    /// w_c; empty where all are 1.
    pub weight: Vec<T>,
    /// sum_c w_c.
    pub weight_sum: f64,
    /// The factor before each pixel's gradient.
    pub factor: f64,
    /// The region term's dDice/dp_c = a_c y_c + b_c: a_c + b_c for class-index targets, a_c for soft ones.
    pub region_target: Vec<T>,
    /// b_c.
    pub region: Vec<T>,
}

/// Sums over pixels, lane by lane, so that their order is fixed.
pub struct LaneSums {
    /// The pixel loss.
    pub loss: [f64; MAX_LANES],
    /// I_c for each class, then P_c, then (soft targets) T_c.
    pub classes: Vec<[f64; MAX_LANES]>,
}

impl LaneSums {
    /// All zero, with `parts` sums for each class.
    pub fn new(classes: usize, parts: usize) -> Self {
        Self { loss: [0.0; MAX_LANES], classes: vec![[0.0; MAX_LANES]; parts * classes] }
    }
}

/// Which of its work a kernel does; each combination that is used is compiled by itself.
pub trait Mode {
    /// Add to the sums.
    const REDUCE: bool;
    /// Write the gradient.
    const GRADIENT: bool;
    /// There is a pixel term.
    const PIXEL: bool;
    /// There is a region term.
    const REGION: bool;
}

/// Registers for one value a class.
pub trait Bank<V> {
    /// The number of classes, where it is known at compile time.
    const CLASSES: Option<usize>;
    /// Class `c`.
    fn get(&self, c: usize) -> V;
    /// Set class `c`.
    fn set(&mut self, c: usize, value: V);
    /// Add to class `c`.
    #[inline(always)]
    fn add(&mut self, c: usize, value: V)
    where
        V: Vector,
    {
        self.set(c, self.get(c) + value);
    }
}

impl<V: Copy, const C: usize> Bank<V> for [V; C] {
    const CLASSES: Option<usize> = Some(C);
    #[inline(always)]
    fn get(&self, c: usize) -> V {
        self[c]
    }
    #[inline(always)]
    fn set(&mut self, c: usize, value: V) {
        self[c] = value;
    }
}

impl<V: Copy> Bank<V> for &mut [V] {
    const CLASSES: Option<usize> = None;
    #[inline(always)]
    fn get(&self, c: usize) -> V {
        self[c]
    }
    #[inline(always)]
    fn set(&mut self, c: usize, value: V) {
        self[c] = value;
    }
}

/// The loss, its sums and its gradient over a tile.
///
/// Per pixel, with m = max z, e_c = exp(z_c - m) and p_c = e_c / sum e:
///
/// ```text
/// dL/dz_c = K (p_c - y_c) + p_c (q_c - sum_j p_j q_j),      K = factor k, q_c = a_c y_c + b_c
/// for c = y, without cancellation: p_y (q_y (1 - p_y) - rest) - K (1 - p_y),  rest = sum_{j != y} p_j b_j
/// label smoothing e:  L += e/C (W log sum e + sum_c w_c (m - z_c)),  dL/dz_c += factor e/C (W p_c - w_c)
/// ```
///
/// # Safety
/// The tile's pointers must be valid for what `M` reads and writes of them, for `tile.len` pixels of `params.classes` classes.
#[inline(always)]
pub unsafe fn run<V: Vector, M: Mode, B: Bank<V>>(
    tile: &Tile<V::Element>,
    params: &Params<V::Element>,
    sums: &mut LaneSums,
    mut e: B,
    mut intersection: B,
    mut prediction: B,
) {
    let classes = B::CLASSES.unwrap_or(params.classes);
    let weighted = !params.weight.is_empty();
    let smoothing = match params.pixel {
        Some(PixelLoss::CrossEntropy { label_smoothing }) => label_smoothing / classes as f64,
        _ => 0.0,
    };
    // Below, always i + LANES <= len and c < classes; weights and coefficients have `classes` elements.
    // SAFETY: so the tile holds the address.
    let logit = |c: usize, i: usize| unsafe { V::load(tile.logits.offset(c as isize * tile.logits_stride).add(i)) };
    // SAFETY: as above.
    let one_of = |values: &[V::Element], c: usize| unsafe { V::splat_element(*values.get_unchecked(c)) };
    // SAFETY: as above.
    let write = |c: usize, i: usize, value: V| unsafe {
        value.store(tile.gradient.offset(c as isize * tile.gradient_stride).add(i));
    };
    if M::REDUCE && M::REGION {
        for c in 0..classes {
            intersection.set(c, V::zero());
            prediction.set(c, V::zero());
        }
    }
    let mut loss_sum = V::zero();
    for i in (0..tile.len).step_by(V::LANES) {
        // SAFETY: i + LANES <= len.
        let y = unsafe { V::load(tile.labels.add(i)) };
        let valid = y.greater(V::splat(-0.5));
        let whole = V::all(valid);
        if !whole && !V::any(valid) {
            if M::GRADIENT {
                (0..classes).for_each(|c| write(c, i, V::zero()));
            }
            if M::REDUCE && M::PIXEL && !tile.loss.is_null() {
                // SAFETY: as above; the loss is not null.
                unsafe { V::zero().store(tile.loss.add(i)) };
            }
            continue;
        }
        let mut m = V::splat(f64::NEG_INFINITY);
        for c in 0..classes {
            let z = logit(c, i);
            e.set(c, z);
            m = m.max(z);
        }
        if !whole {
            // What stands at an ignored pixel, nan and inf included, must not matter.
            m = V::splat(f64::NEG_INFINITY);
            for c in 0..classes {
                let z = V::select(valid, e.get(c), V::zero());
                e.set(c, z);
                m = m.max(z);
            }
        }
        let (mut z_y, mut e_y, mut w_y, mut others) = (V::zero(), V::zero(), V::zero(), V::zero());
        let mut class = V::zero(); // c in every lane: adding 1 is cheaper than converting c
        for c in 0..classes {
            let z = e.get(c);
            let x = (z - m).exp();
            e.set(c, x);
            let is_target = y.equals(class);
            class = class + V::one();
            if M::PIXEL {
                z_y = V::select(is_target, z, z_y);
                if weighted {
                    w_y = V::select(is_target, one_of(&params.weight, c), w_y);
                }
            }
            e_y = V::select(is_target, x, e_y);
            others = V::select(is_target, others, others + x);
        }
        let softmax = Softmax::new(m - z_y, e_y, others);
        let mut slope = V::zero();
        if M::PIXEL {
            let weight = if weighted { w_y } else { V::one() };
            let log_sum = softmax.log_sum();
            let pixel = params.pixel.expect("the mode has a pixel term");
            let result = pixel_loss(pixel, &softmax, log_sum, weight);
            slope = result.slope * V::splat(params.factor);
            if !tile.incoming.is_null() {
                // SAFETY: as above; it is not null.
                slope = slope * unsafe { V::load(tile.incoming.add(i)) };
            }
            if M::REDUCE {
                let mut loss = result.loss;
                if smoothing != 0.0 {
                    let mut spread = log_sum * V::splat(params.weight_sum);
                    for c in 0..classes {
                        let z = if whole { logit(c, i) } else { V::select(valid, logit(c, i), V::zero()) };
                        let w = if weighted { one_of(&params.weight, c) } else { V::one() };
                        spread = w.mul_add(m - z, spread);
                    }
                    loss = spread.mul_add(V::splat(smoothing), loss);
                }
                if !whole {
                    loss = V::select(valid, loss, V::zero());
                }
                loss_sum = loss_sum + loss;
                if !tile.loss.is_null() {
                    // SAFETY: as above; it is not null.
                    unsafe { loss.store(tile.loss.add(i)) };
                }
            }
        }
        if M::REDUCE && M::REGION {
            let inverse = if whole { softmax.inverse } else { V::select(valid, softmax.inverse, V::zero()) };
            let mut class = V::zero();
            for c in 0..classes {
                let p = e.get(c) * inverse;
                prediction.add(c, p);
                let so_far = intersection.get(c);
                intersection.set(c, V::select(y.equals(class), so_far + p, so_far));
                class = class + V::one();
            }
        }
        if M::GRADIENT {
            let (p_y, complement) = (softmax.probability(), softmax.complement());
            let mut base = slope;
            let mut at_target = -(slope * complement);
            if M::REGION {
                let (mut q_y, mut rest, mut class) = (V::zero(), V::zero(), V::zero());
                for c in 0..classes {
                    let p = e.get(c) * softmax.inverse;
                    e.set(c, p);
                    let is_target = y.equals(class);
                    class = class + V::one();
                    q_y = V::select(is_target, one_of(&params.region_target, c), q_y);
                    rest = V::select(is_target, rest, p.mul_add(one_of(&params.region, c), rest));
                }
                base = base - q_y.mul_add(p_y, rest);
                at_target = p_y.mul_add(q_y.mul_add(complement, -rest), at_target);
            } else {
                base = base * softmax.inverse;
            }
            let smooth_factor = if smoothing != 0.0 {
                let factor = V::splat(params.factor * smoothing);
                // SAFETY: as above; it is not null.
                if tile.incoming.is_null() { factor } else { factor * unsafe { V::load(tile.incoming.add(i)) } }
            } else {
                V::zero()
            };
            let mut class = V::zero();
            for c in 0..classes {
                let value = e.get(c); // p_c with a region term, e_c without
                let off_target = if M::REGION { value * (base + one_of(&params.region, c)) } else { value * base };
                let mut g = V::select(y.equals(class), at_target, off_target);
                class = class + V::one();
                if M::PIXEL && smoothing != 0.0 {
                    let p = if M::REGION { value } else { value * softmax.inverse };
                    let w = if weighted { one_of(&params.weight, c) } else { V::one() };
                    g = smooth_factor.mul_add(p.mul_add(V::splat(params.weight_sum), -w), g);
                }
                if !whole {
                    g = V::select(valid, g, V::zero());
                }
                write(c, i, g);
            }
        }
    }
    if M::REDUCE {
        loss_sum.add_to(&mut sums.loss);
        if M::REGION {
            for c in 0..classes {
                intersection.get(c).add_to(&mut sums.classes[c]);
                prediction.get(c).add_to(&mut sums.classes[classes + c]);
            }
        }
    }
}

/// The same for Dice with a soft target t of (C, len), which may be any numbers: I = sum p t, T = sum t.
///
/// ```text
/// dL/dz_c = p_c (q_c - sum_j p_j q_j),   q_c = a_c t_c + b_c
/// ```
///
/// q is shifted so that it is 0 for the most probable class: what is left is small where p is almost 1, without cancellation.
///
/// # Safety
/// As for [`run`].
#[inline(always)]
pub unsafe fn run_soft<V: Vector, M: Mode>(
    tile: &Tile<V::Element>,
    params: &Params<V::Element>,
    sums: &mut LaneSums,
    e: &mut [V],
) {
    let classes = params.classes;
    // SAFETY: always i + LANES <= len and c < classes, so the tile holds the address.
    let logit = |c: usize, i: usize| unsafe { V::load(tile.logits.offset(c as isize * tile.logits_stride).add(i)) };
    // SAFETY: as above.
    let target = |c: usize, i: usize| unsafe { V::load(tile.soft.offset(c as isize * tile.soft_stride).add(i)) };
    for i in (0..tile.len).step_by(V::LANES) {
        // SAFETY: as above.
        let valid = unsafe { V::load(tile.labels.add(i)) }.greater(V::splat(-0.5));
        let mut m = V::splat(f64::NEG_INFINITY);
        for c in 0..classes {
            m = m.max(logit(c, i));
        }
        let (mut sum, mut origin) = (V::zero(), V::zero());
        for (c, slot) in e.iter_mut().enumerate() {
            let z = logit(c, i);
            *slot = (z - m).exp();
            sum = sum + *slot;
            if M::GRADIENT {
                origin = V::select(z.equals(m), soft_slope(params, c, target(c, i)), origin);
            }
        }
        // Padding behind the last pixel has zero logits and targets, and must not count as predictions.
        let inverse = V::select(valid, V::one() / sum, V::zero());
        let mut mean = V::zero();
        for (c, slot) in e.iter_mut().enumerate() {
            let (p, t) = (*slot * inverse, target(c, i));
            *slot = p;
            if M::REDUCE {
                (p * t).add_to(&mut sums.classes[c]);
                p.add_to(&mut sums.classes[classes + c]);
                t.add_to(&mut sums.classes[2 * classes + c]);
            }
            if M::GRADIENT {
                mean = p.mul_add(soft_slope(params, c, t) - origin, mean);
            }
        }
        if M::GRADIENT {
            for (c, slot) in e.iter().enumerate() {
                let g = *slot * (soft_slope(params, c, target(c, i)) - origin - mean);
                // SAFETY: as above.
                unsafe { g.store(tile.gradient.offset(c as isize * tile.gradient_stride).add(i)) };
            }
        }
    }
}

/// q_c = a_c t_c + b_c.
#[inline(always)]
fn soft_slope<V: Vector>(params: &Params<V::Element>, c: usize, t: V) -> V {
    V::splat_element(params.region_target[c]).mul_add(t, V::splat_element(params.region[c]))
}
