//! The loss at full resolution of bilinearly upsampled logits; the full-size map exists one tile at a time.
//!
//! A job owns a band of rows of the small map. Going forward, a full-size row counts in the band of the upper of the two
//! small rows that it lies between. Going back, each band visits every full-size row that touches one of its own rows, so that no
//! two jobs write one element; rows between bands are visited twice.
//!
//! A band is worked on in strips of columns. Of the two small rows in use, the strip's columns are kept stretched to full width, so that a
//! full-size row is their mix, register by register. Its gradient is added to what each of the two is owed, and folded back to
//! the small row's own columns when the strip is done with it.

use super::ahead::Ahead;
use super::aligned::Aligned;
use super::kernel::{self, LaneSums, Mode, Params, Tile};
use super::labels;
use super::simd::{Element, InstructionSet, MAX_LANES, Vector, Work, pick};
use super::transfer::{self, gather, scatter};
use crate::tensor::View;

/// Full-size pixels of one tile, a row of a strip.
const TILE: usize = 512;

/// How full-size positions map to the small map along one axis: `F.interpolate(mode="bilinear")`.
#[derive(Clone)]
pub struct Axis {
    /// For each full-size index: the first of two neighbouring small indices, and the share of the second. The last small
    /// index is its own neighbour.
    taps: Vec<(usize, f64)>,
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
                (first, source - first as f64)
            })
            .collect();
        let starts = (0..=small).map(|i| taps.partition_point(|tap| tap.0 < i)).collect();
        Self { taps, starts }
    }

    /// Elements of the small map.
    pub fn small(&self) -> usize {
        self.starts.len() - 1
    }

    /// The first tap of a full-size index, and the share of the second.
    #[cfg(test)]
    pub fn tap(&self, i: usize) -> (usize, f64) {
        self.taps[i]
    }

    fn full(&self) -> usize {
        self.taps.len()
    }

    /// The second tap of a full-size index.
    #[inline(always)]
    fn second(&self, i: usize) -> usize {
        (self.taps[i].0 + 1).min(self.small() - 1)
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

/// Do the band on kernels of the instruction set; its sums as in [`super::job::Found`].
pub fn run<T: Element, M: Mode>(set: InstructionSet, band: Band<'_, T>) -> Vec<f64> {
    let classes = band.params.classes;
    let columns = band.horizontal.small();
    let mut sums = LaneSums::new(classes, if M::REDUCE && M::REGION { 2 } else { 0 });
    // (rows of the band, C, columns)
    let mut own = vec![T::default(); if M::GRADIENT { band.rows.len() * classes * columns } else { 0 }];
    let mut scratch = Scratch::new(classes);
    for x in (0..band.horizontal.full()).step_by(TILE) {
        let strip = Strip::new(band.horizontal, x);
        scratch.strip::<M>(set, &band, &strip, &mut sums, &mut own);
    }
    if let (true, Some(view)) = (M::GRADIENT, band.gradient) {
        for (row, tile) in band.rows.clone().zip(own.chunks_exact_mut(classes * columns)) {
            let tile = tile.as_mut_ptr();
            let (sample, pixel) = (band.sample, row * columns);
            // SAFETY: the row lies in the view, and only this band has it.
            unsafe { scatter(set, transfer::Run { view, sample, pixel, len: columns, tile, stride: columns }) };
        }
    }
    sums.take()
}

/// Full-size columns, and the small ones between which they lie.
struct Strip<T> {
    /// The first full-size column.
    x: usize,
    /// How many.
    len: usize,
    /// The same, up to whole registers.
    padded: usize,
    /// The first small column.
    start: usize,
    /// How many small columns.
    small: usize,
    /// Whether the taps of a register of full-size columns lie within a register of small ones: there are no fewer full-size columns.
    dense: bool,
    /// (padded): the first tap of each full-size column, counted from `start`.
    first: Vec<i32>,
    /// (padded): the share of the second tap.
    share: Vec<T>,
}

impl<T: Element> Strip<T> {
    fn new(axis: &Axis, x: usize) -> Self {
        let len = TILE.min(axis.full() - x);
        let padded = len.next_multiple_of(MAX_LANES);
        let start = axis.taps[x].0;
        let taps = &axis.taps[x..x + len];
        let mut first: Vec<i32> = taps.iter().map(|tap| (tap.0 - start) as i32).collect();
        let mut share: Vec<T> = taps.iter().map(|tap| T::from_f64(tap.1)).collect();
        first.resize(padded, first[len - 1]);
        share.resize(padded, T::default());
        let small = axis.second(x + len - 1) + 1 - start;
        Self { x, len, padded, start, small, dense: axis.small() <= axis.full(), first, share }
    }
}

/// A small row in use.
struct Held<T> {
    /// Which; none at first.
    row: Option<usize>,
    /// (C, TILE): the row stretched to the full-size columns.
    logits: Aligned<T>,
    /// (C, TILE): what the row's gradient is owed by each full-size column so far.
    owed: Aligned<T>,
}

/// Buffers of one band.
struct Scratch<T> {
    classes: usize,
    held: [Held<T>; 2],
    /// (C, columns of a strip and a register behind them).
    small: Vec<T>,
    banks: kernel::Banks<T>,
    /// (C, TILE)
    logits: Aligned<T>,
    /// (C, TILE)
    gradient: Aligned<T>,
    labels: Aligned<T>,
    loss: Aligned<T>,
    incoming: Aligned<T>,
}

impl<T: Element> Scratch<T> {
    fn new(classes: usize) -> Self {
        let tile = |rows: usize| Aligned::new(rows * TILE);
        let held = || Held { row: None, logits: tile(classes), owed: tile(classes) };
        Self {
            classes,
            held: [held(), held()],
            small: Vec::new(),
            banks: kernel::Banks::new(classes),
            logits: tile(classes),
            gradient: tile(classes),
            labels: tile(1),
            loss: tile(1),
            incoming: tile(1),
        }
    }

    /// A strip of the band, from top to bottom.
    fn strip<M: Mode>(
        &mut self,
        set: InstructionSet,
        band: &Band<'_, T>,
        strip: &Strip<T>,
        sums: &mut LaneSums,
        own: &mut [T],
    ) {
        // A pass that writes gradients visits the rows above, too, that lie between the band and its neighbour.
        let first = if M::GRADIENT { band.rows.start.saturating_sub(1) } else { band.rows.start };
        for y in band.vertical.starts[first]..band.vertical.starts[band.rows.end] {
            let (upper, share) = band.vertical.taps[y];
            let rows = [upper, band.vertical.second(y)];
            // Rows come in rising order: a held row that is not wanted now has had its turn.
            for slot in 0..2 {
                let wanted = |row: usize| rows.contains(&row);
                if self.held[slot].row.is_none_or(wanted) {
                    continue;
                }
                self.release::<M>(set, band, strip, slot, own);
            }
            let [upper, lower] = rows.map(|row| self.hold(set, band, strip, row));
            self.row::<M>(set, band, strip, y, sums, ([upper, lower], share));
        }
        (0..2).for_each(|slot| self.release::<M>(set, band, strip, slot, own));
    }

    /// The slot that holds the small row, which is read and stretched where none does.
    fn hold(&mut self, set: InstructionSet, band: &Band<'_, T>, strip: &Strip<T>, row: usize) -> usize {
        if let Some(slot) = self.held.iter().position(|held| held.row == Some(row)) {
            return slot;
        }
        let slot = self.held.iter().position(|held| held.row.is_none()).expect("unwanted rows were released");
        // One more column, which stands for the second tap of the last, and a register for loads that start there.
        let stride = strip.small + 1 + MAX_LANES;
        self.small.resize(self.classes * stride, T::default());
        let run = transfer::Run {
            view: band.input,
            sample: band.sample,
            pixel: row * band.horizontal.small() + strip.start,
            len: strip.small,
            tile: self.small.as_mut_ptr(),
            stride,
        };
        // SAFETY: the columns lie in the view, and the buffer holds them for all classes.
        unsafe { gather(set, run) };
        let held = &mut self.held[slot];
        held.row = Some(row);
        for class in 0..self.classes {
            let from = &mut self.small[class * stride..][..stride];
            from[strip.small] = from[strip.small - 1];
            T::dispatch(set, Stretch { strip, from, to: &mut held.logits[class * TILE..][..strip.padded] });
        }
        slot
    }

    /// Be done with the row of a slot: what it is owed goes to the band's own rows.
    fn release<M: Mode>(
        &mut self,
        set: InstructionSet,
        band: &Band<'_, T>,
        strip: &Strip<T>,
        slot: usize,
        own: &mut [T],
    ) {
        let held = &mut self.held[slot];
        let Some(row) = held.row.take() else { return };
        if !M::GRADIENT {
            return;
        }
        if band.rows.contains(&row) {
            let columns = band.horizontal.small();
            let row = (row - band.rows.start) * self.classes * columns;
            for class in 0..self.classes {
                let from = &held.owed[class * TILE..][..strip.len];
                let to = &mut own[row + class * columns..][..columns];
                T::dispatch(set, Fold { axis: band.horizontal, strip, from, to });
            }
        }
        held.owed.fill(T::default());
    }

    /// A full-size row, `share` of the way from the small row of the first slot to that of the second.
    fn row<M: Mode>(
        &mut self,
        set: InstructionSet,
        band: &Band<'_, T>,
        strip: &Strip<T>,
        y: usize,
        sums: &mut LaneSums,
        (slots, share): ([usize; 2], f64),
    ) {
        let (len, padded) = (strip.len, strip.padded);
        let pixel = y * band.horizontal.full() + strip.x;
        let [upper, lower] = slots.map(|slot| &self.held[slot].logits[..]);
        T::dispatch(set, Mix { to: &mut self.logits, from: [upper, lower], share, padded });
        // SAFETY: the pixels lie in the view.
        unsafe {
            labels::gather(set, band.target, (band.sample, pixel), band.ignore_index, &mut self.labels[..len]);
        }
        self.labels[len..padded].fill(T::from_i32(-1));
        let per_pixel = |tile: &mut [T]| {
            let tile = tile.as_mut_ptr();
            transfer::Run { view: band.target, sample: band.sample, pixel, len, tile, stride: TILE }
        };
        if let Some(view) = band.incoming {
            // SAFETY: the pixels lie in the view; the buffer holds a tile.
            unsafe { gather(set, transfer::Run { view, ..per_pixel(&mut self.incoming) }) };
            self.incoming[len..padded].fill(T::default());
        }
        let tile = Tile {
            len: padded,
            logits: self.logits.as_ptr(),
            logits_stride: TILE as isize,
            labels: self.labels.as_ptr(),
            soft: std::ptr::null(),
            soft_stride: 0,
            gradient: self.gradient.as_mut_ptr(),
            gradient_stride: TILE as isize,
            loss: band.loss.map_or(std::ptr::null_mut(), |_| self.loss.as_mut_ptr()),
            incoming: band.incoming.map_or(std::ptr::null(), |_| self.incoming.as_ptr()),
            next_logits: Ahead::nothing(self.logits.as_ptr()),
            next_gradient: Ahead::nothing(self.gradient.as_ptr()),
            streams: false,
        };
        // SAFETY: the buffers hold a tile of this many classes.
        unsafe { kernel::run::<T, M>(set, &tile, band.params, sums, &mut self.banks) };
        if let Some(view) = band.loss {
            // SAFETY: the pixels lie in the view, and no other job has this row.
            unsafe { scatter(set, transfer::Run { view, ..per_pixel(&mut self.loss) }) };
        }
        if M::GRADIENT {
            for (slot, share) in [(slots[0], 1.0 - share), (slots[1], share)] {
                let held = &mut self.held[slot];
                if held.row.is_some_and(|row| band.rows.contains(&row)) {
                    T::dispatch(set, Owe { to: &mut held.owed, from: &self.gradient, share, padded });
                }
            }
        }
    }
}

/// Interpolate a class of a small row at the columns of a strip.
struct Stretch<'a, T> {
    strip: &'a Strip<T>,
    /// The strip's small columns, the last one twice, and a register more.
    from: &'a [T],
    /// (padded)
    to: &'a mut [T],
}

