//! The losses: specs from keyword arguments, and the two passes over tensors.

use pyo3::prelude::*;

use super::tensor::Tensor;
use crate::cpu::Problem;
use crate::loss::Target;
use crate::loss::spec::{Absent, Average, DiceTerm, LossSpec, PixelLoss, ProbabilityOfTarget, Reduction};
use crate::loss::sums::row_length;
use crate::tensor::{View, expect_shape};
use crate::{Error, Result};

/// The variant of that name.
fn choose<T: Copy>(argument: &'static str, name: &str, choices: &[(&str, T)]) -> Result<T> {
    choices.iter().find(|(choice, _)| *choice == name).map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<String> = choices.iter().map(|(choice, _)| format!("{choice:?}")).collect();
        Error::value(argument, format!("{name:?}"), names.join(" or "))
    })
}

/// Which terms a loss has and their options; immutable.
#[pyclass(frozen, name = "LossSpec", module = "rarepixel._core")]
pub struct PyLossSpec(pub(super) LossSpec);

#[pymethods]
impl PyLossSpec {
    #[new]
    fn new(
        pixel: &str,
        lambda_pixel: f64,
        gamma: f64,
        pt: &str,
        label_smoothing: f64,
        region: &str,
        lambda_region: f64,
        smooth: f64,
        average: &str,
        per_sample: bool,
        include_background: bool,
        absent: &str,
        ignore_index: i64,
        reduction: &str,
    ) -> Result<Self> {
        #[derive(Clone, Copy)]
        enum Kind {
            None,
            CrossEntropy,
            Focal,
        }
        let kind = choose(
            "pixel",
            pixel,
            &[("none", Kind::None), ("cross_entropy", Kind::CrossEntropy), ("focal", Kind::Focal)],
        )?;
        let pt = choose(
            "pt",
            pt,
            &[("softmax", ProbabilityOfTarget::Softmax), ("weighted_ce", ProbabilityOfTarget::WeightedCrossEntropy)],
        )?;
        let pixel = match kind {
            Kind::None => None,
            Kind::CrossEntropy => Some(PixelLoss::CrossEntropy { label_smoothing }),
            Kind::Focal => Some(PixelLoss::Focal { gamma, pt }),
        };
        let dice = DiceTerm {
            smooth,
            average: choose("average", average, &[("micro", Average::Micro), ("macro", Average::Macro)])?,
            per_sample,
            include_background,
            absent: choose("absent", absent, &[("count", Absent::Count), ("skip", Absent::Skip)])?,
        };
        let spec = LossSpec {
            pixel: pixel.map(|pixel| (pixel, lambda_pixel)),
            region: choose("region", region, &[("none", false), ("dice", true)])?.then_some((dice, lambda_region)),
            ignore_index,
            reduction: choose(
                "reduction",
                reduction,
                &[("mean", Reduction::Mean), ("sum", Reduction::Sum), ("none", Reduction::None)],
            )?,
        };
        spec.validate()?;
        Ok(Self(spec))
    }

    /// (rows, columns) of the sums of a batch.
    fn sums_shape(&self, samples: usize, classes: usize) -> (usize, usize) {
        (if self.0.per_sample() { samples } else { 1 }, row_length(&self.0, classes))
    }

    /// Whether loss and gradient can be had in one pass.
    #[getter]
    fn one_pass(&self) -> bool {
        self.0.region.is_none() && self.0.is_scalar()
    }

    fn __repr__(&self) -> String {
        format!("{:?}", self.0)
    }
}

/// The operands, checked with the shapes that the user knows.
pub(super) fn operands<'a>(spec: &LossSpec, input: &'a Tensor, target: &'a Tensor) -> Result<(View<'a>, Target<'a>)> {
    let shape = &input.shape;
    if !(2..=5).contains(&shape.len()) {
        let got = format!("shape {shape:?}");
        return Err(Error::value("input", got, "(N, C, *spatial) with 0 to 3 spatial dimensions"));
    }
    let indices: Vec<usize> = [&shape[..1], &shape[2..]].concat();
    let index_dtypes = "uint8, int16, int32 or int64 class indices";
    let target = if target.shape.len() == shape.len() && spec.pixel.is_none() {
        expect_shape("target", &target.shape, shape, "that of input: one value for each class")?;
        Target::Soft(target.view("target", "a floating dtype", true)?)
    } else {
        expect_shape("target", &target.shape, &indices, "(N, *spatial) for an input of (N, C, *spatial)")?;
        Target::Index(target.view("target", index_dtypes, false)?)
    };
    Ok((input.view("input", "float32, float64, float16 or bfloat16", true)?, target))
}

