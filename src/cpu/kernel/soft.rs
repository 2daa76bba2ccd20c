//! Targets with a share for each class.

use super::{Bank, LaneSums, Mode, Params, Tile};
use crate::cpu::simd::Vector;
use crate::loss::spec::PixelLoss;

/// A soft target t of (C, len), which may be any numbers: I = sum p t, T = sum t. Focal has no soft form.
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
/// As for [`super::run`].
#[inline(always)]
pub unsafe fn run<V: Vector, M: Mode>(
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
        t * V::splat_element(params.weight[c])
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
            let loss = V::select(valid, mass.mul_add(sum.ln_from_one(), cross), V::zero());
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
