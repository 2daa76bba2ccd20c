//! The confusion matrix: every metric of a segmentation comes from this one table of counts.
//!
//! Input and target are read once, in tiles of pixels: the argmax of the tile, its target classes, then the counts.
//! Nothing of the size of the image is made.

mod read;

use std::ops::Range;

use self::read::{INVALID, Reader};
use crate::cpu::argmax::{Argmax, TILE, tile_length};
use crate::cpu::pool;
use crate::cpu::simd::{Element, InstructionSet, Vector, Work};
use crate::memory;
use crate::tensor::{DType, View};
use crate::{Error, Result};

/// Up to this many classes the counts are kept in [`BANKS`] copies.
const BANKED_CLASSES: usize = 16;
/// Neighbouring pixels mostly fall in one cell; separate copies keep their increments from waiting for each other.
const BANKS: usize = 4;
/// So many neighbours are counted at once where they fall in one cell, which most do.
const RUN: usize = 16;
/// A thread is not woken for less than this many logits or labels: counting them takes about as long as waking it.
const ELEMENTS_OF_A_JOB: usize = 1 << 16;

/// Counts predictions against targets: a (C, C) matrix in row-major order, rows = target, columns = prediction.
///
/// `input` holds logits (floating) or labels (integers, one channel), `target` labels; both have the same samples and pixels.
/// The prediction of a pixel of logits is its first largest class, and nan counts as the largest value (both as
/// `torch.argmax`). A pixel whose target is `ignore_index` is not counted, whatever its input holds. A label outside
/// `[0, C)` is an error that gives its position in (N, *`spatial`).
pub fn confusion_matrix(
    input: &View,
    target: &View,
    spatial: &[usize],
    classes: usize,
    ignore_index: i64,
    threads: usize,
) -> Result<Vec<u64>> {
    check(input, target, classes)?;
    if spatial.iter().product::<usize>() != target.pixels {
        return Err(Error::value("spatial", format!("{spatial:?}"), format!("sizes of {} pixels", target.pixels)));
    }
    let task = Task { input: Reader::new(*input), target: Reader::new(*target), classes, ignore_index };
    // Each job makes a matrix of its own, so there are no more jobs than threads.
    let elements = input.samples * input.channels * input.pixels;
    let jobs = threads.min(elements / ELEMENTS_OF_A_JOB).max(1);
    let tiles = task.tiles();
    let mut total = zeros(classes, classes, 1)?;
    let parts = pool::run(
        threads,
        jobs,
        || (),
        |(), job| {
            let tiles = tiles * job / jobs..tiles * (job + 1) / jobs;
            let set = InstructionSet::best();
            let counts = Counts::new(classes)?;
            let counted = f32::dispatch(set, CountTiles { task: &task, set, tiles, counts });
            counted.map_err(|wrong| wrong.into_error(&task, spatial))
        },
    );
    for part in parts {
        // In job order, so the first wrong label of all is reported.
        total.iter_mut().zip(part?).for_each(|(total, count)| *total += count);
    }
    Ok(total)
}

/// The views must agree; callers give errors in terms of their own shapes before this.
pub(crate) fn check(input: &View, target: &View, classes: usize) -> Result<()> {
    if classes == 0 {
        return Err(Error::value("num_classes", classes, "at least one class"));
    }
    if target.dtype().is_floating() {
        return Err(Error::type_("target", target.dtype().name(), "class indices in uint8, int16, int32 or int64"));
    }
    let channels = if input.dtype().is_floating() { classes } else { 1 };
    if (input.samples, input.channels, input.pixels) != (target.samples, channels, target.pixels) {
        return Err(Error::value(
            "input",
            format!("{} samples, {} channels, {} pixels", input.samples, input.channels, input.pixels),
            format!("{} samples, {channels} channels, {} pixels, as in target", target.samples, target.pixels),
        ));
    }
    Ok(())
}

/// Finds the classes of the pixels of a sample from the given one on.
type Find<'a> = dyn FnMut(usize, usize, &mut [u32]) + 'a;

/// What is counted.
struct Task<'a> {
    input: Reader<'a>,
    target: Reader<'a>,
    classes: usize,
    ignore_index: i64,
}

/// The first label outside `[0, C)`.
struct WrongLabel {
    argument: &'static str,
    label: i64,
    sample: usize,
    pixel: usize,
}

