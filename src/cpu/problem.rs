//! The two passes over all pixels: reduce and gradient; both in one where no sum over pixels stands between them, and else with
//! the softmax of the first kept for the second where the gradient's memory can hold it.

use super::cache;
use super::count::{WrongLabel, check_narrowed, count_rows, wrong_label};
use super::job::{self, Job, Scratch};
use super::kernel::{Mode, Params};
use super::labels::IGNORED;
use super::pool;
use super::simd::{Element, InstructionSet};
use super::upsample::{self, Axis, Band};
use crate::Result;
use crate::loss::operands::{Target, check_operands, check_pixels, compute_type};
use crate::loss::resize::check_sizes;
use crate::loss::spec::LossSpec;
use crate::loss::sums::{self, Coefficients, LEADING};
use crate::loss::validate_weight;
use crate::tensor::{DType, View, expect_shape};

/// A job is about this many logits: long enough that handing it out costs nothing, short enough to share.
const JOB_ELEMENTS: usize = 1 << 16;
/// A job is a multiple of this many pixels: its sums stay small beside its logits, and it begins where tiles and cache lines do.
const JOB_PIXELS: usize = 512;
/// A band of upsampled logits is about this many, seen at full size.
const BAND_ELEMENTS: usize = 1 << 18;
/// Fewer logits than this are not worth waking a thread for.
const SERIAL_ELEMENTS: usize = 1 << 15;

/// One loss of one batch: what is to be computed from what.
///
/// Results do not depend on the number of threads: the cut into jobs depends on the shape alone, and sums are added up in
/// the order of the pixels.
pub struct Problem<'a> {
    /// Which terms.
    spec: &'a LossSpec,
    input: View<'a>,
    target: Target<'a>,
    weight: Option<&'a [f64]>,
    dice_weight: Option<&'a [f64]>,
    threads: usize,
    instruction_set: InstructionSet,
    /// Rows and columns of a small map of logits under a full-size target.
    upsampled: Option<[Axis; 2]>,
    /// Pixels of a sample of the target.
    pixels: usize,
    /// Whether the mean of cross entropy divides by the number of valid pixels, as torch does for soft targets.
    mean_over_pixels: bool,
    /// Pixels of each class, where they are known.
    counts: Option<&'a [u64]>,
    /// Where the labels go as bytes.
    narrowed: Option<View<'a>>,
    /// Whether gradients are written past the cache; none: where logits and gradient do not fit there.
    streams: Option<bool>,
}

macro_rules! modes {
    ($($name:ident: $reduce:literal, $gradient:literal, $pixel:literal, $region:literal, $keeps:literal;)*) => {
        $(struct $name;
        impl Mode for $name {
            const REDUCE: bool = $reduce;
            const GRADIENT: bool = $gradient;
            const PIXEL: bool = $pixel;
            const REGION: bool = $region;
            const KEEPS: bool = $keeps;
        })*
    };
}
modes! {
    ReducePixel: true, false, true, false, false;
    ReduceRegion: true, false, false, true, false;
    ReduceBoth: true, false, true, true, false;
    GradientPixel: false, true, true, false, false;
    GradientRegion: false, true, false, true, false;
    GradientBoth: false, true, true, true, false;
    PixelAtOnce: true, true, true, false, false;
    KeepRegion: true, false, false, true, true;
    KeepBoth: true, false, true, true, true;
    KeptRegion: false, true, false, true, true;
    KeptBoth: false, true, true, true, true;
}

