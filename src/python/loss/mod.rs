//! The losses: the two passes over tensors.

mod operands;
mod spec;
mod views;

use pyo3::prelude::*;

use super::tensor::Tensor;
use crate::cpu::count_labels;
use crate::cpu::resize::Resize;
use crate::loss::sums::{finish, row_length};
use crate::tensor::{DType, expect_shape};

pub use operands::{Labels, Operands};
pub use spec::{PyLossSpec, Sizes};
pub use views::{images, labels, locate, logits, target_of_equal_size};

/// The loss, the sums row by row, and what is known of the labels. The loss of each pixel (`reduction = "none"`) goes into `loss`. A one-pass
/// loss may bring its gradient, for an incoming gradient of `scale`, into `gradient`; another one keeps there what [`loss_backward`] needs.
/// `known` are labels that a call with the same target returned.
#[pyfunction]
pub fn loss_forward(
    py: Python<'_>,
    spec: &PyLossSpec,
    input: Tensor,
    target: Tensor,
    weight: Option<Vec<f64>>,
    dice_weight: Option<Vec<f64>>,
    loss: Option<Tensor>,
    gradient: Option<Tensor>,
    scale: f64,
    known: Option<&Labels>,
    threads: usize,
) -> PyResult<(f64, Vec<f64>, Option<Labels>)> {
    py.detach(|| {
        let (weight, dice_weight) = (weight.as_deref(), dice_weight.as_deref());
        let operands = Operands { spec, input: &input, target: &target, weight, dice_weight, threads, labels: known };
        if let Some(gradient) = &gradient {
            expect_shape("gradient", &gradient.shape, &input.shape, "that of input")?;
        }
        let mut value = 0.0;
        let done = operands.first_pass(gradient.is_some(), |problem| {
            let found = match (&gradient, &loss) {
                (Some(gradient), _) => {
                    let gradient = gradient.view("gradient", "a floating dtype", true)?;
                    if problem.is_one_pass() {
                        problem.reduce_with_gradient(gradient, scale)
                    } else {
                        problem.reduce_keeping(gradient)
                    }
                }
                (None, Some(loss)) => {
                    let loss = loss.view("loss", "a floating dtype", false)?;
                    expect_shape("loss", &[loss.samples, loss.pixels], &problem.loss_shape(), "that of each pixel")?;
                    problem.reduce(Some(loss))
                }
                (None, None) => problem.reduce(None),
            }?;
            // As a tensor holds it: sums of several are then the same, whoever adds them up.
            let double = input.dtype("input", "a floating dtype")? == DType::Float64;
            let finished = problem.finish(&found.sums);
            value = if double { finished } else { f64::from(finished as f32) };
            Ok(found)
        });
        let (found, labels) = done.map_err(|error| locate(error, &target.shape))?;
        Ok((value, found.sums, labels))
    })
}

/// dL/dinput into `gradient`, from the sums of the forward pass and the incoming gradient; from what that pass `kept` there, if it did, and
/// the `labels` that it returned.
#[pyfunction]
pub fn loss_backward(
    py: Python<'_>,
    spec: &PyLossSpec,
    grad_output: Tensor,
    input: Tensor,
    target: Tensor,
    weight: Option<Vec<f64>>,
    dice_weight: Option<Vec<f64>>,
    sums: Vec<f64>,
    gradient: Tensor,
    kept: bool,
    labels: Option<&Labels>,
    threads: usize,
) -> PyResult<()> {
    py.detach(|| {
        let (weight, dice_weight) = (weight.as_deref(), dice_weight.as_deref());
        let operands = Operands { spec, input: &input, target: &target, weight, dice_weight, threads, labels };
        expect_shape("gradient", &gradient.shape, &input.shape, "that of input")?;
        Ok(operands.second_pass(|problem| {
            let (rows, columns) = problem.sums_shape();
            expect_shape("sums", &[sums.len()], &[rows * columns], "what the forward pass gave")?;
            let destination = gradient.view("gradient", "a floating dtype", true)?;
            if spec.spec.is_scalar() {
                let scale = grad_output.scalar("grad_output")?;
                if kept {
                    problem.gradient_from_kept(&sums, scale, destination);
                } else {
                    problem.gradient(&sums, scale, None, destination);
                }
            } else {
                let incoming = grad_output.view("grad_output", "a floating dtype", false)?;
                let expected = problem.loss_shape();
                expect_shape("grad_output", &[incoming.samples, incoming.pixels], &expected, "that of the loss")?;
                problem.gradient(&sums, 1.0, Some(incoming), destination);
            }
            Ok(())
        })?)
    })
}

/// Pixels of each class of a target, all of whose labels are checked with that.
#[pyfunction]
pub fn class_counts(
    py: Python<'_>,
    spec: &PyLossSpec,
    input: Tensor,
    target: Tensor,
    threads: usize,
) -> PyResult<Vec<u64>> {
    py.detach(|| {
        let (classes, ignore_index) = (logits(&input)?.channels, spec.spec.ignore_index);
        let (_, view, _) = images(&input, &target)?;
        Ok(count_labels(view, classes, ignore_index, threads).map_err(|error| locate(error, &target.shape))?)
    })
}

/// The labels of target mode "majority", for which `counts` are those of [`class_counts`] (or of all ranks, added up), else "nearest", into
/// `labels`, int32, with -1 for ignored pixels.
#[pyfunction]
pub fn resize_labels(
    py: Python<'_>,
    input: Tensor,
    target: Tensor,
    counts: Option<Vec<u64>>,
    labels: Tensor,
    ignore_index: i64,
    threads: usize,
) -> PyResult<()> {
    py.detach(|| {
        let (to, target, from) = images(&input, &target)?;
        let resize = Resize { target, from, to, ignore_index, threads };
        let labels = labels.view("labels", "int32", false)?;
        match counts {
            Some(counts) => {
                expect_shape("counts", &[counts.len()], &input.shape[1..2], "one for each class of input")?;
                resize.majority(&counts, labels)?;
            }
            None => resize.nearest(labels)?,
        }
        Ok(())
    })
}

/// The loss from sums, which may be those of several batches added up.
#[pyfunction]
pub fn loss_finish(spec: &PyLossSpec, sums: Vec<f64>, classes: usize, dice_weight: Option<Vec<f64>>) -> f64 {
    finish(&spec.spec, dice_weight.as_deref(), &sums, row_length(&spec.spec, classes))
}

/// Whether the dimensions from `leading` on fold into one stride, so that no copy is needed.
#[pyfunction]
pub fn folds(shape: Vec<usize>, strides: Vec<isize>, leading: usize) -> bool {
    // With fewer dimensions there is nothing to fold; that they are too few is told where the shape is checked.
    let rest = shape.get(leading..).zip(strides.get(leading..));
    rest.is_none_or(|(shape, strides)| crate::tensor::fold(shape, strides).is_some())
}

/// Compute on the OpenMP threads of the torch that is loaded, from now on; whether it has some.
#[pyfunction]
pub fn join_torch() -> bool {
    crate::cpu::team::join_torch()
}

/// The threads to use where nobody says how many: `RAREPIXEL_NUM_THREADS`, else the machine's.
#[pyfunction]
pub fn default_threads() -> usize {
    crate::cpu::pool::default_threads()
}
