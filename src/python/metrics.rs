//! `rarepixel._core.confusion_matrix`, and the same on CUDA.

use numpy::ndarray::Array2;
use numpy::{IntoPyArray, PyArray2};
use pyo3::prelude::*;

use super::tensor::Tensor;
use crate::cuda::{Device, add_confusion, confusion_length};
use crate::tensor::{DType, View, expect_shape};
use crate::{Error, Result};

const LABELS: &str = "class indices in uint8, int16, int32 or int64";
const LOGITS_OR_LABELS: &str =
    "logits in float16, bfloat16, float32 or float64, or class indices in uint8, int16, int32 or int64";

/// Views of input and target, checked with the shapes that the user knows.
fn views<'a>(input: &'a Tensor, target: &'a Tensor, num_classes: usize) -> Result<(View<'a>, View<'a>)> {
    let has_channels = input.dtype("input", LOGITS_OR_LABELS)?.is_floating();
    let Some((samples, spatial)) = target.shape.split_first() else {
        return Err(Error::value("target", "shape []", "shape (N, *spatial)"));
    };
    if has_channels {
        let expected = [&[*samples, num_classes], spatial].concat();
        expect_shape("input", &input.shape, &expected, "(N, C, *spatial) for the shape of target and num_classes")?;
    } else {
        expect_shape("input", &input.shape, &target.shape, "the shape of target, as input holds labels")?;
    }
    Ok((input.view("input", LOGITS_OR_LABELS, has_channels)?, target.view("target", LABELS, false)?))
}

/// Counts of (target, prediction) pairs as a (C, C) matrix.
#[pyfunction]
pub fn confusion_matrix<'py>(
    py: Python<'py>,
    input: Tensor,
    target: Tensor,
    num_classes: usize,
    ignore_index: i64,
    threads: usize,
) -> PyResult<Bound<'py, PyArray2<i64>>> {
    let (input, target_view) = views(&input, &target, num_classes)?;
    let spatial = &target.shape[1..];
    let counts = py.detach(|| {
        crate::metrics::confusion_matrix(&input, &target_view, spatial, num_classes, ignore_index, threads)
    })?;
    let counts = counts.into_iter().map(|count| count as i64).collect();
    Ok(Array2::from_shape_vec((num_classes, num_classes), counts).expect("C * C counts").into_pyarray(py))
}

/// Add the same to `counts` on a device, int64: (C, C) of them, then how many labels of target and input are no class.
#[pyfunction]
pub fn cuda_confusion_matrix(
    py: Python<'_>,
    device: usize,
    stream: u64,
    input: Tensor,
    target: Tensor,
    counts: Tensor,
    num_classes: usize,
    ignore_index: i64,
) -> PyResult<()> {
    py.detach(|| {
        let (input, target) = views(&input, &target, num_classes)?;
        expect_shape("counts", &counts.shape, &[confusion_length(num_classes)], "C * C + 2")?;
        let (device, counts) = (Device::get(device)?, counts.contiguous("counts", DType::Int64)?);
        // SAFETY: rarepixel's own Python code makes these from live tensors of that device, which torch keeps until the stream has
        // come so far; shapes and dtypes were checked above.
        Ok(unsafe { add_confusion(&device, stream, input, target, num_classes, ignore_index, counts) }?)
    })
}