impl<T: Element> Work<T> for Stretch<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector<Element = T>>(self) {
        let Self { strip, from, to } = self;
        assert!(from.len() > strip.small + MAX_LANES && to.len() == strip.padded);
        for i in (0..strip.padded).step_by(V::LANES) {
            // SAFETY: i + LANES <= padded, the length of `to`, `first` and `share`. A first tap is below `small`, behind which there are
            // a column and a register.
            unsafe {
                let taps = strip.first.as_ptr().add(i);
                let from = from.as_ptr();
                let [a, b] = if strip.dense {
                    [V::pick_near(from, taps), V::pick_near(from.add(1), taps)]
                } else {
                    [pick(from, taps), pick(from.add(1), taps)]
                };
                let share = V::load(strip.share.as_ptr().add(i));
                b.mul_add(share, a * (V::one() - share)).store(to.as_mut_ptr().add(i));
            }
        }
    }
}

/// The transpose of [`Stretch`]: add to a class of a small row what the columns of a strip owe it.
struct Fold<'a, T> {
    axis: &'a Axis,
    strip: &'a Strip<T>,
    /// (len)
    from: &'a [T],
    /// All small columns.
    to: &'a mut [T],
}

impl<T: Element> Work<T> for Fold<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector<Element = T>>(self) {
        let Self { axis, strip, from, to } = self;
        let one = T::from_i32(1);
        let end = strip.x + strip.len;
        let mut at = strip.x;
        while at < end {
            // Neighbours with the same two taps are added up first.
            let first = axis.taps[at].0;
            let stop = axis.starts[first + 1].min(end);
            let (mut a, mut b) = (T::default(), T::default());
            // A plain index loop: iterator adapters are not always inlined into a function of another instruction set.
            #[allow(clippy::needless_range_loop)]
            for i in at - strip.x..stop - strip.x {
                let (g, share) = (from[i], strip.share[i]);
                a = a + (one - share) * g;
                b = b + share * g;
            }
            let second = axis.second(at);
            to[first] = to[first] + a;
            to[second] = to[second] + b;
            at = stop;
        }
    }
}

