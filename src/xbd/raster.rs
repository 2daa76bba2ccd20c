//! Polygons to pixels, exactly as the official xBD targets were drawn: OpenCV 4.6 `fillPoly` on rounded coordinates.
//!
//! 1. Every vertex is rounded to the nearest pixel, halves to the even one (numpy's `round`).
//! 2. Every edge is drawn as an 8-connected Bresenham line from left to right, its ends clipped to the image.
//! 3. The inside is filled even-odd over all rings of a polygon: at each row y the edges with y0 <= y < y1 are sorted by x
//!    (16.16 fixed point, the slope truncated and taken from the unclipped ends) and filled in pairs from ceil(left) to
//!    floor(right), both included.
//!
//! Pixel-centre rules (rasterio, shapely) give other masks: they differ from the official targets at every outline.

use std::convert::Infallible;

use ndarray::ArrayViewMut2;

use super::wkt::Polygon;

/// Bits after the point of an edge's x.
const FRACTION: u32 = 16;

/// A vertex on the pixel grid: x and y.
type Point = [i64; 2];

/// Draws polygons into masks; holds the edge lists so that a file of buildings allocates them once.
#[derive(Default)]
pub struct Rasterizer {
    edges: Vec<Edge>,
    active: Vec<Edge>,
}

/// The part of a polygon's outline between two vertices of different y.
#[derive(Clone, Copy)]
struct Edge {
    /// First row.
    y0: i64,
    /// The row after the last.
    y1: i64,
    /// x at the current row (at `y0` before it is active), 16.16 fixed point.
    x: i64,
    /// Change of x from one row to the next.
    slope: i64,
}

impl Rasterizer {
    /// Sets every pixel of `polygon`, its outline included, to `value`. What lies outside the mask is clipped.
    ///
    /// Coordinates must be finite and within [`super::wkt::MAX_COORDINATE`], as those from [`super::wkt::parse`] are.
    ///
    /// `between` is called before each edge is drawn and each row filled, and its error ends the drawing.
    pub fn fill<E>(
        &mut self,
        mask: &mut ArrayViewMut2<'_, u8>,
        polygon: &Polygon,
        value: u8,
        between: &mut impl FnMut() -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        self.edges.clear();
        for ring in &polygon.rings {
            let Some(last) = ring.last() else { continue };
            let mut from = round(last);
            for vertex in ring {
                let to = round(vertex);
                between()?;
                draw_line(mask, from, to, value);
                self.edges.extend(Edge::between(from, to));
                from = to;
            }
        }
        self.fill_inside(mask, value, between)
    }

    fn fill_inside<E>(
        &mut self,
        mask: &mut ArrayViewMut2<'_, u8>,
        value: u8,
        between: &mut impl FnMut() -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let (height, width) = (mask.nrows() as i64, mask.ncols() as i64);
        self.edges.sort_unstable_by_key(|edge| edge.y0);
        self.active.clear();
        let mut waiting = self.edges.iter().peekable();
        let first = waiting.peek().map_or(height, |edge| edge.y0.max(0));
        for y in first..height {
            between()?;
            self.active.retain(|edge| edge.y1 > y);
            while let Some(edge) = waiting.next_if(|edge| edge.y0 <= y) {
                if edge.y1 > y {
                    self.active.push(Edge { x: edge.x + edge.slope * (y - edge.y0), ..*edge });
                }
            }
            if self.active.is_empty() && waiting.peek().is_none() {
                break;
            }
            // Nearly in order from the row before, which this sort is quick on.
            self.active.sort_by_key(|edge| edge.x);
            let mut row = mask.row_mut(y as usize);
            for pair in self.active.chunks_exact(2) {
                let left = ((pair[0].x + (1 << FRACTION) - 1) >> FRACTION).max(0);
                let right = (pair[1].x >> FRACTION).min(width - 1);
                if left <= right {
                    row.slice_mut(ndarray::s![left as usize..=right as usize]).fill(value);
                }
            }
            for edge in &mut self.active {
                edge.x += edge.slope;
            }
        }
        Ok(())
    }