impl Task<'_> {
    fn tiles_per_sample(&self) -> usize {
        self.target.view.pixels.div_ceil(tile_length(&self.input.view))
    }

    fn tiles(&self) -> usize {
        self.target.view.samples * self.tiles_per_sample()
    }

    /// What finds the predictions of logits; none for labels.
    fn argmax(&self, set: InstructionSet) -> Option<Box<Find<'_>>> {
        let view = self.input.view;
        match view.dtype() {
            DType::Float64 => {
                let mut argmax = Argmax::<f64>::new(set, view);
                Some(Box::new(move |sample, first, classes| argmax.find(sample, first, classes)))
            }
            dtype if dtype.is_floating() => {
                let mut argmax = Argmax::<f32>::new(set, view);
                Some(Box::new(move |sample, first, classes| argmax.find(sample, first, classes)))
            }
            _ => None,
        }
    }

    /// The counts of a range of tiles, or the first wrong label in it.
    #[inline(always)]
    fn count(
        &self,
        set: InstructionSet,
        tiles: Range<usize>,
        mut counts: Counts,
    ) -> std::result::Result<Vec<u64>, WrongLabel> {
        let mut argmax = self.argmax(set);
        let tile_length = tile_length(&self.input.view);
        let (mut rows, mut columns) = ([0; TILE], [0; TILE]);
        for tile in tiles {
            let (sample, first) = (tile / self.tiles_per_sample(), tile % self.tiles_per_sample() * tile_length);
            let length = tile_length.min(self.target.view.pixels - first);
            let (rows, columns) = (&mut rows[..length], &mut columns[..length]);
            self.target.labels(sample, first, self.classes, Some(self.ignore_index), rows);
            match &mut argmax {
                Some(argmax) => argmax(sample, first, columns),
                None => self.input.labels(sample, first, self.classes, None, columns),
            }
            if let Some(wrong) = self.wrong_label(rows, columns, sample, first) {
                return Err(wrong);
            }
            counts.add(rows, columns);
        }
        Ok(counts.matrix())
    }

    #[inline(always)]
    fn wrong_label(&self, rows: &[u32], columns: &[u32], sample: usize, first: usize) -> Option<WrongLabel> {
        let ignored = self.classes as u32;
        let wrong = |row: u32, column: u32| (row == INVALID) | ((column == INVALID) & (row != ignored));
        // The whole tile without an early exit, so that the loop is a vector loop; where it is comes second.
        let any = rows.iter().zip(columns).fold(false, |any, (&row, &column)| any | wrong(row, column));
        if !any {
            return None;
        }
        let at = rows.iter().zip(columns).position(|(&row, &column)| wrong(row, column))?;
        let (argument, reader) = if rows[at] == INVALID { ("target", &self.target) } else { ("input", &self.input) };
        Some(WrongLabel { argument, label: reader.label(sample, first + at), sample, pixel: first + at })
    }
}

/// [`Task::count`], whose loops the compiler makes vector loops of the instruction set.
struct CountTiles<'a> {
    task: &'a Task<'a>,
    set: InstructionSet,
    tiles: Range<usize>,
    counts: Counts,
}

impl Work<f32> for CountTiles<'_> {
    type Output = std::result::Result<Vec<u64>, WrongLabel>;
    #[inline(always)]
    fn run<V: Vector<Element = f32>>(self) -> Self::Output {
        self.task.count(self.set, self.tiles, self.counts)
    }
}

impl WrongLabel {
    fn into_error(self, task: &Task, spatial: &[usize]) -> Error {
        let mut position = vec![self.sample];
        let mut rest = self.pixel;
        for index in 0..spatial.len() {
            let inner: usize = spatial[index + 1..].iter().product();
            position.push(rest / inner);
            rest %= inner;
        }
        let (label, classes) = (self.label, task.classes);
        match self.argument {
            "target" => Error::Label { label, position, classes, ignore_index: task.ignore_index },
            input => Error::value(
                input,
                format!("label {label} at position {position:?}"),
                format!("0 to {} where the target is not ignored", classes - 1),
            ),
        }
    }
}

/// (banks, rows, C) counts.
fn zeros(classes: usize, rows: usize, banks: usize) -> Result<Vec<u64>> {
    let length = classes.checked_mul(rows).and_then(|length| length.checked_mul(banks));
    length.and_then(memory::zeros).ok_or_else(|| {
        Error::value("num_classes", classes, "fewer classes: there is no memory for a count of each pair of them")
    })
}

/// Counts of (target, prediction) pairs, with one more row for ignored pixels so that counting has no branch.
struct Counts {
    classes: usize,
    banks: usize,
    counts: Vec<u64>,
}

impl Counts {
    fn new(classes: usize) -> Result<Self> {
        let banks = if classes <= BANKED_CLASSES { BANKS } else { 1 };
        Ok(Self { classes, banks, counts: zeros(classes, classes + 1, banks)? })
    }

    #[inline(always)]
    fn add(&mut self, rows: &[u32], columns: &[u32]) {
        let classes = self.classes as u32;
        let bank = (self.classes + 1) * self.classes;
        let mut cells = [0; TILE];
        let cells = &mut cells[..rows.len()];
        for (cell, (&row, &column)) in cells.iter_mut().zip(rows.iter().zip(columns)) {
            // An ignored pixel may have any input label: its column is pulled into range and its row dropped in the end.
            *cell = u64::from(row) * u64::from(classes) + u64::from(column.min(classes - 1));
        }
        for run in cells.chunks(RUN) {
            let first = run[0];
            if run.iter().fold(0, |differ, cell| differ | (cell ^ first)) == 0 {
                self.counts[first as usize] += run.len() as u64;
                continue;
            }
            for (pixel, &cell) in run.iter().enumerate() {
                self.counts[(pixel & (self.banks - 1)) * bank + cell as usize] += 1;
            }
        }
    }

    /// The (C, C) matrix: the banks' sum, without the row of ignored pixels.
    fn matrix(mut self) -> Vec<u64> {
        let (kept, cells) = (self.classes * self.classes, (self.classes + 1) * self.classes);
        for bank in 1..self.banks {
            for cell in 0..kept {
                self.counts[cell] += self.counts[bank * cells + cell];
            }
        }
        self.counts.truncate(kept);
        self.counts
    }
}
