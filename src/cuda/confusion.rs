//! The confusion matrix on the device.

use super::arguments::{PassArguments, Pointer, check_classes};
use super::device::{Device, Start};
use super::variant::Variant;
use crate::Result;
use crate::metrics::check;
use crate::tensor::View;

/// How many int64 the counts take: the (C, C) matrix, then the labels of target and input that are no class.
pub fn confusion_length(classes: usize) -> usize {
    classes * classes + 2
}

/// Add what [`crate::metrics::confusion_matrix`] counts to [`confusion_length`] counts. A pixel with a wrong label is not in the matrix,
/// only in the number of wrong labels. Returns as soon as the kernel is on the stream.
///
/// # Safety
/// All pointers must be valid on the device, for what they are said to hold, until the stream has come so far.
pub unsafe fn add_confusion(
    device: &Device,
    stream: u64,
    input: View<'_>,
    target: View<'_>,
    classes: usize,
    ignore_index: i64,
    counts: Pointer,
) -> Result<()> {
    check(&input, &target, classes)?;
    check_classes("num_classes", classes)?;
    if input.samples * input.pixels == 0 {
        return Ok(());
    }
    // All samples as one row of pixels where both allow it.
    let joined = (input.joined(), target.joined());
    let (input, target) = if joined.0.samples == joined.1.samples { joined } else { (input, target) };
    let variant = Variant::confusion(&input, &target, classes);
    let kernel = device.kernel(&variant)?;
    let blocks = kernel.blocks(&variant, input.samples * input.pixels, 1);
    let arguments = PassArguments {
        counts,
        ignore_index,
        classes: classes as i32,
        ..PassArguments::over(&input, &target, &variant, 1, blocks)
    };
    // SAFETY: the caller vouches for the pointers; shapes and strides are those of the checked views.
    unsafe { device.launch(&kernel, 0, stream, blocks as u32, &arguments, Start::InOrder) }
}
