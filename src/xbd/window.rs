//! Rectangles of pixels, and images as one plane for each channel.

use std::path::Path;

use ndarray::{ArrayView2, ArrayViewMut3, s};

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

/// A (3, H, W) image that is filled from rows of interleaved RGB.
pub(super) struct Planes<'a>(pub ArrayViewMut3<'a, u8>);

impl Planes<'_> {
    /// Sets RGB triples from column `x` of row `y` on.
    pub fn set(&mut self, y: usize, x: usize, rgb: &[u8]) {
        let columns = x..x + rgb.len() / 3;
        let (mut red, mut green, mut blue) =
            self.0.multi_slice_mut((s![0, y, columns.clone()], s![1, y, columns.clone()], s![2, y, columns]));
        let (pixels, _) = rgb.as_chunks();
        match (red.as_slice_mut(), green.as_slice_mut(), blue.as_slice_mut()) {
            (Some(red), Some(green), Some(blue)) => split(pixels, red, green, blue),
            _ => split(pixels, &mut red, &mut green, &mut blue),
        }
    }
}

fn split<'a>(
    pixels: &[[u8; 3]],
    red: impl IntoIterator<Item = &'a mut u8>,
    green: impl IntoIterator<Item = &'a mut u8>,
    blue: impl IntoIterator<Item = &'a mut u8>,
) {
    for (((red, green), blue), pixel) in red.into_iter().zip(green).zip(blue).zip(pixels) {
        [*red, *green, *blue] = *pixel;
    }
}
