//! Value noise: smooth random fields that are pure functions of a seed and a place.

use crate::xbd::random::mix;

/// Uniform in [0, 1) for each lattice point.
pub fn lattice(seed: u64, x: i64, y: i64) -> f32 {
    let word = seed
        .wrapping_add((x as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15))
        .wrapping_add((y as u64).wrapping_mul(0xd1b5_4a32_d192_ed03));
    (mix(word) >> 40) as f32 / (1u32 << 24) as f32
}

/// Smooth in place, about uniform in [0, 1), one bump for each unit of length.
pub fn value(seed: u64, x: f32, y: f32) -> f32 {
    let (left, top) = (x.floor(), y.floor());
    let ease = |t: f32| t * t * (3.0 - 2.0 * t);
    let (across, down) = (ease(x - left), ease(y - top));
    let (left, top) = (left as i64, top as i64);
    let row = |y| {
        let (a, b) = (lattice(seed, left, y), lattice(seed, left + 1, y));
        a + (b - a) * across
    };
    let (upper, lower) = (row(top), row(top + 1));
    upper + (lower - upper) * down
}

/// Value noise over several octaves, each of half the size and half the height of the one before; in [0, 1).
pub fn fractal(seed: u64, x: f32, y: f32, octaves: u32) -> f32 {
    let (mut sum, mut height, mut total, mut scale) = (0.0, 1.0, 0.0, 1.0);
    for octave in 0..octaves {
        sum += height * value(seed.wrapping_add(u64::from(octave)), x * scale, y * scale);
        total += height;
        height *= 0.5;
        scale *= 2.0;
    }
    sum / total
}

/// 0 at `low` and on, 1 at `high` and on, smooth between; `low` may be the larger one.
pub fn smoothstep(low: f32, high: f32, at: f32) -> f32 {
    let t = ((at - low) / (high - low)).clamp(0.0, 1.0);
    t * t * (3.0 - 2.0 * t)
}
