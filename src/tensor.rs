//! Checked, borrowed views of memory that somebody else owns (torch, NumPy): pointer, shape, strides, dtype.

use std::marker::PhantomData;

use crate::{Error, Result};

/// The element types that cross the border.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE single.
    Float32,
    /// IEEE double.
    Float64,
    /// IEEE half.
    Float16,
    /// The upper half of a single.
    BFloat16,
    /// Unsigned byte, as xBD masks are.
    UInt8,
    /// 16-bit integer.
    Int16,
    /// 32-bit integer.
    Int32,
    /// 64-bit integer, torch's label type.
    Int64,
}

impl DType {
    /// The name that torch and NumPy give it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Float32 => "float32",
            Self::Float64 => "float64",
            Self::Float16 => "float16",
            Self::BFloat16 => "bfloat16",
            Self::UInt8 => "uint8",
            Self::Int16 => "int16",
            Self::Int32 => "int32",
            Self::Int64 => "int64",
        }
    }

    /// The dtype of that name, if it is one of ours.
    pub fn from_name(name: &str) -> Option<Self> {
        [
            Self::Float32,
            Self::Float64,
            Self::Float16,
            Self::BFloat16,
            Self::UInt8,
            Self::Int16,
            Self::Int32,
            Self::Int64,
        ]
        .into_iter()
        .find(|dtype| dtype.name() == name)
    }

    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Self::UInt8 => 1,
            Self::Float16 | Self::BFloat16 | Self::Int16 => 2,
            Self::Float32 | Self::Int32 => 4,
            Self::Float64 | Self::Int64 => 8,
        }
    }

    /// Whether logits may have it.
    pub fn is_floating(self) -> bool {
        matches!(self, Self::Float32 | Self::Float64 | Self::Float16 | Self::BFloat16)
    }
}

/// A strided view of (samples, channels, pixels): all spatial dimensions folded into one.
///
/// A view without channels (labels, per-pixel losses) has `channels == 1`.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    pointer: *mut u8,
    dtype: DType,
    /// N.
    pub samples: usize,
    /// C.
    pub channels: usize,
    /// The product of the spatial dimensions.
    pub pixels: usize,
    /// Elements from one sample, channel and pixel to the next.
    pub strides: [isize; 3],
    owner: PhantomData<&'a mut [u8]>,
}

// SAFETY: a view is a pointer with the caller's promise (see `View::new`) that the memory outlives it; which thread
// reads it does not matter. Writers split the pixels between them (see `cpu::run`), so no two threads write one element.
unsafe impl Send for View<'_> {}
// SAFETY: as above; the methods of a shared view only compute addresses.
unsafe impl Sync for View<'_> {}

impl<'a> View<'a> {
    /// A view of a tensor of `shape` (N, [C,] *spatial) and `strides` in elements; `None` when the spatial dimensions do not
    /// fold into one stride (the caller then makes a contiguous copy).
    ///
    /// # Safety
    /// For all of `'a`, `pointer` plus every offset that `shape` and `strides` span must be valid for reads of `dtype` (and for
    /// writes, without other readers, where the view is used as a destination).
    pub unsafe fn new(
        pointer: *mut u8,
        dtype: DType,
        shape: &[usize],
        strides: &[isize],
        has_channels: bool,
    ) -> Option<Self> {
        let leading = 1 + usize::from(has_channels);
        let (spatial_shape, spatial_strides) = (shape.get(leading..)?, strides.get(leading..)?);
        let (pixels, pixel_stride) = if shape.contains(&0) {
            (spatial_shape.iter().product(), 1) // nothing to step over, whatever the strides: an empty crop has odd ones
        } else {
            fold(spatial_shape, spatial_strides)?
        };
        Some(Self {
            pointer,
            dtype,
            samples: shape[0],
            channels: if has_channels { shape[1] } else { 1 },
            pixels,
            strides: [strides[0], if has_channels { strides[1] } else { 0 }, pixel_stride],
            owner: PhantomData,
        })
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The address of the first element.
    pub fn address(&self) -> usize {
        self.pointer as usize
    }

    /// The address of element (sample, channel, pixel), as a pointer to `T`.
    ///
    /// # Safety
    /// The indices must lie in the view and `T` must be the type that [`View::dtype`] names.
    #[inline]
    pub unsafe fn at<T>(&self, sample: usize, channel: usize, pixel: usize) -> *mut T {
        debug_assert!(sample < self.samples && channel < self.channels && pixel <= self.pixels);
        let [n, c, s] = self.strides;
        // 64-bit offsets: more than 2^31 elements are in reach.
        let offset = sample as isize * n + channel as isize * c + pixel as isize * s;
        // SAFETY: the caller's promise in `new` covers every element of the view.
        unsafe { self.pointer.cast::<T>().offset(offset) }
    }

    /// The same memory as one sample with all pixels in a row, where the strides allow it: (N, C) logits become N pixels of one
    /// sample, and channels_last batches one long row.
    pub fn joined(self) -> Self {
        match fold(&[self.samples, self.pixels], &[self.strides[0], self.strides[2]]) {
            Some((pixels, stride)) => Self { samples: 1, pixels, strides: [0, self.strides[1], stride], ..self },
            None => self,
        }
    }
}

/// Several dimensions as one: its length and stride, if the strides nest without gaps.
pub(crate) fn fold(shape: &[usize], strides: &[isize]) -> Option<(usize, isize)> {
    let length: usize = shape.iter().product();
    if length == 0 {
        return Some((0, 1));
    }
    let mut folded: Option<(isize, isize)> = None; // (length, stride) so far, from the innermost dimension outwards
    for (&size, &stride) in shape.iter().zip(strides).rev() {
        if size == 1 {
            continue; // a dimension of one element is never stepped over
        }
        folded = match folded {
            None => Some((size as isize, stride)),
            Some((inner, inner_stride)) if stride == inner * inner_stride => {
                Some((inner * size as isize, inner_stride))
            }
            Some(_) => return None,
        };
    }
    Some((length, folded.map_or(1, |(_, stride)| stride)))
}

/// Check that `got` equals the shape that `input` asks for.
pub fn expect_shape(argument: &'static str, got: &[usize], expected: &[usize], why: &str) -> Result<()> {
    if got == expected {
        return Ok(());
    }
    Err(Error::value(argument, format!("shape {got:?}"), format!("shape {expected:?}, {why}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folds_what_is_contiguous() {
        assert_eq!(fold(&[4, 6], &[6, 1]), Some((24, 1)));
        assert_eq!(fold(&[4, 1, 6], &[6, 99, 1]), Some((24, 1)));
        assert_eq!(fold(&[4, 6], &[30, 5]), Some((24, 5))); // channels_last with five channels
        assert_eq!(fold(&[], &[]), Some((1, 1)));
        assert_eq!(fold(&[3, 0], &[7, 7]), Some((0, 1)));
        assert_eq!(fold(&[1 << 20, 1 << 20], &[0, 0]), Some((1 << 40, 0))); // expanded
    }

    #[test]
    fn refuses_what_has_gaps() {
        assert_eq!(fold(&[4, 6], &[7, 1]), None);
        assert_eq!(fold(&[4, 6], &[1, 4]), None); // transposed
    }
}
