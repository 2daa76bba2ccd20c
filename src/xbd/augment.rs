//! Random changes of a sample: turns, scale, shift, light, and a pre image that does not lie exactly on the post image.

use ndarray::{Array2, Array3, ArrayView3, Axis};

use super::class::IGNORE_INDEX;
use super::random::SplitMix64;
use super::window::Window;

/// What may be changed, how far, and how often; nothing by default.
///
/// Turns, scale and shift are the same for pre, post and mask. Light is drawn for each image on its own, since pre and post are
/// taken on different days; it never reaches the mask.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Augment {
    /// Probability of one of the eight flips and quarter turns of the square (all equally likely, the identity too).
    pub flip_rotate: f64,
    /// Scale about the crop's centre by exp(u), u uniform in ln(1 - range) to -ln(1 - range): 0.2 gives 0.8 to 1.25.
    pub scale: Chance,
    /// Shift along each axis by up to so many whole pixels.
    pub shift: Chance,
    /// Brightness factor: 1 - range to 1 + range.
    pub brightness: Chance,
    /// Contrast factor about the mean gray: 1 - range to 1 + range.
    pub contrast: Chance,
    /// Saturation factor about the pixel's gray: 1 - range to 1 + range.
    pub saturation: Chance,
    /// Turn about the gray axis, -range to range, in full turns.
    pub hue: Chance,
    /// Shift of the pre image against post and mask along each axis by up to so many whole pixels.
    pub registration: Chance,
}

/// How far, and how often.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Chance {
    /// The largest change.
    pub range: f64,
    /// The probability of any.
    pub probability: f64,
}

impl Chance {
    /// Uniform in -range to range; 0 where there is to be no change.
    ///
    /// Both numbers are drawn in any case, so that one option does not move the draws of another.
    fn draw(&self, random: &mut SplitMix64) -> f64 {
        let change = random.between(-self.range, self.range);
        if random.unit() < self.probability { change } else { 0.0 }
    }

    /// As [`Self::draw`], rows and columns, each in whole pixels.
    fn draw_shift(&self, random: &mut SplitMix64) -> [f64; 2] {
        let [rows, columns] = [0, 1].map(|_| random.below(2 * self.range as usize + 1) as f64 - self.range.floor());
        if random.unit() < self.probability { [rows, columns] } else { [0.0, 0.0] }
    }
}

/// One draw of an [`Augment`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Drawn {
    pub symmetry: Symmetry,
    /// Where post and mask are taken from.
    pub post: Rect,
    /// Where pre is taken from.
    pub pre: Rect,
    pub pre_color: Option<Color>,
    pub post_color: Option<Color>,
}

impl Augment {
    /// Draws the changes of a sample that is cropped to `window`.
    pub(super) fn draw(&self, window: &Window, random: &mut SplitMix64) -> Drawn {
        let symmetry = Symmetry::draw(window, random);
        let symmetry = if random.unit() < self.flip_rotate { symmetry } else { Symmetry::IDENTITY };
        let logarithm = Chance { range: -(1.0 - self.scale.range).ln(), ..self.scale };
        let scaled = Rect::of(window).scaled(logarithm.draw(random).exp());
        let post = scaled.shifted(self.shift.draw_shift(random));
        let pre = post.shifted(self.registration.draw_shift(random));
        Drawn { symmetry, post, pre, pre_color: self.draw_color(random), post_color: self.draw_color(random) }
    }

    fn draw_color(&self, random: &mut SplitMix64) -> Option<Color> {
        let drawn = [self.brightness, self.contrast, self.saturation, self.hue].map(|chance| chance.draw(random));
        let [brightness, contrast, saturation, turn] = drawn;
        let changed = drawn.iter().any(|&change| change != 0.0);
        changed.then(|| Color::new(1.0 + brightness, 1.0 + contrast, 1.0 + saturation, turn))
    }
}

/// One of the eight symmetries of the square: transpose first, then flip.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Symmetry {
    transpose: bool,
    flip_rows: bool,
    flip_columns: bool,
}

impl Symmetry {
    const IDENTITY: Self = Self { transpose: false, flip_rows: false, flip_columns: false };

