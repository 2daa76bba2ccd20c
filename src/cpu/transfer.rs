//! Moving pixels between tensors of any layout and dtype and class-major tiles.

#![allow(clippy::needless_range_loop)] // iterator adapters are not always inlined into a function of another instruction set

use std::mem::MaybeUninit;

use half::{bf16, f16};

use super::interleave;
use super::simd::{Element, InstructionSet, MAX_LANES, Vector, Work};
use crate::tensor::{DType, View};

/// Pixels of the copy of a piece of a plane: shorter pieces are slow to read.
const COPIED_PIXELS: usize = 256;
/// Elements of a copy whose classes lie pixel by pixel: beside it, what it is made of has room in the first-level cache.
const TURNED_ELEMENTS: usize = 4096;
/// But at least this many pixels, since each tile adds to the sums of each class.
const LEAST_TURNED: usize = 128;
/// No copy has more elements: it stays in the second-level cache.
const MOST_ELEMENTS: usize = 1 << 16;

/// Fewer channels leave too much of a square of registers of no use.
const LEAST_SQUARE: usize = 5;

/// Pixels that the copy of a tile of such logits had better have, whole registers, of `most`.
pub fn pixels_of_copy(logits: &View<'_>, most: usize) -> usize {
    let classes = logits.channels.max(1);
    let pixels = match logits.strides[2] {
        1 => COPIED_PIXELS,
        _ => (TURNED_ELEMENTS / classes).max(LEAST_TURNED),
    };
    pixels.min(MOST_ELEMENTS / classes).min(most).max(MAX_LANES) / MAX_LANES * MAX_LANES
}

/// A type in which logits are stored.
trait Storage: Copy {
    fn to_element<T: Element>(self) -> T;
    fn from_element<T: Element>(value: T) -> Self;
    /// # Safety
    /// As for [`Vector::load`].
    unsafe fn load<V: Vector>(from: *const Self) -> V;
    /// # Safety
    /// As for [`Vector::store`].
    unsafe fn store<V: Vector>(vector: V, to: *mut Self);
}

macro_rules! storage {
    ($storage:ty, $to:expr, $from:expr, $load:expr, $store:expr) => {
        impl Storage for $storage {
            #[inline(always)]
            fn to_element<T: Element>(self) -> T {
                T::from_f64($to(self))
            }
            #[inline(always)]
            fn from_element<T: Element>(value: T) -> Self {
                $from(value.to_f64())
            }
            #[inline(always)]
            unsafe fn load<V: Vector>(from: *const Self) -> V {
                // SAFETY: the caller's promise.
                unsafe { $load(from) }
            }
            #[inline(always)]
            unsafe fn store<V: Vector>(vector: V, to: *mut Self) {
                // SAFETY: the caller's promise.
                unsafe { $store(vector, to) }
            }
        }
    };
}

storage!(f32, f64::from, |x| x as f32, V::load_f32, V::store_f32);
storage!(f64, |x| x, |x| x, V::load_f64, V::store_f64);
storage!(f16, |x: f16| f64::from(x.to_f32()), |x| f16::from_f32(x as f32), V::load_f16, V::store_f16);
storage!(bf16, |x: bf16| f64::from(x.to_f32()), |x| bf16::from_f32(x as f32), V::load_bf16, V::store_bf16);

/// Call `$function::<V, storage type>` for the dtype of the view.
macro_rules! by_dtype {
    ($view:expr, $function:ident ( $($argument:expr),* )) => {
        match $view.dtype() {
            DType::Float32 => $function::<V, f32>($($argument),*),
            DType::Float64 => $function::<V, f64>($($argument),*),
            DType::Float16 => $function::<V, f16>($($argument),*),
            DType::BFloat16 => $function::<V, bf16>($($argument),*),
            _ => unreachable!("checked by cpu::problem: logits are floating"),
        }
    };
}

/// A run of pixels of one sample, and where it lies in a tile: class c of pixel i at `tile + c * stride + i`.
#[derive(Clone, Copy)]
pub struct Run<'a, T> {
    /// The tensor.
    pub view: View<'a>,
    /// Which sample.
    pub sample: usize,
    /// The first pixel.
    pub pixel: usize,
    /// How many.
    pub len: usize,
    /// The first pixel's place in the tile.
    pub tile: *mut T,
    /// Elements of the tile from one class to the next.
    pub stride: usize,
}

/// All channels of the run into the tile.
///
/// # Safety
/// The pixels must lie in the view, and the tile must hold them.
pub unsafe fn gather<T: Element>(set: InstructionSet, run: Run<'_, T>) {
    T::dispatch(set, Gather(run));
}

/// The way back: the tile into the tensor.
///
/// # Safety
/// As for [`gather`]; no other thread may touch these pixels of the view.
pub unsafe fn scatter<T: Element>(set: InstructionSet, run: Run<'_, T>) {
    T::dispatch(set, Scatter(run));
}

