//! One training sample of a tile: the same crop and the same changes for pre, post and mask.

use std::path::Path;

use ndarray::{Array2, Array3, ArrayView2, ArrayView3, ArrayViewMut2, ArrayViewMut3, Axis};

use super::augment::{Augment, Color, Rect, Symmetry};
use super::class::{UnClassified, count_classes};
use super::label::Phase;
use super::memory::zeros;
use super::random::SplitMix64;
use super::survey::Building;
use super::tile::{OpenTile, TileSource};
use super::window::Window;
use crate::{Error, Result};

/// What a sample is to be.
#[derive(Debug, Clone)]
pub struct SampleOptions {
    /// Side of the square crop; none for the whole tile.
    pub crop: Option<usize>,
    /// Random changes.
    pub augment: Augment,
    /// Per channel mean and standard deviation of the image scaled to [0, 1]; none leaves bytes.
    pub normalize: Option<([f32; 3], [f32; 3])>,
    /// For masks drawn from labels.
    pub un_classified: UnClassified,
    /// Larger images are refused.
    pub max_pixels: u64,
}

/// How the place of a crop is drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Place {
    /// Anywhere, all places equally likely.
    Anywhere,
    /// With this building in it: any place that holds all of it, or where it is larger than the crop a part.
    Around(Building),
    /// The best of 1 to this many places (a number drawn for each sample) by [`BEST_OF_WEIGHTS`].
    BestOf(usize),
}

/// What a pixel of each class counts when crops are compared: the rule of the xView2 challenge's winner.
pub const BEST_OF_WEIGHTS: [u64; 5] = [0, 1, 5, 5, 2];

/// A (3, H, W) image.
pub enum Image {
    /// As stored.
    Bytes(Array3<u8>),
    /// (value / 255 - mean) / standard deviation.
    Normalized(Array3<f32>),
}

/// Memory for a (3, H, W) image.
pub enum ImageMut<'a> {
    /// As stored.
    Bytes(ArrayViewMut3<'a, u8>),
    /// (value / 255 - mean) / standard deviation.
    Normalized(ArrayViewMut3<'a, f32>),
}

/// What training takes.
pub struct Sample {
    /// Before.
    pub pre: Image,
    /// After.
    pub post: Image,
    /// The (H, W) class indices of the post image.
    pub mask: Array2<u8>,
}

/// Memory for a [`Sample`].
pub struct SampleMut<'a> {
    /// Before.
    pub pre: ImageMut<'a>,
    /// After.
    pub post: ImageMut<'a>,
    /// The (H, W) class indices of the post image.
    pub mask: ArrayViewMut2<'a, u8>,
}

impl ImageMut<'_> {
    fn reborrow(&mut self) -> ImageMut<'_> {
        match self {
            Self::Bytes(pixels) => ImageMut::Bytes(pixels.view_mut()),
            Self::Normalized(pixels) => ImageMut::Normalized(pixels.view_mut()),
        }
    }
}

impl SampleMut<'_> {
    /// The same memory, to be filled again.
    pub(super) fn reborrow(&mut self) -> SampleMut<'_> {
        SampleMut { pre: self.pre.reborrow(), post: self.post.reborrow(), mask: self.mask.view_mut() }
    }
}

impl Image {
    /// Zeros; `path` is for the error.
    fn new(path: &Path, size: (usize, usize), normalized: bool) -> Result<Self> {
        let shape = (3, size.0, size.1);
        Ok(if normalized { Self::Normalized(zeros(path, shape)?) } else { Self::Bytes(zeros(path, shape)?) })
    }

    fn view_mut(&mut self) -> ImageMut<'_> {
        match self {
            Self::Bytes(pixels) => ImageMut::Bytes(pixels.view_mut()),
            Self::Normalized(pixels) => ImageMut::Normalized(pixels.view_mut()),
        }
    }
}

/// Reads the sample that `key` decides, and nothing else does.
pub fn read_sample(source: &TileSource, place: Place, options: &SampleOptions, key: &[u64]) -> Result<Sample> {
    let tile = source.open(options.un_classified, options.max_pixels)?;
    let size = options.crop.map_or(tile.size(), |side| (side, side));
    check_crop(source.path(), tile.size(), size)?;
    let image = || Image::new(source.path(), size, options.normalize.is_some());
    let mut sample = Sample { pre: image()?, post: image()?, mask: zeros(source.path(), size)? };
    let Sample { pre, post, mask } = &mut sample;
    let memory = SampleMut { pre: pre.view_mut(), post: post.view_mut(), mask: mask.view_mut() };
    fill(source.path(), tile, place, options, key, memory)?;
    Ok(sample)
}

/// As [`read_sample`], into the caller's memory; gives the number of pixels of each class, then of ignored ones.
///
/// A tile that does not have the memory's size, where it is not cropped, is an error.
pub fn fill_sample(
    source: &TileSource,
    place: Place,
    options: &SampleOptions,
    key: &[u64],
    memory: SampleMut<'_>,
) -> Result<[u64; 6]> {
    let tile = source.open(options.un_classified, options.max_pixels)?;
    let (size, output) = (tile.size(), memory.mask.dim());
    if options.crop.is_some() {
        check_crop(source.path(), size, output)?;
    } else if size != output {
        let expected = format!("expected {} x {} as the other tiles have: set crop", output.1, output.0);
        return Err(Error::file(source.path(), format!("{} x {} pixels, {expected}", size.1, size.0)));
    }
    fill(source.path(), tile, place, options, key, memory)
}

