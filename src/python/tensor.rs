//! Tensors as Python hands them over: torch's as they are, arrays of NumPy as (data pointer, dtype name, shape, strides in elements,
//! the array itself).

use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::types::PyTuple;

use super::exchange;
use crate::tensor::{DType, View, expect_shape};
use crate::{Error, Result};

/// A tensor of somebody else. Python holds it until the call that it is an argument of returns.
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
        if let Some((pointer, dtype, shape, strides)) = exchange::described(object) {
            return Ok(Self { pointer, dtype: Ok(dtype), shape, strides });
        }
        match object.cast::<PyTuple>() {
            Ok(tuple) => {
                let item = |index| tuple.get_borrowed_item(index);
                Self::new(item(0)?, &item(1)?.extract::<PyBackedStr>()?, item(2)?, item(3)?)
            }
            // A version of torch without the interface, or a dtype that it does not name.
            Err(_) => {
                let (pointer, dtype) = (object.call_method0("data_ptr")?, object.getattr("dtype")?.str()?.to_string());
                let (shape, strides) = (object.getattr("shape")?, object.call_method0("stride")?);
                let name = dtype.trim_start_matches("torch.");
                Self::new(pointer.as_borrowed(), name, shape.as_borrowed(), strides.as_borrowed())
            }
        }
    }
}

/// A tuple of numbers: by way of the sequence protocol, small tensors would spend their time here.
fn numbers<'py, T: for<'a> FromPyObject<'a, 'py, Error = PyErr>>(tuple: Borrowed<'_, 'py, PyAny>) -> PyResult<Vec<T>> {
    tuple.cast::<PyTuple>()?.iter_borrowed().map(|number| number.extract()).collect()
}

impl Tensor {
    fn new(
        pointer: Borrowed<'_, '_, PyAny>,
        dtype: &str,
        shape: Borrowed<'_, '_, PyAny>,
        strides: Borrowed<'_, '_, PyAny>,
    ) -> PyResult<Self> {
        let dtype = DType::from_name(dtype).ok_or_else(|| dtype.to_string());
        Ok(Self { pointer: pointer.extract()?, dtype, shape: numbers(shape)?, strides: numbers(strides)? })
    }

    /// The dtype, if it is one that we read.
    pub fn dtype(&self, argument: &'static str, expected: &str) -> Result<DType> {
        self.dtype.as_ref().copied().map_err(|name| Error::type_(argument, name, expected))
    }

    /// The address of what is in it, if anything is.
    fn memory(&self, argument: &'static str) -> Result<*mut u8> {
        if self.pointer == 0 && !self.shape.contains(&0) {
            return Err(Error::value(
                argument,
                "a tensor without memory",
                "one with memory of its own (see Tensor.clone)",
            ));
        }
        Ok(self.pointer as *mut u8)
    }

    /// The tensor as (samples, channels, pixels), or without channels as (samples, pixels).
    pub fn view(&self, argument: &'static str, expected: &str, has_channels: bool) -> Result<View<'_>> {
        let dtype = self.dtype(argument, expected)?;
        // SAFETY: rarepixel's own Python code makes these, with their owner, and Python holds a call's arguments until it
        // returns; torch and NumPy vouch that shape and strides stay inside the storage. Destinations are fresh tensors.
        let view = unsafe { View::new(self.memory(argument)?, dtype, &self.shape, &self.strides, has_channels) };
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
        expect_shape(argument, &self.shape, &[], "one number")?;
        let (dtype, from) = (self.dtype(argument, "a floating dtype")?, self.memory(argument)?);
        // SAFETY: as in `view`; a scalar has one element of its dtype.
        unsafe {
            Ok(match dtype {
                DType::Float32 => f64::from(from.cast::<f32>().read_unaligned()),
                DType::Float64 => from.cast::<f64>().read_unaligned(),
                DType::Float16 => from.cast::<half::f16>().read_unaligned().to_f64(),
                DType::BFloat16 => from.cast::<half::bf16>().read_unaligned().to_f64(),
                other => return Err(Error::type_(argument, other.name(), "a floating dtype")),
            })
        }
    }
}