    /// Any of the eight, equally likely; of a window that is not square, the four that keep its shape.
    fn draw(window: &Window, random: &mut SplitMix64) -> Self {
        let bits = random.below(8);
        let transpose = bits & 4 != 0 && window.height == window.width;
        Self { transpose, flip_rows: bits & 1 != 0, flip_columns: bits & 2 != 0 }
    }

    pub fn is_identity(self) -> bool {
        self == Self::IDENTITY
    }

    /// A (C, H, W) view, turned.
    pub fn apply<T>(self, mut view: ArrayView3<'_, T>) -> ArrayView3<'_, T> {
        if self.transpose {
            view.swap_axes(1, 2);
        }
        if self.flip_rows {
            view.invert_axis(Axis(1));
        }
        if self.flip_columns {
            view.invert_axis(Axis(2));
        }
        view
    }
}

/// A part of the plane in pixels: the pixel in row y covers y to y + 1. It may reach beyond the tile.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rect {
    top: f64,
    left: f64,
    height: f64,
    width: f64,
}

impl Rect {
    fn of(window: &Window) -> Self {
        let [top, left, height, width] = [window.top, window.left, window.height, window.width].map(|at| at as f64);
        Self { top, left, height, width }
    }

    /// What shows `factor` times as large in an output of the same size.
    fn scaled(self, factor: f64) -> Self {
        let (height, width) = (self.height / factor, self.width / factor);
        let (top, left) = (self.top + (self.height - height) / 2.0, self.left + (self.width - width) / 2.0);
        Self { top, left, height, width }
    }

    fn shifted(self, [rows, columns]: [f64; 2]) -> Self {
        Self { top: self.top + rows, left: self.left + columns, ..self }
    }

    /// The tile's pixels that [`Rect::sample`] needs; possibly none.
    pub fn bounds(&self, (height, width): (usize, usize), output: (usize, usize)) -> Window {
        // Unless pixels fall on pixels, bilinear sampling reaches up to one beyond the edge.
        let span = |start: f64, length: f64, size: usize, output: usize| {
            let reach = if start.fract() == 0.0 && length == output as f64 { 0.0 } else { 1.0 };
            let low = (start - reach).floor().clamp(0.0, size as f64) as usize;
            let high = (start + length + reach).ceil().clamp(low as f64, size as f64) as usize;
            (low, high - low)
        };
        let (top, height) = span(self.top, self.height, height, output.0);
        let (left, width) = span(self.left, self.width, width, output.1);
        Window { top, left, height, width }
    }

    /// Whether the pixels of `bounds` are the `output` (height, width) as they are.
    pub fn is(&self, bounds: &Window, output: (usize, usize)) -> bool {
        *self == Self::of(bounds) && (bounds.height, bounds.width) == output
    }

    /// An image of `output` (height, width) from the pixels of `bounds`: bilinear, black outside the tile.
    pub fn sample(&self, pixels: Array3<u8>, bounds: Window, output: (usize, usize)) -> Array3<u8> {
        if self.is(&bounds, output) {
            return pixels;
        }
        let rows = taps(self.top, self.height, output.0, bounds.top, bounds.height);
        let columns = taps(self.left, self.width, output.1, bounds.left, bounds.width);
        let mut sampled = Array3::zeros((pixels.dim().0, output.0, output.1));
        let mut blended = vec![0.0f32; bounds.width];
        for (plane, mut sampled) in pixels.outer_iter().zip(sampled.outer_iter_mut()) {
            for (row, mut sampled) in rows.iter().zip(sampled.outer_iter_mut()) {
                let Some(row) = row else { continue };
                for ((blended, &low), &high) in blended.iter_mut().zip(plane.row(row.low)).zip(plane.row(row.high)) {
                    *blended = row.blend(f32::from(low), f32::from(high));
                }
                for (column, sampled) in columns.iter().zip(&mut sampled) {
                    if let Some(column) = column {
                        *sampled = column.blend(blended[column.low], blended[column.high]).round() as u8;
                    }
                }
            }
        }
        sampled
    }

