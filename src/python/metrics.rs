//! `rarepixel._core.confusion_matrix`.

use numpy::ndarray::Array2;
use numpy::{IntoPyArray, PyArray2};
use pyo3::prelude::*;

use crate::cpu::pool::default_threads;
use crate::tensor::{DType, View, expect_shape};
use crate::{Error, Result};

/// An array that Python owns: address, dtype name, shape, strides in elements.
type Array = (usize, String, Vec<usize>, Vec<isize>);

/// Counts of (target, prediction) pairs as a (C, C) matrix.
///
/// Gives `None` where an argument's spatial strides do not fold into one: the caller then passes contiguous copies. The
/// caller keeps both arrays alive and unchanged during the call. `threads == 0`: as many as the machine has.
#[pyfunction]
pub fn confusion_matrix<'py>(
    py: Python<'py>,
    input: Array,
    target: Array,
    num_classes: usize,
    ignore_index: i64,
    threads: usize,
) -> PyResult<Option<Bound<'py, PyArray2<i64>>>> {
    let has_channels = dtype("input", &input)?.is_floating();
    let (input_shape, target_shape) = (&input.2, &target.2);
    if target_shape.is_empty() {
        return Err(Error::value("target", "shape []", "shape (N, *spatial)").into());
    }
    if has_channels {
        let expected = [&target_shape[..1], &[num_classes], &target_shape[1..]].concat();
        expect_shape("input", input_shape, &expected, "(N, C, *spatial) for the shape of target and num_classes")?;
    } else {
        expect_shape("input", input_shape, target_shape, "the shape of target, as input holds labels")?;
    }
    if target_shape.contains(&0) {
        return Ok(Some(PyArray2::zeros(py, (num_classes, num_classes), false)));
    }
    let (Some(input), Some(target)) = (view("input", &input, has_channels)?, view("target", &target, false)?) else {
        return Ok(None);
    };
    let spatial = &target_shape[1..];
    let threads = if threads == 0 { default_threads() } else { threads };
    let counts =
        py.detach(|| crate::metrics::confusion_matrix(&input, &target, spatial, num_classes, ignore_index, threads))?;
    let counts = counts.into_iter().map(|count| count as i64).collect();
    let matrix = Array2::from_shape_vec((num_classes, num_classes), counts).expect("C * C counts");
    Ok(Some(matrix.into_pyarray(py)))
}

fn dtype(argument: &'static str, array: &Array) -> Result<DType> {
    DType::from_name(&array.1).ok_or_else(|| {
        Error::type_(
            argument,
            &array.1,
            match argument {
                "input" => {
                    "logits in float16, bfloat16, float32 or float64, or class indices in uint8, int16, int32 or int64"
                }
                _ => "class indices in uint8, int16, int32 or int64",
            },
        )
    })
}

fn view<'a>(argument: &'static str, array: &'a Array, has_channels: bool) -> Result<Option<View<'a>>> {
    let (address, _, shape, strides) = array;
    // SAFETY: rarepixel.metrics, the only caller, passes address, dtype, shape and strides of one live torch tensor on the CPU
    // or NumPy array, and holds a reference to it until the call returns. The view is only read.
    Ok(unsafe { View::new(*address as *mut u8, dtype(argument, array)?, shape, strides, has_channels) })
}
