//! RGB of 8 bits, not interlaced, which is what xBD's images are: the `png` crate reads the chunks and inflates them, and the
//! row filters are undone here, four rows at a time and only as far to the right as the window reaches.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Seek};
use std::path::Path;

use png::chunk::{IDAT, IEND};
use png::{BitDepth, ColorType, Decoded, DecodingError, Info, StreamingDecoder, UnfilterBuf, UnfilterRegion};

use super::decoding;
use super::unfilter::{ROWS, Unfilter};
use crate::xbd::memory::zeroed;
use crate::{Error, Result};

/// Bytes that the inflater may refer back to.
const LOOKBACK: usize = 32 << 10;

/// Room for what the inflater writes before the bytes that are still needed are moved to the front.
const GROWTH: usize = 256 << 10;

/// Other chunks than the image's are kept in memory: what they may have of it, as in [`png::Limits`].
const MAX_CHUNK_BYTES: u32 = 64 << 20;

/// The file and what has been read of it.
pub(super) struct Stream {
    file: BufReader<File>,
    decoder: StreamingDecoder,
    /// The image's data have all been read.
    ended: bool,
}

impl Stream {
    /// Reads the header.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|source| Error::io(path, source))?;
        let mut decoder = StreamingDecoder::new();
        decoder.set_ignore_text_chunk(true);
        decoder.set_ignore_iccp_chunk(true);
        let mut stream = Self { file: BufReader::with_capacity(1 << 16, file), decoder, ended: false };
        while stream.decoder.info().is_none() {
            stream.advance(path, None)?;
        }
        Ok(stream)
    }

    /// The header, and what other chunks have been read.
    pub fn info(&self) -> &Info<'static> {
        self.decoder.info().expect("read when it was opened")
    }

    /// Whether it is an image of the kind that [`Self::for_each_row`] reads.
    pub fn is_plain_rgb(&self) -> bool {
        let info = self.info();
        info.color_type == ColorType::Rgb && info.bit_depth == BitDepth::Eight && !info.interlaced
    }

    /// The file, at its beginning.
    pub fn into_file(mut self, path: &Path) -> Result<BufReader<File>> {
        self.file.rewind().map_err(|source| Error::io(path, source))?;
        Ok(self.file)
    }

    /// Reads what comes before the image's data.
    pub fn read_until_data(&mut self, path: &Path) -> Result<()> {
        loop {
            match self.advance(path, None)? {
                Decoded::ChunkBegin(_, IDAT) => return Ok(()),
                Decoded::ChunkComplete(IEND) => return Err(Error::file(path, "not a valid PNG: it has no image data")),
                _ => {}
            }
        }
    }

    /// Calls `take` with the first `columns` pixels of `count` rows from row `top` on, once [`Self::read_until_data`] has been.
    pub fn for_each_row(
        &mut self,
        path: &Path,
        columns: usize,
        top: usize,
        count: usize,
        mut take: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let stride = 1 + 3 * self.info().width as usize;
        let mut unfilter = Unfilter::new(path, columns)?;
        let mut buffer = zeroed(path, LOOKBACK + GROWTH + ROWS.min(top + count) * stride)?;
        let mut region = UnfilterRegion::default();
        // Where the next row begins in the buffer.
        let mut start = 0;
        let mut row = 0;
        while row < top + count {
            let block = ROWS.min(top + count - row);
            if region.filled - start >= block * stride {
                let rows = unfilter.undo(&buffer[start..], stride, block);
                let rows = rows.map_err(|filter| {
                    Error::file(path, format!("not a valid PNG: filter type {filter}, expected 0 to 4"))
                })?;
                rows.skip(top.saturating_sub(row)).try_for_each(&mut take)?;
                start += block * stride;
                row += block;
            } else if self.ended {
                return Err(Error::file(path, "ends before its last row"));
            } else {
                if buffer.len() - region.filled < GROWTH / 16 {
                    let keep = region.available.min(start);
                    buffer.copy_within(keep..region.filled, 0);
                    start -= keep;
                    region.available -= keep;
                    region.filled -= keep;
                }
                self.advance(path, Some(&mut region.as_buf(&mut buffer)))?;
            }
        }
        Ok(())
    }

    /// Checks the file to its end.
    pub fn finish(&mut self, path: &Path) -> Result<()> {
        while !matches!(self.advance(path, None)?, Decoded::ChunkComplete(IEND)) {}
        Ok(())
    }

    fn advance(&mut self, path: &Path, data: Option<&mut UnfilterBuf<'_>>) -> Result<Decoded> {
        let next = || {
            let bytes = self.file.fill_buf()?;
            if bytes.is_empty() {
                return Err(DecodingError::IoError(ErrorKind::UnexpectedEof.into()));
            }
            let (consumed, decoded) = self.decoder.update(bytes, data)?;
            self.file.consume(consumed);
            Ok(decoded)
        };
        let decoded = next().map_err(|error| decoding(path, error))?;
        match decoded {
            Decoded::ImageDataFlushed => self.ended = true,
            Decoded::ChunkBegin(length, kind) if kind != IDAT && length > MAX_CHUNK_BYTES => {
                let name = kind.0.escape_ascii();
                let problem = format!("a chunk {name} of {length} bytes, expected at most {MAX_CHUNK_BYTES}");
                return Err(Error::file(path, problem));
            }
            _ => {}
        }
        Ok(decoded)
    }
}
