//! Which kernel serves which loss and operands: every variant is compiled by itself, so that no kernel asks at each pixel what the
//! loss is.

use crate::loss::operands::{Target, compute_type};
use crate::loss::spec::{LossSpec, PixelLoss, ProbabilityOfTarget};
use crate::tensor::{DType, View};

/// The source of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// First pass.
    Reduce,
    /// Second pass.
    Gradient,
    /// The one-block kernel between them.
    Finish,
    /// The confusion matrix.
    Confusion,
    /// A target for a map of logits of another size.
    Resize,
}

impl Source {
    /// The kernels that it defines.
    pub fn entries(self) -> &'static [&'static str] {
        match self {
            Self::Reduce => &["reduce"],
            Self::Gradient => &["gradient"],
            Self::Finish => &["finish"],
            Self::Confusion => &["confusion"],
            Self::Resize => &["nearest", "majority"],
        }
    }
}

/// What a target and logits of different sizes have to do with each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sizes {
    /// Both have the same pixels.
    Equal = 0,
    /// Each pixel of the logits has the shares of the classes in its window of the target.
    Area = 1,
    /// The logits are upsampled to the size of the target.
    Upsampled = 2,
}

/// What gamma is compiled in: the powers that need no logarithm.
fn power(gamma: f64) -> i32 {
    [0, 1, 2].into_iter().find(|&power| f64::from(power) == gamma).unwrap_or(-1)
}

/// A kernel with everything that is compiled in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Variant {
    /// Which source.
    pub source: Source,
    /// Of the logits, or of the labels of a confusion matrix's input.
    pub input: DType,
    /// Of class indices; none with soft targets.
    pub label: Option<DType>,
    /// C where the values of all classes live in registers, else 0.
    pub classes: u32,
    /// Pixels a thread takes at a time.
    pub width: u32,
    /// How they lie, where there are several.
    pub channels_last: bool,
    /// How the target's pixels go with those of the logits.
    pub sizes: Sizes,
    /// Threads a block.
    pub threads: u32,
    /// Blocks that a multiprocessor holds at least.
    blocks: u32,
    /// 0 none, 1 cross entropy, 2 focal.
    pixel: i32,
    power: i32,
    weighted_pt: bool,
    smoothing: bool,
    region: bool,
    /// Whether each pixel has a loss or an incoming gradient of its own.
    each_pixel: bool,
}

/// Up to so many classes live in registers.
const MAX_CLASSES: usize = 32;

/// The same of a loss. Doubles take two registers each.
fn max_classes(real: DType, soft: bool, sizes: Sizes) -> usize {
    if real == DType::Float64 && (soft || sizes == Sizes::Upsampled) { 8 } else { MAX_CLASSES }
}

/// (threads a block, blocks a multiprocessor). Of 65536 registers this leaves each thread 85, 102, 128, 170 or all 255 that it may have: as few as the kernels
/// do without spilling, because many threads keep many loads on their way (of few classes `kernels/stage.cuh` helps). `costly`: with 5 classes label smoothing or a power of any exponent,
/// with more a region term, too.
fn shape(input: DType, soft: bool, sizes: Sizes, classes: usize, costly: bool) -> (u32, u32) {
    let real = compute_type(input);
    if sizes == Sizes::Upsampled {
        return match (real, classes) {
            (DType::Float32, ..=6) => (128, 4),
            (DType::Float32, ..=8) => (128, 3),
            _ => (128, 2),
        };
    }
    match (real, classes) {
        (DType::Float64, ..=8) => (256, 1),
        (DType::Float64, ..=16) => (128, 2),
        (DType::Float64, _) => (64, 1),
        (_, ..=7) if input == DType::Float32 && !soft && !costly => (256, 3),
        (_, ..=5) if !soft && !costly => (128, 5), // twice as many pixels at a time
        (_, ..=7) if soft || input == DType::Float32 => (256, 2),
        (_, ..=7) => (128, 4),
        (_, ..=10) => (128, 3),
        _ => (128, 2),
    }
}

impl Variant {
    /// The kernel of `source` for that spec and operands. `gradient` is where the second pass writes.
    pub fn new(
        source: Source,
        spec: &LossSpec,
        input: &View<'_>,
        target: &Target<'_>,
        sizes: Sizes,
        gradient: Option<&View<'_>>,
    ) -> Self {
        let label = match target {
            Target::Index(view) => Some(view.dtype()),
            Target::Soft(..) => None,
        };
        let base = Self::of(source, spec, input.dtype(), label, input.channels, sizes);
        let operands: Vec<&View<'_>> = [input].into_iter().chain(gradient).collect();
        let (width, channels_last) = width(&base, &operands, target);
        Self { width, channels_last, ..base }
    }

