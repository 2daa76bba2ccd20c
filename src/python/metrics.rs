//! `rarepixel._core.confusion_matrix`.

use numpy::ndarray::Array2;
use numpy::{IntoPyArray, PyArray2};
use pyo3::prelude::*;

use super::tensor::Tensor;
use crate::Error;
use crate::tensor::expect_shape;

const LABELS: &str = "class indices in uint8, int16, int32 or int64";
const LOGITS_OR_LABELS: &str =
    "logits in float16, bfloat16, float32 or float64, or class indices in uint8, int16, int32 or int64";

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
    let has_channels = input.dtype("input", LOGITS_OR_LABELS)?.is_floating();
    let Some((samples, spatial)) = target.shape.split_first() else {
        return Err(Error::value("target", "shape []", "shape (N, *spatial)").into());
    };
    if has_channels {
        let expected = [&[*samples, num_classes], spatial].concat();
        expect_shape("input", &input.shape, &expected, "(N, C, *spatial) for the shape of target and num_classes")?;
    } else {
        expect_shape("input", &input.shape, &target.shape, "the shape of target, as input holds labels")?;
    }
    let (input, target_view) =
        (input.view("input", LOGITS_OR_LABELS, has_channels)?, target.view("target", LABELS, false)?);
    let counts = py.detach(|| {
        crate::metrics::confusion_matrix(&input, &target_view, spatial, num_classes, ignore_index, threads)
    })?;
    let counts = counts.into_iter().map(|count| count as i64).collect();
    Ok(Array2::from_shape_vec((num_classes, num_classes), counts).expect("C * C counts").into_pyarray(py))
}