/// `$body` with `$mode` as the mode of the pass over the terms of the spec.
macro_rules! with_mode {
    (@as $name:ident, $mode:ident, $body:expr) => {{
        type $mode = $name;
        $body
    }};
    ($pass:expr, $spec:expr, |$mode:ident| $body:expr) => {
        match ($pass, $spec.pixel.is_some(), $spec.region.is_some()) {
            (Pass::Reduce, true, false) => with_mode!(@as ReducePixel, $mode, $body),
            (Pass::Reduce, false, true) => with_mode!(@as ReduceRegion, $mode, $body),
            (Pass::Reduce, true, true) => with_mode!(@as ReduceBoth, $mode, $body),
            (Pass::Gradient, true, false) => with_mode!(@as GradientPixel, $mode, $body),
            (Pass::Gradient, false, true) => with_mode!(@as GradientRegion, $mode, $body),
            (Pass::Gradient, true, true) => with_mode!(@as GradientBoth, $mode, $body),
            (Pass::AtOnce, true, false) => with_mode!(@as PixelAtOnce, $mode, $body),
            (Pass::Keep, false, true) => with_mode!(@as KeepRegion, $mode, $body),
            (Pass::Keep, true, true) => with_mode!(@as KeepBoth, $mode, $body),
            (Pass::Kept, false, true) => with_mode!(@as KeptRegion, $mode, $body),
            (Pass::Kept, true, true) => with_mode!(@as KeptBoth, $mode, $body),
            _ => unreachable!("`validate` asks for a term, `is_one_pass` for no region, `keeps` for one"),
        }
    };
}

/// What a pass does.
#[derive(Clone, Copy, PartialEq)]
enum Pass {
    Reduce,
    Gradient,
    AtOnce,
    /// Reduce, and keep the exponentials in the gradient's memory.
    Keep,
    /// The gradient from what is kept there.
    Kept,
}

/// What the first pass found.
pub struct Found {
    /// See [`sums`]: row after row.
    pub sums: Vec<f64>,
    /// Pixels of each class in the whole target, whose labels were checked with that; none for soft targets.
    pub counts: Vec<u64>,
}

const CHECKED: &str = "labels are checked in the first pass";

impl<'a> Problem<'a> {
    /// Check that the parts fit together.
    ///
    /// `input` is (N, C, pixels); `target` is (N, pixels) with class indices, or (N, C, pixels) in the type that the loss is computed
    /// in, for region terms and cross entropy. `threads` is the largest number to use.
    pub fn new(
        spec: &'a LossSpec,
        input: View<'a>,
        target: Target<'a>,
        weight: Option<&'a [f64]>,
        dice_weight: Option<&'a [f64]>,
        threads: usize,
    ) -> Result<Self> {
        check_pixels(&input, &target)?;
        let problem = Self {
            spec,
            input,
            target,
            weight,
            dice_weight,
            threads,
            instruction_set: InstructionSet::best(),
            upsampled: None,
            pixels: input.pixels,
            mean_over_pixels: matches!(target, Target::Soft(..)),
            counts: None,
            narrowed: None,
            streams: None,
        };
        problem.checked()
    }

