//! The loss at full resolution of bilinearly upsampled logits; the full-size map exists one tile at a time.
//!
//! A job owns a band of rows of the small map. Going forward, a full-size row counts in the band of the upper of the two
//! small rows that it lies between. Going back, each band visits every full-size row that touches one of its own rows, so that no
//! two jobs write one element; rows between bands are visited twice.

use super::kernel::{self, LaneSums, Mode, Params, Tile};
use super::labels::{self, with_labels};
use super::simd::{Element, InstructionSet, MAX_LANES};
use super::transfer::{self, gather, scatter};
use crate::tensor::{DType, View};

/// Full-size pixels of one tile.
const TILE: usize = 512;

/// How full-size positions map to the small map along one axis: `F.interpolate(mode="bilinear")`.
#[derive(Clone)]
pub struct Axis {
    /// For each full-size index: the two small indices and the share of the second.
    taps: Vec<(usize, usize, f64)>,
    /// For each small index i: the full-size indices whose first tap is i.
    starts: Vec<usize>,
}

impl Axis {
    /// From `small` to `full` elements.
    pub fn new(small: usize, full: usize, align_corners: bool) -> Self {
        let taps: Vec<_> = (0..full)
            .map(|i| {
                let source = if align_corners {
                    if full > 1 { i as f64 * (small - 1) as f64 / (full - 1) as f64 } else { 0.0 }
                } else {
                    ((i as f64 + 0.5) * small as f64 / full as f64 - 0.5).max(0.0)
                };
                let first = (source as usize).min(small - 1);
                (first, (first + 1).min(small - 1), source - first as f64)
            })
            .collect();
        let starts = (0..=small).map(|i| taps.partition_point(|tap| tap.0 < i)).collect();
        Self { taps, starts }
    }

    /// Elements of the small map.
    pub fn small(&self) -> usize {
        self.starts.len() - 1
    }

    fn full(&self) -> usize {
        self.taps.len()
    }
}

/// A band of one sample.
pub struct Band<'a, T> {
    /// Small logits, (N, C, rows * columns).
    pub input: View<'a>,
    /// Full-size labels, (N, pixels).
    pub target: View<'a>,
    /// The label of ignored pixels.
    pub ignore_index: i64,
    /// Where the gradient of the small logits goes.
    pub gradient: Option<View<'a>>,
    /// Where the loss of each full-size pixel goes.
    pub loss: Option<View<'a>>,
    /// The incoming gradient of each full-size pixel.
    pub incoming: Option<View<'a>>,
    /// Everything else.
    pub params: &'a Params<T>,
    /// Rows.
    pub vertical: &'a Axis,
    /// Columns.
    pub horizontal: &'a Axis,
    /// Which sample.
    pub sample: usize,
    /// The small rows of the band.
    pub rows: std::ops::Range<usize>,
}

