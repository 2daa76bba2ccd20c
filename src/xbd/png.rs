//! PNG files: images to RGB, targets to class indices, row by row so that nothing below a crop is decoded; and back.

mod rgb;
mod unfilter;

use std::fs::File;
use std::io::{BufReader, ErrorKind};
use std::path::{Path, PathBuf};

use ndarray::{Array2, Array3, ArrayView2, ArrayView3, ArrayViewMut3};
use png::{BitDepth, ColorType, Compression, DecodingError, Filter, Transformations};

use self::rgb::Stream;
use super::class::{CLASS_NAMES, IGNORE_INDEX};
use super::guard::guarded;
use super::memory::{reserve, zeroed};
use super::window::{Planes, Window};
use super::write::write_whole;
use crate::{Error, Result};

/// Images of more pixels are refused unless the caller says otherwise: 64 Mpixel, 8,192 x 8,192.
pub const MAX_PIXELS: u64 = 64 << 20;

/// An opened image of which the header has been read and found within the limit.
pub struct ImageReader {
    rows: Rows,
    path: PathBuf,
    height: usize,
    width: usize,
}

/// What gives the rows.
enum Rows {
    /// RGB of 8 bits, not interlaced.
    Plain(Box<Stream>),
    /// Any other image.
    Any(Box<png::Reader<BufReader<File>>>),
}

