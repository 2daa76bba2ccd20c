//! The mask of a tile's half: the official target where there is one, else the label drawn.

use std::path::{Path, PathBuf};

use ndarray::Array2;

use super::class::{CLASS_NAMES, UnClassified, count_classes};
use super::label::Label;
use super::parallel::for_each_index;
use super::{pack, png};
use crate::{Error, Result};

/// Where a mask comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum MaskSource {
    /// A PNG of class indices, or a packed tile.
    Target(PathBuf),
    /// A label file to be drawn.
    Label(PathBuf),
}

impl MaskSource {
    /// The better source: the target, else the label, else none.
    pub fn of(target: Option<&Path>, label: Option<&Path>) -> Option<Self> {
        let target = target.map(|path| Self::Target(path.to_owned()));
        target.or_else(|| label.map(|path| Self::Label(path.to_owned())))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        match self {
            Self::Target(path) | Self::Label(path) => path,
        }
    }

    /// The (H, W) mask. `un_classified` is for labels, packed ones too; a target is taken as it is.
    pub fn read(&self, un_classified: UnClassified, max_pixels: u64) -> Result<Array2<u8>> {
        match self {
            Self::Target(path) if pack::is_packed(path) => pack::read_mask(path, un_classified, max_pixels),
            Self::Target(path) => png::read_target(path, max_pixels),
            Self::Label(path) => Label::read_mask(path, un_classified, max_pixels, || Ok(())),
        }
    }
}

/// Counts the pixels of each class over masks; ignored pixels count for none.
///
/// `done` is called on this thread after each mask; its error, or a file's, ends the count.
pub fn count_pixels<E: From<Error>>(
    sources: &[MaskSource],
    un_classified: UnClassified,
    max_pixels: u64,
    mut done: impl FnMut() -> std::result::Result<(), E>,
) -> std::result::Result<[u64; CLASS_NAMES.len()], E> {
    let mut total = [0; CLASS_NAMES.len()];
    let count = |index: usize| {
        let mask = sources[index].read(un_classified, max_pixels)?;
        Ok(count_classes(mask.as_slice().expect("masks are made in standard layout")))
    };
    for_each_index(sources.len(), count, |counts| {
        for (total, count) in total.iter_mut().zip(counts) {
            *total += count;
        }
        done()
    })?;
    Ok(total)
}