fn check_crop(path: &Path, (height, width): (usize, usize), crop: (usize, usize)) -> Result<()> {
    if crop.0 == 0 || crop.0 > height || crop.1 > width {
        let expected = format!("1 to {}, the shorter side of {}", height.min(width), path.display());
        return Err(Error::value("crop", crop.0, expected));
    }
    Ok(())
}

fn fill(
    path: &Path,
    mut tile: OpenTile,
    place: Place,
    options: &SampleOptions,
    key: &[u64],
    memory: SampleMut<'_>,
) -> Result<[u64; 6]> {
    let output = memory.mask.dim();
    let size = tile.size();
    let mut random = SplitMix64::new(key);
    let window = draw_window(&tile, place, output, &mut random)?;
    let drawn = options.augment.draw(&window, &mut random);

    let bounds = drawn.post.bounds(size, output);
    let mask = drawn.post.sample_mask(tile.mask(bounds)?, bounds, output);
    let mut destination = memory.mask;
    destination.assign(&drawn.symmetry.apply(mask.view().insert_axis(Axis(0))).index_axis_move(Axis(0), 0));
    let counts = count_classes(mask.as_slice().expect("masks are made in standard layout"));

    let mut image = |phase, rect: Rect, color: Option<Color>, destination| {
        let bounds = rect.bounds(size, output);
        let destination = match destination {
            // Nothing to be made of the pixels: they go where they belong as they are decoded.
            ImageMut::Bytes(planes) if color.is_none() && drawn.symmetry.is_identity() && rect.is(&bounds, output) => {
                return tile.read_image(phase, bounds, planes);
            }
            other => other,
        };
        let mut pixels = zeros(path, (3, bounds.height, bounds.width))?;
        tile.read_image(phase, bounds, pixels.view_mut())?;
        if let Some(color) = color {
            color.apply(&mut pixels);
        }
        write_image(rect.sample(pixels, bounds, output), drawn.symmetry, options.normalize, destination);
        Ok(())
    };
    image(Phase::Pre, drawn.pre, drawn.pre_color, memory.pre)?;
    image(Phase::Post, drawn.post, drawn.post_color, memory.post)?;
    Ok(counts)
}

fn write_image(
    pixels: Array3<u8>,
    symmetry: Symmetry,
    normalization: Option<([f32; 3], [f32; 3])>,
    destination: ImageMut<'_>,
) {
    let turned = symmetry.apply(pixels.view());
    match (destination, normalization) {
        (ImageMut::Normalized(destination), Some((mean, std))) => normalize(turned, mean, std, destination),
        (ImageMut::Bytes(mut destination), None) => destination.assign(&turned),
        _ => unreachable!("memory is made by the options"),
    }
}

fn draw_window(
    tile: &OpenTile,
    place: Place,
    (height, width): (usize, usize),
    random: &mut SplitMix64,
) -> Result<Window> {
    let size = tile.size();
    // The last row and column that a crop can begin at.
    let (bottom, right) = (size.0 - height, size.1 - width);
    let anywhere = |random: &mut SplitMix64| {
        let (top, left) = (random.below(bottom + 1), random.below(right + 1));
        Window { top, left, height, width }
    };
    Ok(match place {
        Place::Anywhere => anywhere(random),
        Place::Around(building) => {
            let top = around(building.rows, building.y, height, bottom, random);
            let left = around(building.columns, building.x, width, right, random);
            Window { top, left, height, width }
        }
        Place::BestOf(most) => {
            let mask = tile.mask(Window::whole(size))?;
            let score = |window: &Window| {
                let part = window.of(&mask.view()).to_owned();
                let counts = count_classes(part.as_slice().expect("made in standard layout"));
                counts.iter().zip(BEST_OF_WEIGHTS).map(|(count, weight)| count * weight).sum::<u64>()
            };
            let first = anywhere(random);
            let candidates = random.below(most.max(1));
            // The first of equals, as a strict comparison in a loop keeps it.
            let others = std::iter::repeat_with(|| anywhere(random)).take(candidates);
            others.fold((score(&first), first), |best, window| best_of(best, (score(&window), window))).1
        }
    })
}

fn best_of(best: (u64, Window), other: (u64, Window)) -> (u64, Window) {
    if other.0 > best.0 { other } else { best }
}

/// A start in 0..=last of `length` pixels that hold all of first..=end, or where that is too long, `at`.
fn around((first, end): (usize, usize), at: usize, length: usize, last: usize, random: &mut SplitMix64) -> usize {
    let (first, end) = if end - first < length { (first, end) } else { (at, at) };
    let low = (end + 1).saturating_sub(length).min(last);
    low + random.below(first.clamp(low, last) - low + 1)
}

/// (value / 255 - mean) / std, through a table of the 256 values of each channel.
fn normalize(pixels: ArrayView3<'_, u8>, mean: [f32; 3], std: [f32; 3], mut output: ArrayViewMut3<'_, f32>) {
    for (channel, (mut output, pixels)) in output.outer_iter_mut().zip(pixels.outer_iter()).enumerate() {
        let table: [f32; 256] = std::array::from_fn(|value| (value as f32 / 255.0 - mean[channel]) / std[channel]);
        let pixels: ArrayView2<'_, u8> = pixels;
        output.zip_mut_with(&pixels, |output, &value| *output = table[usize::from(value)]);
    }
}
