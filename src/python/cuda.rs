//! CUDA: the two passes over tensors on a device, and what `rarepixel doctor` shows.

use pyo3::prelude::*;

use super::loss::{PyLossSpec, Sizes, images, labels, logits, target_of_equal_size};
use super::tensor::Tensor;
use crate::cuda::compile::{Architecture, compile};
use crate::cuda::variant::{self, Source, Variant};
use crate::cuda::{
    Backward, Device, Forward, Images, Matching, Problem, Resize, add_confusion, cache, confusion_length, describe,
    library,
    nvrtc::{nvrtc, use_nvrtc},
};
use crate::loss::LossSpec;
use crate::loss::operands::compute_type;
use crate::tensor::{DType, View, expect_shape};
use crate::{Error, Result};

/// The problem, checked with the shapes that the user knows.
fn problem<'a>(
    spec: &'a PyLossSpec,
    device: usize,
    stream: u64,
    input: &'a Tensor,
    target: &'a Tensor,
) -> Result<Problem<'a>> {
    let logits = logits(input)?;
    let matching = match spec.sizes {
        Sizes::Equal | Sizes::Nearest | Sizes::Majority => {
            let target = target_of_equal_size(&spec.spec, input, target)?;
            return Problem::new(&spec.spec, logits, target, Device::get(device)?, stream);
        }
        Sizes::Shares => Matching::Area,
        Sizes::Upsample { align_corners } => Matching::Upsample { align_corners },
    };
    let (map, target, full) = images(input, target)?;
    Problem::of_images(&spec.spec, logits, target, Images { matching, map, full }, Device::get(device)?, stream)
}

/// A loss, or the incoming gradient, of each pixel: (N, pixels) of the problem.
fn pixels<'a>(argument: &'static str, tensor: &'a Tensor, problem: &Problem<'_>) -> Result<View<'a>> {
    let view = tensor.view(argument, "a floating dtype", false)?;
    expect_shape(argument, &[view.samples, view.pixels], &problem.loss_shape(), "that of the loss")?;
    Ok(view)
}

/// The address of a single number.
fn number(argument: &'static str, tensor: &Tensor, real: DType) -> Result<u64> {
    expect_shape(argument, &tensor.shape, &[], "one number")?;
    tensor.contiguous(argument, real)
}

/// The address of a weight for each class, in the type of the computation; 0 where there is none.
fn weight(argument: &'static str, weight: &Option<Tensor>, input: &Tensor) -> Result<u64> {
    let Some(weight) = weight else { return Ok(0) };
    let classes = input.shape[1];
    if weight.shape != [classes] {
        let got = format!("{} values", weight.shape.iter().product::<usize>());
        return Err(Error::value(argument, got, format!("{classes} values, one for each class of input")));
    }
    weight.contiguous(argument, compute_type(input.dtype("input", "a floating dtype")?))
}

/// The weights' addresses, under the names that the user knows them by.
fn weights(
    spec: &LossSpec,
    weight: &Option<Tensor>,
    dice_weight: &Option<Tensor>,
    input: &Tensor,
) -> Result<(u64, u64)> {
    let (name, dice_name) = spec.weight_names();
    Ok((self::weight(name, weight, input)?, self::weight(dice_name, dice_weight, input)?))
}

/// How many float64 of workspace `cuda_loss_forward` needs.
#[pyfunction]
pub fn cuda_workspace(
    py: Python<'_>,
    spec: &PyLossSpec,
    device: usize,
    input: Tensor,
    target: Tensor,
    loss: Tensor,
) -> PyResult<usize> {
    py.detach(|| {
        let problem = problem(spec, device, 0, &input, &target)?;
        let pixel_loss = if spec.spec.is_scalar() { None } else { Some(pixels("loss", &loss, &problem)?) };
        Ok(problem.workspace(pixel_loss)?)
    })
}

/// How many numbers of workspace, in the type of the computation, `cuda_loss_backward` needs for upsampled logits; 0 for all others.
#[pyfunction]
pub fn cuda_owed(py: Python<'_>, spec: &PyLossSpec, device: usize, input: Tensor, target: Tensor) -> PyResult<usize> {
    py.detach(|| Ok(problem(spec, device, 0, &input, &target)?.owed_len()?))
}

