//! The two passes over all pixels, on the device.

use std::sync::Arc;

use super::arguments::{FinishArguments, PassArguments, Pointer, check_classes};
use super::device::{Device, Kernel};
use super::upsample;
use super::variant::{Sizes, Source, Variant};
use crate::loss::operands::{Target, check_operands, check_pixels, compute_type};
use crate::loss::resize::check_sizes;
use crate::loss::spec::{Absent, Average, LossSpec, PixelLoss, Reduction};
use crate::loss::sums::{self, Ratio};
use crate::tensor::{DType, View, expect_shape};
use crate::{Error, Result};

/// Columns of the partial sums before those of the classes: the pixel loss and the wrong labels.
const PARTIAL_LEADING: usize = 2;
/// Entries of `Source::Finish`.
const FINISH: usize = 0;
const COEFFICIENTS: usize = 1;

/// What the pixels of the logits have to do with those of a target of another size.
#[derive(Clone, Copy)]
pub enum Matching {
    /// A pixel of the logits has the shares of the classes in its window of the target.
    Area,
    /// The logits are upsampled, bilinearly.
    Upsample {
        /// As in `F.interpolate`.
        align_corners: bool,
    },
}

/// The (height, width) of logits and target.
#[derive(Clone, Copy)]
pub struct Images {
    /// What they have to do with each other.
    pub matching: Matching,
    /// The size of the logits.
    pub map: [usize; 2],
    /// The size of the target.
    pub full: [usize; 2],
}

/// One loss of one batch on one device. Views hold device addresses, which are never followed here.
pub struct Problem<'a> {
    spec: &'a LossSpec,
    input: View<'a>,
    target: Target<'a>,
    /// Where they differ in size.
    images: Option<Images>,
    /// Whether the mean of cross entropy divides by the number of valid pixels.
    mean_over_pixels: bool,
    device: Arc<Device>,
    stream: u64,
}

/// Device memory of the forward pass; 0 where there is none.
pub struct Forward<'a> {
    /// (C), in the type of the computation.
    pub weight: Pointer,
    /// (C), in the type of the computation.
    pub dice_weight: Pointer,
    /// The finished loss, in the type of the computation; 0 without a reduction.
    pub loss: Pointer,
    /// The loss of each pixel, without a reduction.
    pub pixel_loss: Option<View<'a>>,
    /// Rows of sums, float64: see [`sums`].
    pub sums: Pointer,
    /// Workspace of float64, and its length: [`Problem::workspace`].
    pub partials: (Pointer, usize),
}

/// Device memory of the backward pass; 0 where there is none.
pub struct Backward<'a> {
    /// As in the forward pass.
    pub weight: Pointer,
    /// As in the forward pass.
    pub dice_weight: Pointer,
    /// The incoming gradient of a scalar loss, in the type of the computation.
    pub grad_output: Pointer,
    /// That of each pixel, without a reduction.
    pub incoming: Option<View<'a>>,
    /// The sums of the forward pass.
    pub sums: Pointer,
    /// Workspace of [`Problem::coefficients_len`] numbers in the type of the computation.
    pub coefficients: Pointer,
    /// Where dL/dinput goes.
    pub gradient: View<'a>,
}

/// Operands of one pass, cut into rows.
struct Pass<'a> {
    input: View<'a>,
    target: Target<'a>,
    /// Loss or incoming gradient.
    pixel: Option<View<'a>>,
    gradient: Option<View<'a>>,
}

impl Pass<'_> {
    /// All samples as one row of pixels where every operand allows it.
    fn joined(self) -> Self {
        let joined = Self {
            input: self.input.joined(),
            target: self.target.joined(),
            pixel: self.pixel.map(View::joined),
            gradient: self.gradient.map(View::joined),
        };
        let views = [joined.pixel, joined.gradient, Some(joined.input), Some(joined.target.view())];
        if views.iter().flatten().all(|view| view.samples == 1) { joined } else { self }
    }
}

