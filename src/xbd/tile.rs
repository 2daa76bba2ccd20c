//! Where the pixels of a tile come from, and what of them is read.

use std::path::{Path, PathBuf};

use ndarray::{Array2, ArrayViewMut3};

use super::class::UnClassified;
use super::image::ImageReader;
use super::label::Phase;
use super::mask::MaskSource;
use super::pack::{self, PackedTile, is_packed};
use super::window::Window;
use crate::{Error, Result};

/// The source of a tile's pixels.
#[derive(Debug, Clone, PartialEq)]
pub enum TileSource {
    /// The files of a root.
    Files {
        /// The image before.
        pre: PathBuf,
        /// The image after.
        post: PathBuf,
        /// The mask of the image after.
        mask: MaskSource,
    },
    /// A packed tile.
    Packed(PathBuf),
}

/// A tile of which the headers and, where it has to be drawn or decoded anyway, the mask have been read.
pub(super) enum OpenTile {
    Files { pre: Option<ImageReader>, post: Option<ImageReader>, mask: Array2<u8>, size: (usize, usize) },
    Packed(PackedTile, UnClassified),
}

impl TileSource {
    /// The source of an indexed tile: its images, then target and label of the image after, of which one is needed.
    pub fn of(pre: &Path, post: &Path, target: Option<&Path>, label: Option<&Path>) -> Result<Self> {
        if is_packed(post) {
            return Ok(Self::Packed(post.to_owned()));
        }
        let mask = MaskSource::of(target, label).ok_or_else(|| Error::file(post, "has neither target nor label"))?;
        Ok(Self::Files { pre: pre.to_owned(), post: post.to_owned(), mask })
    }

    /// The file that errors of the tile as a whole name.
    pub fn path(&self) -> &Path {
        match self {
            Self::Files { pre, .. } => pre,
            Self::Packed(path) => path,
        }
    }

    /// The file that the mask comes from.
    pub fn mask_path(&self) -> &Path {
        match self {
            Self::Files { mask, .. } => mask.path(),
            Self::Packed(path) => path,
        }
    }

    /// Whether the mask comes from a label, where un-classified buildings are what one makes of them.
    pub fn mask_is_drawn(&self, max_pixels: u64) -> Result<bool> {
        match self {
            Self::Files { mask, .. } => Ok(matches!(mask, MaskSource::Label(_))),
            Self::Packed(path) => Ok(PackedTile::open(path, max_pixels)?.mask_is_drawn()),
        }
    }

    /// (height, width) in pixels.
    pub fn size(&self, max_pixels: u64) -> Result<(usize, usize)> {
        match self {
            Self::Files { pre, .. } => Ok(ImageReader::open(pre, max_pixels)?.size()),
            Self::Packed(path) => Ok(PackedTile::open(path, max_pixels)?.size()),
        }
    }

    /// The whole (H, W) mask, un-classified buildings ignored.
    pub fn read_mask(&self, max_pixels: u64) -> Result<Array2<u8>> {
        match self {
            Self::Files { mask, .. } => mask.read(UnClassified::Ignore, max_pixels),
            Self::Packed(path) => pack::read_mask(path, UnClassified::Ignore, max_pixels),
        }
    }

    /// Opens the tile; its three parts must be of one size.
    pub(super) fn open(&self, un_classified: UnClassified, max_pixels: u64) -> Result<OpenTile> {
        match self {
            Self::Files { pre, post, mask } => {
                let pre_reader = ImageReader::open(pre, max_pixels)?;
                let post_reader = ImageReader::open(post, max_pixels)?;
                let size = pre_reader.size();
                let same_size = |path: &Path, (height, width): (usize, usize)| {
                    if (height, width) == size {
                        return Ok(());
                    }
                    let expected = format!("expected {} x {} as {} has", size.1, size.0, pre.display());
                    Err(Error::file(path, format!("{width} x {height} pixels, {expected}")))
                };
                same_size(post, post_reader.size())?;
                let whole = mask.read(un_classified, max_pixels)?;
                same_size(mask.path(), whole.dim())?;
                Ok(OpenTile::Files { pre: Some(pre_reader), post: Some(post_reader), mask: whole, size })
            }
            Self::Packed(path) => Ok(OpenTile::Packed(PackedTile::open(path, max_pixels)?, un_classified)),
        }
    }
}

impl OpenTile {
    /// (height, width) in pixels.
    pub fn size(&self) -> (usize, usize) {
        match self {
            Self::Files { size, .. } => *size,
            Self::Packed(tile, _) => tile.size(),
        }
    }

    /// The (H, W) class indices of `window`.
    pub fn mask(&self, window: Window) -> Result<Array2<u8>> {
        match self {
            Self::Files { mask, .. } => Ok(window.of(&mask.view()).to_owned()),
            Self::Packed(tile, un_classified) => tile.mask(window, *un_classified),
        }
    }

    /// The pixels of `window` into (3, H, W) `planes` of its size; each image can be read once.
    pub fn read_image(&mut self, phase: Phase, window: Window, planes: ArrayViewMut3<'_, u8>) -> Result<()> {
        match self {
            Self::Files { pre, post, .. } => {
                let reader = match phase {
                    Phase::Pre => pre.take(),
                    Phase::Post => post.take(),
                };
                reader.expect("an image is read once").read_planes(window, planes)
            }
            Self::Packed(tile, _) => tile.image(phase, window, planes),
        }
    }
}
