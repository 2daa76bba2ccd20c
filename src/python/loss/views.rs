//! Tensors of a call as views, checked with the shapes that the user knows.

use super::super::tensor::Tensor;
use crate::loss::operands::Target;
use crate::loss::resize::check_sizes;
use crate::loss::spec::LossSpec;
use crate::tensor::{View, expect_shape};
use crate::{Error, Result};

const INDEX_DTYPES: &str = "uint8, int16, int32 or int64 class indices";

/// The logits, checked with the shape that the user knows.
pub fn logits(input: &Tensor) -> Result<View<'_>> {
    if !(2..=5).contains(&input.shape.len()) {
        let expected = "(N, C, *spatial) with 0 to 3 spatial dimensions";
        return Err(Error::value("input", format!("shape {:?}", input.shape), expected));
    }
    input.view("input", "float32, float64, float16 or bfloat16", true)
}

/// A target of class indices.
pub fn labels(target: &Tensor) -> Result<View<'_>> {
    let view = target.view("target", INDEX_DTYPES, false)?;
    if view.dtype().is_floating() {
        return Err(Error::type_("target", view.dtype().name(), INDEX_DTYPES));
    }
    Ok(view)
}

/// The target of [`logits`] that have its size.
pub fn target_of_equal_size<'a>(spec: &LossSpec, input: &Tensor, target: &'a Tensor) -> Result<Target<'a>> {
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
pub fn images<'a>(input: &Tensor, target: &'a Tensor) -> Result<([usize; 2], View<'a>, [usize; 2])> {
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
pub fn locate(error: Error, shape: &[usize]) -> Error {
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
