//! The problem that the tensors of a call pose, whatever their sizes.

use std::sync::Arc;

use pyo3::prelude::*;

use super::super::tensor::Tensor;
use super::spec::{PyLossSpec, Sizes};
use super::views::{images, logits, target_of_equal_size};
use crate::cpu::resize::Resize;
use crate::cpu::simd::Element;
use crate::cpu::{Counted, Found, LabelMemory, Problem, count_labels};
use crate::loss::operands::{Target, compute_type};
use crate::loss::spec::LossSpec;
use crate::tensor::{DType, View};
use crate::{Error, Result};

/// What the first pass made of the labels of a target: for the second one, and for other maps under the same target.
#[pyclass(frozen, module = "rarepixel._core")]
pub struct Labels {
    /// The target itself.
    counted: Arc<Counted>,
    /// The labels of the logits' size, -1 for ignored pixels.
    resized: Option<LabelMemory>,
}

#[pymethods]
impl Labels {
    /// Whether they became bytes.
    #[getter]
    fn narrowed(&self) -> bool {
        self.counted.narrowed.is_some()
    }
}

/// The tensors of a call.
pub struct Operands<'a> {
    /// Which loss.
    pub spec: &'a PyLossSpec,
    /// Logits.
    pub input: &'a Tensor,
    /// Labels or shares.
    pub target: &'a Tensor,
    /// Of the pixel term.
    pub weight: Option<&'a [f64]>,
    /// Of the region term.
    pub dice_weight: Option<&'a [f64]>,
    /// The largest number of threads.
    pub threads: usize,
    /// What is known of the target's labels.
    pub labels: Option<&'a Labels>,
}

impl<'a> Operands<'a> {
    /// `first` on the problem that the first pass has to solve, and what is known of the labels after it. With `narrows`, labels become
    /// bytes where that is worth it.
    pub fn first_pass(
        &self,
        narrows: bool,
        first: impl FnOnce(&Problem<'_>) -> Result<Found>,
    ) -> Result<(Found, Option<Labels>)> {
        let input = logits(self.input)?;
        let known = self.known(input.channels);
        let counts = known.map(|counted| &counted.counts[..]);
        match self.spec.sizes {
            Sizes::Nearest | Sizes::Majority if !self.equal_sizes() => {
                let counted = self.counted(input.channels)?;
                let resized = self.resized(&counted)?;
                let found = first(&self.problem(&self.spec.resized, input, Target::Index(resized.written()))?)?;
                Ok((found, Some(Labels { counted, resized: Some(resized) })))
            }
            Sizes::Equal | Sizes::Nearest | Sizes::Majority => {
                let target = target_of_equal_size(&self.spec.spec, self.input, self.target)?;
                let Target::Index(view) = target else {
                    return Ok((first(&self.problem(&self.spec.spec, input, target)?)?, None));
                };
                if let Some(counted) = known {
                    let (view, spec) = self.readable(view, Some(counted));
                    let found = first(&trusting(self.problem(spec, input, Target::Index(view))?, counts)?)?;
                    return Ok((found, Some(Labels { counted: counted.clone(), resized: None })));
                }
                let mut narrowed = if narrows { LabelMemory::narrowed(&view, &input) } else { None };
                let problem = self.problem(&self.spec.spec, input, target)?;
                let found = match &mut narrowed {
                    Some(narrowed) => first(&problem.with_narrowed(narrowed.view())?),
                    None => first(&problem),
                }?;
                let counted = self.found(&found, narrowed);
                Ok((found, Some(Labels { counted, resized: None })))
            }
            Sizes::Shares => {
                let counted = self.counted(input.channels)?;
                let found = self.with_shares(input, Some(&counted), first)?;
                Ok((found, Some(Labels { counted, resized: None })))
            }
            Sizes::Upsample { align_corners } => {
                let found = first(&trusting(self.upsampled(input, known, align_corners)?, counts)?)?;
                let counted = known.cloned().unwrap_or_else(|| self.found(&found, None));
                Ok((found, Some(Labels { counted, resized: None })))
            }
        }
    }

    /// `second` on the problem of the second pass: labels were checked in the first one.
    pub fn second_pass<R>(&self, second: impl FnOnce(&Problem<'_>) -> Result<R>) -> Result<R> {
        let input = logits(self.input)?;
        let known = self.known(input.channels);
        match self.spec.sizes {
            Sizes::Nearest | Sizes::Majority if !self.equal_sizes() => {
                let made;
                let resized = match self.labels.and_then(|labels| labels.resized.as_ref()) {
                    Some(resized) => resized,
                    None => {
                        made = self.resized(&self.counted(input.channels)?)?;
                        &made
                    }
                };
                second(&self.problem(&self.spec.resized, input, Target::Index(resized.written()))?)
            }
            Sizes::Equal | Sizes::Nearest | Sizes::Majority => {
                match target_of_equal_size(&self.spec.spec, self.input, self.target)? {
                    Target::Index(view) => {
                        let (view, spec) = self.readable(view, known);
                        second(&self.problem(spec, input, Target::Index(view))?)
                    }
                    soft => second(&self.problem(&self.spec.spec, input, soft)?),
                }
            }
            Sizes::Shares => self.with_shares(input, known, second),
            Sizes::Upsample { align_corners } => second(&self.upsampled(input, known, align_corners)?),
        }
    }

    /// The target, if it was counted for so many classes and this spec.
    fn known(&self, classes: usize) -> Option<&'a Arc<Counted>> {
        let ignore_index = self.spec.spec.ignore_index;
        let fits = |counted: &&Arc<Counted>| counted.counts.len() == classes && counted.ignore_index == ignore_index;
        self.labels.map(|labels| &labels.counted).filter(fits)
    }

    /// The target, counted now if it was not before.
    fn counted(&self, classes: usize) -> Result<Arc<Counted>> {
        if let Some(counted) = self.known(classes) {
            return Ok(counted.clone());
        }
        let (_, view, _) = images(self.input, self.target)?;
        let ignore_index = self.spec.spec.ignore_index;
        let counts = count_labels(view, classes, ignore_index, self.threads)?;
        Ok(Arc::new(Counted { narrowed: None, counts, ignore_index }))
    }

    /// The target as the first pass counted it.
    fn found(&self, found: &Found, narrowed: Option<LabelMemory>) -> Arc<Counted> {
        Arc::new(Counted { narrowed, counts: found.counts.clone(), ignore_index: self.spec.spec.ignore_index })
    }

    fn equal_sizes(&self) -> bool {
        self.target.shape.get(1..) == self.input.shape.get(2..)
    }

    /// The labels as bytes where there are such, else as they are; and the spec with the label that ignored ones have there.
    fn readable<'b>(&'b self, target: View<'b>, counted: Option<&'b Arc<Counted>>) -> (View<'b>, &'b LossSpec) {
        match counted.and_then(|counted| counted.narrowed.as_ref()) {
            Some(narrowed) => (narrowed.written(), &self.spec.narrowed),
            None => (target, &self.spec.spec),
        }
    }

