//! The two passes over all pixels, on the device.

use std::sync::Arc;

use super::arguments::{FinishArguments, PassArguments, Pointer, check_classes};
use super::device::{Device, Kernel, Start};
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
    /// [`Problem::state_len`] float64: rows of sums, see [`sums`], and the coefficients of the gradient.
    pub state: Pointer,
}

/// Device memory of the backward pass; 0 where there is none.
pub struct Backward<'a> {
    /// As in the forward pass.
    pub weight: Pointer,
    /// The incoming gradient of a scalar loss, in the type of the computation.
    pub grad_output: Pointer,
    /// That of each pixel, without a reduction.
    pub incoming: Option<View<'a>>,
    /// What the forward pass left.
    pub state: Pointer,
    /// Workspace in the type of the computation, and its length: [`Problem::owed_len`].
    pub owed: (Pointer, usize),
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

    /// How many float64 the forward pass leaves for the backward pass.
    pub fn state_len(&self) -> usize {
        let columns = if self.spec.region.is_some() { 1 + 2 * self.classes() } else { 1 };
        let coefficients = self.rows() * columns * self.real().size();
        self.sums_len() + coefficients.div_ceil(size_of::<f64>())
    }

    fn sums_len(&self) -> usize {
        self.rows() * sums::row_length(self.spec, self.classes())
    }

    /// Where the coefficients are in the state.
    fn coefficients(&self, state: Pointer) -> Pointer {
        state + (self.sums_len() * size_of::<f64>()) as Pointer
    }

    /// How many numbers of the type of the computation the backward pass keeps what upsampled logits of more classes than registers hold
    /// are owed in. Loads the kernel, whose occupancy decides that.
    pub fn owed_len(&self) -> Result<usize> {
        if self.sizes() != Sizes::Upsampled {
            return Ok(0);
        }
        let (_, variant, _, blocks) = self.pass(Source::Gradient, None, None)?;
        Ok(self.owed_by(&variant, blocks))
    }

    fn owed_by(&self, variant: &Variant, blocks: usize) -> usize {
        match self.sizes() {
            Sizes::Upsampled => self.rows() * blocks * upsample::owed_len(variant, self.classes()),
            _ => 0,
        }
    }

    /// The type of the computation.
    fn real(&self) -> DType {
        compute_type(self.input.dtype())
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
        Ok((pass, variant, kernel, self.useful(&variant, blocks, rows)))
    }

    /// Of the blocks for each row of sums, those that have a part of upsampled logits to do, where each has memory of its own.
    fn useful(&self, variant: &Variant, blocks: usize, rows: usize) -> usize {
        let Some(Images { matching: Matching::Upsample { align_corners }, map, full }) = self.images else {
            return blocks;
        };
        if upsample::owed_len(variant, self.classes()) == 0 || variant.source != Source::Gradient {
            return blocks;
        }
        let mut arguments = PassArguments::over(&self.input, &self.target.view(), variant, rows, blocks);
        upsample::cut(&mut arguments, map, full, align_corners, variant);
        let parts = (self.input.samples / rows) as i64 * arguments.bands * arguments.strips;
        blocks.min(parts.max(1) as usize)
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

    /// What the finishing kernel is told where the sums are there already.
    fn finish_arguments(&self, memory: &Forward<'a>) -> FinishArguments {
        let (pixel, pixel_factor) = match self.spec.pixel {
            None => (0, 0.0),
            Some((PixelLoss::CrossEntropy { .. }, factor)) => (1, factor),
            Some((PixelLoss::Focal { .. }, factor)) => (2, factor),
        };
        let mut arguments = FinishArguments {
            sums: memory.state,
            coefficients: self.coefficients(memory.state),
            loss: memory.loss,
            weight: memory.weight,
            dice_weight: memory.dice_weight,
            pixel,
            pixel_factor,
            rows: self.rows() as i64,
            classes: self.classes() as i32,
            mean: i32::from(self.spec.reduction == Reduction::Mean),
            soft: i32::from(self.is_soft()),
            mean_over_pixels: i32::from(self.mean_over_pixels),
            ..FinishArguments::default()
        };
        if let Some((region, factor)) = &self.spec.region {
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

    /// # Safety
    /// As for [`Problem::forward`].
    unsafe fn launch_finish(&self, arguments: FinishArguments, start: Start) -> Result<()> {
        let kernel = self.device.kernel(&Variant::finish(self.real()))?;
        // SAFETY: the caller vouches for the pointers, and this kernel waits for the one before it.
        unsafe { self.device.launch(&kernel, 0, self.stream, 1, &arguments, start) }
    }

    /// The state, and the loss from its sums or of each pixel; `partials` is workspace of float64 and its length: [`Problem::workspace`]. Returns
    /// as soon as the kernels are on the stream.
    ///
    /// # Safety
    /// All pointers must be valid on the device, for what they are said to hold, until the stream has come so far.
    pub unsafe fn forward(&self, memory: &Forward<'a>, (partials, length): (Pointer, usize)) -> Result<()> {
        let (pass, variant, kernel, blocks) = self.pass(Source::Reduce, memory.pixel_loss, None)?;
        expect_shape("partials", &[length], &[self.partials_len(blocks)], "what cuda_workspace asks for")?;
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
                self.device.launch(&kernel, 0, self.stream, grid, &arguments, Start::InOrder)?;
            }
            let arguments = FinishArguments { partials, blocks: blocks as i32, ..self.finish_arguments(memory) };
            self.launch_finish(arguments, if grid > 0 { Start::Early } else { Start::InOrder })
        }
    }

    /// The loss and the coefficients from sums that may be those of several ranks added up. Returns as soon as the kernel is on the stream.
    ///
    /// # Safety
    /// As for [`Problem::forward`].
    pub unsafe fn finish(&self, memory: &Forward<'a>) -> Result<()> {
        // SAFETY: the caller vouches for the pointers.
        unsafe { self.launch_finish(self.finish_arguments(memory), Start::InOrder) }
    }

    /// dL/dinput from the state. Returns as soon as the kernels are on the stream.
    ///
    /// # Safety
    /// As for [`Problem::forward`].
    pub unsafe fn backward(&self, memory: &Backward<'a>) -> Result<()> {
        if self.input.samples * self.input.pixels == 0 {
            return Ok(());
        }
        let (pass, variant, kernel, blocks) = self.pass(Source::Gradient, memory.incoming, Some(memory.gradient))?;
        let mut arguments = self.arguments(&pass, &variant, blocks);
        arguments.weight = memory.weight;
        arguments.coefficients = self.coefficients(memory.state);
        expect_shape("owed", &[memory.owed.1], &[self.owed_by(&variant, blocks)], "what cuda_owed asks for")?;
        arguments.owed = memory.owed.0;
        arguments.incoming = memory.grad_output;
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
        unsafe { self.device.launch(&kernel, 0, self.stream, grid, &arguments, Start::InOrder) }
    }

    /// All blocks of all rows.
    fn grid(&self, blocks: usize) -> Result<u32> {
        i32::try_from(self.rows() * blocks).map(|grid| grid as u32).map_err(|_| {
            Error::value("input", format!("{} samples", self.rows()), "fewer samples with per_sample=True on CUDA")
        })
    }
}
