//! Memory of large gradients, kept from one step to the next.

use pyo3::prelude::*;

use super::exchange;
use super::tensor::Tensor;
use crate::Result;
use crate::cpu::blocks;

/// `torch.empty_like` in such memory, with the channels last or contiguous; none where torch cannot take it, or `RAREPIXEL_KEEP_MEMORY=0`
/// says so.
#[pyfunction]
pub fn kept_like(py: Python<'_>, input: Tensor, channels_last: bool) -> PyResult<Option<Py<PyAny>>> {
    if std::env::var_os("RAREPIXEL_KEEP_MEMORY").is_some_and(|value| value == "0") {
        return Ok(None);
    }
    let dtype: Result<_> = input.dtype("input", "a floating dtype");
    let shape: Vec<i64> = input.shape.iter().map(|&size| size as i64).collect();
    let mut strides = vec![1; shape.len()];
    let mut step = 1;
    // From the dimension that varies fastest on.
    let channel = if channels_last { Some(1) } else { None };
    for dimension in channel.into_iter().chain((0..shape.len()).rev().filter(|&one| Some(one) != channel)) {
        strides[dimension] = step;
        step *= shape[dimension].max(1);
    }
    exchange::kept(py, dtype?, shape, strides)
}

/// The sizes in bytes of the blocks of memory that lie idle.
#[pyfunction]
pub fn idle_memory() -> Vec<usize> {
    blocks::idle()
}

/// Give them back to the system.
#[pyfunction]
pub fn free_idle_memory() {
    blocks::free_idle();
}