impl<'a> Problem<'a> {
    /// Check that the parts fit together; see [`check_operands`].
    pub fn new(
        spec: &'a LossSpec,
        input: View<'a>,
        target: Target<'a>,
        device: Arc<Device>,
        stream: u64,
    ) -> Result<Self> {
        check_pixels(&input, &target)?;
        Self { spec, input, target, images: None, mean_over_pixels: false, device, stream }.checked()
    }

    /// The loss of logits (N, C, h * w) and class indices (N, H * W) of another size.
    pub fn of_images(
        spec: &'a LossSpec,
        input: View<'a>,
        target: View<'a>,
        images: Images,
        device: Arc<Device>,
        stream: u64,
    ) -> Result<Self> {
        let Images { matching, map, full } = images;
        expect_shape("target", &[target.samples], &[input.samples], "the samples of input")?;
        check_sizes(full, map)?;
        // Of equal size, a share is the label itself, and there is nothing to interpolate.
        let images = (map != full && !full.contains(&0)).then_some(images);
        let mean_over_pixels = matches!(matching, Matching::Area);
        Self { spec, input, target: Target::Index(target), images, mean_over_pixels, device, stream }.checked()
    }

    fn checked(self) -> Result<Self> {
        check_operands(self.spec, &self.input, &self.target)?;
        check_classes("input", self.classes())?;
        Ok(self)
    }

    fn classes(&self) -> usize {
        self.input.channels
    }

    fn is_soft(&self) -> bool {
        matches!(self.target, Target::Soft(..)) || self.sizes() == Sizes::Area
    }

    fn sizes(&self) -> Sizes {
        match self.images.map(|images| images.matching) {
            None => Sizes::Equal,
            Some(Matching::Area) => Sizes::Area,
            Some(Matching::Upsample { .. }) => Sizes::Upsampled,
        }
    }

    /// Pixels of a sample that have a loss.
    fn pixels(&self) -> usize {
        if self.sizes() == Sizes::Upsampled { self.target.view().pixels } else { self.input.pixels }
    }

    /// The shape of a loss for each pixel: (samples, pixels).
    pub fn loss_shape(&self) -> [usize; 2] {
        [self.input.samples, self.pixels()]
    }

    /// Rows of sums.
    fn rows(&self) -> usize {
        if self.spec.per_sample() { self.input.samples } else { 1 }
    }

    /// Rows and columns of the sums.
    pub fn sums_shape(&self) -> (usize, usize) {
        (self.rows(), sums::row_length(self.spec, self.classes()))
    }

    /// How many numbers of the type of the computation the backward pass keeps its coefficients in, and what upsampled logits of
    /// more classes than registers hold are owed. Loads the kernel, whose occupancy decides that.
    pub fn coefficients_len(&self) -> Result<usize> {
        let coefficients = self.coefficients();
        if self.sizes() != Sizes::Upsampled {
            return Ok(coefficients);
        }
        let (_, variant, _, blocks) = self.pass(Source::Gradient, None, None)?;
        Ok(coefficients + self.rows() * blocks * upsample::owed_len(&variant, self.classes()))
    }

    fn coefficients(&self) -> usize {
        self.rows() * if self.spec.region.is_some() { 1 + 2 * self.classes() } else { 1 }
    }

    /// How many float64 the forward pass keeps its partial sums in. Loads the kernel, whose occupancy decides it.
    pub fn workspace(&self, pixel_loss: Option<View<'a>>) -> Result<usize> {
        let (_, _, _, blocks) = self.pass(Source::Reduce, pixel_loss, None)?;
        Ok(self.partials_len(blocks))
    }

    fn partials_len(&self, blocks: usize) -> usize {
        let (parts, valid) = match (self.spec.region.is_some(), self.is_soft()) {
            (true, soft) => (3, usize::from(soft)),
            (false, true) => (0, 1),
            (false, false) => (1, 0),
        };
        self.rows() * blocks * (PARTIAL_LEADING + parts * self.classes() + valid)
    }