impl ImageReader {
    /// Opens an image; one of more than `max_pixels` pixels is an error before anything is allocated.
    pub fn open(path: &Path, max_pixels: u64) -> Result<Self> {
        let mut stream = Stream::open(path)?;
        let (height, width) = check_pixels(path, stream.info().height, stream.info().width, max_pixels)?;
        let rows = if stream.is_plain_rgb() {
            stream.read_until_data(path)?;
            check_still(path, stream.info())?;
            Rows::Plain(Box::new(stream))
        } else {
            let info = stream.info();
            // Expanding 8 bits or more would only turn a tRNS chunk into an alpha channel, to be dropped again.
            let expand = info.color_type == ColorType::Indexed || (info.bit_depth as u8) < 8;
            let output =
                Transformations::STRIP_16 | if expand { Transformations::EXPAND } else { Transformations::IDENTITY };
            Rows::Any(Box::new(open_any(path, stream, output)?))
        };
        Ok(Self { rows, path: path.to_owned(), height, width })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// (height, width) in pixels.
    pub fn size(&self) -> (usize, usize) {
        (self.height, self.width)
    }

    /// The whole image as (H, W, 3) RGB; the file is checked to its end.
    ///
    /// Gray becomes three equal channels, a palette its colours, 16 bits the upper 8; alpha and tRNS are dropped.
    pub fn read(self) -> Result<Array3<u8>> {
        let whole = Window::whole(self.size());
        self.read_window(whole)
    }

    /// The pixels of `window` as (H, W, 3) RGB; a window that is not inside the image is an error.
    ///
    /// Rows below the window are neither read nor checked: damage there goes unseen, and so may damage in the window's last
    /// IDAT chunk, whose checksum lies behind it. A window that ends at the last row checks the file to its end.
    pub fn read_window(self, window: Window) -> Result<Array3<u8>> {
        window.check(self.size(), &self.path)?;
        let mut pixels = reserve(&self.path, window.height * window.width, 3)?;
        self.for_each_rgb_row(window, |_, row| pixels.extend_from_slice(row))?;
        Ok(Array3::from_shape_vec((window.height, window.width, 3), pixels).expect("every row has been pushed"))
    }

    /// The pixels of `window` into (3, H, W) `planes`, else as [`Self::read_window`].
    pub fn read_planes(self, window: Window, planes: ArrayViewMut3<'_, u8>) -> Result<()> {
        let mut planes = Planes(planes);
        self.for_each_rgb_row(window, |y, row| planes.set(y, 0, row))
    }

    /// Calls `take` with each row of `window`, counted from its top, as RGB.
    fn for_each_rgb_row(self, window: Window, mut take: impl FnMut(usize, &[u8])) -> Result<()> {
        window.check((self.height, self.width), &self.path)?;
        let Window { top, left, height, width } = window;
        let mut y = 0;
        let mut take = |row: &[u8]| {
            take(y, row);
            y += 1;
            Ok(())
        };
        match self.rows {
            Rows::Plain(mut stream) => {
                stream.for_each_row(&self.path, left + width, top, height, |row| take(&row[3 * left..]))?;
                if top + height == self.height { stream.finish(&self.path) } else { Ok(()) }
            }
            Rows::Any(reader) => {
                let (color, _) = reader.output_color_type();
                let channels = color.samples();
                let mut rgb = reserve(&self.path, width, 3)?;
                for_each_row(&self.path, *reader, top, height, |row| {
                    let row = &row[left * channels..(left + width) * channels];
                    rgb.clear();
                    match color {
                        ColorType::Rgb => rgb.extend_from_slice(row),
                        ColorType::Rgba => rgb.extend(row.chunks_exact(4).flat_map(|p| [p[0], p[1], p[2]])),
                        ColorType::GrayscaleAlpha => rgb.extend(row.chunks_exact(2).flat_map(|p| [p[0]; 3])),
                        ColorType::Grayscale | ColorType::Indexed => rgb.extend(row.iter().flat_map(|&p| [p; 3])),
                    }
                    take(&rgb)
                })
            }
        }
    }
}

/// Begins a file again that is no plain RGB image.
fn open_any(path: &Path, stream: Stream, output: Transformations) -> Result<png::Reader<BufReader<File>>> {
    let mut decoder = png::Decoder::new(stream.into_file(path)?);
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    decoder.set_transformations(output);
    let reader = decoder.read_info().map_err(|error| decoding(path, error))?;
    check_still(path, reader.info())?;
    // The png crate takes it apart three by three, and panics at what is left.
    if let Some(palette) = &reader.info().palette
        && palette.len() % 3 != 0
    {
        return Err(Error::file(path, format!("a palette of {} bytes, expected three for each colour", palette.len())));
    }
    Ok(reader)
}

/// The first frame of an animation may be smaller than the image.
fn check_still(path: &Path, info: &png::Info<'_>) -> Result<()> {
    match info.animation_control {
        Some(_) => Err(Error::file(path, "an animated PNG, expected a still image")),
        None => Ok(()),
    }
}

/// Calls `take` with `count` rows from row `top` on; the last row of the image is followed by a check of the file's end.
fn for_each_row(
    path: &Path,
    mut reader: png::Reader<BufReader<File>>,
    top: usize,
    count: usize,
    mut take: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let decoding = |error| decoding(path, error);
    if reader.info().interlaced {
        let bytes = reader.output_buffer_size().ok_or_else(|| decoding(DecodingError::LimitsExceeded))?;
        let mut frame = zeroed(path, bytes)?;
        let output = reader.next_frame(&mut frame).map_err(decoding)?;
        frame.chunks_exact(output.line_size).skip(top).take(count).try_for_each(take)?;
    } else {
        for row in 0..top + count {
            let got = reader.next_row().map_err(decoding)?;
            let got = got.ok_or_else(|| Error::file(path, "ends before its last row"))?;
            if row >= top {
                take(got.data())?;
            }
        }
    }
    if top + count == reader.info().height as usize {
        reader.finish().map_err(decoding)?;
    }
    Ok(())
}

/// Reads an image as (H, W, 3) RGB, see [`ImageReader::read`].
pub fn read_image(path: &Path, max_pixels: u64) -> Result<Array3<u8>> {
    ImageReader::open(path, max_pixels)?.read()
}

/// Reads a target as (H, W) class indices.
///
/// Gray: the values. Palette: the indices, not the colours. RGB with three equal channels (re-saved targets): that value.
/// 1, 2 and 4 bits are not scaled. A value that is no class index, nor [`IGNORE_INDEX`], is an error.
pub fn read_target(path: &Path, max_pixels: u64) -> Result<Array2<u8>> {
    guarded(path, || read_indices(path, max_pixels))
}

fn read_indices(path: &Path, max_pixels: u64) -> Result<Array2<u8>> {
    let stream = Stream::open(path)?;
    let (height, width) = check_pixels(path, stream.info().height, stream.info().width, max_pixels)?;
    let reader = open_any(path, stream, Transformations::IDENTITY)?;
    let (color, depth) = reader.output_color_type();
    let channels = color.samples();
    let mut mask = reserve(path, height, width)?;
    for_each_row(path, reader, 0, height, |row| {
        let start = mask.len();
        match (color, depth) {
            (_, BitDepth::Sixteen) => {
                let problem = format!("{color:?} with 16 bits, expected a target of at most 8 bits a channel");
                return Err(Error::file(path, problem));
            }
            (ColorType::Grayscale | ColorType::Indexed, _) => unpack(row, depth as usize, width, &mut mask),
            (ColorType::Rgb | ColorType::Rgba | ColorType::GrayscaleAlpha, _) => {
                let colors = if color == ColorType::GrayscaleAlpha { 1 } else { 3 };
                for (x, pixel) in row.chunks_exact(channels).enumerate() {
                    if pixel[1..colors].iter().any(|&channel| channel != pixel[0]) {
                        let y = start / width;
                        let problem = format!(
                            "pixel ({y}, {x}) is {:?}, expected three equal channels: this is a picture of a target",
                            &pixel[..colors]
                        );
                        return Err(Error::file(path, problem));
                    }
                    mask.push(pixel[0]);
                }
            }
        }
        let wrong = |&v: &u8| usize::from(v) >= CLASS_NAMES.len() && v != IGNORE_INDEX;
        match mask[start..].iter().position(wrong) {
            None => Ok(()),
            Some(x) => {
                let (y, value) = (start / width, mask[start + x]);
                Err(Error::file(path, format!("pixel ({y}, {x}) is {value}, expected a class index 0 to 4, or 255")))
            }
        }
    })?;
    Ok(Array2::from_shape_vec((height, width), mask).expect("every row has been pushed"))
}

/// Appends a row of `depth`-bit values, the first in the highest bits.
fn unpack(row: &[u8], depth: usize, width: usize, values: &mut Vec<u8>) {
    if depth == 8 {
        return values.extend_from_slice(row);
    }
    let in_byte = 8 / depth;
    let bits = (1u8 << depth) - 1;
    values.extend((0..width).map(|x| (row[x / in_byte] >> (8 - depth - x % in_byte * depth)) & bits));
}

/// Writes (H, W, 3) RGB as an 8-bit PNG; the file appears when it is whole.
pub fn write_image(path: &Path, pixels: ArrayView3<'_, u8>) -> Result<()> {
    let (height, width, channels) = pixels.dim();
    assert_eq!(channels, 3, "an RGB image has 3 channels");
    encode(path, height, width, ColorType::Rgb, &pixels.as_standard_layout().into_owned().into_raw_vec_and_offset().0)
}

/// Writes (H, W) class indices as an 8-bit gray PNG, as xBD's targets are; the file appears when it is whole.
pub fn write_target(path: &Path, mask: ArrayView2<'_, u8>) -> Result<()> {
    let (height, width) = mask.dim();
    encode(path, height, width, ColorType::Grayscale, &mask.iter().copied().collect::<Vec<_>>())
}

fn encode(path: &Path, height: usize, width: usize, color: ColorType, pixels: &[u8]) -> Result<()> {
    let mut bytes = Vec::new();
    let size = |length: usize| u32::try_from(length).map_err(|_| Error::file(path, "too large for a PNG"));
    let mut encoder = png::Encoder::new(&mut bytes, size(width)?, size(height)?);
    encoder.set_color(color);
    encoder.set_depth(BitDepth::Eight);
    encoder.set_compression(Compression::Fast);
    encoder.set_filter(if color == ColorType::Rgb { Filter::Adaptive } else { Filter::NoFilter });
    let encoded = encoder.write_header().and_then(|mut writer| {
        writer.write_image_data(pixels)?;
        writer.finish()
    });
    encoded.map_err(|error| Error::file(path, format!("cannot be encoded: {error}")))?;
    write_whole(path, &bytes)
}

/// (height, width) where they are within the limit.
pub(super) fn check_pixels(path: &Path, height: u32, width: u32, max_pixels: u64) -> Result<(usize, usize)> {
    let pixels = u64::from(height) * u64::from(width);
    if pixels > max_pixels {
        let problem = format!("{width} x {height} = {pixels} pixels, more than max_pixels = {max_pixels}");
        return Err(Error::file(path, problem));
    }
    if pixels == 0 {
        return Err(Error::file(path, format!("{width} x {height} pixels, expected at least 1 x 1")));
    }
    Ok((height as usize, width as usize))
}

fn decoding(path: &Path, error: DecodingError) -> Error {
    match error {
        DecodingError::IoError(source) if source.kind() == ErrorKind::UnexpectedEof => {
            Error::file(path, "not a whole PNG: the file ends too early")
        }
        DecodingError::IoError(source) => Error::io(path, source),
        other => Error::file(path, format!("not a valid PNG: {other}")),
    }
}
