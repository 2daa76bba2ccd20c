//! Images of either format: the PNG of xBD's first release, the GeoTIFF of its second.

use std::path::Path;

use ndarray::{Array3, ArrayViewMut3};

use super::guard::guarded;
use super::memory::zeros;
use super::window::Window;
use super::{pack, png, tiff};
use crate::{Error, Result};

/// The extensions of image files, the preferred first.
pub const EXTENSIONS: [&str; 3] = ["png", "tif", "tiff"];

/// An opened image of which the header has been read and found within the limit.
pub enum ImageReader {
    /// A PNG.
    Png(Box<png::ImageReader>),
    /// A TIFF.
    Tiff(Box<tiff::ImageReader>),
}

impl ImageReader {
    /// Opens an image; one of more than `max_pixels` pixels is an error before memory is taken for them.
    ///
    /// A TIFF is known by its extension, so that a damaged file is reported as what it was meant to be.
    pub fn open(path: &Path, max_pixels: u64) -> Result<Self> {
        if pack::is_packed(path) {
            return Err(Error::file(path, "is packed, with two images: XBDDataset and XBDLoader give samples of it"));
        }
        let is_tiff = path
            .extension()
            .is_some_and(|extension| EXTENSIONS[1..].iter().any(|known| extension.eq_ignore_ascii_case(known)));
        guarded(path, || {
            Ok(if is_tiff {
                Self::Tiff(Box::new(tiff::ImageReader::open(path, max_pixels)?))
            } else {
                Self::Png(Box::new(png::ImageReader::open(path, max_pixels)?))
            })
        })
    }

    /// (height, width) in pixels.
    pub fn size(&self) -> (usize, usize) {
        match self {
            Self::Png(reader) => reader.size(),
            Self::Tiff(reader) => reader.size(),
        }
    }

    fn path(&self) -> &Path {
        match self {
            Self::Png(reader) => reader.path(),
            Self::Tiff(reader) => reader.path(),
        }
    }

    /// The whole image as (H, W, 3) RGB.
    pub fn read(self) -> Result<Array3<u8>> {
        let path = self.path().to_owned();
        guarded(&path, || match self {
            Self::Png(reader) => reader.read(),
            Self::Tiff(reader) => {
                let (height, width) = reader.size();
                let mut planes = zeros(reader.path(), (3, height, width))?;
                reader.read_planes(Window::whole((height, width)), planes.view_mut())?;
                Ok(planes.permuted_axes([1, 2, 0]).as_standard_layout().into_owned())
            }
        })
    }

    /// The pixels of `window` into (3, H, W) `planes` of its size; what lies below it is not decoded.
    pub fn read_planes(self, window: Window, planes: ArrayViewMut3<'_, u8>) -> Result<()> {
        let path = self.path().to_owned();
        guarded(&path, || match self {
            Self::Png(reader) => reader.read_planes(window, planes),
            Self::Tiff(reader) => reader.read_planes(window, planes),
        })
    }
}
