//! Moving pixels between tensors of any layout and dtype and class-major tiles.

use half::{bf16, f16};

use super::simd::{Element, Vector};
use crate::tensor::{DType, View};

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

/// `len` pixels from (sample, pixel) on, all channels, to `to + c * stride + i`.
///
/// # Safety
/// The pixels must lie in one sample of the view, and `to` must hold them.
#[inline(always)]
pub unsafe fn gather<V: Vector>(
    view: &View<'_>,
    sample: usize,
    pixel: usize,
    len: usize,
    to: *mut V::Element,
    stride: usize,
) {
    // SAFETY: the caller's promise, handed on.
    unsafe { by_dtype!(view, gather_as(view, sample, pixel, len, to, stride)) }
}

#[inline(always)]
unsafe fn gather_as<V: Vector, S: Storage>(
    view: &View<'_>,
    sample: usize,
    pixel: usize,
    len: usize,
    to: *mut V::Element,
    stride: usize,
) {
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
            for i in 0..len {
                let from = from.offset(i as isize * pixel_stride);
                for c in 0..view.channels {
                    *to.add(c * stride + i) = from.offset(c as isize * channel_stride).read_unaligned().to_element();
                }
            }
        }
    }
}

/// The way back: `len` pixels from `from + c * stride + i` into the view.
///
/// # Safety
/// As for [`gather`]; no other thread may touch these pixels of the view.
#[inline(always)]
pub unsafe fn scatter<V: Vector>(
    view: &View<'_>,
    sample: usize,
    pixel: usize,
    len: usize,
    from: *const V::Element,
    stride: usize,
) {
    // SAFETY: the caller's promise, handed on.
    unsafe { by_dtype!(view, scatter_as(view, sample, pixel, len, from, stride)) }
}

#[inline(always)]
unsafe fn scatter_as<V: Vector, S: Storage>(
    view: &View<'_>,
    sample: usize,
    pixel: usize,
    len: usize,
    from: *const V::Element,
    stride: usize,
) {
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
            for i in 0..len {
                let to = to.offset(i as isize * pixel_stride);
                for c in 0..view.channels {
                    to.offset(c as isize * channel_stride).write_unaligned(S::from_element(*from.add(c * stride + i)));
                }
            }
        }
    }
}
