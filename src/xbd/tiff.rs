//! GeoTIFF images as RGB, strip by strip or tile by tile so that what lies outside a window is not decoded.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use ndarray::ArrayViewMut3;
use tiff::decoder::{Decoder, DecodingResult, Limits};
use tiff::tags::{PlanarConfiguration, Tag};
use tiff::{ColorType, TiffError};

use super::memory::reserve;
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
            ColorType::Multiband { bit_depth, num_samples } if num_samples >= 2 => {
                (usize::from(num_samples), bit_depth)
            }
            _ => return Err(Error::file(path, format!("{color:?}, expected gray or RGB"))),
        };
        if bits != 8 && bits != 16 {
            return Err(Error::file(path, format!("{bits} bits a channel, expected 8 or 16")));
        }
        let planar = decoder.find_tag_unsigned(Tag::PlanarConfiguration).map_err(failed)?;
        if channels > 1 && planar == Some(PlanarConfiguration::Planar.to_u16()) {
            return Err(Error::file(path, "planar (band-interleaved) samples, expected pixel-interleaved ones"));
        }
        Ok(Self { decoder, path: path.to_owned(), height, width, channels })
    }

    /// (height, width) in pixels.
    pub fn size(&self) -> (usize, usize) {
        (self.height, self.width)
    }

    /// The file.
    pub(super) fn path(&self) -> &Path {
        &self.path
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
        // The decoder takes a chunk's memory or ends the process: two bytes a sample, and gives it back here first.
        let samples = chunk_width.min(self.width).saturating_mul(chunk_height.min(self.height));
        drop(std::hint::black_box(reserve(&path, samples, 2 * self.channels)?));
        let across = self.width.div_ceil(chunk_width);
        let mut planes = Planes(planes);
        let row_length = chunk_width.min(self.width);
        let mut rgb = reserve(&path, row_length, 3)?;
        rgb.resize(3 * row_length, 0);
        let rows = window.top..window.top + window.height;
        let columns = window.left..window.left + window.width;
        for chunk_row in rows.start / chunk_height..rows.end.div_ceil(chunk_height) {
            for chunk_column in columns.start / chunk_width..columns.end.div_ceil(chunk_width) {
                let index = (chunk_row * across + chunk_column) as u32;
                let (width, height) = self.decoder.chunk_data_dimensions(index);
                let (width, height) = (width as usize, height as usize);
                let samples = match self.decoder.read_chunk(index).map_err(|error| decoding(&path, error))? {
                    DecodingResult::U8(samples) => samples,
                    DecodingResult::U16(samples) => samples.into_iter().map(|sample| (sample >> 8) as u8).collect(),
                    _ => return Err(Error::file(path, "samples that are no unsigned integers")),
                };
                if samples.len() < width * height * self.channels {
                    return Err(Error::file(path, "not a whole TIFF: a strip or tile has too few samples"));
                }
                let (top, left) = (chunk_row * chunk_height, chunk_column * chunk_width);
                let last = rows.end.min(top + chunk_height);
                let (from, to) = (columns.start.max(left), columns.end.min(left + width));
                for y in rows.start.max(top)..last {
                    let start = ((y - top) * width + from - left) * self.channels;
                    let row = &samples[start..start + (to - from) * self.channels];
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

#[cfg(test)]
mod tests {
    use ndarray::Array3;

    use super::*;

    const SIDE: usize = 12;
    const ROWS_PER_STRIP: usize = 4;

    /// An RGB TIFF without compression, its samples interleaved by pixel (1) or by band (2).
    fn write(path: &Path, planar: u32, image: &Array3<u8>) {
        let mut bytes = b"II*\0\0\0\0\0".to_vec();
        let in_strip = if planar == 1 { 3 } else { 1 };
        let mut starts = Vec::new();
        for band in (0..3).step_by(in_strip) {
            for top in (0..SIDE).step_by(ROWS_PER_STRIP) {
                starts.push(bytes.len() as u32);
                bytes.extend(image.slice(ndarray::s![top..top + ROWS_PER_STRIP, .., band..band + in_strip]));
            }
        }
        let strips = starts.len() as u32;
        let strip_bytes = (SIDE * SIDE * 3) as u32 / strips;
        let mut list = |values: &[u32]| {
            let start = bytes.len() as u32;
            bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            start
        };
        let (starts, counts) = (list(&starts), list(&vec![strip_bytes; strips as usize]));
        let bits = list(&[8 | 8 << 16, 8]);
        let (side, rows) = (SIDE as u32, ROWS_PER_STRIP as u32);
        // Tag, type (3: two bytes, 4: four), count, value or where the values are.
        let entries = [
            [256, 4, 1, side],
            [257, 4, 1, side],
            [258, 3, 3, bits],
            [259, 3, 1, 1],
            [262, 3, 1, 2],
            [273, 4, strips, starts],
            [277, 3, 1, 3],
            [278, 4, 1, rows],
            [279, 4, strips, counts],
            [284, 3, 1, planar],
        ];
        let directory = bytes.len() as u32;
        bytes[4..8].copy_from_slice(&directory.to_le_bytes());
        bytes.extend((entries.len() as u16).to_le_bytes());
        for [tag, kind, count, value] in entries {
            bytes.extend([tag as u16, kind as u16].iter().flat_map(|value| value.to_le_bytes()));
            bytes.extend([count, value].iter().flat_map(|value| value.to_le_bytes()));
        }
        bytes.extend([0; 4]);
        std::fs::write(path, bytes).unwrap();
    }

    #[test]
    fn planar_samples_are_refused_and_never_taken_for_interleaved_ones() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image.tif");
        let image = Array3::from_shape_fn((SIDE, SIDE, 3), |(y, x, channel)| (y * 16 + x + 100 * channel) as u8);
        write(&path, 1, &image);
        let window = Window { top: 5, left: 2, height: 3, width: 6 };
        let mut planes = Array3::zeros((3, 3, 6));
        ImageReader::open(&path, 1 << 20).unwrap().read_planes(window, planes.view_mut()).unwrap();
        assert_eq!(planes.permuted_axes([1, 2, 0]), image.slice(ndarray::s![5..8, 2..8, ..]));
        write(&path, 2, &image);
        let error = ImageReader::open(&path, 1 << 20).err().unwrap().to_string();
        assert!(
            error.ends_with("image.tif: planar (band-interleaved) samples, expected pixel-interleaved ones"),
            "{error}"
        );
    }
}