    /// The operands of a pass, its kernel, and the blocks for each row of sums.
    fn pass(
        &self,
        source: Source,
        pixel: Option<View<'a>>,
        gradient: Option<View<'a>>,
    ) -> Result<(Pass<'a>, Variant, Arc<Kernel>, usize)> {
        let mut pass = Pass { input: self.input, target: self.target, pixel, gradient };
        if self.images.is_none() && !self.spec.per_sample() {
            pass = pass.joined();
        }
        let gradient = pass.gradient.as_ref();
        let variant = Variant::new(source, self.spec, &pass.input, &pass.target, self.sizes(), gradient);
        let kernel = self.device.kernel(&variant)?;
        let rows = self.rows().max(1);
        let blocks = kernel.blocks(&variant, self.input.samples * self.pixels() / rows, rows);
        Ok((pass, variant, kernel, blocks))
    }

    /// What both passes hand to their kernels.
    fn arguments(&self, pass: &Pass<'a>, variant: &Variant, blocks: usize) -> PassArguments {
        let (gamma, smoothing) = match self.spec.pixel {
            Some((PixelLoss::Focal { gamma, .. }, _)) => (gamma, 0.0),
            Some((PixelLoss::CrossEntropy { label_smoothing }, _)) => (0.0, label_smoothing / self.classes() as f64),
            None => (0.0, 0.0),
        };
        let mut arguments = PassArguments {
            ignore_index: self.spec.ignore_index,
            gamma,
            smoothing,
            classes: self.classes() as i32,
            ..PassArguments::over(&pass.input, &pass.target.view(), variant, self.rows().max(1), blocks)
        };
        if let Some(Images { matching, map, full }) = self.images {
            (arguments.map, arguments.full) = (map.into(), full.into());
            if let Matching::Upsample { align_corners } = matching {
                upsample::cut(&mut arguments, map, full, align_corners, variant);
            }
        }
        arguments
    }

    fn finish_arguments(&self) -> FinishArguments {
        FinishArguments {
            soft: i32::from(self.is_soft()),
            mean_over_pixels: i32::from(self.mean_over_pixels),
            ..finish_arguments(self.spec, self.rows(), self.classes())
        }
    }

    fn finish_kernel(&self) -> Result<Arc<Kernel>> {
        self.device.kernel(&Variant::finish(compute_type(self.input.dtype())))
    }

    /// The sums, and the loss from them or of each pixel. Returns as soon as the kernels are on the stream.
    ///
    /// # Safety
    /// All pointers must be valid on the device, for what they are said to hold, until the stream has come so far.
    pub unsafe fn forward(&self, memory: &Forward<'a>) -> Result<()> {
        let (pass, variant, kernel, blocks) = self.pass(Source::Reduce, memory.pixel_loss, None)?;
        let (partials, length) = memory.partials;
        expect_shape("partials", &[length], &[self.partials_len(blocks)], "what cuda_workspace asks for")?;
        let finish = self.finish_kernel()?;
        let mut arguments = self.arguments(&pass, &variant, blocks);
        arguments.weight = memory.weight;
        arguments.partials = partials;
        if let Some(loss) = &pass.pixel {
            arguments.loss = loss.address() as Pointer;
            arguments.loss_strides = loss.strides.into();
        }
        let grid = self.grid(blocks)?;
        // SAFETY: the caller vouches for the pointers; shapes and strides are those of the checked views.
        unsafe {
            if grid > 0 {
                self.device.launch(&kernel, 0, self.stream, grid, &arguments)?;
            }
            let arguments = FinishArguments {
                partials,
                sums: memory.sums,
                loss: memory.loss,
                weight: memory.weight,
                dice_weight: memory.dice_weight,
                blocks: blocks as i32,
                ..self.finish_arguments()
            };
            self.device.launch(&finish, FINISH, self.stream, 1, &arguments)
        }
    }

