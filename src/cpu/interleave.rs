//! Channels that lie pixel by pixel (`channels_last`), taken apart and put together a register at a time.
//!
//! Sixteen pixels of C channels fill C registers, and so do they class by class. A register of one order takes some lanes of each
//! register of the other: which, depends on C alone, so that the tables below are made by the compiler. Of many channels,
//! sixteen at a time are a square that is transposed.

use super::simd::Vector;

/// Up to as many channels: each register takes C permutations. From there on squares need no more, though some of their lanes are of no use.
pub const MAX_CHANNELS: usize = 6;
/// Lanes of a register, as the tables have it.
const LANES: usize = 16;

/// For each register of the one order: the lane of the other that each of its lanes takes, and, for each register there, which of them.
struct Pattern {
    lanes: [[i32; LANES]; MAX_CHANNELS],
    masks: [[u16; MAX_CHANNELS]; MAX_CHANNELS],
}

/// From pixel by pixel to class by class, and back, for each number of channels.
static APART: [Pattern; MAX_CHANNELS + 1] = patterns(true);
static TOGETHER: [Pattern; MAX_CHANNELS + 1] = patterns(false);

const fn patterns(apart: bool) -> [Pattern; MAX_CHANNELS + 1] {
    const NONE: Pattern = Pattern { lanes: [[0; LANES]; MAX_CHANNELS], masks: [[0; MAX_CHANNELS]; MAX_CHANNELS] };
    let mut patterns = [NONE; MAX_CHANNELS + 1];
    let mut channels = 1;
    while channels <= MAX_CHANNELS {
        // Element i C + c of the interleaved registers is pixel i of class c.
        let mut element = 0;
        while element < channels * LANES {
            let (class, pixel) = (element % channels, element / channels);
            let (register, lane) = (element / LANES, element % LANES);
            let pattern = &mut patterns[channels];
            if apart {
                pattern.lanes[class][pixel] = lane as i32;
                pattern.masks[class][register] |= 1 << pixel;
            } else {
                pattern.lanes[register][lane] = pixel as i32;
                pattern.masks[register][class] |= 1 << lane;
            }
            element += 1;
        }
        channels += 1;
    }
    patterns
}

/// Call `store(r, register)` for each register of the other order, of those that `load` gives.
#[inline(always)]
fn reorder<V: Vector>(patterns: &[Pattern], channels: usize, load: impl Fn(usize) -> V, store: impl Fn(usize, V)) {
    let pattern = &patterns[channels];
    let mut registers = [V::zero(); MAX_CHANNELS];
    // Not `take(channels)`: the compiler made a call of memcpy of that.
    for (r, register) in registers.iter_mut().enumerate() {
        if r < channels {
            *register = load(r);
        }
    }
    for r in 0..channels {
        let mut result = V::zero();
        for (from, &register) in registers.iter().enumerate().take(channels) {
            result = result.take_lanes(pattern.masks[r][from], &pattern.lanes[r], register);
        }
        store(r, result);
    }
}

/// From pixel by pixel to class by class; `load` and `store` are of the rth register.
#[inline(always)]
pub fn apart<V: Vector>(channels: usize, load: impl Fn(usize) -> V, store: impl Fn(usize, V)) {
    reorder(&APART, channels, load, store);
}

/// From class by class to pixel by pixel.
#[inline(always)]
pub fn together<V: Vector>(channels: usize, load: impl Fn(usize) -> V, store: impl Fn(usize, V)) {
    reorder(&TOGETHER, channels, load, store);
}

/// [`Vector::exchange`] between all rows whose numbers differ in the bit.
#[inline(always)]
fn exchange<V: Vector, const BIT: usize>(rows: &mut [V; LANES]) {
    if BIT < V::LANES {
        for i in 0..V::LANES / 2 {
            let r = i / BIT * 2 * BIT + i % BIT;
            (rows[r], rows[r + BIT]) = V::exchange::<BIT>(rows[r], rows[r + BIT]);
        }
    }
}

/// Call `store(c, register)` for each column of the square of `V::LANES` whose row `r` is `load(r)`.
#[inline(always)]
pub fn transpose<V: Vector>(load: impl Fn(usize) -> V, store: impl Fn(usize, V)) {
    let mut rows = [V::zero(); LANES];
    for (r, row) in rows.iter_mut().enumerate() {
        if r < V::LANES {
            *row = load(r);
        }
    }
    exchange::<V, 1>(&mut rows);
    exchange::<V, 2>(&mut rows);
    exchange::<V, 4>(&mut rows);
    exchange::<V, 8>(&mut rows);
    for (c, &column) in rows.iter().enumerate() {
        if c < V::LANES {
            store(c, column);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::cpu::simd::several::Several;
    use crate::cpu::simd::{Element, InstructionSet, Work, portable};

    fn reordered<V: Vector<Element = f32>>(patterns: &[Pattern], channels: usize, from: &[f32]) -> Vec<f32> {
        let result = RefCell::new(vec![-1.0; from.len()]);
        // SAFETY: each register lies in the slice.
        let load = |r: usize| unsafe { V::load(from[r * LANES..][..LANES].as_ptr()) };
        let store = |r: usize, value: V| {
            // SAFETY: as above.
            unsafe { value.store(result.borrow_mut()[r * LANES..][..LANES].as_mut_ptr()) };
        };
        reorder(patterns, channels, load, store);
        result.into_inner()
    }

    fn check_transposition<V: Vector<Element = f32>>() {
        let n = V::LANES;
        let square: Vec<f32> = (0..n * n).map(|i| i as f32).collect();
        let result = RefCell::new(vec![-1.0; n * n]);
        // SAFETY: each register lies in the slice.
        let load = |r: usize| unsafe { V::load(square[r * n..][..n].as_ptr()) };
        let store = |c: usize, value: V| {
            // SAFETY: as above.
            unsafe { value.store(result.borrow_mut()[c * n..][..n].as_mut_ptr()) };
        };
        transpose(load, store);
        let expected: Vec<f32> = (0..n * n).map(|i| (i % n * n + i / n) as f32).collect();
        assert_eq!(result.into_inner(), expected);
    }

    /// Both ways, for registers of sixteen lanes of any kind.
    fn check<V: Vector<Element = f32>>() {
        assert_eq!(V::LANES, LANES);
        for channels in 1..=MAX_CHANNELS {
            let elements = 0..channels * LANES;
            let pixels: Vec<f32> = elements.clone().map(|element| element as f32).collect();
            let classes: Vec<f32> = elements.map(|at| ((at % LANES) * channels + at / LANES) as f32).collect();
            assert_eq!(reordered::<V>(&APART, channels, &pixels), classes, "{channels}");
            assert_eq!(reordered::<V>(&TOGETHER, channels, &classes), pixels, "{channels}");
        }
    }

    struct Check;

    impl Work<f32> for Check {
        type Output = ();
        #[inline(always)]
        fn run<V: Vector<Element = f32>>(self) {
            if V::TAKES_LANES {
                check::<V>();
            }
            check_transposition::<V>();
        }
    }

    #[test]
    fn registers_come_apart_and_together() {
        check::<Several<portable::F32x4, 4>>();
        for set in InstructionSet::available() {
            f32::dispatch(set, Check);
        }
    }
}
