//! What a loss is computed from: logits and target, checked against each other and the spec.

use super::spec::{LossSpec, PixelLoss};
use crate::tensor::{DType, View, expect_shape};
use crate::{Error, Result};

/// What the pixels should be.
#[derive(Clone, Copy)]
pub enum Target<'a> {
    /// Class indices, (N, pixels).
    Index(View<'a>),
    /// A share for each class, (N, C, pixels), in the type of the computation; and where not every pixel is valid, labels,
    /// (N, pixels), whose ignored ones say which is not.
    Soft(View<'a>, Option<View<'a>>),
}

impl<'a> Target<'a> {
    /// The labels or shares.
    pub fn view(&self) -> View<'a> {
        let (Self::Index(view) | Self::Soft(view, _)) = *self;
        view
    }

    /// All samples as one row of pixels, where the strides allow it.
    pub fn joined(self) -> Self {
        match self {
            Self::Index(view) => Self::Index(view.joined()),
            Self::Soft(view, valid) => Self::Soft(view.joined(), valid.map(View::joined)),
        }
    }
}

/// The type that logits of `dtype` are computed in.
pub fn compute_type(dtype: DType) -> DType {
    if dtype == DType::Float64 { DType::Float64 } else { DType::Float32 }
}

/// `input` must be (N, C, pixels) of logits; `target` class indices, or C shares in the type of the computation, which focal does not
/// take. Whether they have the same pixels is for [`check_pixels`].
pub fn check_operands(spec: &LossSpec, input: &View<'_>, target: &Target<'_>) -> Result<()> {
    spec.validate()?;
    let dtype = input.dtype();
    if !dtype.is_floating() {
        return Err(Error::type_("input", dtype.name(), "float32, float64, float16 or bfloat16"));
    }
    let classes = input.channels;
    if classes == 0 {
        return Err(Error::value("input", "0 classes", "at least 1 class in dimension 1"));
    }
    match target {
        Target::Index(view) if view.dtype().is_floating() => {
            Err(Error::type_("target", view.dtype().name(), "uint8, int16, int32 or int64 class indices"))
        }
        Target::Index(_) => Ok(()),
        Target::Soft(..) if matches!(spec.pixel, Some((PixelLoss::Focal { .. }, _))) => {
            let expected = "class indices: the focal loss takes no shares of classes";
            Err(Error::value("target", "one value for each class", expected))
        }
        Target::Soft(view, _) if view.dtype() != compute_type(dtype) => {
            Err(Error::type_("target", view.dtype().name(), compute_type(dtype).name()))
        }
        Target::Soft(view, _) => expect_shape("target", &[view.channels], &[classes], "the classes of input"),
    }
}

/// The target must have a pixel for each of the input.
pub fn check_pixels(input: &View<'_>, target: &Target<'_>) -> Result<()> {
    let view = target.view();
    expect_shape("target", &[view.samples, view.pixels], &[input.samples, input.pixels], "(N, pixels) of input")
}