    /// dL/dinput from the sums. Returns as soon as the kernels are on the stream.
    ///
    /// # Safety
    /// As for [`Problem::forward`].
    pub unsafe fn backward(&self, memory: &Backward<'a>) -> Result<()> {
        if self.input.samples * self.input.pixels == 0 {
            return Ok(());
        }
        let (pass, variant, kernel, blocks) = self.pass(Source::Gradient, memory.incoming, Some(memory.gradient))?;
        let finish = self.finish_kernel()?;
        let mut arguments = self.arguments(&pass, &variant, blocks);
        arguments.weight = memory.weight;
        arguments.coefficients = memory.coefficients;
        arguments.owed =
            memory.coefficients + (self.coefficients() * compute_type(self.input.dtype()).size()) as Pointer;
        if let Some(incoming) = &pass.pixel {
            arguments.incoming = incoming.address() as Pointer;
            arguments.incoming_strides = incoming.strides.into();
        }
        if let Some(gradient) = &pass.gradient {
            arguments.gradient = gradient.address() as Pointer;
            arguments.gradient_strides = gradient.strides.into();
        }
        let grid = self.grid(blocks)?;
        // SAFETY: as in `forward`.
        unsafe {
            let coefficients = FinishArguments {
                sums: memory.sums,
                grad_output: memory.grad_output,
                coefficients: memory.coefficients,
                dice_weight: memory.dice_weight,
                ..self.finish_arguments()
            };
            self.device.launch(&finish, COEFFICIENTS, self.stream, 1, &coefficients)?;
            self.device.launch(&kernel, 0, self.stream, grid, &arguments)
        }
    }

    /// All blocks of all rows.
    fn grid(&self, blocks: usize) -> Result<u32> {
        i32::try_from(self.rows() * blocks).map(|grid| grid as u32).map_err(|_| {
            Error::value("input", format!("{} samples", self.rows()), "fewer samples with per_sample=True on CUDA")
        })
    }
}

/// What the finishing kernels are told of the loss.
fn finish_arguments(spec: &LossSpec, rows: usize, classes: usize) -> FinishArguments {
    let pixel = match spec.pixel {
        None => 0,
        Some((PixelLoss::CrossEntropy { .. }, _)) => 1,
        Some((PixelLoss::Focal { .. }, _)) => 2,
    };
    let mut arguments = FinishArguments {
        pixel,
        pixel_factor: spec.pixel.map_or(0.0, |(_, factor)| factor),
        rows: rows as i64,
        classes: classes as i32,
        mean: i32::from(spec.reduction == Reduction::Mean),
        ..FinishArguments::default()
    };
    if let Some((region, factor)) = &spec.region {
        let ratio = Ratio::from(region);
        arguments.region = 1;
        arguments.region_factor = *factor;
        arguments.prediction_factor = ratio.prediction;
        arguments.target_factor = ratio.target;
        arguments.intersection_factor = ratio.intersection;
        arguments.smooth = ratio.smooth;
        arguments.macro_average = i32::from(region.average == Average::Macro);
        arguments.include_background = i32::from(region.include_background);
        arguments.skip_absent = i32::from(region.absent == Absent::Skip);
    }
    arguments
}

/// The loss from one row of sums, which may be those of several ranks added up, (C) weights of Dice or 0, and the loss in the type `real`.
/// Returns as soon as the kernel is on the stream.
///
/// # Safety
/// As for [`Problem::forward`].
pub unsafe fn finish_sums(
    spec: &LossSpec,
    device: &Device,
    stream: u64,
    (sums, classes): (Pointer, usize),
    dice_weight: Pointer,
    (loss, real): (Pointer, DType),
) -> Result<()> {
    let kernel = device.kernel(&Variant::finish(real))?;
    let arguments = FinishArguments { sums, loss, dice_weight, ..finish_arguments(spec, 1, classes) };
    // SAFETY: the caller vouches for the pointers.
    unsafe { device.launch(&kernel, FINISH, stream, 1, &arguments) }
}