fn problem<'a>(
    spec: &'a LossSpec,
    input: &'a Tensor,
    target: &'a Tensor,
    weight: &'a Option<Vec<f64>>,
    dice_weight: &'a Option<Vec<f64>>,
    threads: usize,
) -> Result<Problem<'a>> {
    let (input, target) = operands(spec, input, target)?;
    Problem::new(spec, input, target, weight.as_deref(), dice_weight.as_deref(), threads)
}

/// A label's position in the target's own shape, instead of (sample, pixel).
fn locate(error: Error, shape: &[usize]) -> Error {
    match error {
        Error::Label { label, position, classes, ignore_index } => {
            let mut flat = position[0] * shape[1..].iter().product::<usize>() + position[1];
            let mut position = vec![0; shape.len()];
            for (index, &size) in position.iter_mut().zip(shape).rev() {
                *index = flat % size;
                flat /= size;
            }
            Error::Label { label, position, classes, ignore_index }
        }
        other => other,
    }
}

/// The loss into `loss`, the sums into `sums`, and (one-pass losses) the gradient for an incoming gradient of 1 into `gradient`.
#[pyfunction]
pub fn loss_forward(
    py: Python<'_>,
    spec: &PyLossSpec,
    input: Tensor,
    target: Tensor,
    weight: Option<Vec<f64>>,
    dice_weight: Option<Vec<f64>>,
    loss: Tensor,
    sums: Tensor,
    gradient: Option<Tensor>,
    threads: usize,
) -> PyResult<()> {
    py.detach(|| {
        let problem = problem(&spec.0, &input, &target, &weight, &dice_weight, threads)?;
        let result = match &gradient {
            Some(gradient) => problem.reduce_with_gradient(gradient.view("gradient", "a floating dtype", true)?),
            None if spec.0.is_scalar() => problem.reduce(None),
            None => problem.reduce(Some(loss.view("loss", "a floating dtype", false)?)),
        };
        let result = result.map_err(|error| locate(error, &target.shape))?;
        if spec.0.is_scalar() {
            loss.set_scalar(problem.finish(&result));
        }
        sums.set_doubles(&result);
        Ok(())
    })
}

/// dL/dinput into `gradient`, from the sums of the forward pass and the incoming gradient.
#[pyfunction]
pub fn loss_backward(
    py: Python<'_>,
    spec: &PyLossSpec,
    grad_output: Tensor,
    input: Tensor,
    target: Tensor,
    weight: Option<Vec<f64>>,
    dice_weight: Option<Vec<f64>>,
    sums: Tensor,
    gradient: Tensor,
    threads: usize,
) -> PyResult<()> {
    py.detach(|| {
        let problem = problem(&spec.0, &input, &target, &weight, &dice_weight, threads)?;
        let destination = gradient.view("gradient", "a floating dtype", true)?;
        if spec.0.is_scalar() {
            problem.gradient(sums.doubles(), grad_output.scalar("grad_output")?, None, destination);
        } else {
            expect_shape("grad_output", &grad_output.shape, &target.shape, "that of the loss")?;
            let incoming = grad_output.view("grad_output", "a floating dtype", false)?;
            problem.gradient(sums.doubles(), 1.0, Some(incoming), destination);
        }
        Ok(())
    })
}

/// Whether the dimensions from `leading` on fold into one stride, so that no copy is needed.
#[pyfunction]
pub fn folds(shape: Vec<usize>, strides: Vec<isize>, leading: usize) -> bool {
    crate::tensor::fold(&shape[leading..], &strides[leading..]).is_some()
}

/// The threads to use where nobody says how many: `RAREPIXEL_NUM_THREADS`, else the machine's.
#[pyfunction]
pub fn default_threads() -> usize {
    crate::cpu::pool::default_threads()
}
