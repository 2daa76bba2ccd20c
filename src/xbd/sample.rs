//! One training sample of a tile: the same crop and the same flip or rotation for pre, post and mask.

use std::path::Path;

use ndarray::{Array2, Array3, ArrayView2, ArrayView3, Axis};

use super::class::UnClassified;
use super::mask::MaskSource;
use super::png::{ImageReader, Window};
use super::random::SplitMix64;
use crate::{Error, Result};

/// What a sample is to be.
#[derive(Debug, Clone)]
pub struct SampleOptions {
    /// Side of the square crop; none for the whole tile.
    pub crop: Option<usize>,
    /// Whether to draw one of the eight flips and rotations of the square.
    pub augment: bool,
    /// Per channel mean and standard deviation of the image scaled to [0, 1]; none leaves bytes.
    pub normalize: Option<([f32; 3], [f32; 3])>,
    /// For masks drawn from labels.
    pub un_classified: UnClassified,
    /// Larger images are refused.
    pub max_pixels: u64,
}

/// A (3, H, W) image.
pub enum Image {
    /// As stored.
    Bytes(Array3<u8>),
    /// (value / 255 - mean) / standard deviation.
    Normalized(Array3<f32>),
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

/// Reads the sample that `key` (seed, epoch, index) decides, and nothing else does.
pub fn read_sample(
    pre: &Path,
    post: &Path,
    mask: &MaskSource,
    options: &SampleOptions,
    key: [u64; 3],
) -> Result<Sample> {
    let pre_reader = ImageReader::open(pre, options.max_pixels)?;
    let post_reader = ImageReader::open(post, options.max_pixels)?;
    let size = pre_reader.size();
    let same_size = |path: &Path, (height, width): (usize, usize)| {
        if (height, width) == size {
            return Ok(());
        }
        let problem = format!("{width} x {height} pixels, expected {} x {} as {} has", size.1, size.0, pre.display());
        Err(Error::file(path, problem))
    };
    same_size(post, post_reader.size())?;
    let whole = mask.read(options.un_classified, options.max_pixels)?;
    same_size(mask.path(), whole.dim())?;

    let mut random = SplitMix64::new(&key);
    let window = crop(pre, size, options.crop, &mut random)?;
    let symmetry = if options.augment { Symmetry::draw(&window, &mut random) } else { Symmetry::IDENTITY };
    let image = |reader: ImageReader| {
        let pixels = reader.read_window(window)?;
        let oriented = symmetry.apply(pixels.view().permuted_axes([2, 0, 1]));
        Ok::<_, Error>(match options.normalize {
            None => Image::Bytes(oriented.as_standard_layout().into_owned()),
            Some((mean, std)) => Image::Normalized(normalize(oriented, mean, std)),
        })
    };
    let rows = window.top..window.top + window.height;
    let columns = window.left..window.left + window.width;
    let cropped = whole.slice(ndarray::s![rows, columns]);
    let mask =
        symmetry.apply(cropped.insert_axis(Axis(0))).index_axis_move(Axis(0), 0).as_standard_layout().into_owned();
    Ok(Sample { pre: image(pre_reader)?, post: image(post_reader)?, mask })
}

fn crop(path: &Path, (height, width): (usize, usize), side: Option<usize>, random: &mut SplitMix64) -> Result<Window> {
    let Some(side) = side else { return Ok(Window { top: 0, left: 0, height, width }) };
    if side == 0 || side > height || side > width {
        let expected = format!("1 to {}, the shorter side of {}", height.min(width), path.display());
        return Err(Error::value("crop", side, expected));
    }
    let (top, left) = (random.below(height - side + 1), random.below(width - side + 1));
    Ok(Window { top, left, height: side, width: side })
}

/// One of the eight symmetries of the square: transpose first, then flip.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Symmetry {
    transpose: bool,
    flip_rows: bool,
    flip_columns: bool,
}

impl Symmetry {
    const IDENTITY: Self = Self { transpose: false, flip_rows: false, flip_columns: false };

    /// Any of the eight, equally likely; of a window that is not square, the four that keep its shape.
    fn draw(window: &Window, random: &mut SplitMix64) -> Self {
        let bits = random.below(8);
        let transpose = bits & 4 != 0 && window.height == window.width;
        Self { transpose, flip_rows: bits & 1 != 0, flip_columns: bits & 2 != 0 }
    }

    /// A (C, H, W) view, turned.
    fn apply<T>(self, mut view: ArrayView3<'_, T>) -> ArrayView3<'_, T> {
        if self.transpose {
            view.swap_axes(1, 2);
        }
        if self.flip_rows {
            view.invert_axis(Axis(1));
        }
        if self.flip_columns {
            view.invert_axis(Axis(2));
        }
        view
    }
}

/// (value / 255 - mean) / std, through a table of the 256 values of each channel.
fn normalize(pixels: ArrayView3<'_, u8>, mean: [f32; 3], std: [f32; 3]) -> Array3<f32> {
    let mut output = Array3::zeros(pixels.dim());
    for (channel, (mut output, pixels)) in output.outer_iter_mut().zip(pixels.outer_iter()).enumerate() {
        let table: [f32; 256] = std::array::from_fn(|value| (value as f32 / 255.0 - mean[channel]) / std[channel]);
        let pixels: ArrayView2<'_, u8> = pixels;
        output.zip_mut_with(&pixels, |output, &value| *output = table[usize::from(value)]);
    }
    output
}