/// (1 - share) a + share b for a tile.
struct Mix<'a, T> {
    /// (C, TILE)
    to: &'a mut [T],
    /// (C, TILE)
    from: [&'a [T]; 2],
    share: f64,
    /// Columns, of TILE.
    padded: usize,
}

impl<T: Element> Work<T> for Mix<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector<Element = T>>(self) {
        let Self { to, from: [a, b], share, padded } = self;
        assert!(a.len() == to.len() && b.len() == to.len() && padded <= TILE);
        let (p, q) = (V::splat(1.0 - share), V::splat(share));
        for class in 0..to.len() / TILE {
            for i in (class * TILE..class * TILE + padded).step_by(V::LANES) {
                // SAFETY: all three have whole tiles for each class, and TILE and `padded` are multiples of LANES.
                unsafe {
                    let (a, b) = (V::load(a.as_ptr().add(i)), V::load(b.as_ptr().add(i)));
                    b.mul_add(q, a * p).store(to.as_mut_ptr().add(i));
                }
            }
        }
    }
}

/// `to += share from` for a tile.
struct Owe<'a, T> {
    /// (C, TILE)
    to: &'a mut [T],
    /// (C, TILE)
    from: &'a [T],
    share: f64,
    /// Columns, of TILE.
    padded: usize,
}

