//! The loss and its gradient over one tile, a register of pixels at a time: class-index targets.

use std::marker::PhantomData;

use super::simd::{Element, InstructionSet, MAX_LANES, Vector, Work};
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
    /// The region term's dR/dp_c = a_c y_c + b_c: a_c + b_c for class-index targets, a_c for soft ones.
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

/// Buffers for a register of pixels for each class, three times over.
pub struct Banks<T>(Vec<T>, usize);

impl<T: Element> Banks<T> {
    /// For `classes` classes, on any instruction set.
    pub fn new(classes: usize) -> Self {
        Self(vec![T::default(); 3 * classes * MAX_LANES], classes * MAX_LANES)
    }
}

/// One of the buffers: a register for each class. It stays in the first-level cache, which measured as fast as registers.
struct Bank<'a, T>(&'a mut [T]);

impl<T> Bank<'_, T> {
    #[inline(always)]
    fn get<V: Vector<Element = T>>(&self, c: usize) -> V {
        debug_assert!((c + 1) * V::LANES <= self.0.len());
        // SAFETY: a bank holds MAX_LANES elements for each class.
        unsafe { V::load(self.0.as_ptr().add(c * V::LANES)) }
    }
    #[inline(always)]
    fn set<V: Vector<Element = T>>(&mut self, c: usize, value: V) {
        debug_assert!((c + 1) * V::LANES <= self.0.len());
        // SAFETY: as above.
        unsafe { value.store(self.0.as_mut_ptr().add(c * V::LANES)) }
    }
}

/// The loss, its sums and its gradient over a tile, on the instruction set.
///
/// # Safety
/// The tile's pointers must be valid for what `M` reads and writes of them, for `tile.len` pixels of `params.classes` classes.
pub unsafe fn run<T: Element, M: Mode>(
    set: InstructionSet,
    tile: &Tile<T>,
    params: &Params<T>,
    sums: &mut LaneSums,
    banks: &mut Banks<T>,
) {
    let kernel = Kernel::<T, M> { tile, params, sums, banks, mode: PhantomData };
    T::dispatch(set, kernel);
}

struct Kernel<'a, T, M> {
    tile: &'a Tile<T>,
    params: &'a Params<T>,
    sums: &'a mut LaneSums,
    banks: &'a mut Banks<T>,
    mode: PhantomData<M>,
}

impl<T: Element, M: Mode> Work<T> for Kernel<'_, T, M> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Element = T>>(self) {
        let Banks(buffer, length) = self.banks;
        let (e, rest) = buffer.split_at_mut(*length);
        let (intersection, prediction) = rest.split_at_mut(*length);
        // SAFETY: the promise of the caller of `run`, the only one to make this.
        unsafe {
            if self.tile.soft.is_null() {
                let banks = [Bank(e), Bank(intersection), Bank(prediction)];
                run_hard::<V, M>(self.tile, self.params, self.sums, banks);
            } else {
                run_soft::<V, M>(self.tile, self.params, self.sums, Bank(e));
            }
        }
    }
}

/// Class-index targets. Per pixel, with m = max z, e_c = exp(z_c - m) and p_c = e_c / sum e:
///
/// ```text
/// dL/dz_c = K (p_c - y_c) + p_c (q_c - sum_j p_j q_j),      K = factor k, q_c = a_c y_c + b_c
/// for c = y, without cancellation: p_y (q_y (1 - p_y) - rest) - K (1 - p_y),  rest = sum_{j != y} p_j b_j
/// label smoothing e:  L += e/C (W log sum e + sum_c w_c (m - z_c)),  dL/dz_c += factor e/C (W p_c - w_c)
/// ```
///
/// # Safety
/// As for [`run`].
#[inline(always)]
unsafe fn run_hard<V: Vector, M: Mode>(
    tile: &Tile<V::Element>,
    params: &Params<V::Element>,
    sums: &mut LaneSums,
    [mut e, mut intersection, mut prediction]: [Bank<'_, V::Element>; 3],
) {
    let classes = params.classes;
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
            let z: V = e.get(c);
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
                let p = e.get::<V>(c) * inverse;
                prediction.set(c, prediction.get::<V>(c) + p);
                let so_far: V = intersection.get(c);
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
                    let p = e.get::<V>(c) * softmax.inverse;
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
                let value: V = e.get(c); // p_c with a region term, e_c without
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
                intersection.get::<V>(c).add_to(&mut sums.classes[c]);
                prediction.get::<V>(c).add_to(&mut sums.classes[classes + c]);
            }
        }
    }
}

