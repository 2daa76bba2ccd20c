//! A target for a map of logits of another size, on the device.

use super::arguments::{PassArguments, Pointer, ResizeArguments, check_classes};
use super::device::{Device, Start};
use super::variant::Variant;
use crate::loss::resize::check_sizes;
use crate::tensor::{DType, View, expect_shape};
use crate::{Error, Result};

/// Entries of `Source::Resize`.
const NEAREST: usize = 0;
const MAJORITY: usize = 1;

/// Labels of the size `to` from a target (N, height * width) of the size `from`.
pub struct Resize<'a> {
    /// Class indices, (N, height * width).
    pub target: View<'a>,
    /// Their height and width.
    pub from: [usize; 2],
    /// The height and width of the logits.
    pub to: [usize; 2],
    /// C.
    pub classes: usize,
    /// The label of ignored pixels.
    pub ignore_index: i64,
    /// For "majority": (C) int64, pixels of each class in the batch. Without them it is "nearest".
    pub counts: Option<Pointer>,
}

impl Resize<'_> {
    /// Fill `labels`, (N, pixels) int32 without gaps: a class, [`crate::loss::resize::IGNORED`], or -2 for a label that is no class.
    /// Returns as soon as the kernel is on the stream.
    ///
    /// # Safety
    /// All pointers must be valid on the device, for what they are said to hold, until the stream has come so far.
    pub unsafe fn fill(&self, device: &Device, stream: u64, labels: View<'_>) -> Result<()> {
        let Self { target, from, to, classes, ignore_index, counts } = *self;
        let entry = if counts.is_some() { MAJORITY } else { NEAREST };
        check_sizes(from, to)?;
        check_classes("input", classes)?;
        expect_shape("labels", &[labels.samples, labels.pixels], &[target.samples, to[0] * to[1]], "that of input")?;
        if labels.dtype() != DType::Int32 || labels.joined().samples > 1 {
            return Err(Error::type_("labels", labels.dtype().name(), "int32 without gaps"));
        }
        if labels.samples * labels.pixels == 0 {
            return Ok(());
        }
        let variant = Variant::resize(target.dtype(), classes);
        let kernel = device.kernel(&variant)?;
        let blocks = kernel.blocks(&variant, labels.samples * labels.pixels, 1);
        let pass = PassArguments {
            counts: counts.unwrap_or(0),
            ignore_index,
            classes: classes as i32,
            full: from.into(),
            map: to.into(),
            ..PassArguments::over(&labels, &target, &variant, 1, blocks)
        };
        let labels = labels.address() as Pointer;
        let arguments = ResizeArguments { pass, labels };
        // SAFETY: the caller vouches for the pointers; shapes and strides are those of the checked views.
        unsafe { device.launch(&kernel, entry, stream, blocks as u32, &arguments, Start::InOrder) }
    }
}