impl<T: Element> Work<T> for Owe<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector<Element = T>>(self) {
        let Self { to, from, share, padded } = self;
        assert!(from.len() == to.len() && padded <= TILE);
        let share = V::splat(share);
        for class in 0..to.len() / TILE {
            for i in (class * TILE..class * TILE + padded).step_by(V::LANES) {
                // SAFETY: both have whole tiles for each class, and TILE and `padded` are multiples of LANES.
                unsafe {
                    let to = to.as_mut_ptr().add(i);
                    V::load(from.as_ptr().add(i)).mul_add(share, V::load(to)).store(to);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Noise from -1 to 1.
    fn noise<T: Element>(len: usize, seed: u64) -> Vec<T> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 40) as f64 / f64::from(1 << 23) - 1.0
        };
        (0..len).map(|_| T::from_f64(next())).collect()
    }

    /// Strips against the definition, and their transpose against them.
    fn check<T: Element>(set: InstructionSet, axis: &Axis, tolerance: f64) {
        let row: Vec<T> = noise(axis.small(), 1);
        for x in (0..axis.full()).step_by(TILE) {
            let strip = Strip::<T>::new(axis, x);
            let mut from = row[strip.start..][..strip.small].to_vec();
            from.push(from[strip.small - 1]);
            from.resize(strip.small + 1 + MAX_LANES, T::from_f64(f64::NAN));
            let mut to = vec![T::default(); strip.padded];
            T::dispatch(set, Stretch { strip: &strip, from: &from, to: &mut to });
            for (i, value) in to[..strip.len].iter().enumerate() {
                let (first, share) = axis.taps[x + i];
                let truth = (1.0 - share) * row[first].to_f64() + share * row[axis.second(x + i)].to_f64();
                assert!(
                    (value.to_f64() - truth).abs() <= tolerance,
                    "column {}: {}, not {truth}",
                    x + i,
                    value.to_f64()
                );
            }
            let gradient: Vec<T> = noise(strip.len, 2);
            let mut folded = vec![T::default(); axis.small()];
            T::dispatch(set, Fold { axis, strip: &strip, from: &gradient, to: &mut folded });
            let product = |a: &[T], b: &[T]| a.iter().zip(b).map(|(a, b)| a.to_f64() * b.to_f64()).sum::<f64>();
            let (one, other) = (product(&to[..strip.len], &gradient), product(&row, &folded));
            assert!((one - other).abs() <= tolerance * strip.len as f64, "{one} and {other}");
        }
    }

    proptest! {
        #[test]
        fn every_instruction_set_stretches_and_folds(small in 1usize..700, full in 1usize..1200, corners: bool) {
            let axis = Axis::new(small, full, corners);
            for set in InstructionSet::available() {
                check::<f32>(set, &axis, 1e-6);
                check::<f64>(set, &axis, 1e-14);
            }
        }
    }

    #[test]
    fn neighbouring_sizes() {
        for size in [1, 2, 15, 16, 17, 511, 512, 513] {
            for small in size.max(2) - 1..=size + 1 {
                for corners in [false, true] {
                    for set in InstructionSet::available() {
                        check::<f32>(set, &Axis::new(small, size, corners), 1e-6);
                    }
                }
            }
        }
    }
}