/// Do the band on kernels of the instruction set.
pub fn run<T: Element, M: Mode>(set: InstructionSet, band: Band<'_, T>) -> LaneSums {
    let classes = band.params.classes;
    let columns = band.horizontal.small();
    let zeros = |len: usize| vec![T::default(); len];
    let mut sums = LaneSums::new(classes, if M::REDUCE && M::REGION { 2 } else { 0 });
    let mut banks = kernel::Banks::new(classes);
    // (C, columns): the two small rows in use, their mix, and the gradient of the mix.
    let mut near = [(usize::MAX, zeros(classes * columns)), (usize::MAX, zeros(classes * columns))];
    let mut mixed = zeros(classes * columns);
    let mut mixed_gradient = zeros(classes * columns);
    // (rows of the band, C, columns)
    let mut own = zeros(if M::GRADIENT { band.rows.len() * classes * columns } else { 0 });
    let mut tile_logits = zeros(classes * TILE);
    let mut tile_gradient = zeros(if M::GRADIENT { classes * TILE } else { 0 });
    let (mut tile_labels, mut tile_loss, mut tile_incoming) = (zeros(TILE), zeros(TILE), zeros(TILE));
    // A pass that writes gradients visits the rows above, too, that lie between the band and its neighbour.
    let first = if M::GRADIENT { band.rows.start.saturating_sub(1) } else { band.rows.start };
    let full_rows = band.vertical.starts[first]..band.vertical.starts[band.rows.end];
    for y in full_rows {
        let (upper, lower, share) = band.vertical.taps[y];
        for row in [upper, lower] {
            if near.iter().all(|(held, _)| *held != row) {
                // The older of the two makes room: rows come in rising order.
                let oldest = usize::from(near[0].0 != usize::MAX && (near[1].0 == usize::MAX || near[1].0 < near[0].0));
                let run = transfer::Run {
                    view: band.input,
                    sample: band.sample,
                    pixel: row * columns,
                    len: columns,
                    tile: near[oldest].1.as_mut_ptr(),
                    stride: columns,
                };
                near[oldest].0 = row;
                // SAFETY: the row lies in the view, and the buffer holds C rows.
                unsafe { gather(set, run) };
            }
        }
        let held = |row: usize| &near[usize::from(near[0].0 != row)].1;
        mix(&mut mixed, held(upper), held(lower), share);
        if M::GRADIENT {
            mixed_gradient.fill(T::default());
        }
        for x in (0..band.horizontal.full()).step_by(TILE) {
            let len = TILE.min(band.horizontal.full() - x);
            let padded = len.next_multiple_of(MAX_LANES);
            let pixel = y * band.horizontal.full() + x;
            for class in 0..classes {
                let to = &mut tile_logits[class * TILE..][..padded];
                spread(&mut to[..len], &mixed[class * columns..][..columns], &band.horizontal.taps[x..x + len]);
                to[len..].fill(T::default());
            }
            let to = &mut tile_labels[..len];
            // SAFETY: the pixels lie in the view.
            unsafe {
                with_labels!(band.target, |L| labels::fill(
                    band.target.at::<L>(band.sample, 0, pixel),
                    band.target.strides[2],
                    band.ignore_index,
                    to
                ));
            }
            tile_labels[len..padded].fill(T::from_i32(-1));
            let per_pixel = |tile: &mut [T]| {
                let tile = tile.as_mut_ptr();
                transfer::Run { view: band.target, sample: band.sample, pixel, len, tile, stride: TILE }
            };
            if let Some(view) = band.incoming {
                // SAFETY: the pixels lie in the view; the buffer holds a tile.
                unsafe { gather(set, transfer::Run { view, ..per_pixel(&mut tile_incoming) }) };
                tile_incoming[len..padded].fill(T::default());
            }
            let tile = Tile {
                len: padded,
                logits: tile_logits.as_ptr(),
                logits_stride: TILE as isize,
                labels: tile_labels.as_ptr(),
                soft: std::ptr::null(),
                soft_stride: 0,
                gradient: tile_gradient.as_mut_ptr(),
                gradient_stride: TILE as isize,
                loss: band.loss.map_or(std::ptr::null_mut(), |_| tile_loss.as_mut_ptr()),
                incoming: band.incoming.map_or(std::ptr::null(), |_| tile_incoming.as_ptr()),
            };
            // SAFETY: the buffers hold a tile of this many classes.
            unsafe { kernel::run::<T, M>(set, &tile, band.params, &mut sums, &mut banks) };
            if let Some(view) = band.loss {
                // SAFETY: the pixels lie in the view, and no other job has this row.
                unsafe { scatter(set, transfer::Run { view, ..per_pixel(&mut tile_loss) }) };
            }
            if M::GRADIENT {
                for class in 0..classes {
                    let from = &tile_gradient[class * TILE..][..len];
                    collect(&mut mixed_gradient[class * columns..][..columns], from, band.horizontal, x);
                }
            }
        }
        if M::GRADIENT {
            for (row, share) in [(upper, 1.0 - share), (lower, share)] {
                if band.rows.contains(&row) {
                    let row = (row - band.rows.start) * classes * columns;
                    add_scaled(&mut own[row..][..classes * columns], &mixed_gradient, share);
                }
            }
        }
    }
    if let (true, Some(view)) = (M::GRADIENT, band.gradient) {
        for (row, tile) in band.rows.clone().zip(own.chunks_exact_mut(classes * columns)) {
            let tile = tile.as_mut_ptr();
            let (sample, pixel) = (band.sample, row * columns);
            // SAFETY: the row lies in the view, and only this band has it.
            unsafe { scatter(set, transfer::Run { view, sample, pixel, len: columns, tile, stride: columns }) };
        }
    }
    sums
}

/// (1 - share) a + share b.
fn mix<T: Element>(to: &mut [T], a: &[T], b: &[T], share: f64) {
    let (p, q) = (T::from_f64(1.0 - share), T::from_f64(share));
    for ((to, &a), &b) in to.iter_mut().zip(a).zip(b) {
        *to = T::combine(p, a, q, b);
    }
}

/// to += share from.
fn add_scaled<T: Element>(to: &mut [T], from: &[T], share: f64) {
    let (one, share) = (T::from_i32(1), T::from_f64(share));
    for (to, &from) in to.iter_mut().zip(from) {
        *to = T::combine(one, *to, share, from);
    }
}

/// Interpolate a row at `taps`.
fn spread<T: Element>(to: &mut [T], from: &[T], taps: &[(usize, usize, f64)]) {
    for (to, &(first, second, share)) in to.iter_mut().zip(taps) {
        *to = T::combine(T::from_f64(1.0 - share), from[first], T::from_f64(share), from[second]);
    }
}

/// The transpose of [`spread`] for the full-size columns from `x` on: what each small column is owed.
fn collect<T: Element>(to: &mut [T], from: &[T], axis: &Axis, x: usize) {
    let end = x + from.len();
    let mut at = x;
    while at < end {
        let (first, second, _) = axis.taps[at];
        let stop = axis.starts[first + 1].min(end);
        // Summed in registers: neighbours have the same two taps.
        let (mut a, mut b) = (T::default(), T::default());
        let one = T::from_i32(1);
        for (&g, &(_, _, share)) in from[at - x..stop - x].iter().zip(&axis.taps[at..stop]) {
            a = T::combine(one, a, T::from_f64(1.0 - share), g);
            b = T::combine(one, b, T::from_f64(share), g);
        }
        to[first] = T::combine(one, to[first], one, a);
        to[second] = T::combine(one, to[second], one, b);
        at = stop;
    }
}