    /// As [`Self::fill`], to its end.
    pub fn fill_all(&mut self, mask: &mut ArrayViewMut2<'_, u8>, polygon: &Polygon, value: u8) {
        let Ok(()) = self.fill::<Infallible>(mask, polygon, value, &mut || Ok(()));
    }
}

impl Edge {
    /// The edge between two vertices; none where it is horizontal.
    fn between(a: Point, b: Point) -> Option<Self> {
        if a[1] == b[1] {
            return None;
        }
        let (top, bottom) = if a[1] < b[1] { (a, b) } else { (b, a) };
        // |x| and |y| are at most 2^30: the shifted difference has 47 bits, and slope * rows never exceeds it.
        let slope = ((bottom[0] - top[0]) << FRACTION) / (bottom[1] - top[1]);
        Some(Self { y0: top[1], y1: bottom[1], x: top[0] << FRACTION, slope })
    }
}

fn round(vertex: &[f64; 2]) -> Point {
    vertex.map(|at| at.round_ties_even() as i64)
}

/// An 8-connected Bresenham line, both ends included, clipped to the mask.
fn draw_line(mask: &mut ArrayViewMut2<'_, u8>, from: Point, to: Point, value: u8) {
    let last = [mask.ncols() as i64 - 1, mask.nrows() as i64 - 1];
    let Some(mut ends) = clip([from, to], last) else { return };
    ends.sort_by_key(|end| end[0]);
    let [[mut x, mut y], end] = ends;
    let (dx, dy) = (end[0] - x, (end[1] - y).abs());
    let step_y = if end[1] < y { -1 } else { 1 };
    let steep = dy > dx;
    let (long, short) = if steep { (dy, dx) } else { (dx, dy) };
    let mut error = long - 2 * short;
    for _ in 0..=long {
        mask[[y as usize, x as usize]] = value;
        let both = error < 0;
        error += if both { 2 * (long - short) } else { -2 * short };
        if steep {
            y += step_y;
            x += i64::from(both);
        } else {
            x += 1;
            y += if both { step_y } else { 0 };
        }
    }
}