    /// A mask of `output` (height, width) from the pixels of `bounds`: the nearest, [`IGNORE_INDEX`] outside the tile.
    pub fn sample_mask(&self, mask: Array2<u8>, bounds: Window, output: (usize, usize)) -> Array2<u8> {
        if self.is(&bounds, output) {
            return mask;
        }
        let nearest = |start: f64, length: f64, count: usize, first: usize, size: usize| -> Vec<Option<usize>> {
            let at = |index: usize| (start + (index as f64 + 0.5) * length / count as f64).floor() - first as f64;
            (0..count)
                .map(|index| Some(at(index)).filter(|at| (0.0..size as f64).contains(at)).map(|at| at as usize))
                .collect()
        };
        let rows = nearest(self.top, self.height, output.0, bounds.top, bounds.height);
        let columns = nearest(self.left, self.width, output.1, bounds.left, bounds.width);
        Array2::from_shape_fn(output, |(y, x)| match (rows[y], columns[x]) {
            (Some(y), Some(x)) => mask[[y, x]],
            _ => IGNORE_INDEX,
        })
    }
}

/// The two pixels that one output pixel lies between, along one axis of the window that was read.
struct Tap {
    low: usize,
    high: usize,
    /// How far towards `high`.
    fraction: f32,
}

impl Tap {
    fn blend(&self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.fraction
    }
}

/// Where `count` output pixels lie on `size` pixels that begin at `first`; none outside them.
fn taps(start: f64, length: f64, count: usize, first: usize, size: usize) -> Vec<Option<Tap>> {
    let tap = |index: usize| {
        // Pixel centres are at halves.
        let at = start + (index as f64 + 0.5) * length / count as f64 - 0.5 - first as f64;
        if size == 0 || at < -0.5 || at > size as f64 - 0.5 {
            return None;
        }
        let at = at.clamp(0.0, (size - 1) as f64);
        let low = at as usize;
        Some(Tap { low, high: (low + 1).min(size - 1), fraction: (at - low as f64) as f32 })
    };
    (0..count).map(tap).collect()
}

/// A change of light: out = matrix in + offset mean(gray), so that all four options cost one pass.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Color {
    matrix: [[f32; 3]; 3],
    /// What is added to each channel, times the image's mean gray.
    offset: f32,
}

/// Gray from red, green and blue, ITU-R BT.601.
const LUMA: [f32; 3] = [0.299, 0.587, 0.114];

impl Color {
    /// Brightness, then contrast about the mean gray, then saturation about the pixel's gray, then hue.
    fn new(brightness: f64, contrast: f64, saturation: f64, turn: f64) -> Self {
        // Rodrigues' rotation about (1, 1, 1), which keeps gray.
        let (sine, cosine) = (turn * std::f64::consts::TAU).sin_cos();
        let (third, side) = ((1.0 - cosine) / 3.0, sine / 3f64.sqrt());
        let hue = [
            [cosine + third, third - side, third + side],
            [third + side, cosine + third, third - side],
            [third - side, third + side, cosine + third],
        ];
        let saturate = |row: usize, column: usize| {
            (1.0 - saturation) * f64::from(LUMA[column]) + if row == column { saturation } else { 0.0 }
        };
        let matrix = [0, 1, 2].map(|row| {
            [0, 1, 2].map(|column| {
                let sum: f64 = (0..3).map(|inner| hue[row][inner] * saturate(inner, column)).sum();
                (sum * brightness * contrast) as f32
            })
        });
        // Saturation and hue keep gray, so the contrast's pivot passes through them.
        Self { matrix, offset: (brightness * (1.0 - contrast)) as f32 }
    }

