//! The losses: specs from keyword arguments, and the two passes over tensors.

use pyo3::prelude::*;

use super::tensor::Tensor;
use crate::cpu::resize::Resize;
use crate::cpu::simd::Element;
use crate::cpu::{Problem, count_labels};
use crate::loss::operands::{Target, compute_type};
use crate::loss::resize::{IGNORED, check_sizes};
use crate::loss::spec::{Absent, Average, LossSpec, Overlap, PixelLoss, ProbabilityOfTarget, Reduction, RegionTerm};
use crate::loss::sums::{finish, row_length};
use crate::tensor::{DType, View, expect_shape};
use crate::{Error, Result};

/// The variant of that name.
fn choose<T: Copy>(argument: &'static str, name: &str, choices: &[(&str, T)]) -> Result<T> {
    choices.iter().find(|(choice, _)| *choice == name).map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<String> = choices.iter().map(|(choice, _)| format!("{choice:?}")).collect();
        Error::value(argument, format!("{name:?}"), names.join(" or "))
    })
}

/// How a target of another size than the logits is brought together with them.
#[derive(Clone, Copy)]
pub(super) enum Sizes {
    Equal,
    /// The target becomes [`resize_labels`] before it comes to the loss.
    Resized,
    Shares,
    Upsample {
        align_corners: bool,
    },
}

/// Which terms a loss has and their options; immutable.
#[pyclass(frozen, name = "LossSpec", module = "rarepixel._core")]
pub struct PyLossSpec {
    pub(super) spec: LossSpec,
    /// The same for shares of classes, which have their own label for ignored pixels.
    shared: LossSpec,
    pub(super) sizes: Sizes,
}

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
        alpha: f64,
        beta: f64,
        smooth: f64,
        average: &str,
        per_sample: bool,
        include_background: bool,
        absent: &str,
        ignore_index: i64,
        reduction: &str,
        target_mode: &str,
        align_corners: bool,
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
        let tversky = Overlap::Tversky { alpha, beta };
        let overlap =
            choose("region", region, &[("none", None), ("dice", Some(Overlap::Dice)), ("tversky", Some(tversky))])?;
        let average = choose("average", average, &[("micro", Average::Micro), ("macro", Average::Macro)])?;
        let absent = choose("absent", absent, &[("count", Absent::Count), ("skip", Absent::Skip)])?;
        let region =
            overlap.map(|overlap| RegionTerm { overlap, smooth, average, per_sample, include_background, absent });
        let spec = LossSpec {
            pixel: pixel.map(|pixel| (pixel, lambda_pixel)),
            region: region.map(|region| (region, lambda_region)),
            ignore_index,
            reduction: choose(
                "reduction",
                reduction,
                &[("mean", Reduction::Mean), ("sum", Reduction::Sum), ("none", Reduction::None)],
            )?,
        };
        spec.validate()?;
        let sizes = choose(
            "target_mode",
            target_mode,
            &[
                ("exact", Sizes::Equal),
                ("nearest", Sizes::Resized),
                ("majority", Sizes::Resized),
                ("area", Sizes::Shares),
                ("upsample_logits", Sizes::Upsample { align_corners }),
            ],
        )?;
        if matches!((sizes, kind), (Sizes::Shares, Kind::Focal)) {
            let expected =
                "\"nearest\", \"majority\" or \"upsample_logits\": the focal loss takes no shares of classes";
            return Err(Error::value("target_mode", "\"area\"", expected));
        }
        Ok(Self { shared: LossSpec { ignore_index: IGNORED.into(), ..spec.clone() }, spec, sizes })
    }

    /// Whether loss and gradient can be had in one pass.
    #[getter]
    fn one_pass(&self) -> bool {
        self.spec.is_one_pass() && !matches!(self.sizes, Sizes::Upsample { .. })
    }

    /// Whether the gradient's memory can keep what the second pass needs of the first.
    #[getter]
    fn keeps(&self) -> bool {
        self.spec.region.is_some() && matches!(self.sizes, Sizes::Equal | Sizes::Resized)
    }

    fn __repr__(&self) -> String {
        format!("{:?}", self.spec)
    }
}

/// The tensors of a call.
struct Operands<'a> {
    spec: &'a PyLossSpec,
    input: &'a Tensor,
    target: &'a Tensor,
    weight: Option<&'a [f64]>,
    dice_weight: Option<&'a [f64]>,
    threads: usize,
    /// Pixels of each class of the target, whose labels were checked with that.
    counts: Option<&'a [u64]>,
    /// Whether the forward pass has checked the labels.
    checked: bool,
}

const INDEX_DTYPES: &str = "uint8, int16, int32 or int64 class indices";

