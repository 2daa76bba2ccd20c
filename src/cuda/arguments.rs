//! What the host hands to the kernels: field for field the structs of `kernels/pass.cuh` and `kernels/finish.cu`.

use cudarc::driver::DeviceRepr;

use super::variant::Variant;
use crate::tensor::View;
use crate::{Error, Result};

/// An address in device memory; 0 is null.
pub type Pointer = u64;

/// The kernels count classes in 32 bits.
pub fn check_classes(argument: &'static str, classes: usize) -> Result<()> {
    match i32::try_from(classes) {
        Ok(_) => Ok(()),
        Err(_) => Err(Error::value(argument, format!("{classes} classes"), "at most 2147483647 on CUDA")),
    }
}

/// `Strides` of `pass.cuh`: elements.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Strides {
    pub sample: i64,
    pub channel: i64,
    pub pixel: i64,
}

impl From<[isize; 3]> for Strides {
    fn from([sample, channel, pixel]: [isize; 3]) -> Self {
        Self { sample: sample as i64, channel: channel as i64, pixel: pixel as i64 }
    }
}

/// `Size` of `pass.cuh`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Size {
    pub height: i64,
    pub width: i64,
}

impl From<[usize; 2]> for Size {
    fn from([height, width]: [usize; 2]) -> Self {
        Self { height: height as i64, width: width as i64 }
    }
}

/// `Axis` of `pass.cuh`, where the fields are explained.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub struct Axis {
    pub map: i64,
    pub full: i64,
    pub step: i64,
    pub begin: i64,
    pub divisor: i64,
}

/// `Arguments` of `pass.cuh`, where the fields are explained.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct PassArguments {
    pub input: Pointer,
    pub target: Pointer,
    pub weight: Pointer,
    pub loss: Pointer,
    pub partials: Pointer,
    pub incoming: Pointer,
    pub coefficients: Pointer,
    pub gradient: Pointer,
    pub counts: Pointer,
    pub owed: Pointer,
    pub input_strides: Strides,
    pub target_strides: Strides,
    pub loss_strides: Strides,
    pub incoming_strides: Strides,
    pub gradient_strides: Strides,
    pub samples: i64,
    pub pixels: i64,
    pub step_samples: i64,
    pub step_pixels: i64,
    pub ignore_index: i64,
    pub gamma: f64,
    pub smoothing: f64,
    pub rows: i32,
    pub blocks: i32,
    pub classes: i32,
    pub full: Size,
    pub map: Size,
    pub vertical: Axis,
    pub horizontal: Axis,
    pub bands: i64,
    pub strips: i64,
    pub band: i64,
    pub strip: i64,
}

impl PassArguments {
    /// The way of `rows` times `blocks` blocks over all pixels of the input, with the target beside it.
    pub fn over(input: &View<'_>, target: &View<'_>, variant: &Variant, rows: usize, blocks: usize) -> Self {
        // Without a pixel there is no way to go, and nothing to divide by.
        let (samples, pixels) = if input.samples * input.pixels == 0 { (0, 1) } else { (input.samples, input.pixels) };
        let step = blocks * variant.pixels_a_block();
        Self {
            input: input.address() as Pointer,
            target: target.address() as Pointer,
            input_strides: input.strides.into(),
            target_strides: target.strides.into(),
            samples: samples as i64,
            pixels: pixels as i64,
            step_samples: (step / pixels) as i64,
            step_pixels: (step % pixels) as i64,
            rows: rows as i32,
            blocks: blocks as i32,
            ..Self::default()
        }
    }
}

/// `ResizeArguments` of `resize.cu`, where the fields are explained.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct ResizeArguments {
    pub pass: PassArguments,
    pub labels: Pointer,
}

/// `FinishArguments` of `finish.cu`, where the fields are explained.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct FinishArguments {
    pub partials: Pointer,
    pub sums: Pointer,
    pub loss: Pointer,
    pub coefficients: Pointer,
    pub weight: Pointer,
    pub dice_weight: Pointer,
    pub pixel_factor: f64,
    pub region_factor: f64,
    pub prediction_factor: f64,
    pub target_factor: f64,
    pub intersection_factor: f64,
    pub smooth: f64,
    pub rows: i64,
    pub blocks: i32,
    pub classes: i32,
    pub pixel: i32,
    pub region: i32,
    pub mean: i32,
    pub macro_average: i32,
    pub include_background: i32,
    pub skip_absent: i32,
    pub soft: i32,
    pub mean_over_pixels: i32,
}

// SAFETY: `repr(C)` of integers and doubles, with the fields and the order of the struct that the kernels declare; the tests compare
// the sizes with those in the compiled kernels.
unsafe impl DeviceRepr for PassArguments {}
// SAFETY: as above.
unsafe impl DeviceRepr for FinishArguments {}
// SAFETY: as above.
unsafe impl DeviceRepr for ResizeArguments {}

const _: () = assert!(
    size_of::<PassArguments>() == 416 && size_of::<FinishArguments>() == 144 && size_of::<ResizeArguments>() == 424
);
