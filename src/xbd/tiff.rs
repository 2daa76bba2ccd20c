//! GeoTIFF images as RGB, strip by strip or tile by tile so that what lies outside a window is not decoded.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use ndarray::ArrayViewMut3;
use tiff::decoder::{Decoder, DecodingResult, Limits};
use tiff::{ColorType, TiffError};

use super::png::check_pixels;
use super::window::{Planes, Window};
use crate::{Error, Result};

/// One chunk (strip or tile) may hold this many samples: that of an image in one strip, up to `max_pixels`.
const MOST_SAMPLES: usize = 8;

/// An opened TIFF of which the header has been read and found within the limit.
pub struct ImageReader {
    decoder: Decoder<BufReader<File>>,
    path: PathBuf,
    height: usize,
    width: usize,
    channels: usize,
}

impl ImageReader {
    /// Opens an image of 8 or 16 bits, gray, RGB or with more channels (of which the first three are taken).
    pub fn open(path: &Path, max_pixels: u64) -> Result<Self> {
        let file = File::open(path).map_err(|source| Error::io(path, source))?;
        let failed = |error| decoding(path, error);
        let decoder = Decoder::new(BufReader::with_capacity(1 << 16, file)).map_err(failed)?;
        let mut limits = Limits::default();
        let bytes = usize::try_from(max_pixels).unwrap_or(usize::MAX).saturating_mul(MOST_SAMPLES);
        limits.decoding_buffer_size = bytes;
        limits.intermediate_buffer_size = bytes;
        let mut decoder = decoder.with_limits(limits);
        let (width, height) = decoder.dimensions().map_err(failed)?;
        let (height, width) = check_pixels(path, height, width, max_pixels)?;
        let color = decoder.colortype().map_err(failed)?;
        let (channels, bits) = match color {
            ColorType::Gray(bits) => (1, bits),
            ColorType::GrayA(bits) => (2, bits),
            ColorType::RGB(bits) => (3, bits),
            ColorType::RGBA(bits) => (4, bits),
            ColorType::Multiband { bit_depth, num_samples } if num_samples >= 3 => {
                (usize::from(num_samples), bit_depth)
            }
            _ => return Err(Error::file(path, format!("{color:?}, expected gray or RGB"))),
        };
        if bits != 8 && bits != 16 {
            return Err(Error::file(path, format!("{bits} bits a channel, expected 8 or 16")));
        }
        Ok(Self { decoder, path: path.to_owned(), height, width, channels })
    }

    /// (height, width) in pixels.
    pub fn size(&self) -> (usize, usize) {
        (self.height, self.width)
    }

    /// The pixels of `window` into (3, H, W) `planes`; gray becomes three equal channels, 16 bits the upper 8.
    pub fn read_planes(mut self, window: Window, planes: ArrayViewMut3<'_, u8>) -> Result<()> {
        window.check(self.size(), &self.path)?;
        let path = self.path;
        let (chunk_width, chunk_height) = self.decoder.chunk_dimensions();
        let (chunk_width, chunk_height) = (chunk_width as usize, chunk_height as usize);
        if chunk_width == 0 || chunk_height == 0 {
            return Err(Error::file(path, "not a valid TIFF: strips or tiles of no size"));
        }
        let across = self.width.div_ceil(chunk_width);
        let mut planes = Planes(planes);
        let mut rgb = vec![0; 3 * chunk_width.min(self.width)];
        let rows = window.top..window.top + window.height;
        let columns = window.left..window.left + window.width;
        for chunk_row in rows.start / chunk_height..rows.end.div_ceil(chunk_height) {
            for chunk_column in columns.start / chunk_width..columns.end.div_ceil(chunk_width) {
                let index = (chunk_row * across + chunk_column) as u32;
                let (width, _) = self.decoder.chunk_data_dimensions(index);
                let width = width as usize;
                let samples = match self.decoder.read_chunk(index).map_err(|error| decoding(&path, error))? {
                    DecodingResult::U8(samples) => samples,
                    DecodingResult::U16(samples) => samples.into_iter().map(|sample| (sample >> 8) as u8).collect(),
                    _ => return Err(Error::file(path, "samples that are no unsigned integers")),
                };
                let (top, left) = (chunk_row * chunk_height, chunk_column * chunk_width);
                let last = rows.end.min(top + chunk_height);
                let (from, to) = (columns.start.max(left), columns.end.min(left + width));
                for y in rows.start.max(top)..last {
                    let start = ((y - top) * width + from - left) * self.channels;
                    let row = samples.get(start..start + (to - from) * self.channels);
                    let row = row.ok_or_else(|| Error::file(&path, "not a whole TIFF: a strip ends too early"))?;
                    for (rgb, pixel) in rgb.chunks_exact_mut(3).zip(row.chunks_exact(self.channels)) {
                        rgb.copy_from_slice(&if self.channels < 3 {
                            [pixel[0]; 3]
                        } else {
                            [pixel[0], pixel[1], pixel[2]]
                        });
                    }
                    planes.set(y - window.top, from - window.left, &rgb[..3 * (to - from)]);
                }
            }
        }
        Ok(())
    }
}

fn decoding(path: &Path, error: TiffError) -> Error {
    match error {
        TiffError::IoError(source) if source.kind() == std::io::ErrorKind::UnexpectedEof => {
            Error::file(path, "not a whole TIFF: the file ends too early")
        }
        TiffError::IoError(source) if source.raw_os_error().is_some() => Error::io(path, source),
        other => Error::file(path, format!("not a valid TIFF: {other}")),
    }
}