/// The address of the state.
fn state(state: &Tensor, problem: &Problem<'_>) -> Result<u64> {
    expect_shape("state", &state.shape, &[problem.state_len()], "rows of sums, and the coefficients")?;
    state.contiguous("state", DType::Float64)
}

/// The loss into `loss`, and into `state` what the backward pass needs, as work on `stream`. Without `partials` the sums are there already, those
/// of several ranks added up.
#[pyfunction]
pub fn cuda_loss_forward(
    py: Python<'_>,
    spec: &PyLossSpec,
    device: usize,
    stream: u64,
    input: Tensor,
    target: Tensor,
    weight: Option<Tensor>,
    dice_weight: Option<Tensor>,
    loss: Tensor,
    state: Tensor,
    partials: Option<Tensor>,
) -> PyResult<()> {
    py.detach(|| {
        let problem = problem(spec, device, stream, &input, &target)?;
        let scalar = spec.spec.is_scalar();
        let real = compute_type(input.dtype("input", "a floating dtype")?);
        let pixel_loss = if scalar { None } else { Some(pixels("loss", &loss, &problem)?) };
        let (weight, dice_weight) = weights(&spec.spec, &weight, &dice_weight, &input)?;
        let memory = Forward {
            weight,
            dice_weight,
            loss: if scalar { number("loss", &loss, real)? } else { 0 },
            pixel_loss,
            state: self::state(&state, &problem)?,
        };
        let Some(partials) = &partials else {
            // SAFETY: as below.
            return Ok(unsafe { problem.finish(&memory) }?);
        };
        let partials = (partials.contiguous("partials", DType::Float64)?, partials.shape.iter().product());
        // SAFETY: rarepixel's own Python code makes these from live tensors of that device, which torch keeps until the stream has
        // come so far; shapes and dtypes were checked above.
        Ok(unsafe { problem.forward(&memory, partials) }?)
    })
}

/// Add the pixels of each class to the diagonal of `counts`, int64: see `cuda_confusion_matrix`. Labels that are no class are passed over.
#[pyfunction]
pub fn cuda_class_counts(
    py: Python<'_>,
    device: usize,
    stream: u64,
    target: Tensor,
    counts: Tensor,
    classes: usize,
    ignore_index: i64,
) -> PyResult<()> {
    py.detach(|| {
        let target = labels(&target)?;
        expect_shape("counts", &counts.shape, &[confusion_length(classes)], "C * C + 2")?;
        let (device, counts) = (Device::get(device)?, counts.contiguous("counts", DType::Int64)?);
        // SAFETY: as in `cuda_loss_forward`.
        Ok(unsafe { add_confusion(&device, stream, target, target, classes, ignore_index, counts) }?)
    })
}

/// Labels of the size of `input` from a target of another size into `labels`, int32 with -1 for ignored pixels, as work on `stream`. With
/// `counts`, int64 pixels of each class, it is the majority of the window behind each pixel, else the nearest label.
#[pyfunction]
pub fn cuda_resize(
    py: Python<'_>,
    device: usize,
    stream: u64,
    input: Tensor,
    target: Tensor,
    counts: Option<Tensor>,
    labels: Tensor,
    ignore_index: i64,
) -> PyResult<()> {
    py.detach(|| {
        let (to, target, from) = images(&input, &target)?;
        let classes = input.shape[1];
        let address = |counts: &Tensor| {
            expect_shape("counts", &counts.shape, &[classes], "one for each class of input")?;
            counts.contiguous("counts", DType::Int64)
        };
        let counts = counts.as_ref().map(address).transpose()?;
        let resize = Resize { target, from, to, classes, ignore_index, counts };
        let (device, labels) = (Device::get(device)?, labels.view("labels", "int32", false)?);
        // SAFETY: as in `cuda_loss_forward`.
        Ok(unsafe { resize.fill(&device, stream, labels) }?)
    })
}