    fn problem<'b>(&'b self, spec: &'b LossSpec, input: View<'b>, target: Target<'b>) -> Result<Problem<'b>> {
        Problem::new(spec, input, target, self.weight, self.dice_weight, self.threads)
    }

    fn upsampled<'b>(
        &'b self,
        input: View<'b>,
        counted: Option<&'b Arc<Counted>>,
        align_corners: bool,
    ) -> Result<Problem<'b>> {
        let (small, target, full) = images(self.input, self.target)?;
        let (target, spec) = self.readable(target, counted);
        let (weight, dice_weight) = (self.weight, self.dice_weight);
        Problem::upsampled(spec, (input, small), (target, full), align_corners, weight, dice_weight, self.threads)
    }

    /// Labels of the logits' size.
    fn resized(&self, counted: &Arc<Counted>) -> Result<LabelMemory> {
        let (to, target, from) = images(self.input, self.target)?;
        let (target, spec) = self.readable(target, Some(counted));
        let resize = Resize { target, from, to, ignore_index: spec.ignore_index, threads: self.threads };
        let shape = [target.samples, to[0] * to[1]];
        let mut labels = LabelMemory::new(DType::Int32, shape)
            .ok_or_else(|| Error::value("input", format!("{to:?} pixels"), "memory for as many labels"))?;
        match self.spec.sizes {
            Sizes::Majority => resize.majority(&counted.counts, labels.view())?,
            _ => resize.nearest(labels.view())?,
        }
        Ok(labels)
    }

    /// `work` on the shares that classes have of the windows behind the pixels of the logits.
    fn with_shares<R>(
        &self,
        input: View<'_>,
        counted: Option<&Arc<Counted>>,
        work: impl FnOnce(&Problem<'_>) -> Result<R>,
    ) -> Result<R> {
        let (to, target, from) = images(self.input, self.target)?;
        let (target, spec) = self.readable(target, counted);
        // Of equal size, the share is the label itself.
        if to == from {
            let problem = self.problem(spec, input, Target::Index(target))?.with_mean_over_pixels();
            return work(&trusting(problem, counted.map(|counted| &counted.counts[..]))?);
        }
        let classes = input.channels;
        let resize = Resize { target, from, to, ignore_index: spec.ignore_index, threads: self.threads };
        match compute_type(input.dtype()) {
            DType::Float64 => self.solve_shares::<f64, R>(input, resize.shares(classes), work),
            _ => self.solve_shares::<f32, R>(input, resize.shares(classes), work),
        }
    }

    /// The problem on (N, C, pixels) shares and (N, pixels) labels that say which pixels have any.
    fn solve_shares<T: Element, R>(
        &self,
        input: View<'_>,
        (mut shares, mut valid): (Vec<T>, Vec<i32>),
        work: impl FnOnce(&Problem<'_>) -> Result<R>,
    ) -> Result<R> {
        let (classes, pixels) = (input.channels, input.pixels);
        let shape = [input.samples, classes, pixels];
        let strides = [(classes * pixels) as isize, pixels as isize, 1];
        let (valid_shape, valid_strides) = ([input.samples, pixels], [pixels as isize, 1]);
        // SAFETY: the vectors have these shapes and outlive the problem.
        let (shares, valid) = unsafe {
            let shares = View::new(shares.as_mut_ptr().cast(), T::DTYPE, &shape, &strides, true);
            let valid = View::new(valid.as_mut_ptr().cast(), DType::Int32, &valid_shape, &valid_strides, false);
            (shares.expect("contiguous"), valid)
        };
        work(&self.problem(&self.spec.resized, input, Target::Soft(shares, valid))?)
    }
}

/// The problem with the counts of its labels, where they are known.
fn trusting<'a>(problem: Problem<'a>, counts: Option<&'a [u64]>) -> Result<Problem<'a>> {
    match counts {
        // SAFETY: all labels were checked when they were counted; our Python code brings the counts of this target alone, and
        // nobody else can make them.
        Some(counts) => unsafe { problem.with_counts(counts) },
        None => Ok(problem),
    }
}