impl Operands<'_> {
    /// `work` on the problem that the operands pose, checked with the shapes that the user knows.
    fn solve<R>(&self, work: impl FnOnce(&Problem<'_>) -> Result<R>) -> Result<R> {
        let input = logits(self.input)?;
        match self.spec.sizes {
            Sizes::Equal | Sizes::Resized => {
                let target = target_of_equal_size(&self.spec.spec, self.input, self.target)?;
                work(&self.counted(self.problem(&self.spec.spec, input, target)?)?)
            }
            Sizes::Shares => self.shared(input, work),
            Sizes::Upsample { align_corners } => {
                let (small, target, full) = images(self.input, self.target)?;
                let (input, target) = ((input, small), (target, full));
                let (spec, weight, dice_weight) = (&self.spec.spec, self.weight, self.dice_weight);
                let problem =
                    Problem::upsampled(spec, input, target, align_corners, weight, dice_weight, self.threads)?;
                work(&self.counted(problem)?)
            }
        }
    }

    /// The problem with the counts, where they are known.
    fn counted<'a>(&'a self, problem: Problem<'a>) -> Result<Problem<'a>> {
        match self.counts {
            // SAFETY: our Python code gives the counts that `class_counts` found for this target, all of whose labels it checked.
            Some(counts) => unsafe { problem.with_counts(counts) },
            None => Ok(problem),
        }
    }

    fn problem<'a>(&'a self, spec: &'a LossSpec, input: View<'a>, target: Target<'a>) -> Result<Problem<'a>> {
        Problem::new(spec, input, target, self.weight, self.dice_weight, self.threads)
    }

    /// The problem on the shares that classes have of the windows behind the pixels of the logits.
    fn shared<R>(&self, input: View<'_>, work: impl FnOnce(&Problem<'_>) -> Result<R>) -> Result<R> {
        let (to, target, from) = images(self.input, self.target)?;
        // Of equal size, the share is the label itself.
        if to == from {
            let problem = self.problem(&self.spec.spec, input, Target::Index(target))?;
            return work(&self.counted(problem.with_mean_over_pixels())?);
        }
        let (classes, ignore_index, threads) = (input.channels, self.spec.spec.ignore_index, self.threads);
        if !self.checked && self.counts.is_none() {
            count_labels(target, classes, ignore_index, None, threads)?;
        }
        let resize = Resize { target, from, to, ignore_index, threads };
        match compute_type(input.dtype()) {
            DType::Float64 => self.solve_shares::<f64, R>(input, resize.shares(classes), work),
            _ => self.solve_shares::<f32, R>(input, resize.shares(classes), work),
        }
    }

    /// The problem on (N, C, pixels) shares and (N, pixels) labels that say which pixels have any.
    fn solve_shares<T: Element, R>(
        &self,
        input: View<'_>,
        (mut shares, mut valid): (Vec<T>, Vec<i32>),
        work: impl FnOnce(&Problem<'_>) -> Result<R>,
    ) -> Result<R> {
        let (classes, pixels) = (input.channels, input.pixels);
        let shape = [input.samples, classes, pixels];
        let strides = [(classes * pixels) as isize, pixels as isize, 1];
        let (valid_shape, valid_strides) = ([input.samples, pixels], [pixels as isize, 1]);
        // SAFETY: the vectors have these shapes and outlive the problem.
        let (shares, valid) = unsafe {
            let shares = View::new(shares.as_mut_ptr().cast(), T::DTYPE, &shape, &strides, true);
            let valid = View::new(valid.as_mut_ptr().cast(), DType::Int32, &valid_shape, &valid_strides, false);
            (shares.expect("contiguous"), valid)
        };
        work(&self.problem(&self.spec.shared, input, Target::Soft(shares, valid))?)
    }
}

/// The logits, checked with the shape that the user knows.
pub(super) fn logits(input: &Tensor) -> Result<View<'_>> {
    if !(2..=5).contains(&input.shape.len()) {
        let expected = "(N, C, *spatial) with 0 to 3 spatial dimensions";
        return Err(Error::value("input", format!("shape {:?}", input.shape), expected));
    }
    input.view("input", "float32, float64, float16 or bfloat16", true)
}

/// A target of class indices.
pub(super) fn labels(target: &Tensor) -> Result<View<'_>> {
    let view = target.view("target", INDEX_DTYPES, false)?;
    if view.dtype().is_floating() {
        return Err(Error::type_("target", view.dtype().name(), INDEX_DTYPES));
    }
    Ok(view)
}