    /// The confusion matrix of logits or labels and a target's labels.
    pub fn confusion(input: &View<'_>, target: &View<'_>, classes: usize) -> Self {
        let base = Self::confusion_of(input.dtype(), target.dtype(), classes);
        let (width, channels_last) = width(&base, &[input], &Target::Index(*target));
        Self { width, channels_last, ..base }
    }

    /// The same from dtypes alone, for one pixel at a time.
    pub fn confusion_of(input: DType, label: DType, classes: usize) -> Self {
        let in_registers = classes <= MAX_CLASSES;
        Self {
            source: Source::Confusion,
            label: Some(label),
            classes: if in_registers { classes as u32 } else { 0 },
            threads: 256,
            blocks: if classes <= 8 { 3 } else { 2 },
            ..Self::finish(input)
        }
    }

    /// A target of labels for a map of another size.
    pub fn resize(label: DType, classes: usize) -> Self {
        Self { source: Source::Resize, threads: 128, ..Self::confusion_of(DType::Float32, label, classes) }
    }

    /// A loss from dtypes alone, for one pixel at a time.
    pub fn of(
        source: Source,
        spec: &LossSpec,
        input: DType,
        label: Option<DType>,
        classes: usize,
        sizes: Sizes,
    ) -> Self {
        let real = compute_type(input);
        let (mut pixel, mut gamma, mut weighted_pt, mut smoothing) = (0, 0.0, false, false);
        match spec.pixel {
            Some((PixelLoss::CrossEntropy { label_smoothing }, _)) => (pixel, smoothing) = (1, label_smoothing != 0.0),
            Some((PixelLoss::Focal { gamma: exponent, pt }, _)) => {
                (pixel, gamma, weighted_pt) = (2, exponent, pt == ProbabilityOfTarget::WeightedCrossEntropy);
            }
            None => {}
        }
        let soft = label.is_none() || sizes == Sizes::Area;
        let in_registers = classes <= max_classes(real, soft, sizes);
        let power = power(gamma);
        let (region, each_pixel) = (spec.region.is_some(), !spec.is_scalar());
        let costly = classes >= 5 && (smoothing || power < 0 || (region && classes > 5));
        let (threads, blocks) = if in_registers { shape(input, soft, sizes, classes, costly) } else { (32, 1) };
        let classes = if in_registers { classes as u32 } else { 0 };
        Self {
            source,
            input,
            label,
            classes,
            width: 1,
            channels_last: false,
            sizes,
            threads,
            blocks,
            pixel,
            power,
            weighted_pt,
            smoothing,
            region,
            each_pixel,
        }
    }

    /// The finishing kernel, which serves every loss of that type of computation.
    pub fn finish(real: DType) -> Self {
        Self {
            source: Source::Finish,
            input: real,
            label: None,
            classes: 0,
            width: 1,
            channels_last: false,
            sizes: Sizes::Equal,
            threads: 640, // a warp for each column of up to 6 classes, and registers enough
            blocks: 1,
            pixel: 0,
            power: 0,
            weighted_pt: false,
            smoothing: false,
            region: false,
            each_pixel: false,
        }
    }

    /// The macros that the sources ask for: see `kernels/number.cuh`.
    pub fn definitions(&self) -> Vec<String> {
        let mut list = vec![
            format!("REAL={}", type_name(compute_type(self.input))),
            format!("INPUT={}", type_name(self.input)),
            format!("CLASSES={}", self.classes),
            format!("FEW={}", i32::from(self.is_few())),
            format!("WIDTH={}", self.width),
            format!("CHANNELS_LAST={}", i32::from(self.channels_last)),
            format!("SIZES={}", self.sizes as i32),
            format!("THREADS={}", self.threads),
            format!("BLOCKS={}", self.blocks),
            format!("PIXEL={}", self.pixel),
            format!("POWER={}", self.power),
            format!("WEIGHTED_PT={}", i32::from(self.weighted_pt)),
            format!("SMOOTHING={}", i32::from(self.smoothing)),
            format!("REGION={}", i32::from(self.region)),
            format!("PREDICTED={}", i32::from(!self.input.is_floating())),
            format!("EACH_PIXEL={}", i32::from(self.each_pixel)),
        ];
        list.extend(self.label.map(|label| format!("LABEL={}", type_name(label))));
        list
    }