/// The same with a soft target t of (C, len), which may be any numbers: I = sum p t, T = sum t. Focal has no soft form.
///
/// ```text
/// Dice:           dL/dz_c = p_c (q_c - sum_j p_j q_j),   q_c = a_c t_c + b_c
/// cross entropy:  L = sum_c v_c (m - z_c + log sum e),   v_c = w_c ((1 - e) t_c + e / C)
///                 dL/dz_c = factor (p_c sum_j v_j - v_c)
/// ```
///
/// q is shifted so that it is 0 for the most probable class: what is left is small where p is almost 1, without cancellation.
///
/// # Safety
/// As for [`run`].
#[inline(always)]
unsafe fn run_soft<V: Vector, M: Mode>(
    tile: &Tile<V::Element>,
    params: &Params<V::Element>,
    sums: &mut LaneSums,
    mut e: Bank<'_, V::Element>,
) {
    let classes = params.classes;
    let label_smoothing = match params.pixel {
        Some(PixelLoss::CrossEntropy { label_smoothing }) => label_smoothing,
        _ => 0.0,
    };
    // SAFETY: always i + LANES <= len and c < classes, so the tile holds the address.
    let logit = |c: usize, i: usize| unsafe { V::load(tile.logits.offset(c as isize * tile.logits_stride).add(i)) };
    // SAFETY: as above.
    let target = |c: usize, i: usize| unsafe { V::load(tile.soft.offset(c as isize * tile.soft_stride).add(i)) };
    let weighted = |c: usize, t: V| {
        let t = t.mul_add(V::splat(1.0 - label_smoothing), V::splat(label_smoothing / classes as f64));
        if params.weight.is_empty() { t } else { t * V::splat_element(params.weight[c]) }
    };
    for i in (0..tile.len).step_by(V::LANES) {
        // SAFETY: as above.
        let valid = unsafe { V::load(tile.labels.add(i)) }.greater(V::splat(-0.5));
        let mut m = V::splat(f64::NEG_INFINITY);
        for c in 0..classes {
            // What stands at an ignored pixel, or behind the last one, must not matter.
            let z = V::select(valid, logit(c, i), V::zero());
            e.set(c, z);
            m = m.max(z);
        }
        let (mut sum, mut origin, mut cross, mut mass) = (V::zero(), V::zero(), V::zero(), V::zero());
        for c in 0..classes {
            let z: V = e.get(c);
            let x = (z - m).exp();
            e.set(c, x);
            sum = sum + x;
            if M::GRADIENT && M::REGION {
                origin = V::select(z.equals(m), soft_slope(params, c, target(c, i)), origin);
            }
            if M::PIXEL {
                let v = weighted(c, target(c, i));
                mass = mass + v;
                // No share of an impossible class is no loss: 0 * inf is not asked for.
                cross = V::select(v.equals(V::zero()), cross, v.mul_add(m - z, cross));
            }
        }
        let inverse = V::select(valid, V::one() / sum, V::zero());
        let mut slope = V::zero();
        if M::PIXEL {
            let loss = V::select(valid, mass.mul_add(sum.ln_normal(), cross), V::zero());
            slope = V::select(valid, V::splat(params.factor), V::zero());
            if !tile.incoming.is_null() {
                // SAFETY: as above; it is not null.
                slope = slope * unsafe { V::load(tile.incoming.add(i)) };
            }
            if M::REDUCE {
                loss.add_to(&mut sums.loss);
                if !tile.loss.is_null() {
                    // SAFETY: as above; it is not null.
                    unsafe { loss.store(tile.loss.add(i)) };
                }
            }
        }
        let mut mean = V::zero();
        for c in 0..classes {
            let p = e.get::<V>(c) * inverse;
            e.set(c, p);
            if M::REGION {
                let t = V::select(valid, target(c, i), V::zero());
                if M::REDUCE {
                    (p * t).add_to(&mut sums.classes[c]);
                    p.add_to(&mut sums.classes[classes + c]);
                    t.add_to(&mut sums.classes[2 * classes + c]);
                }
                if M::GRADIENT {
                    mean = p.mul_add(soft_slope(params, c, t) - origin, mean);
                }
            }
        }
        if M::GRADIENT {
            for c in 0..classes {
                let (p, t) = (e.get::<V>(c), target(c, i));
                let mut g = V::zero();
                if M::REGION {
                    g = p * (soft_slope(params, c, t) - origin - mean);
                }
                if M::PIXEL {
                    g = slope.mul_add(p * mass - weighted(c, t), g);
                }
                let g = V::select(valid, g, V::zero());
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