/// The target of [`logits`] that have its size.
pub(super) fn target_of_equal_size<'a>(spec: &LossSpec, input: &Tensor, target: &'a Tensor) -> Result<Target<'a>> {
    let shape = &input.shape;
    if target.shape.len() == shape.len() && spec.pixel.is_none() {
        expect_shape("target", &target.shape, shape, "that of input: one value for each class")?;
        return Ok(Target::Soft(target.view("target", "a floating dtype", true)?, None));
    }
    let indices: Vec<usize> = [&shape[..1], &shape[2..]].concat();
    expect_shape("target", &target.shape, &indices, "(N, *spatial) for an input of (N, C, *spatial)")?;
    Ok(Target::Index(target.view("target", INDEX_DTYPES, false)?))
}

/// Sizes of input and target where they may differ, and the target.
pub(super) fn images<'a>(input: &Tensor, target: &'a Tensor) -> Result<([usize; 2], View<'a>, [usize; 2])> {
    let &[samples, _, height, width] = &input.shape[..] else {
        let got = format!("shape {:?}", input.shape);
        return Err(Error::value("input", got, "(N, C, height, width) where target has another size"));
    };
    let &[target_samples, full_height, full_width] = &target.shape[..] else {
        let got = format!("shape {:?}", target.shape);
        return Err(Error::value(
            "target",
            got,
            "(N, height, width) class indices where its size is not that of input",
        ));
    };
    expect_shape("target", &[target_samples], &[samples], "as many samples as input")?;
    let view = labels(target)?;
    let sizes = ([height, width], [full_height, full_width]);
    check_sizes(sizes.1, sizes.0)?;
    Ok((sizes.0, view, sizes.1))
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

/// The loss and the sums, row by row. The loss of each pixel (`reduction = "none"`) goes into `loss`. A one-pass loss may bring its
/// gradient, for an incoming gradient of `scale`, into `gradient`; another one keeps there what [`loss_backward`] needs.
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
    counts: Option<Vec<u64>>,
    threads: usize,
) -> PyResult<(f64, Vec<f64>)> {
    py.detach(|| {
        let (weight, dice_weight) = (weight.as_deref(), dice_weight.as_deref());
        let counts = counts.as_deref();
        let (input, target) = (&input, &target);
        let operands = Operands { spec, input, target, weight, dice_weight, threads, counts, checked: false };
        let done = operands.solve(|problem| {
            let sums = match (&gradient, &loss) {
                (Some(gradient), _) => {
                    let gradient = gradient.view("gradient", "a floating dtype", true)?;
                    if problem.is_one_pass() {
                        problem.reduce_with_gradient(gradient, scale)
                    } else {
                        problem.reduce_keeping(gradient)
                    }
                }
                (None, Some(loss)) => problem.reduce(Some(loss.view("loss", "a floating dtype", false)?)),
                (None, None) => problem.reduce(None),
            }?;
            Ok((problem.finish(&sums), sums))
        });
        Ok(done.map_err(|error| locate(error, &target.shape))?)
    })
}

/// dL/dinput into `gradient`, from the sums of the forward pass and the incoming gradient; from what that pass `kept` there, if it did.
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
    threads: usize,
) -> PyResult<()> {
    py.detach(|| {
        let (weight, dice_weight) = (weight.as_deref(), dice_weight.as_deref());
        let (input, target) = (&input, &target);
        let operands = Operands { spec, input, target, weight, dice_weight, threads, counts: None, checked: true };
        Ok(operands.solve(|problem| {
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

/// Pixels of each class of a target, all of whose labels are checked with that. They go into `narrowed`, uint8 and contiguous, with 254 for
/// ignored pixels.
#[pyfunction]
pub fn class_counts(
    py: Python<'_>,
    spec: &PyLossSpec,
    input: Tensor,
    target: Tensor,
    narrowed: Option<Tensor>,
    threads: usize,
) -> PyResult<Vec<u64>> {
    py.detach(|| {
        let classes = logits(&input)?.channels;
        if matches!(spec.sizes, Sizes::Equal) {
            target_of_equal_size(&spec.spec, &input, &target)?;
        } else if target.shape.get(1..) != input.shape.get(2..) {
            images(&input, &target)?;
        }
        let view = labels(&target)?;
        let narrowed = narrowed.as_ref().map(|tensor| tensor.view("narrowed", "uint8", false)).transpose()?;
        Ok(count_labels(view, classes, spec.spec.ignore_index, narrowed, threads)
            .map_err(|error| locate(error, &target.shape))?)
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
        labels.set_labels(&match counts {
            Some(counts) => {
                expect_shape("counts", &[counts.len()], &input.shape[1..2], "one for each class of input")?;
                resize.majority(&counts)
            }
            None => resize.nearest(),
        });
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
    crate::tensor::fold(&shape[leading..], &strides[leading..]).is_some()
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