/// The part of a line inside 0..=last of x and y, with the arithmetic (and so the pixels) of OpenCV's `clipLine`.
fn clip(mut ends: [Point; 2], last: [i64; 2]) -> Option<[Point; 2]> {
    if last[0] < 0 || last[1] < 0 {
        return None;
    }
    // To the rows first, then to the columns.
    for (axis, other) in [(1, 0), (0, 1)] {
        let beyond = |axis: usize| {
            let [a, b] = ends.map(|end| end[axis]);
            a.max(b) < 0 || a.min(b) > last[axis]
        };
        if beyond(0) || beyond(1) {
            return None;
        }
        for end in [0, 1] {
            let (from, to) = (ends[end], ends[1 - end]);
            let edge = from[axis].clamp(0, last[axis]);
            if edge != from[axis] {
                let run =
                    (edge - from[axis]) as f64 * (to[other] - from[other]) as f64 / (to[axis] - from[axis]) as f64;
                ends[end] = [0, 1].map(|at| if at == axis { edge } else { from[at] + run as i64 });
            }
        }
    }
    Some(ends)
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;
    use proptest::prelude::*;

    use super::*;

    /// x and y.
    type Pixel = (i64, i64);

    fn fill(height: usize, width: usize, rings: &[&[[f64; 2]]]) -> Array2<u8> {
        let mut mask = Array2::zeros((height, width));
        let polygon = Polygon { rings: rings.iter().map(|ring| ring.to_vec()).collect() };
        Rasterizer::default().fill_all(&mut mask.view_mut(), &polygon, 1);
        mask
    }

    fn picture(mask: &Array2<u8>) -> Vec<String> {
        mask.rows().into_iter().map(|row| row.iter().map(|&v| if v == 0 { '.' } else { '#' }).collect()).collect()
    }

    #[test]
    fn outline_belongs_to_the_polygon() {
        let mask = fill(5, 6, &[&[[1.0, 1.0], [4.0, 1.0], [4.0, 3.0], [1.0, 3.0]]]);
        assert_eq!(picture(&mask), ["......", ".####.", ".####.", ".####.", "......"]);
    }

    #[test]
    fn a_hole_is_even_odd_and_keeps_its_own_outline() {
        let outer = [[0.0, 0.0], [6.0, 0.0], [6.0, 6.0], [0.0, 6.0]];
        let hole = [[2.0, 2.0], [4.0, 2.0], [4.0, 4.0], [2.0, 4.0]];
        let mask = fill(7, 7, &[&outer, &hole]);
        assert_eq!(picture(&mask), ["#######", "#######", "#######", "###.###", "#######", "#######", "#######"]);
    }

    #[test]
    fn halves_round_to_the_even_pixel() {
        let mask = fill(5, 5, &[&[[0.5, 0.5], [2.5, 0.5], [2.5, 1.5], [0.5, 1.5]]]);
        assert_eq!(picture(&mask), ["###..", "###..", "###..", ".....", "....."]);
    }

    #[test]
    fn beyond_the_edges_is_clipped() {
        let far = 1e9;
        let mask = fill(4, 4, &[&[[-far, -far], [far, -far], [far, far], [-far, far]]]);
        assert!(mask.iter().all(|&v| v == 1));
        let mask = fill(4, 4, &[&[[1.0, -far], [2.0, -far], [2.0, far], [1.0, far]]]);
        assert_eq!(picture(&mask), [".##.", ".##.", ".##.", ".##."]);
        let mask = fill(4, 4, &[&[[5.0, 5.0], [9.0, 5.0], [9.0, 9.0]]]);
        assert!(mask.iter().all(|&v| v == 0));
    }

    #[test]
    fn clipped_lines_step_as_in_opencv() {
        // What OpenCV 4.6.0 draws; unclipped Bresenham steps would give 14 other pixels.
        let mask = fill(8, 12, &[&[[12.0, 0.0], [-8.0, 18.0], [-35.0, 36.0]]]);
        let expected = [
            "...........#",
            "..........#.",
            "........##..",
            ".......##...",
            "......##....",
            "....###.....",
            "...#.#......",
            "..###.......",
        ];
        assert_eq!(picture(&mask), expected);
    }

    #[test]
    fn an_empty_mask_is_left_alone() {
        for shape in [(0, 4), (4, 0)] {
            fill(shape.0, shape.1, &[&[[0.0, 0.0], [3.0, 0.0], [3.0, 3.0]]]);
        }
    }

    /// The rule once more, pixel by pixel and in exact integers: no active list, no clipping.
    fn oracle(height: i64, width: i64, rings: &[Vec<Pixel>]) -> Array2<u8> {
        let edges: Vec<(Pixel, Pixel)> =
            rings.iter().flat_map(|ring| (0..ring.len()).map(move |i| (ring[i], ring[(i + 1) % ring.len()]))).collect();
        Array2::from_shape_fn((height as usize, width as usize), |(y, x)| {
            let (x, y) = (x as i64, y as i64);
            let on_line = edges.iter().any(|&(a, b)| line_pixels(a, b).contains(&(x, y)));
            let mut crossings: Vec<i64> = edges
                .iter()
                .map(|&(a, b)| if a.1 < b.1 { (a, b) } else { (b, a) })
                .filter(|(top, bottom)| top.1 <= y && y < bottom.1)
                .map(|(top, bottom)| (top.0 * 65536) + (bottom.0 - top.0) * 65536 / (bottom.1 - top.1) * (y - top.1))
                .collect();
            crossings.sort_unstable();
            let inside = crossings.chunks(2).any(|pair| pair[0] <= x * 65536 && x * 65536 <= pair[1]);
            u8::from(on_line || inside)
        })
    }

    /// The pixels of a line by rounding its exact y (or x) at each step, halves towards the start.
    fn line_pixels(a: Pixel, b: Pixel) -> Vec<Pixel> {
        let ((x0, y0), (x1, y1)) = if a.0 <= b.0 { (a, b) } else { (b, a) };
        let (dx, dy) = (x1 - x0, (y1 - y0).abs());
        let sign = (y1 - y0).signum();
        // (2 * i * short + long - 1) / (2 * long) is i * short / long rounded to nearest, halves down.
        let near = |i: i64, short: i64, long: i64| if long == 0 { 0 } else { (2 * i * short + long - 1) / (2 * long) };
        if dy > dx {
            (0..=dy).map(|i| (x0 + near(i, dx, dy), y0 + sign * i)).collect()
        } else {
            (0..=dx).map(|i| (x0 + i, y0 + sign * near(i, dy, dx))).collect()
        }
    }

    fn rings(range: std::ops::Range<i64>) -> impl Strategy<Value = Vec<Vec<Pixel>>> {
        prop::collection::vec(prop::collection::vec((range.clone(), range), 3..8), 1..4)
    }

    fn to_polygon(rings: &[Vec<Pixel>]) -> Polygon {
        Polygon { rings: rings.iter().map(|ring| ring.iter().map(|&(x, y)| [x as f64, y as f64]).collect()).collect() }
    }

    proptest! {
        #[test]
        fn equals_the_oracle_inside(rings in rings(0..24)) {
            let mut mask = Array2::zeros((24, 24));
            Rasterizer::default().fill_all(&mut mask.view_mut(), &to_polygon(&rings), 1);
            prop_assert_eq!(picture(&mask), picture(&oracle(24, 24, &rings)));
        }

        #[test]
        fn clipping_changes_nothing_but_lines_at_the_edge(rings in rings(-40..64)) {
            // A clipped line starts its Bresenham steps at the edge, so its pixels may shift by one; the inside may not.
            let mut mask = Array2::zeros((24, 24));
            Rasterizer::default().fill_all(&mut mask.view_mut(), &to_polygon(&rings), 1);
            let truth = oracle(24, 24, &rings);
            for ((at, &got), &expected) in mask.indexed_iter().zip(&truth) {
                let (y, x) = (at.0 as i64, at.1 as i64);
                let near_line = || rings.iter().any(|ring| (0..ring.len()).any(|i| {
                    line_pixels(ring[i], ring[(i + 1) % ring.len()])
                        .iter().any(|&(px, py)| (px - x).abs() <= 1 && (py - y).abs() <= 1)
                }));
                prop_assert!(got == expected || near_line(), "{:?}", at);
            }
        }

        #[test]
        fn no_polygon_panics(
            ring in prop::collection::vec(prop::array::uniform2(-1073741824.0..=1073741824.0f64), 0..12),
            height in 0..40usize,
            width in 0..40usize,
        ) {
            fill(height, width, &[&ring]);
        }

        #[test]
        fn rings_may_start_anywhere_and_run_either_way(ring in rings(0..24), turn in 0..8usize) {
            let mut turned = ring.clone();
            for ring in &mut turned {
                let turn = turn % ring.len();
                ring.rotate_left(turn);
                ring.reverse();
            }
            let (mut first, mut second) = (Array2::zeros((24, 24)), Array2::zeros((24, 24)));
            let mut rasterizer = Rasterizer::default();
            rasterizer.fill_all(&mut first.view_mut(), &to_polygon(&ring), 1);
            rasterizer.fill_all(&mut second.view_mut(), &to_polygon(&turned), 1);
            prop_assert_eq!(picture(&first), picture(&second));
        }
    }
}