/// dL/dinput into `gradient`, as work on `stream`; `owed` is the workspace that `cuda_owed` asks for.
#[pyfunction]
pub fn cuda_loss_backward(
    py: Python<'_>,
    spec: &PyLossSpec,
    device: usize,
    stream: u64,
    grad_output: Tensor,
    input: Tensor,
    target: Tensor,
    weight: Option<Tensor>,
    state: Tensor,
    owed: Option<Tensor>,
    gradient: Tensor,
) -> PyResult<()> {
    py.detach(|| {
        let problem = problem(spec, device, stream, &input, &target)?;
        let scalar = spec.spec.is_scalar();
        let real = compute_type(input.dtype("input", "a floating dtype")?);
        let got = grad_output.dtype("grad_output", "a floating dtype")?;
        if got != real {
            return Err(Error::type_("grad_output", got.name(), real.name()).into());
        }
        let owed = match &owed {
            Some(owed) => (owed.contiguous("owed", real)?, owed.shape.iter().product()),
            None => (0, 0),
        };
        expect_shape("gradient", &gradient.shape, &input.shape, "that of input")?;
        let memory = Backward {
            weight: self::weight(spec.spec.weight_names().0, &weight, &input)?,
            grad_output: if scalar { number("grad_output", &grad_output, real)? } else { 0 },
            incoming: if scalar { None } else { Some(pixels("grad_output", &grad_output, &problem)?) },
            state: self::state(&state, &problem)?,
            owed,
            gradient: gradient.view("gradient", "a floating dtype", true)?,
        };
        // SAFETY: as in `cuda_loss_forward`.
        Ok(unsafe { problem.backward(&memory) }?)
    })
}

/// The driver's version.
#[pyfunction]
pub fn cuda_driver() -> PyResult<(i32, i32)> {
    Ok(library::driver()?)
}

/// NVRTC's version, the architectures that it compiles for, and where it was found.
#[pyfunction]
pub fn cuda_nvrtc() -> PyResult<((i32, i32), Vec<i32>, String)> {
    let nvrtc = nvrtc()?;
    Ok((nvrtc.version, nvrtc.architectures.clone(), nvrtc.place.clone()))
}

/// Use the NVRTC at that path from now on, if none is in use yet.
#[pyfunction]
pub fn cuda_use_nvrtc(path: std::path::PathBuf) -> PyResult<()> {
    Ok(use_nvrtc(&path)?)
}

/// (name, compute capability) of each device.
#[pyfunction]
pub fn cuda_devices() -> PyResult<Vec<(String, (i32, i32))>> {
    Ok(describe()?)
}

/// (folder, entries, bytes, problem) of the cache of compiled kernels; None where there is no folder for it.
#[pyfunction]
pub fn cuda_cache() -> Option<(std::path::PathBuf, usize, u64, Option<String>)> {
    cache::summary().map(|found| (found.directory, found.entries, found.bytes, found.problem))
}

/// (image, log) of one kernel, for tests of the static budget: `source` is reduce, gradient, finish, confusion or resize, `target` a label's dtype or
/// "soft", `architecture` such as 90; no device or driver is needed.
#[pyfunction]
pub fn cuda_compile(
    py: Python<'_>,
    spec: &PyLossSpec,
    source: &str,
    input: &str,
    target: &str,
    classes: usize,
    channels_last: bool,
    architecture: i32,
    ptx: bool,
) -> PyResult<(Vec<u8>, String)> {
    let dtype = |argument, name: &str| DType::from_name(name).ok_or_else(|| Error::type_(argument, name, "a dtype"));
    let input = dtype("input", input)?;
    let label = if target == "soft" { None } else { Some(dtype("target", target)?) };
    let sizes = match spec.sizes {
        Sizes::Equal | Sizes::Nearest | Sizes::Majority => variant::Sizes::Equal,
        Sizes::Shares => variant::Sizes::Area,
        Sizes::Upsample { .. } => variant::Sizes::Upsampled,
    };
    let mut variant = match source {
        "finish" => Variant::finish(compute_type(input)),
        "reduce" => Variant::of(Source::Reduce, &spec.spec, input, label, classes, sizes),
        "gradient" => Variant::of(Source::Gradient, &spec.spec, input, label, classes, sizes),
        "resize" => Variant::resize(dtype("target", target)?, classes),
        "confusion" => Variant::confusion_of(input, dtype("target", target)?, classes),
        other => return Err(Error::value("source", other, "reduce, gradient, finish, confusion or resize").into()),
    };
    variant.width = variant.max_width();
    variant.channels_last = channels_last;
    let architecture = if ptx { Architecture::Ptx(architecture) } else { Architecture::Cubin(architecture) };
    py.detach(|| compile(&variant, architecture).map(|compiled| (compiled.image, compiled.log))).map_err(PyErr::from)
}