struct Gather<'a, T>(Run<'a, T>);

impl<T: Element> Work<T> for Gather<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector<Element = T>>(self) {
        // SAFETY: the promise of the caller of `gather`, the only one to make this.
        unsafe { by_dtype!(self.0.view, gather_as(self.0)) }
    }
}

struct Scatter<'a, T>(Run<'a, T>);

impl<T: Element> Work<T> for Scatter<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector<Element = T>>(self) {
        // SAFETY: the promise of the caller of `scatter`, the only one to make this.
        unsafe { by_dtype!(self.0.view, scatter_as(self.0)) }
    }
}

/// Of `len` pixels, how many can be taken apart or put together by registers: none where their channels do not lie side by side.
#[inline(always)]
fn interleaved<V: Vector>(view: &View<'_>, len: usize) -> usize {
    let [_, channel_stride, pixel_stride] = view.strides;
    let dense = channel_stride == 1 && pixel_stride == view.channels as isize;
    let tables = by_tables::<V>(view.channels);
    if !dense || !(tables || V::EXCHANGES && view.channels >= LEAST_SQUARE) {
        return 0;
    }
    // A row of a square that has fewer channels than lanes reaches into as many more pixels.
    let reach = if tables { 0 } else { (V::LANES - 1) / view.channels };
    len.saturating_sub(reach) / V::LANES * V::LANES
}

/// Whether the tables serve that many channels.
#[inline(always)]
fn by_tables<V: Vector>(channels: usize) -> bool {
    V::TAKES_LANES && channels <= interleave::MAX_CHANNELS
}

/// The first channels of the squares that make up `channels` channels: the last one ends with them.
#[inline(always)]
fn squares<V: Vector>(channels: usize) -> impl Iterator<Item = usize> {
    (0..channels).step_by(V::LANES).map(move |c| c.min(channels.saturating_sub(V::LANES)))
}

/// The end of those from `whole` on of `len` pixels that are converted by registers, though they do not lie side by side: halves, which are slow
/// to convert one by one.
#[inline(always)]
fn converted<V: Vector, S: Storage>(whole: usize, len: usize) -> usize {
    if size_of::<S>() < size_of::<V::Element>() { len - (len - whole) % V::LANES } else { whole }
}

