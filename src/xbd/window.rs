//! Rectangles of pixels, and images as one plane for each channel.

use std::path::Path;

use ndarray::{Array3, ArrayView2, s};

use crate::{Error, Result};

/// A rectangle of pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// First row.
    pub top: usize,
    /// First column.
    pub left: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

impl Window {
    /// All of an image of (height, width).
    pub fn whole((height, width): (usize, usize)) -> Self {
        Self { top: 0, left: 0, height, width }
    }

    /// An error unless the window lies inside an image of (height, width); `path` is for the error.
    pub(super) fn check(&self, (height, width): (usize, usize), path: &Path) -> Result<()> {
        let fits = |start: usize, length: usize, size| start.checked_add(length).is_some_and(|end| end <= size);
        if fits(self.top, self.height, height) && fits(self.left, self.width, width) {
            return Ok(());
        }
        let expected = format!("one inside {width} x {height} pixels of {}", path.display());
        Err(Error::value("window", format!("{self:?}"), expected))
    }

    /// The window's part of a whole mask.
    pub fn of<'a>(&self, mask: &'a ArrayView2<'_, u8>) -> ArrayView2<'a, u8> {
        mask.slice(s![self.top..self.top + self.height, self.left..self.left + self.width])
    }
}

/// A (3, H, W) image that is filled row by row from interleaved RGB.
pub(super) struct Planes {
    window: Window,
    pixels: Vec<u8>,
}

impl Planes {
    /// Black, of the window's size.
    pub fn new(window: Window) -> Self {
        Self { window, pixels: vec![0; 3 * window.height * window.width] }
    }

    /// Sets RGB triples from column `x` of row `y` on, both counted from the window's corner.
    pub fn set(&mut self, y: usize, x: usize, rgb: &[u8]) {
        let Window { height, width, .. } = self.window;
        let (red, others) = self.pixels.split_at_mut(height * width);
        let (green, blue) = others.split_at_mut(height * width);
        let row = y * width + x..y * width + x + rgb.len() / 3;
        let planes = red[row.clone()].iter_mut().zip(&mut green[row.clone()]).zip(&mut blue[row]);
        for (((red, green), blue), rgb) in planes.zip(rgb.chunks_exact(3)) {
            (*red, *green, *blue) = (rgb[0], rgb[1], rgb[2]);
        }
    }

    /// The image.
    pub fn finish(self) -> Array3<u8> {
        let shape = (3, self.window.height, self.window.width);
        Array3::from_shape_vec(shape, self.pixels).expect("made with this length")
    }
}
