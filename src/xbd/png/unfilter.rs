//! PNG's row filters undone for RGB of 8 bits, four rows at a time.
//!
//! A pixel waits for the one on its left, so one row alone is a chain of waits. Four rows at once, each a pixel behind the
//! row above it, are four chains; they share one SSE2 register, which every x86-64 machine has. Elsewhere, and for the rows
//! left over, rows are undone one after the other. What lies right of the last wanted column is never looked at.

use std::path::Path;

use crate::xbd::memory::zeroed;

/// Rows that are undone together.
pub(super) const ROWS: usize = 4;

/// Bytes of a pixel.
const BYTES: usize = 3;

/// The largest filter type there is; all are in [`undo_row`].
const LAST_FILTER: u8 = 4;

/// Undoes the filters of consecutive rows, from the first row of the image on.
pub(super) struct Unfilter {
    /// The row above the next.
    above: Vec<u8>,
    /// The rows of the last call. Each is followed by a byte, since pixels are written as words of four.
    rows: Vec<u8>,
    /// Wanted bytes of a row.
    length: usize,
}

impl Unfilter {
    /// For rows of which the first `pixels` pixels are wanted; `path` is for the error.
    pub fn new(path: &Path, pixels: usize) -> crate::Result<Self> {
        let length = BYTES * pixels;
        Ok(Self { above: zeroed(path, length + 1)?, rows: zeroed(path, ROWS * (length + 1))?, length })
    }

    /// Undoes `count` rows (1 to [`ROWS`]) that begin `stride` bytes apart, each with its filter type.
    ///
    /// An unknown filter type is the error.
    pub fn undo(&mut self, filtered: &[u8], stride: usize, count: usize) -> Result<impl Iterator<Item = &[u8]>, u8> {
        let Self { above, rows, length } = self;
        let length = *length;
        let unknown = (0..count).map(|row| filtered[row * stride]).find(|&filter| filter > LAST_FILTER);
        if let Some(filter) = unknown {
            return Err(filter);
        }
        if !undo_together(filtered, stride, count, above, rows, length) {
            for row in 0..count {
                let (done, rest) = rows.split_at_mut(row * (length + 1));
                let above = done.rchunks_exact(length + 1).next().unwrap_or(above);
                let filtered = &filtered[row * stride..][..1 + length];
                undo_row(filtered[0], &above[..length], &filtered[1..], &mut rest[..length]);
            }
        }
        above.copy_from_slice(&rows[(count - 1) * (length + 1)..][..length + 1]);
        Ok(rows.chunks_exact(length + 1).take(count).map(move |row| &row[..length]))
    }
}

/// One row: what each filter predicts, added to what is stored.
fn undo_row(filter: u8, above: &[u8], filtered: &[u8], row: &mut [u8]) {
    for x in 0..row.len() {
        let left = |of: &[u8]| if x < BYTES { 0 } else { of[x - BYTES] };
        let predicted = match filter {
            0 => 0,
            1 => left(row),
            2 => above[x],
            3 => u8::midpoint(left(row), above[x]),
            _ => paeth(left(row), above[x], left(above)),
        };
        row[x] = filtered[x].wrapping_add(predicted);
    }
}