    /// Changes a (3, H, W) image in place, rounding and clipping once.
    pub fn apply(&self, pixels: &mut Array3<u8>) {
        let area = pixels.len() / 3;
        let pixels = pixels.as_slice_mut().expect("images are read in standard layout");
        let (red, others) = pixels.split_at_mut(area);
        let (green, blue) = others.split_at_mut(area);
        let sum = |plane: &[u8]| plane.iter().map(|&value| u64::from(value)).sum::<u64>() as f64;
        let gray = [&*red, green, blue].iter().zip(LUMA).map(|(plane, part)| sum(plane) * f64::from(part)).sum::<f64>();
        let offset = self.offset * (gray / area.max(1) as f64) as f32;
        let mix = |row: [f32; 3], rgb: [f32; 3]| {
            // `as` clips to 0..=255.
            (row[0] * rgb[0] + row[1] * rgb[1] + row[2] * rgb[2] + offset + 0.5) as u8
        };
        for ((red, green), blue) in red.iter_mut().zip(green).zip(blue) {
            let rgb = [f32::from(*red), f32::from(*green), f32::from(*blue)];
            [*red, *green, *blue] = self.matrix.map(|row| mix(row, rgb));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TILE: (usize, usize) = (20, 24);

    fn pixel(y: usize, x: usize, channel: usize) -> u8 {
        (y * 9 + x * 3 + channel * 40) as u8
    }

    /// What a rectangle shows of a tile of [`TILE`] pixels.
    fn look(rect: Rect, output: (usize, usize)) -> (Array3<u8>, Array2<u8>) {
        let bounds = rect.bounds(TILE, output);
        let shape = (bounds.height, bounds.width);
        let image = Array3::from_shape_fn((3, shape.0, shape.1), |(channel, y, x)| {
            pixel(bounds.top + y, bounds.left + x, channel)
        });
        let mask = Array2::from_shape_fn(shape, |(y, x)| ((bounds.top + y + bounds.left + x) % 5) as u8);
        (rect.sample(image, bounds, output), rect.sample_mask(mask, bounds, output))
    }

    #[test]
    fn a_shift_moves_pixels_and_leaves_black_and_ignored_ones() {
        let window = Window { top: 2, left: 3, height: 8, width: 8 };
        for shift in [[0.0, 0.0], [5.0, -2.0], [-4.0, 13.0], [14.0, 0.0], [100.0, -100.0]] {
            let (image, mask) = look(Rect::of(&window).shifted(shift), (8, 8));
            for ((y, x), &value) in mask.indexed_iter() {
                let at = (y as i64 + 2 + shift[0] as i64, x as i64 + 3 + shift[1] as i64);
                let inside = (0..TILE.0 as i64).contains(&at.0) && (0..TILE.1 as i64).contains(&at.1);
                let expected = if inside { ((at.0 + at.1) % 5) as u8 } else { IGNORE_INDEX };
                assert_eq!(value, expected, "{shift:?} {y} {x}");
                let expected = if inside { pixel(at.0 as usize, at.1 as usize, 1) } else { 0 };
                assert_eq!(image[[1, y, x]], expected, "{shift:?} {y} {x}");
            }
        }
    }

    proptest! {
        #[test]
        fn a_scale_is_bilinear_for_images_and_nearest_for_masks(
            factor in 0.5f64..2.0, top in 0usize..12, left in 0usize..16, shift in prop::array::uniform2(-6i32..6)
        ) {
            let window = Window { top, left, height: 8, width: 8 };
            let rect = Rect::of(&window).scaled(factor).shifted(shift.map(f64::from));
            let (image, mask) = look(rect, (8, 8));
            for ((y, x), &value) in mask.indexed_iter() {
                // The centre of the output pixel, in the tile.
                let at = [(y, top, shift[0]), (x, left, shift[1])]
                    .map(|(i, start, shift)| start as f64 + 4.0 + (i as f64 + 0.5 - 4.0) / factor + f64::from(shift));
                let size = [TILE.0 as f64, TILE.1 as f64];
                let border = at.iter().zip(size).any(|(at, size)| at.abs() < 1e-9 || (at - size).abs() < 1e-9 || at.fract() < 1e-9);
                let inside = at.iter().zip(size).all(|(at, size)| (0.0..size).contains(at));
                let expected = if inside { ((at[0] as usize + at[1] as usize) % 5) as u8 } else { IGNORE_INDEX };
                prop_assert!(border || value == expected);
                let [(y0, y1, fy), (x0, x1, fx)] = [0, 1].map(|axis| {
                    let place = (at[axis] - 0.5).clamp(0.0, size[axis] - 1.0);
                    (place as usize, (place as usize + 1).min(size[axis] as usize - 1), place.fract())
                });
                let value = |y, x| f64::from(pixel(y, x, 2));
                let blend = (value(y0, x0) * (1.0 - fy) + value(y1, x0) * fy) * (1.0 - fx)
                    + (value(y0, x1) * (1.0 - fy) + value(y1, x1) * fy) * fx;
                let expected = if inside { blend } else { 0.0 };
                prop_assert!(border || (f64::from(image[[2, y, x]]) - expected).abs() < 0.51, "{} {expected}", image[[2, y, x]]);
            }
        }
    }

    fn colors(color: Color) -> [u8; 6] {
        let mut pixels = Array3::from_shape_vec((3, 1, 2), vec![100, 60, 50, 60, 30, 60]).unwrap();
        color.apply(&mut pixels);
        pixels.into_raw_vec_and_offset().0.try_into().unwrap()
    }

    #[test]
    fn each_kind_of_light_does_what_it_says() {
        assert_eq!(colors(Color::new(1.0, 1.0, 1.0, 0.0)), [100, 60, 50, 60, 30, 60]);
        assert_eq!(colors(Color::new(1.5, 1.0, 1.0, 0.0)), [150, 90, 75, 90, 45, 90]);
        // The grays are 62.67 and 60, their mean 61.335.
        assert_eq!(colors(Color::new(1.0, 0.5, 1.0, 0.0)), [81, 61, 56, 61, 46, 61]);
        assert_eq!(colors(Color::new(1.0, 1.0, 0.0, 0.0)), [63, 60, 63, 60, 63, 60]);
        // A third of a turn takes red to green to blue; gray stays.
        assert_eq!(colors(Color::new(1.0, 1.0, 1.0, 1.0 / 3.0)), [30, 60, 100, 60, 50, 60]);
        assert_eq!(colors(Color::new(3.0, 1.0, 1.0, 0.0)), [255, 180, 150, 180, 90, 180]);
    }

    #[test]
    fn probabilities_and_ranges_hold_and_options_do_not_move_each_other() {
        let window = Window { top: 0, left: 0, height: 16, width: 16 };
        let chance = |range, probability| Chance { range, probability };
        let all = Augment {
            flip_rotate: 0.5,
            scale: chance(0.2, 0.25),
            shift: chance(3.0, 0.5),
            brightness: chance(0.1, 0.75),
            registration: chance(2.0, 0.5),
            ..Augment::default()
        };
        let draw = |augment: Augment, key| augment.draw(&window, &mut SplitMix64::new(&[key]));
        let mut counts = [0; 5];
        for key in 0..4000 {
            let drawn = draw(all, key);
            let moved = [drawn.pre.top - drawn.post.top, drawn.pre.left - drawn.post.left];
            assert!(moved.iter().all(|by| by.abs() <= 2.0 && by.fract() == 0.0));
            let factor = 16.0 / drawn.post.height;
            assert!((0.8..=1.25).contains(&factor));
            for (count, holds) in counts.iter_mut().zip([
                drawn.symmetry != Symmetry::IDENTITY,
                factor != 1.0,
                drawn.pre_color.is_some(),
                drawn.post_color.is_some(),
                moved != [0.0; 2],
            ]) {
                *count += u32::from(holds);
            }
            assert_eq!(
                draw(Augment::default(), key),
                draw(Augment { scale: chance(0.2, 0.0), ..Augment::default() }, key)
            );
            let turned = draw(Augment { flip_rotate: 0.5, ..Augment::default() }, key);
            assert_eq!(turned.symmetry, drawn.symmetry);
            let shifted = draw(Augment { registration: all.registration, ..Augment::default() }, key);
            assert_eq!([shifted.pre.top, shifted.pre.left], moved);
        }
        // One of 8 turns and of 25 shifts is none.
        for (count, expected) in counts.iter().zip([1750u32, 1000, 3000, 3000, 1920]) {
            assert!(count.abs_diff(expected) < 130, "{counts:?}");
        }
    }
}
