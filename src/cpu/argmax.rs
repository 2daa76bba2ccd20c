//! The largest class of each pixel, a register of pixels at a time.

use super::ahead::Ahead;
use super::aligned::Aligned;
use super::simd::{Element, InstructionSet, MAX_LANES, Vector, Work};
use super::transfer::{self, gather};
use crate::tensor::View;

/// Most pixels in a tile.
pub const TILE: usize = 256;

/// Finds them in tiles of logits, with the buffers that it takes.
pub struct Argmax<'a, T> {
    set: InstructionSet,
    logits: View<'a>,
    /// (C, TILE), where the logits cannot be read in place.
    copy: Aligned<T>,
    largest: Aligned<T>,
}

impl<'a, T: Element> Argmax<'a, T> {
    /// For these logits; `T` is the type that they are compared in.
    pub fn new(set: InstructionSet, logits: View<'a>) -> Self {
        Self { set, logits, copy: Aligned::new(0), largest: Aligned::new(TILE) }
    }

    /// The first largest class of each of the pixels from `first` on, of which there are at most [`TILE`]; nan is larger than any number.
    pub fn find(&mut self, sample: usize, first: usize, classes: &mut [u32]) {
        let len = classes.len();
        assert!(len <= TILE && sample < self.logits.samples && first + len <= self.logits.pixels);
        assert!(self.logits.channels > 0, "logits of a class at least");
        let padded = len.next_multiple_of(MAX_LANES);
        let in_place = self.logits.strides[2] == 1 && self.logits.dtype() == T::DTYPE && len == padded;
        // SAFETY: the pixels lie in the view, as asserted, and the copy holds a tile.
        let (logits, stride) = unsafe {
            if in_place {
                (self.logits.at::<T>(sample, 0, first).cast_const(), self.logits.strides[1])
            } else {
                self.copy.grow(self.logits.channels * TILE);
                let tile = self.copy.as_mut_ptr();
                gather(self.set, transfer::Run { view: self.logits, sample, pixel: first, len, tile, stride: TILE });
                (tile.cast_const(), TILE as isize)
            }
        };
        let next = Ahead::of(&self.logits, sample, first + len);
        let largest = &mut self.largest[..padded];
        T::dispatch(self.set, Largest { logits, stride, classes: self.logits.channels, next, largest });
        for (class, &largest) in classes.iter_mut().zip(&*largest) {
            *class = largest.to_i32() as u32;
        }
    }
}

/// Pixels that a tile of such logits had better have.
pub fn tile_length(logits: &View<'_>) -> usize {
    transfer::pixels_of_copy(logits, TILE)
}

/// The work of a tile: class c of pixel i is at `logits + c * stride + i`.
struct Largest<'a, T> {
    logits: *const T,
    stride: isize,
    classes: usize,
    next: Ahead,
    largest: &'a mut [T],
}

impl<T: Element> Work<T> for Largest<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector<Element = T>>(self) {
        for i in (0..self.largest.len()).step_by(V::LANES) {
            // SAFETY: `find`, the only one to make this, has a tile of whole registers.
            let logit = |c: usize| unsafe { V::load(self.logits.offset(c as isize * self.stride).add(i)) };
            self.next.read(0, i);
            let (mut best, mut class, mut number) = (logit(0), V::zero(), V::zero());
            let mut numbers = V::all(best.equals(best));
            for c in 1..self.classes {
                self.next.read(c, i);
                let value = logit(c);
                numbers &= V::all(value.equals(value));
                number = number + V::one();
                let larger = value.greater(best);
                best = V::select(larger, value, best);
                class = V::select(larger, number, class);
            }
            // SAFETY: there are whole registers.
            unsafe { class.store(self.largest.as_mut_ptr().add(i)) };
            if !numbers {
                for lane in 0..V::LANES {
                    // SAFETY: as for `logit`.
                    let one =
                        |c: usize| unsafe { *self.logits.offset(c as isize * self.stride).add(i + lane) }.to_f64();
                    self.largest[i + lane] = T::from_i32(first_nan_or_largest(self.classes, one) as i32);
                }
            }
        }
    }
}

/// The first class that is nan, else the first largest one.
fn first_nan_or_largest(classes: usize, logit: impl Fn(usize) -> f64) -> usize {
    let larger = |best: usize, c: usize| if logit(c) > logit(best) { c } else { best };
    (0..classes).find(|&c| logit(c).is_nan()).unwrap_or_else(|| (1..classes).fold(0, larger))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tensor::DType;

    proptest! {
        #[test]
        fn every_instruction_set_finds_the_first_largest(
            (classes, pixels, layout) in (1usize..40, 1usize..=TILE, 0usize..2),
            values in prop::collection::vec(prop_oneof![8 => -4i8..4, 1 => Just(100), 1 => Just(-100)], 1..900),
            infinite: bool,
        ) {
            // Small whole numbers are often equal; 100 becomes nan, and -100 minus infinity.
            let value = |i: usize| match values[i % values.len()] {
                100 if infinite => f32::INFINITY,
                100 => f32::NAN,
                -100 => f32::NEG_INFINITY,
                value => f32::from(value),
            };
            let mut logits: Vec<f32> = (0..classes * pixels).map(value).collect();
            let [channel, pixel] = [[pixels, 1], [1, classes]][layout];
            let expected: Vec<u32> = (0..pixels)
                .map(|p| first_nan_or_largest(classes, |c| f64::from(logits[c * channel + p * pixel])) as u32)
                .collect();
            let strides = [0, channel as isize, pixel as isize];
            // SAFETY: the vector holds every element for as long as the view is used.
            let view = unsafe {
                View::new(logits.as_mut_ptr().cast(), DType::Float32, &[1, classes, pixels], &strides, true)
            };
            for set in InstructionSet::available() {
                let mut found = vec![0; pixels];
                Argmax::<f32>::new(set, view.expect("one stride")).find(0, 0, &mut found);
                prop_assert_eq!(&found, &expected, "{}", set.name());
            }
        }
    }
}