    /// Whether there are so few classes that a thread keeps its sums of each in registers, and the block's fit shared memory at once.
    fn is_few(&self) -> bool {
        let most = if compute_type(self.input) == DType::Float64 { 4 } else { 7 };
        (1..=most).contains(&self.classes)
    }

    /// Pixels that a block takes at a time.
    pub fn pixels_a_block(&self) -> usize {
        (self.threads * self.width) as usize
    }

    /// The most pixels a thread of this variant takes at a time: loads of 128 bits, or less where the values of so many pixels
    /// would need more than a thread's registers.
    pub fn max_width(&self) -> u32 {
        let real = compute_type(self.input);
        let vector = 16 / self.input.size() as u32;
        if !self.input.is_floating() {
            return vector.min(8);
        }
        if self.sizes != Sizes::Equal {
            return 1;
        }
        match (self.classes, real, self.label) {
            (0, ..) => 1,
            (..=8, _, None) => 16 / real.size() as u32,
            (_, _, None) => 1,
            (..=8, DType::Float64, _) => vector,
            (_, DType::Float64, _) => 1,
            (..=16, ..) => vector.min(if self.smoothing { 4 } else { 8 }),
            _ => 2 - u32::from(self.smoothing),
        }
    }
}

fn type_name(dtype: DType) -> &'static str {
    match dtype {
        DType::Float32 => "float",
        DType::Float64 => "double",
        DType::Float16 => "Half",
        DType::BFloat16 => "BFloat16",
        DType::UInt8 => "unsigned char",
        DType::Int16 => "short",
        DType::Int32 => "int",
        DType::Int64 => "int64",
    }
}

/// How many pixels a thread takes at a time, and whether their classes lie side by side (channels_last).
fn width(base: &Variant, operands: &[&View<'_>], target: &Target<'_>) -> (u32, bool) {
    for channels_last in [false, true] {
        let mut width = base.max_width();
        while width > 1 {
            let fits = |view: &View<'_>| fits(view, width as usize, channels_last);
            let target_fits = match target {
                Target::Index(view) => self::fits(view, width as usize, false),
                Target::Soft(view, _) => fits(view),
            };
            if target_fits && operands.iter().all(|view| fits(view)) {
                return (width, channels_last);
            }
            width /= 2;
        }
    }
    (1, false)
}

/// Whether `width` pixels can be moved together: they lie side by side, and every piece is aligned to its size.
fn fits(view: &View<'_>, width: usize, channels_last: bool) -> bool {
    let size = view.dtype().size();
    let align = (width * size).min(16);
    let [sample, channel, pixel] = view.strides;
    let steps = |stride: isize, count: usize| count <= 1 || (stride * size as isize) % align as isize == 0;
    let side_by_side = if channels_last {
        (channel == 1 || view.channels == 1) && pixel == view.channels as isize
    } else {
        pixel == 1 && steps(channel, view.channels)
    };
    side_by_side
        && steps(sample, view.samples)
        && view.pixels.is_multiple_of(width)
        && view.address().is_multiple_of(align)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(address: usize, dtype: DType, shape: &[usize], strides: &[isize], channels: bool) -> View<'static> {
        // SAFETY: the view is only asked for its shape, strides and address.
        unsafe { View::new(address as *mut u8, dtype, shape, strides, channels).unwrap() }
    }

    #[test]
    fn width_needs_alignment_of_every_plane() {
        let planar = |address, pixels: usize| {
            view(address, DType::Float32, &[2, 5, pixels], &[5 * pixels as isize, pixels as isize, 1], true)
        };
        assert!(fits(&planar(256, 64), 4, false));
        assert!(!fits(&planar(260, 64), 4, false)); // off by one element
        assert!(!fits(&planar(256, 62), 4, false)); // planes 62 apart
        assert!(fits(&planar(256, 62), 2, false));
        assert!(!fits(&planar(256, 64), 4, true));
        let last = view(256, DType::Float32, &[2, 5, 64], &[320, 1, 5], true);
        assert!(fits(&last, 4, true) && !fits(&last, 4, false));
        let labels = view(256, DType::Int64, &[2, 64], &[64, 1], false);
        assert!(fits(&labels, 8, false));
        let expanded = view(256, DType::Int64, &[2, 64], &[0, 0], false);
        assert!(!fits(&expanded, 2, false));
    }
}