/// Of left, above and above left, the nearest to left + above - above left; the first of equals.
fn paeth(left: u8, above: u8, above_left: u8) -> u8 {
    let [a, b, c] = [left, above, above_left].map(i16::from);
    let distance = [(b - c).abs(), (a - c).abs(), (a + b - 2 * c).abs()];
    if distance[0] <= distance[1] && distance[0] <= distance[2] {
        left
    } else if distance[1] <= distance[2] {
        above
    } else {
        above_left
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn undo_together(_: &[u8], _: usize, _: usize, _: &[u8], _: &mut [u8], _: usize) -> bool {
    false
}

/// Undoes a whole block of rows at once; false where these are fewer, or end with the buffer.
#[cfg(target_arch = "x86_64")]
fn undo_together(filtered: &[u8], stride: usize, count: usize, above: &[u8], rows: &mut [u8], length: usize) -> bool {
    // A pixel is read with the byte behind it.
    if count < ROWS || filtered.len() < (ROWS - 1) * stride + 1 + length + 1 {
        return false;
    }
    let filters = std::array::from_fn(|row| filtered[row * stride]);
    let filtered = std::array::from_fn(|row| &filtered[row * stride + 1..][..length + 1]);
    let mut rows = rows.chunks_exact_mut(length + 1);
    let rows = std::array::from_fn(|_| rows.next().expect("made with this many rows"));
    // SAFETY: SSE2 is part of x86-64.
    unsafe { sse2::undo(filters, filtered, above, rows) };
    true
}

#[cfg(target_arch = "x86_64")]
mod sse2 {
    //! A register holds a pixel (and the byte behind it, which nobody looks at) of each row, the topmost first.

    use std::arch::x86_64::*;

    use super::{BYTES, ROWS};

    /// Steps that share one check of bounds.
    const STEPS: usize = 4;

    /// The bytes that [`STEPS`] pixels are read and written with.
    const BLOCK: usize = BYTES * STEPS + 1;

    /// Undoes four rows; all slices are pixels and one byte, of one length.
    #[target_feature(enable = "sse2")]
    pub fn undo(filters: [u8; ROWS], filtered: [&[u8]; ROWS], above: &[u8], rows: [&mut [u8]; ROWS]) {
        match filters {
            [3, 3, 3, 3] => undo_with(filtered, above, rows, |a, b, _| average(a, b)),
            [4, 4, 4, 4] => undo_with(filtered, above, rows, |a, b, c| paeth(a, b, c)),
            _ => {
                let rows_with = |filter| {
                    let [first, second, third, fourth] = filters.map(|of| if of == filter { -1 } else { 0 });
                    _mm_setr_epi32(first, second, third, fourth)
                };
                let [left, up, mean, nearest] = [rows_with(1), rows_with(2), rows_with(3), rows_with(4)];
                undo_with(filtered, above, rows, |a, b, c| {
                    let copied = _mm_or_si128(_mm_and_si128(left, a), _mm_and_si128(up, b));
                    let mean = _mm_and_si128(mean, average(a, b));
                    let nearest = _mm_and_si128(nearest, paeth(a, b, c));
                    _mm_or_si128(copied, _mm_or_si128(mean, nearest))
                });
            }
        }
    }

    /// In step t, row k is at its pixel t - k. The pixel above that was undone in step t - 1, in the lane of row k - 1.
    ///
    /// Plain loops over arrays: closures for `map` and `from_fn` stayed calls, one for each lane.
    #[inline]
    #[target_feature(enable = "sse2")]
    fn undo_with(
        filtered: [&[u8]; ROWS],
        above: &[u8],
        rows: [&mut [u8]; ROWS],
        predict: impl Fn(__m128i, __m128i, __m128i) -> __m128i,
    ) {
        let pixels = above.len() / BYTES;
        let mut state = State { left: _mm_setzero_si128(), above_left: _mm_setzero_si128() };
        let mut t = 0;
        while t < pixels + ROWS - 1 {
            if t >= ROWS - 1 && t + STEPS <= pixels {
                let mut stored = [[0u8; BLOCK]; ROWS];
                for row in 0..ROWS {
                    stored[row] = *chunk(filtered[row], t - row);
                }
                let above = *chunk::<BLOCK>(above, t);
                let mut undone = [[0u8; BLOCK]; ROWS];
                for x in 0..STEPS {
                    let mut words = [0; ROWS];
                    for row in 0..ROWS {
                        words[row] = word(&stored[row], x);
                    }
                    let words = state.step(words, word(&above, x), &predict);
                    for row in 0..ROWS {
                        set_word(&mut undone[row], x, words[row]);
                    }
                }
                for row in 0..ROWS {
                    *chunk_mut(rows[row], t - row) = undone[row];
                }
                t += STEPS;
            } else {
                // Rows that are not at a pixel read 0, which is what counts as left of their first one.
                let at_pixel = |row: usize| row <= t && t - row < pixels;
                let mut words = [0; ROWS];
                for row in 0..ROWS {
                    words[row] = if at_pixel(row) { word(filtered[row], t - row) } else { 0 };
                }
                let words = state.step(words, if at_pixel(0) { word(above, t) } else { 0 }, &predict);
                for row in 0..ROWS {
                    if at_pixel(row) {
                        set_word(rows[row], t - row, words[row]);
                    }
                }
                t += 1;
            }
        }
    }

    /// What the step before has left: each row's pixel, and the one above that.
    struct State {
        left: __m128i,
        above_left: __m128i,
    }

    impl State {
        /// Undoes one pixel of each row, given as stored, and the pixel above that of the first row.
        #[inline]
        #[target_feature(enable = "sse2")]
        fn step(
            &mut self,
            stored: [i32; ROWS],
            above: i32,
            predict: &impl Fn(__m128i, __m128i, __m128i) -> __m128i,
        ) -> [i32; ROWS] {
            let stored = _mm_setr_epi32(stored[0], stored[1], stored[2], stored[3]);
            let above = _mm_or_si128(_mm_slli_si128::<4>(self.left), _mm_cvtsi32_si128(above));
            let undone = _mm_add_epi8(predict(self.left, above, self.above_left), stored);
            *self = Self { left: undone, above_left: above };
            [
                _mm_cvtsi128_si32(undone),
                _mm_cvtsi128_si32(_mm_srli_si128::<4>(undone)),
                _mm_cvtsi128_si32(_mm_srli_si128::<8>(undone)),
                _mm_cvtsi128_si32(_mm_srli_si128::<12>(undone)),
            ]
        }
    }

    /// The bytes from a pixel on.
    #[inline(always)]
    fn chunk<const LENGTH: usize>(row: &[u8], pixel: usize) -> &[u8; LENGTH] {
        row[BYTES * pixel..].first_chunk().expect("inside the row")
    }

    /// As [`chunk`], to be written.
    #[inline(always)]
    fn chunk_mut<const LENGTH: usize>(row: &mut [u8], pixel: usize) -> &mut [u8; LENGTH] {
        row[BYTES * pixel..].first_chunk_mut().expect("inside the row")
    }

    /// A pixel and the byte behind it.
    #[inline(always)]
    fn word(row: &[u8], pixel: usize) -> i32 {
        i32::from_le_bytes(*chunk(row, pixel))
    }

    /// Sets a pixel and the byte behind it.
    #[inline(always)]
    fn set_word(row: &mut [u8], pixel: usize, word: i32) {
        *chunk_mut(row, pixel) = word.to_le_bytes();
    }

    /// (a + b) / 2, rounded down.
    #[inline]
    #[target_feature(enable = "sse2")]
    fn average(a: __m128i, b: __m128i) -> __m128i {
        let odd = _mm_and_si128(_mm_xor_si128(a, b), _mm_set1_epi8(1));
        _mm_sub_epi8(_mm_avg_epu8(a, b), odd)
    }

    /// As [`super::paeth`], in bytes.
    ///
    /// The distances from a and b are |b - c| and |a - c|. That from c is their difference where c lies between a and b;
    /// where it does not, it is their sum, which is the largest of the three, and so is 255.
    #[inline]
    #[target_feature(enable = "sse2")]
    fn paeth(a: __m128i, b: __m128i, c: __m128i) -> __m128i {
        let (low_a, low_b) = (_mm_min_epu8(a, c), _mm_min_epu8(b, c));
        let from_a = _mm_sub_epi8(_mm_max_epu8(b, c), low_b);
        let from_b = _mm_sub_epi8(_mm_max_epu8(a, c), low_a);
        let nearer = _mm_min_epu8(from_a, from_b);
        let difference = _mm_sub_epi8(_mm_max_epu8(from_a, from_b), nearer);
        // a <= c, but not c <= b, or the other way round.
        let outside = _mm_xor_si128(_mm_cmpeq_epi8(low_a, a), _mm_cmpeq_epi8(low_b, c));
        let nearest = _mm_min_epu8(nearer, _mm_or_si128(difference, outside));
        let is_b = _mm_cmpeq_epi8(nearest, from_b);
        let other = _mm_or_si128(_mm_and_si128(is_b, b), _mm_andnot_si128(is_b, c));
        let is_a = _mm_cmpeq_epi8(nearest, from_a);
        _mm_or_si128(_mm_and_si128(is_a, a), _mm_andnot_si128(is_a, other))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Rows of filtered bytes as they lie in a stream: a filter type, then the row.
    fn stream(pixels: usize, filters: &[u8], seed: u64) -> Vec<u8> {
        let mut random = crate::xbd::random::SplitMix64::new(&[seed]);
        filters
            .iter()
            .flat_map(|&filter| [vec![filter], (0..BYTES * pixels).map(|_| random.below(256) as u8).collect()].concat())
            .collect()
    }

    /// In calls of at most `most` rows, of which the first `wanted` pixels.
    fn undone(stream: &[u8], pixels: usize, wanted: usize, most: usize) -> Vec<Vec<u8>> {
        let stride = 1 + BYTES * pixels;
        let mut unfilter = Unfilter::new(Path::new(""), wanted).unwrap();
        let mut rows = vec![];
        let mut at = 0;
        while at < stream.len() {
            let count = most.min((stream.len() - at) / stride);
            rows.extend(unfilter.undo(&stream[at..], stride, count).unwrap().map(<[u8]>::to_vec));
            at += count * stride;
        }
        rows
    }

    proptest! {
        #[test]
        fn rows_together_are_rows_alone(
            pixels in 1..40usize,
            share in 0.0..1.0f64,
            filters in prop::collection::vec(0..=LAST_FILTER, 1..30),
            one_filter in prop::option::of(0..=LAST_FILTER),
            seed: u64,
        ) {
            let filters = filters.iter().map(|&filter| one_filter.unwrap_or(filter)).collect::<Vec<_>>();
            let mut stream = stream(pixels, &filters, seed);
            let alone = undone(&stream, pixels, pixels, 1);
            prop_assert_eq!(&undone(&stream, pixels, pixels, ROWS), &alone);
            let wanted = 1 + (share * (pixels - 1) as f64) as usize;
            let narrow = alone.iter().map(|row| row[..BYTES * wanted].to_vec()).collect::<Vec<_>>();
            prop_assert_eq!(&undone(&stream, pixels, wanted, ROWS), &narrow);
            // As the end of a longer buffer.
            let length = stream.len();
            stream.push(7);
            let mut unfilter = Unfilter::new(Path::new(""), pixels).unwrap();
            let count = filters.len().min(ROWS);
            let first = unfilter.undo(&stream[..], length / filters.len(), count).unwrap().map(<[u8]>::to_vec);
            prop_assert_eq!(&first.collect::<Vec<_>>()[..], &alone[..count]);
        }
    }

    #[test]
    fn an_unknown_filter_is_the_error() {
        for place in 0..ROWS {
            let mut filters = [1; ROWS];
            filters[place] = 5;
            let stream = stream(3, &filters, 0);
            assert_eq!(Unfilter::new(Path::new(""), 3).unwrap().undo(&stream, 10, ROWS).err(), Some(5));
        }
    }

    #[test]
    fn paeth_takes_the_first_of_equals() {
        for (left, above, above_left, expected) in [
            (1, 2, 0, 2),
            (5, 5, 9, 5),
            (10, 20, 15, 15),
            (10, 20, 12, 20),
            (0, 255, 128, 128),
            (255, 0, 255, 0),
            (2, 3, 1, 3),
            (3, 1, 2, 2),
        ] {
            assert_eq!(paeth(left, above, above_left), expected);
        }
    }
}