#[inline(always)]
unsafe fn gather_as<V: Vector, S: Storage>(run: Run<'_, V::Element>) {
    let Run { view, sample, pixel, len, tile: to, stride } = run;
    let [_, channel_stride, pixel_stride] = view.strides;
    // SAFETY: every address is of a pixel of the view or of the tile, by the caller's promise.
    unsafe {
        let from = view.at::<S>(sample, 0, pixel);
        if pixel_stride == 1 {
            let vectors = len - len % V::LANES;
            for c in 0..view.channels {
                let (from, to) = (from.offset(c as isize * channel_stride), to.add(c * stride));
                for i in (0..vectors).step_by(V::LANES) {
                    S::load::<V>(from.add(i)).store(to.add(i));
                }
                for i in vectors..len {
                    *to.add(i) = from.add(i).read_unaligned().to_element();
                }
            }
        } else {
            let channels = view.channels;
            let whole = interleaved::<V>(&view, len);
            for i in (0..whole).step_by(V::LANES) {
                if by_tables::<V>(channels) {
                    let load = |r: usize| S::load::<V>(from.add(i * channels + r * V::LANES));
                    interleave::apart(channels, load, |c, value: V| value.store(to.add(c * stride + i)));
                    continue;
                }
                for first in squares::<V>(channels) {
                    let load = |r: usize| S::load::<V>(from.add((i + r) * channels + first));
                    interleave::transpose(load, |c, value: V| {
                        if first + c < channels {
                            value.store(to.add((first + c) * stride + i));
                        }
                    });
                }
            }
            let converted = converted::<V, S>(whole, len);
            let mut some = [MaybeUninit::<S>::uninit(); MAX_LANES];
            // Class by class: the run stays in the first-level cache, and one side of the copy is contiguous.
            for c in 0..channels {
                let (from, to) = (from.offset(c as isize * channel_stride), to.add(c * stride));
                for i in (whole..converted).step_by(V::LANES) {
                    for lane in 0..V::LANES {
                        some[lane].write(from.offset((i + lane) as isize * pixel_stride).read_unaligned());
                    }
                    S::load::<V>(some.as_ptr().cast()).store(to.add(i));
                }
                for i in converted..len {
                    *to.add(i) = from.offset(i as isize * pixel_stride).read_unaligned().to_element();
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn scatter_as<V: Vector, S: Storage>(run: Run<'_, V::Element>) {
    let Run { view, sample, pixel, len, tile: from, stride } = run;
    let [_, channel_stride, pixel_stride] = view.strides;
    // SAFETY: every address is of a pixel of the view or of the tile, by the caller's promise.
    unsafe {
        let to = view.at::<S>(sample, 0, pixel);
        if pixel_stride == 1 {
            let vectors = len - len % V::LANES;
            for c in 0..view.channels {
                let (from, to) = (from.add(c * stride), to.offset(c as isize * channel_stride));
                for i in (0..vectors).step_by(V::LANES) {
                    S::store(V::load(from.add(i)), to.add(i));
                }
                for i in vectors..len {
                    to.add(i).write_unaligned(S::from_element(*from.add(i)));
                }
            }
        } else {
            let channels = view.channels;
            let whole = interleaved::<V>(&view, len);
            for i in (0..whole).step_by(V::LANES) {
                if by_tables::<V>(channels) {
                    let load = |c: usize| V::load(from.add(c * stride + i));
                    interleave::together(channels, load, |r, value: V| {
                        S::store(value, to.add(i * channels + r * V::LANES))
                    });
                    continue;
                }
                for first in squares::<V>(channels) {
                    let load = |c: usize| V::load(from.add((first + c).min(channels - 1) * stride + i));
                    // In order: what reaches into the next pixels is written over by them.
                    interleave::transpose(load, |r, value: V| S::store(value, to.add((i + r) * channels + first)));
                }
            }
            let converted = converted::<V, S>(whole, len);
            let mut some = [MaybeUninit::<S>::uninit(); MAX_LANES];
            for c in 0..channels {
                let (from, to) = (from.add(c * stride), to.offset(c as isize * channel_stride));
                for i in (whole..converted).step_by(V::LANES) {
                    S::store(V::load(from.add(i)), some.as_mut_ptr().cast());
                    for lane in 0..V::LANES {
                        let value = some[lane].assume_init(); // the store wrote LANES of them
                        to.offset((i + lane) as isize * pixel_stride).write_unaligned(value);
                    }
                }
                for i in converted..len {
                    to.offset(i as isize * pixel_stride).write_unaligned(S::from_element(*from.add(i)));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Numbers that every type holds.
    fn number(i: usize) -> f32 {
        (i % 251) as f32 - 100.0
    }

    /// Both ways between `storage` and a tile, against the definition: nothing but the run is touched.
    fn check<S: Storage + PartialEq + std::fmt::Debug>(
        set: InstructionSet,
        dtype: DType,
        [channels, pixels, from, len]: [usize; 4],
        [channel_stride, pixel_stride]: [usize; 2],
    ) {
        let at = |c: usize, p: usize| c * channel_stride + p * pixel_stride;
        let size = at(channels - 1, pixels - 1) + 1;
        let mut storage: Vec<S> = (0..size).map(|i| S::from_element(number(i))).collect();
        let strides = [size, channel_stride, pixel_stride].map(|stride| stride as isize);
        let pointer = storage.as_mut_ptr().cast();
        // SAFETY: the vector holds every element, and is not touched by others while the view is used.
        let view = unsafe { View::new(pointer, dtype, &[1, channels, pixels], &strides, true) }.expect("one stride");
        let stride = len + 3;
        let mut tile = vec![-200.0f32; channels * stride];
        let run = Run { view, sample: 0, pixel: from, len, tile: tile.as_mut_ptr(), stride };
        // SAFETY: the run lies in the view, and the tile holds it.
        unsafe { gather(set, run) };
        for (c, row) in tile.chunks_exact(stride).enumerate() {
            let expected = (0..len).map(|i| number(at(c, from + i))).chain([-200.0; 3]).collect::<Vec<_>>();
            assert_eq!(row, expected, "class {c} on {}", set.name());
        }
        tile.iter_mut().enumerate().for_each(|(i, value)| *value = number(i + 7));
        let mut expected = storage.clone();
        for c in 0..channels {
            for i in 0..len {
                expected[at(c, from + i)] = S::from_element(number(c * stride + i + 7));
            }
        }
        // SAFETY: as above.
        unsafe { scatter(set, Run { tile: tile.as_mut_ptr(), ..run }) };
        assert_eq!(storage, expected, "{}", set.name());
    }

    proptest! {
        #[test]
        fn runs_move_both_ways_and_nothing_else_is_touched(
            channels in prop_oneof![1usize..20, 1usize..50],
            len in prop_oneof![1usize..90, (1usize..5).prop_map(|registers| 16 * registers)],
            (from, after) in (0usize..20, 0usize..20),
            layout in 0usize..3,
        ) {
            let pixels = from + len + after;
            let shape = [channels, pixels, from, len];
            let strides = [[pixels, 1], [1, channels], [2, 2 * channels + 1]][layout];
            for set in InstructionSet::available() {
                check::<f32>(set, DType::Float32, shape, strides);
                check::<f64>(set, DType::Float64, shape, strides);
                check::<f16>(set, DType::Float16, shape, strides);
                check::<bf16>(set, DType::BFloat16, shape, strides);
            }
        }
    }
}
