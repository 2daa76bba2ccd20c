//! What a loss is computed from: logits and target, checked against each other and the spec.

use crate::loss::LossSpec;
use crate::tensor::{DType, View, expect_shape};
use crate::{Error, Result};

/// What the pixels should be.
#[derive(Clone, Copy)]
pub enum Target<'a> {
    /// Class indices, (N, pixels).
    Index(View<'a>),
    /// A share for each class, (N, C, pixels), in the type of the computation.
    Soft(View<'a>),
}

impl<'a> Target<'a> {
    /// The labels or shares.
    pub fn view(&self) -> View<'a> {
        let (Self::Index(view) | Self::Soft(view)) = *self;
        view
    }
}

/// The type that logits of `dtype` are computed in.
pub fn compute_type(dtype: DType) -> DType {
    if dtype == DType::Float64 { DType::Float64 } else { DType::Float32 }
}

/// The kernels count classes in 32 bits.
pub fn check_classes(argument: &'static str, classes: usize) -> Result<()> {
    match i32::try_from(classes) {
        Ok(_) => Ok(()),
        Err(_) => Err(Error::value(argument, format!("{classes} classes"), "at most 2147483647 on CUDA")),
    }
}

/// `input` must be (N, C, pixels) of logits; `target` (N, pixels) of class indices, or (N, C, pixels) in the type of the computation,
/// for Dice alone.
pub fn check_operands(spec: &LossSpec, input: &View<'_>, target: &Target<'_>) -> Result<()> {
    spec.validate()?;
    if !input.dtype().is_floating() {
        let floating = "float32, float64, float16 or bfloat16";
        return Err(Error::type_("input", input.dtype().name(), floating));
    }
    if input.channels == 0 {
        return Err(Error::value("input", "0 classes", "at least 1 class in dimension 1"));
    }
    let shape = [input.samples, input.channels, input.pixels];
    match target {
        Target::Index(view) => {
            if view.dtype().is_floating() {
                let indices = "uint8, int16, int32 or int64 class indices";
                return Err(Error::type_("target", view.dtype().name(), indices));
            }
            expect_shape("target", &[view.samples, view.pixels], &[shape[0], shape[2]], "(N, pixels) of input")
        }
        Target::Soft(view) => {
            if spec.pixel.is_some() {
                let indices = "class indices: only Dice takes one-hot or soft targets";
                return Err(Error::value("target", "one value for each class", indices));
            }
            let expected = compute_type(input.dtype());
            if view.dtype() != expected {
                return Err(Error::type_("target", view.dtype().name(), expected.name()));
            }
            expect_shape("target", &[view.samples, view.channels, view.pixels], &shape, "(N, C, pixels) of input")
        }
    }
}
