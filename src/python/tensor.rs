//! Tensors as Python hands them over: (data pointer, dtype name, shape, strides in elements, the tensor itself).

use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::types::PyTuple;

use crate::tensor::{DType, View};
use crate::{Error, Result};

/// A tensor of somebody else. Works on every version of torch, for bfloat16 too, and for NumPy.
pub struct Tensor {
    pointer: usize,
    /// Ours, or the name of another.
    dtype: std::result::Result<DType, String>,
    /// Sizes.
    pub shape: Vec<usize>,
    strides: Vec<isize>,
}

impl<'a, 'py> FromPyObject<'a, 'py> for Tensor {
    type Error = PyErr;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        // The last item keeps the memory alive while the caller's tuple is.
        let tuple = object.cast::<PyTuple>()?;
        let dtype = tuple.get_borrowed_item(1)?.extract::<PyBackedStr>()?;
        let dtype = DType::from_name(&dtype).ok_or_else(|| dtype.to_string());
        let pointer = tuple.get_borrowed_item(0)?.extract()?;
        let (shape, strides) = (numbers(tuple.get_borrowed_item(2)?)?, numbers(tuple.get_borrowed_item(3)?)?);
        Ok(Self { pointer, dtype, shape, strides })
    }
}

/// A tuple of numbers: by way of the sequence protocol, small tensors would spend their time here.
fn numbers<'py, T: for<'a> FromPyObject<'a, 'py, Error = PyErr>>(tuple: Borrowed<'_, 'py, PyAny>) -> PyResult<Vec<T>> {
    tuple.cast::<PyTuple>()?.iter_borrowed().map(|number| number.extract()).collect()
}

impl Tensor {
    /// The dtype, if it is one that we read.
    pub fn dtype(&self, argument: &'static str, expected: &str) -> Result<DType> {
        self.dtype.as_ref().copied().map_err(|name| Error::type_(argument, name, expected))
    }

    /// The tensor as (samples, channels, pixels), or without channels as (samples, pixels).
    pub fn view(&self, argument: &'static str, expected: &str, has_channels: bool) -> Result<View<'_>> {
        let dtype = self.dtype(argument, expected)?;
        // SAFETY: rarepixel's own Python code makes these, with their owner, and Python holds a call's arguments until it
        // returns; torch and NumPy vouch that shape and strides stay inside the storage. Destinations are fresh tensors.
        let view = unsafe { View::new(self.pointer as *mut u8, dtype, &self.shape, &self.strides, has_channels) };
        view.ok_or_else(|| {
            Error::value(argument, format!("strides {:?}", self.strides), "spatial dimensions that fold into one")
        })
    }

    /// The address of a contiguous tensor of that dtype (which may lie on a device: it is not followed here).
    pub fn contiguous(&self, argument: &'static str, expected: DType) -> Result<u64> {
        let dtype = self.dtype(argument, expected.name())?;
        if dtype != expected {
            return Err(Error::type_(argument, dtype.name(), expected.name()));
        }
        let folded = crate::tensor::fold(&self.shape, &self.strides);
        match folded {
            Some((length, stride)) if stride == 1 || length == 1 => Ok(self.pointer as u64),
            _ => Err(Error::value(argument, format!("strides {:?}", self.strides), "a contiguous tensor")),
        }
    }

    /// The only element of a floating scalar.
    pub fn scalar(&self, argument: &'static str) -> Result<f64> {
        let dtype = self.dtype(argument, "a floating dtype")?;
        // SAFETY: as in `view`; a scalar has one element of its dtype.
        unsafe {
            Ok(match dtype {
                DType::Float32 => f64::from((self.pointer as *const f32).read_unaligned()),
                DType::Float64 => (self.pointer as *const f64).read_unaligned(),
                DType::Float16 => (self.pointer as *const half::f16).read_unaligned().to_f64(),
                DType::BFloat16 => (self.pointer as *const half::bf16).read_unaligned().to_f64(),
                other => return Err(Error::type_(argument, other.name(), "a floating dtype")),
            })
        }
    }

    /// Copy `values` into a contiguous int32 tensor of as many elements.
    pub fn set_labels(&self, values: &[i32]) {
        assert_eq!((&self.dtype, self.shape.iter().product()), (&Ok(DType::Int32), values.len()));
        // SAFETY: as in `view`; our Python code makes it contiguous.
        unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), self.pointer as *mut i32, values.len()) }
    }
}
