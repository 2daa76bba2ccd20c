//! A run of pixels, cut into tiles: operands that lie class by class in memory are used in place, others by way of a copy
//! that stays in the cache.

use super::ahead::Ahead;
use super::aligned::{Aligned, LINE};
use super::count::{Count, WrongLabel};
use super::kernel::{self, LaneSums, Mode, Params, Tile};
use super::labels;
use super::pages;
use super::simd::{self, Element, InstructionSet, MAX_LANES, REGISTER_LANES};
use super::transfer::{self, gather, scatter};
use crate::loss::operands::Target;
use crate::tensor::View;

/// A tile has at most this many pixels.
const MAX_TILE: usize = 512;
/// Logits of more classes are copied together first. Planes are often a power of two apart, and then all lines of a register share a set of
/// the first-level cache, which has 8 to 12 places: each would be gone before it is read again.
const MOST_IN_PLACE: usize = 10;
/// Images of fewer pixels are gathered, several to a tile.
const SMALL_IMAGE: usize = 64;

/// The pixels `from..to`, counted through all samples, of one loss.
#[derive(Clone, Copy)]
pub struct Job<'a, T> {
    /// Logits.
    pub input: View<'a>,
    /// Targets.
    pub target: Target<'a>,
    /// The label of ignored pixels.
    pub ignore_index: i64,
    /// Whether to check and count the labels of a tile before they are used.
    pub counts: bool,
    /// Where the gradient goes.
    pub gradient: Option<View<'a>>,
    /// Where the loss of each pixel goes.
    pub loss: Option<View<'a>>,
    /// The incoming gradient of each pixel.
    pub incoming: Option<View<'a>>,
    /// Whether to write it past the cache, where it is written class by class.
    pub streams: bool,
    /// Everything else.
    pub params: &'a Params<T>,
    /// The first pixel.
    pub from: usize,
    /// The one behind the last.
    pub to: usize,
}

impl<T> Job<'_, T> {
    /// All samples as one row of pixels where the strides of every operand allow it; pixels are counted the same either way.
    pub fn joined(self) -> Self {
        let joined = Self {
            input: self.input.joined(),
            target: self.target.joined(),
            gradient: self.gradient.map(View::joined),
            loss: self.loss.map(View::joined),
            incoming: self.incoming.map(View::joined),
            ..self
        };
        let (target, valid) = match joined.target {
            Target::Index(target) => (target, None),
            Target::Soft(target, valid) => (target, valid),
        };
        let optional = [joined.gradient, joined.loss, joined.incoming, valid];
        let all = optional.iter().flatten().chain([&joined.input, &target]).all(|view| view.samples == 1);
        if all { joined } else { self }
    }
}

/// Buffers of one tile, made once for each thread.
pub struct Scratch<T> {
    tile: usize,
    logits: Aligned<T>,
    soft: Aligned<T>,
    gradient: Aligned<T>,
    labels: Aligned<T>,
    loss: Aligned<T>,
    incoming: Aligned<T>,
    banks: kernel::Banks<T>,
    /// All zero between jobs, but for one that ended at a label that is no class.
    sums: LaneSums,
}

impl<T: Element> Scratch<T> {
    /// For tiles of these logits.
    pub fn new(input: &View<'_>) -> Self {
        let classes = input.channels;
        let few_planes = input.strides[2] == 1 && classes <= MOST_IN_PLACE;
        let tile = if few_planes { MAX_TILE } else { transfer::pixels_of_copy(input, MAX_TILE) };
        // The others are made when a tile first needs them: planar float32 never does.
        Self {
            tile,
            logits: Aligned::new(0),
            soft: Aligned::new(0),
            gradient: Aligned::new(0),
            labels: Aligned::new(tile),
            loss: Aligned::new(0),
            incoming: Aligned::new(0),
            banks: kernel::Banks::new(classes),
            sums: LaneSums::new(classes, 0),
        }
    }
}