    /// The loss of bilinearly upsampled logits: `input` is (N, C, h * w) of the size `small`, `target` (N, H * W) class indices of the
    /// size `full`.
    pub fn upsampled(
        spec: &'a LossSpec,
        (input, small): (View<'a>, [usize; 2]),
        (target, full): (View<'a>, [usize; 2]),
        align_corners: bool,
        weight: Option<&'a [f64]>,
        dice_weight: Option<&'a [f64]>,
        threads: usize,
    ) -> Result<Self> {
        expect_shape("target", &[target.samples], &[input.samples], "the samples of input")?;
        check_sizes(full, small)?;
        let axis = |i: usize| Axis::new(small[i], full[i], align_corners);
        let problem = Self {
            spec,
            input,
            target: Target::Index(target),
            weight,
            dice_weight,
            threads,
            instruction_set: InstructionSet::best(),
            // A map of the target's own size stays as it is, whatever the corners.
            upsampled: (!full.contains(&0) && full != small).then(|| [axis(0), axis(1)]),
            pixels: target.pixels,
            mean_over_pixels: false,
            counts: None,
            narrowed: None,
            streams: None,
        };
        problem.checked()
    }

    fn checked(self) -> Result<Self> {
        check_operands(self.spec, &self.input, &self.target)?;
        let (name, dice_name) = self.spec.weight_names();
        for (name, weight) in [(name, self.weight), (dice_name, self.dice_weight)] {
            if let Some(weight) = weight {
                validate_weight(name, weight, self.classes())?;
            }
        }
        Ok(self)
    }

    /// The same on another instruction set, for tests and benches.
    pub fn with_instruction_set(self, instruction_set: InstructionSet) -> Self {
        Self { instruction_set, ..self }
    }

    /// The same with or without writing gradients past the cache, for tests and benches.
    pub fn with_streams(self, streams: bool) -> Self {
        Self { streams: Some(streams), ..self }
    }

    /// Whether to write a gradient past the cache: it would drive out what is still to be read, and its lines would be read before they
    /// are written.
    fn streams(&self, gradient: View<'_>) -> bool {
        let bytes = |view: &View<'_>| view.samples * view.channels * view.pixels * view.dtype().size();
        let full = || cache::last_level().is_some_and(|cache| bytes(&self.input) + bytes(&gradient) > cache / 4 * 3);
        self.streams.unwrap_or_else(full)
    }

    /// The same with the denominator that cross entropy has for shares of classes, of which labels are a case.
    pub fn with_mean_over_pixels(self) -> Self {
        Self { mean_over_pixels: true, ..self }
    }

    /// The same with known counts of class indices, one for each class: they are neither counted nor checked again.
    ///
    /// # Safety
    /// Every label of the target must be a class or ignored, since labels become addresses.
    pub unsafe fn with_counts(self, counts: &'a [u64]) -> Result<Self> {
        expect_shape("counts", &[counts.len()], &[self.classes()], "one for each class of input")?;
        Ok(Self { counts: Some(counts), ..self })
    }

    /// The same, whose first pass leaves the labels as bytes in `narrowed`, contiguous and of the target's shape, with
    /// [`IGNORED`] for ignored pixels. Labels of 8 bytes are then read once.
    pub fn with_narrowed(self, narrowed: View<'a>) -> Result<Self> {
        check_narrowed(&self.target.view(), &narrowed, self.classes())?;
        assert!(matches!(self.target, Target::Index(_)) && self.upsampled.is_none(), "labels of the logits' size");
        Ok(Self { narrowed: Some(narrowed), ..self })
    }

    fn classes(&self) -> usize {
        self.input.channels
    }

    /// The number of rows of sums, and of their columns.
    pub fn sums_shape(&self) -> (usize, usize) {
        let rows = if self.spec.per_sample() { self.input.samples } else { 1 };
        (rows, sums::row_length(self.spec, self.classes()))
    }

    /// The shape of a loss for each pixel: (samples, pixels).
    pub fn loss_shape(&self) -> [usize; 2] {
        [self.input.samples, self.pixels]
    }

    /// First pass: the sums (see [`sums`]), and the loss of each pixel where `loss` is given (`reduction = "none"`).
    pub fn reduce(&self, loss: Option<View<'_>>) -> Result<Found> {
        self.reduced(Pass::Reduce, None, loss)
    }

    fn reduced(&self, pass: Pass, gradient: Option<View<'_>>, loss: Option<View<'_>>) -> Result<Found> {
        let (rows, columns) = self.sums_shape();
        let coefficients = vec![Coefficients::default(); rows];
        let mut sums = vec![0.0; rows * columns];
        let before = if self.counts_in_pass(pass) { None } else { Some(self.count()?) };
        let within = self.pass(pass, &coefficients, &mut sums, gradient, loss, None)?;
        let counts = before.unwrap_or(within);
        self.lead(&mut sums, &counts);
        Ok(self.found(sums, &counts))
    }

    /// The sums and the counts of each row.
    fn found(&self, sums: Vec<f64>, counts: &[u64]) -> Found {
        let mut total = vec![0; if matches!(self.target, Target::Index(_)) { self.classes() } else { 0 }];
        for row in counts.chunks_exact(self.classes()) {
            total.iter_mut().zip(row).for_each(|(total, &count)| *total += count);
        }
        Found { sums, counts: total }
    }

    /// Whether each job counts its labels: what they decide is not needed before all jobs are done.
    fn counts_in_pass(&self, pass: Pass) -> bool {
        let known = self.counts.is_some() && self.sums_shape().0 == 1;
        let index = matches!(self.target, Target::Index(_)) && self.upsampled.is_none();
        // Where a gradient is to follow, labels of 8 bytes are better read by themselves: measured.
        pass == Pass::Reduce && index && !known && self.narrowed.is_none()
    }

    /// Second pass: dL/dinput from the sums, written to `gradient`. `scale` is the incoming gradient of a scalar loss; `incoming`
    /// that of each pixel, for `reduction = "none"`.
    pub fn gradient(&self, sums: &[f64], scale: f64, incoming: Option<View<'_>>, gradient: View<'_>) {
        let coefficients = self.scaled(sums, scale);
        self.pass(Pass::Gradient, &coefficients, &mut [], Some(gradient), None, incoming).expect(CHECKED);
    }

    fn scaled(&self, sums: &[f64], scale: f64) -> Vec<Coefficients> {
        let (_, columns) = self.sums_shape();
        let mut coefficients = sums::coefficients(self.spec, self.dice_weight, sums, columns);
        for row in &mut coefficients {
            row.pixel *= scale;
            row.intersection.iter_mut().chain(&mut row.prediction).for_each(|value| *value *= scale);
        }
        coefficients
    }

    /// Whether [`Problem::reduce_keeping`] and [`Problem::gradient_from_kept`] serve this loss with that gradient.
    pub fn keeps(&self, gradient: &View<'_>) -> bool {
        let index = matches!(self.target, Target::Index(_));
        index
            && self.spec.region.is_some()
            && self.upsampled.is_none()
            && gradient.dtype() == compute_type(self.input.dtype())
    }

    /// First pass, whose exponentials `gradient` keeps until the second one.
    pub fn reduce_keeping(&self, gradient: View<'_>) -> Result<Found> {
        assert!(self.keeps(&gradient));
        self.reduced(Pass::Keep, Some(gradient), None)
    }

    /// Second pass, as [`Problem::gradient`], where [`Problem::reduce_keeping`] left its exponentials.
    pub fn gradient_from_kept(&self, sums: &[f64], scale: f64, gradient: View<'_>) {
        assert!(self.keeps(&gradient));
        let coefficients = self.scaled(sums, scale);
        self.pass(Pass::Kept, &coefficients, &mut [], Some(gradient), None, None).expect(CHECKED);
    }

    /// Whether [`Problem::reduce_with_gradient`] serves this loss.
    pub fn is_one_pass(&self) -> bool {
        self.spec.is_one_pass() && self.upsampled.is_none()
    }

    /// Both passes in one, for an incoming gradient of `scale`: the denominators of pixel losses depend on the target alone.
    pub fn reduce_with_gradient(&self, gradient: View<'_>, scale: f64) -> Result<Found> {
        assert!(self.is_one_pass());
        let (rows, columns) = self.sums_shape();
        let counts = self.count()?;
        let mut sums = vec![0.0; rows * columns];
        self.lead(&mut sums, &counts);
        let pixel = scale * sums::pixel_factor(self.spec, sums[1], sums[2]);
        let coefficients = [Coefficients { pixel, ..Default::default() }];
        self.pass(Pass::AtOnce, &coefficients, &mut sums, Some(gradient), None, None)?;
        Ok(self.found(sums, &counts))
    }

    /// The loss from the sums of this problem (or of several, added up).
    pub fn finish(&self, sums: &[f64]) -> f64 {
        sums::finish(self.spec, self.dice_weight, sums, self.sums_shape().1)
    }

    /// How the pixels are cut: (jobs, jobs a row, pixels a row, pixels a job).
    fn cut(&self) -> (usize, usize, usize, usize) {
        let (rows, _) = self.sums_shape();
        let row_pixels = self.input.samples * self.pixels / rows.max(1);
        let job = (JOB_ELEMENTS / self.classes()).min(row_pixels / pool::JOBS).max(1).next_multiple_of(JOB_PIXELS);
        let jobs_a_row = row_pixels.div_ceil(job);
        (rows * jobs_a_row, jobs_a_row, row_pixels, job)
    }

    /// Do `work(scratch, row, from, to)` for all jobs; results in order, with their rows.
    fn each_job<S, R: Send>(
        &self,
        scratch: impl Fn() -> S + Sync,
        work: impl Fn(&mut S, usize, usize, usize) -> R + Sync,
    ) -> impl Iterator<Item = (usize, R)> {
        let (jobs, jobs_a_row, row_pixels, job_pixels) = self.cut();
        let results = pool::run(self.threads(), jobs, scratch, |scratch, job| {
            let (row, index) = (job / jobs_a_row, job % jobs_a_row);
            let from = row * row_pixels + index * job_pixels;
            let to = (from + job_pixels).min((row + 1) * row_pixels);
            work(scratch, row, from, to)
        });
        results.into_iter().enumerate().map(move |(job, result)| (job / jobs_a_row, result))
    }

    /// Threads that the work is worth.
    fn threads(&self) -> usize {
        let elements = self.input.samples * self.pixels * self.classes();
        if elements < SERIAL_ELEMENTS { 1 } else { self.threads }
    }

    /// How many pixels of each class each row has, or the error for the first label that is no class. With a soft target, how
    /// many are valid.
    fn count(&self) -> Result<Vec<u64>> {
        let (rows, _) = self.sums_shape();
        let (target, classes) = match self.target {
            Target::Index(target) => match self.counts {
                Some(counts) if rows == 1 => return Ok(counts.to_vec()),
                _ => (target, self.classes()),
            },
            Target::Soft(_, Some(valid)) => (valid, 1),
            Target::Soft(_, None) => {
                return Ok(vec![(self.input.samples * self.pixels / rows.max(1)) as u64; rows]);
            }
        };
        let ignore_index = self.spec.ignore_index;
        count_rows(target, rows, classes, ignore_index, self.narrowed, self.threads(), self.instruction_set)
    }

    /// The number as the kernels have it: a sum of weights is 0 where all of them are.
    fn rounded(&self, weight: f64) -> f64 {
        if compute_type(self.input.dtype()) == DType::Float64 { weight } else { f64::from(weight as f32) }
    }

    /// What the labels alone decide, into the rows of sums: weights, valid pixels and T_c.
    fn lead(&self, sums: &mut [f64], counts: &[u64]) {
        let (_, columns) = self.sums_shape();
        let classes = self.classes();
        let soft = matches!(self.target, Target::Soft(..));
        for (row, counts) in sums.chunks_exact_mut(columns).zip(counts.chunks_exact(if soft { 1 } else { classes })) {
            row[2] = counts.iter().sum::<u64>() as f64;
            let weight = |c: usize| self.weight.map_or(1.0, |w| self.rounded(w[c]));
            row[1] = if self.mean_over_pixels {
                row[2]
            } else {
                counts.iter().enumerate().map(|(c, &n)| weight(c) * n as f64).sum()
            };
            if self.spec.region.is_some() && !soft {
                row[LEADING + 2 * classes..].iter_mut().zip(counts).for_each(|(sum, &n)| *sum = n as f64);
            }
        }
    }

    /// Go over all pixels; add to `sums` where the pass reduces. Returns the pixels of each class of each row, (rows, C), where they
    /// are counted on the way; then a label that is no class is an error.
    fn pass(
        &self,
        pass: Pass,
        coefficients: &[Coefficients],
        sums: &mut [f64],
        gradient: Option<View<'_>>,
        loss: Option<View<'_>>,
        incoming: Option<View<'_>>,
    ) -> Result<Vec<u64>> {
        match compute_type(self.input.dtype()) {
            DType::Float64 => self.pass_as::<f64>(pass, coefficients, sums, gradient, loss, incoming),
            _ => self.pass_as::<f32>(pass, coefficients, sums, gradient, loss, incoming),
        }
    }

    fn pass_as<T: Element>(
        &self,
        pass: Pass,
        coefficients: &[Coefficients],
        sums: &mut [f64],
        gradient: Option<View<'_>>,
        loss: Option<View<'_>>,
        incoming: Option<View<'_>>,
    ) -> Result<Vec<u64>> {
        // Destinations are cut as the input is: joined if it is.
        let params: Vec<Params<T>> = coefficients.iter().map(|row| self.params(row)).collect();
        let set = self.instruction_set;
        if let Some([vertical, horizontal]) = &self.upsampled {
            let rows = self.input.pixels / horizontal.small();
            let band_rows = self.band_rows(horizontal.small());
            let bands = rows.div_ceil(band_rows);
            let results = pool::run(
                self.threads(),
                self.input.samples * bands,
                || (),
                |(), job| {
                    let (sample, start) = (job / bands, job % bands * band_rows);
                    let Target::Index(target) = self.target else { unreachable!("`upsampled` takes class indices") };
                    let row = if self.spec.per_sample() { sample } else { 0 };
                    let band = Band {
                        input: self.input,
                        target,
                        ignore_index: self.spec.ignore_index,
                        gradient,
                        loss,
                        incoming,
                        params: &params[row],
                        vertical,
                        horizontal,
                        sample,
                        rows: start..(start + band_rows).min(rows),
                    };
                    let sums = with_mode!(pass, self.spec, |M| upsample::run::<T, M>(set, band));
                    (row, Ok(job::Found { sums, counts: Vec::new() }))
                },
            );
            return self.add_up(pass, results.into_iter(), sums);
        }
        let per_sample = self.spec.per_sample();
        // What the pass before kept there has just been read.
        let streams = pass != Pass::Kept && gradient.is_some_and(|gradient| self.streams(gradient));
        // What was kept stands in the place of the logits.
        let input = gradient.filter(|_| pass == Pass::Kept).unwrap_or(self.input);
        let narrowed = self.narrowed.map(|bytes| (Target::Index(bytes), i64::from(IGNORED)));
        let (target, ignore_index) = narrowed.unwrap_or((self.target, self.spec.ignore_index));
        let make = |row: usize, from, to| Job {
            input,
            target,
            ignore_index,
            counts: self.counts_in_pass(pass),
            gradient,
            loss,
            incoming,
            streams,
            params: &params[row],
            from,
            to,
        };
        let results = self.each_job(
            || Scratch::<T>::new(&self.input),
            |scratch, row, from, to| {
                let job = if per_sample { make(row, from, to) } else { make(row, from, to).joined() };
                with_mode!(pass, self.spec, |M| job::run::<T, M>(set, job, scratch))
            },
        );
        self.add_up(pass, results, sums)
    }

    /// Rows of the small map in one band: enough that the rows between bands, which are visited twice, are few.
    fn band_rows(&self, columns: usize) -> usize {
        let full_row = self.pixels * columns / self.input.pixels.max(1) * self.classes();
        (BAND_ELEMENTS / full_row.max(1)).max(8)
    }

    /// Add the sums of a reducing pass to the rows they belong to; the counts likewise, as [`Problem::pass`] returns them.
    fn add_up(
        &self,
        pass: Pass,
        results: impl Iterator<Item = (usize, std::result::Result<job::Found, WrongLabel>)>,
        sums: &mut [f64],
    ) -> Result<Vec<u64>> {
        let ((rows, columns), classes) = (self.sums_shape(), self.classes());
        let mut counts = vec![0; rows * classes];
        for (row, found) in results {
            let found =
                found.map_err(|wrong| wrong_label(wrong, &self.target.view(), classes, self.spec.ignore_index))?;
            counts[row * classes..].iter_mut().zip(found.counts).for_each(|(sum, count)| *sum += count);
            if matches!(pass, Pass::Gradient | Pass::Kept) {
                continue;
            }
            let row = &mut sums[row * columns..][..columns];
            row[0] += found.sums[0];
            row[LEADING..].iter_mut().zip(&found.sums[1..]).for_each(|(sum, part)| *sum += part);
        }
        Ok(counts)
    }

    fn params<T: Element>(&self, row: &Coefficients) -> Params<T> {
        let convert = |values: &[f64]| values.iter().copied().map(T::from_f64).collect::<Vec<T>>();
        let weight = self.weight.map_or_else(|| vec![T::from_f64(1.0); self.classes()], convert);
        let region_target: Vec<f64> = match self.target {
            Target::Index(_) => row.intersection.iter().zip(&row.prediction).map(|(a, b)| a + b).collect(),
            Target::Soft(..) => row.intersection.clone(),
        };
        // The kernel asks where a register has one class; registers of several gain by this.
        let all_one = weight.iter().all(|weight| weight.to_f64() == 1.0);
        Params {
            classes: self.classes(),
            pixel: self.spec.pixel.map(|(pixel, _)| if all_one { pixel.of_weight_one() } else { pixel }),
            weight,
            weight_sum: self.weight.map_or(self.classes() as f64, |w| w.iter().sum()),
            factor: row.pixel,
            region_target: convert(&region_target),
            region: convert(&row.prediction),
        }
    }
}