/// Whether a kernel can use the view's memory: planes in the type of the computation.
fn in_place<T: Element>(view: &View<'_>) -> bool {
    view.strides[2] == 1 && view.dtype() == T::DTYPE
}

/// What a job found.
pub struct Found {
    /// Over its pixels: the pixel loss, then the sums of each class. A thousand jobs wait to be added up: lanes would be 16 times the memory.
    pub sums: Vec<f64>,
    /// Its pixels of each class, if it counted them.
    pub counts: Vec<u64>,
}

/// Do the job on kernels of the instruction set, up to the first label that is no class.
pub fn run<T: Element, M: Mode>(
    set: InstructionSet,
    job: Job<'_, T>,
    scratch: &mut Scratch<T>,
) -> Result<Found, WrongLabel> {
    let classes = job.params.classes;
    let mut counts = vec![0; if job.counts { classes } else { 0 }];
    let soft = matches!(job.target, Target::Soft(..));
    let parts = if !(M::REDUCE && M::REGION) { 0 } else { 2 + usize::from(soft) };
    scratch.sums.classes.resize(parts * classes, [0.0; REGISTER_LANES]);
    // What was kept is read once.
    let logits_in_place = in_place::<T>(&job.input) && (classes <= MOST_IN_PLACE || M::KEPT);
    let soft_in_place = matches!(&job.target, Target::Soft(view, _) if in_place::<T>(view));
    let gradient_in_place = job.gradient.as_ref().is_some_and(in_place::<T>);
    // Also where logits are copied: every pass has the same tiles, and so the same sums to the last bit.
    let some_in_place = in_place::<T>(&job.input) || soft_in_place || gradient_in_place;
    let pixels = job.input.pixels;
    if let Some(view) = &job.gradient
        && !M::KEPT
    {
        let pieces = Pieces { pixels, position: job.from, len: job.to - job.from };
        pieces.each(|sample, pixel, _, len| pages::populate(view, sample, pixel, len));
    }
    let tile_size = scratch.tile;
    let mut position = job.from;
    while position < job.to {
        let (sample, pixel) = (position / pixels, position % pixels);
        let run = (pixels - pixel).min(job.to - position).min(tile_size);
        // In place where whole registers of pixels lie side by side; else a copy, which may span several small images.
        let direct = some_in_place && run >= MAX_LANES;
        let len = if direct {
            run / MAX_LANES * MAX_LANES
        } else if pixels < SMALL_IMAGE {
            tile_size.min(job.to - position)
        } else {
            run
        };
        let padded = len.next_multiple_of(MAX_LANES);
        let piece = Pieces { pixels, position, len };
        if let (true, Target::Index(target)) = (job.counts, job.target) {
            let (ignore_index, counts) = (job.ignore_index, &mut counts[..]);
            let count = Count { target, ignore_index, from: position, to: position + len, counts, narrowed: None };
            if let Some(wrong) = f32::dispatch(set, count) {
                return Err(wrong);
            }
        }
        // SAFETY: all views were checked to have the shape of `input`, the pixels lie in them, and the buffers hold a tile.
        unsafe {
            match job.target {
                Target::Index(view) | Target::Soft(_, Some(view)) => piece.each(|sample, pixel, offset, len| {
                    let to = &mut scratch.labels[offset..][..len];
                    labels::gather(set, view, (sample, pixel), job.ignore_index, to);
                }),
                Target::Soft(_, None) => scratch.labels[..len].fill(T::default()),
            }
            // The last register's surplus is ignored.
            scratch.labels[len..padded].fill(T::from_i32(-1));
            let operand = |view: &View<'_>, in_place: bool, buffer: &mut Aligned<T>| {
                if direct && in_place {
                    return (view.at::<T>(sample, 0, pixel).cast_const(), view.strides[1]);
                }
                buffer.grow(classes * tile_size);
                let to = buffer.as_mut_ptr();
                piece.each(|sample, pixel, offset, len| {
                    gather(
                        set,
                        transfer::Run { view: *view, sample, pixel, len, tile: to.add(offset), stride: tile_size },
                    );
                });
                for row in buffer.chunks_exact_mut(tile_size) {
                    row[len..padded].fill(T::default());
                }
                (buffer.as_ptr(), tile_size as isize)
            };
            let (logits, logits_stride) = operand(&job.input, logits_in_place, &mut scratch.logits);
            let (soft, soft_stride) = match &job.target {
                Target::Soft(view, _) => operand(view, soft_in_place, &mut scratch.soft),
                Target::Index(_) => (std::ptr::null(), 0),
            };
            if let Some(view) = &job.incoming {
                scratch.incoming.grow(tile_size);
                piece.each(|sample, pixel, offset, len| {
                    let tile = scratch.incoming.as_mut_ptr().add(offset);
                    gather(set, transfer::Run { view: *view, sample, pixel, len, tile, stride: tile_size });
                });
                scratch.incoming[len..padded].fill(T::default());
            }
            let (gradient, gradient_stride) = match &job.gradient {
                Some(view) if direct && gradient_in_place => (view.at::<T>(sample, 0, pixel), view.strides[1]),
                Some(_) => {
                    scratch.gradient.grow(classes * tile_size);
                    (scratch.gradient.as_mut_ptr(), tile_size as isize)
                }
                None => (std::ptr::null_mut(), 0),
            };
            if job.loss.is_some() {
                scratch.loss.grow(tile_size);
            }
            let in_lines = |bytes: usize| bytes.is_multiple_of(LINE);
            let streams = job.streams
                && direct
                && gradient_in_place
                && in_lines(gradient as usize)
                && in_lines(gradient_stride as usize * size_of::<T>());
            let tile = Tile {
                len: padded,
                logits,
                logits_stride,
                labels: scratch.labels.as_ptr(),
                soft,
                soft_stride,
                gradient,
                gradient_stride,
                loss: job.loss.map_or(std::ptr::null_mut(), |_| scratch.loss.as_mut_ptr()),
                incoming: job.incoming.map_or(std::ptr::null(), |_| scratch.incoming.as_ptr()),
                next_logits: Ahead::of(&job.input, sample, pixel + len),
                next_gradient: match job.gradient {
                    Some(view) if !streams => Ahead::of(&view, sample, pixel + len),
                    _ => Ahead::nothing(scratch.labels.as_ptr()),
                },
                streams,
            };
            kernel::run::<T, M>(set, &tile, job.params, &mut scratch.sums, &mut scratch.banks);
            if let Some(view) = &job.gradient
                && !(direct && gradient_in_place)
            {
                piece.each(|sample, pixel, offset, len| {
                    let tile = gradient.add(offset);
                    scatter(set, transfer::Run { view: *view, sample, pixel, len, tile, stride: tile_size });
                });
            }
            if let Some(view) = &job.loss {
                piece.each(|sample, pixel, offset, len| {
                    let tile = scratch.loss.as_mut_ptr().add(offset);
                    scatter(set, transfer::Run { view: *view, sample, pixel, len, tile, stride: tile_size });
                });
            }
        }
        position += len;
    }
    if job.streams {
        simd::end_streams();
    }
    Ok(Found { sums: scratch.sums.take(), counts })
}

/// The runs of consecutive pixels of one sample that a tile consists of.
struct Pieces {
    pixels: usize,
    position: usize,
    len: usize,
}

impl Pieces {
    /// Call `action(sample, pixel, offset in the tile, length)` for each.
    fn each(&self, mut action: impl FnMut(usize, usize, usize, usize)) {
        let mut done = 0;
        while done < self.len {
            let position = self.position + done;
            let (sample, pixel) = (position / self.pixels, position % self.pixels);
            let len = (self.pixels - pixel).min(self.len - done);
            action(sample, pixel, done, len);
            done += len;
        }
    }
}
