//! Reads one tile of pixels as class numbers: the argmax of logits, or labels checked against the number of classes.

use std::hint::select_unpredictable;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::TILE;
use crate::cpu::labels::{Label, with_labels};
use crate::tensor::{DType, View};

/// What a label outside `[0, C)` is read as.
pub(super) const INVALID: u32 = u32::MAX;

/// Reads tiles of a view.
pub(super) struct Reader<'a> {
    pub(super) view: View<'a>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(view: View<'a>) -> Self {
        Self { view }
    }

    /// The first largest channel of each pixel from `first` on; nan is larger than any number.
    pub(super) fn argmax(&self, sample: usize, first: usize, classes: &mut [u32]) {
        match self.view.dtype() {
            DType::Float16 => self.argmax_of::<f16>(sample, first, classes),
            DType::BFloat16 => self.argmax_of::<bf16>(sample, first, classes),
            DType::Float32 => self.argmax_of::<f32>(sample, first, classes),
            DType::Float64 => self.argmax_of::<f64>(sample, first, classes),
            other => unreachable!("argmax of {}", other.name()),
        }
    }

    fn argmax_of<T: Logit>(&self, sample: usize, first: usize, classes: &mut [u32]) {
        let length = classes.len();
        let (mut stored, mut best, mut value) =
            ([T::default(); TILE], [T::Value::default(); TILE], [T::Value::default(); TILE]);
        let (stored, best, value) = (&mut stored[..length], &mut best[..length], &mut value[..length]);
        self.load(sample, 0, first, stored);
        T::widen(stored, best);
        classes.fill(0);
        for channel in 1..self.view.channels {
            self.load(sample, channel, first, stored);
            T::widen(stored, value);
            keep_larger::<T>(value, best, channel as u32, classes);
        }
    }

    /// The labels from pixel `first` on: `number_of_classes` where ignored, [`INVALID`] where out of range.
    pub(super) fn labels(
        &self,
        sample: usize,
        first: usize,
        number_of_classes: usize,
        ignore_index: Option<i64>,
        classes: &mut [u32],
    ) {
        with_labels!(self.view, |L| self.labels_of::<L>(sample, first, number_of_classes, ignore_index, classes));
    }

    fn labels_of<T: Label + Default>(
        &self,
        sample: usize,
        first: usize,
        number_of_classes: usize,
        ignore_index: Option<i64>,
        classes: &mut [u32],
    ) {
        let mut stored = [T::default(); TILE];
        let stored = &mut stored[..classes.len()];
        self.load(sample, 0, first, stored);
        for (class, &label) in classes.iter_mut().zip(&*stored) {
            let label = label.to_i64();
            // As unsigned, a negative label is out of range too.
            let checked = if (label as u64) < number_of_classes as u64 { label as u32 } else { INVALID };
            *class = if Some(label) == ignore_index { number_of_classes as u32 } else { checked };
        }
    }

    /// One label as it is, for an error message.
    pub(super) fn label(&self, sample: usize, pixel: usize) -> i64 {
        with_labels!(self.view, |L| {
            let mut label = [L::default()];
            self.load(sample, 0, pixel, &mut label);
            label[0].to_i64()
        })
    }

    /// Copies elements of one channel, from pixel `first` on. `T` is always the type that the view's dtype names.
    fn load<T: Copy>(&self, sample: usize, channel: usize, first: usize, out: &mut [T]) {
        debug_assert!(first + out.len() <= self.view.pixels);
        let stride = self.view.strides[2];
        // SAFETY: callers dispatch on the dtype and pass a sample, channel and pixel range that lie in the view, all of which
        // `View::new` promises to be readable; neither way leaves that range. A tensor need not be aligned.
        unsafe {
            let pointer: *const T = self.view.at(sample, channel, first);
            if stride == 1 {
                let (from, to) = (pointer.cast::<u8>(), out.as_mut_ptr().cast::<u8>());
                std::ptr::copy_nonoverlapping(from, to, size_of_val(out));
            } else {
                for (index, value) in out.iter_mut().enumerate() {
                    *value = pointer.offset(index as isize * stride).read_unaligned();
                }
            }
        }
    }
}

/// One more channel: where its value is larger than the best so far, it is the best and its number the class.
// Both selects are `select_unpredictable`: as `if`s they become stores under a branch for each pixel, five times as slow.
fn keep_larger<T: Logit>(value: &[T::Value], best: &mut [T::Value], channel: u32, class: &mut [u32]) {
    for ((&value, best), class) in value.iter().zip(best).zip(class) {
        let keep = (*best >= value) | T::is_nan(*best); // false where only `value` is nan
        *best = select_unpredictable(keep, *best, value);
        *class = select_unpredictable(keep, *class, channel);
    }
}

/// A floating element, compared in a type that orders it exactly.
trait Logit: Copy + Default {
    type Value: Copy + Default + PartialOrd;

    fn widen(stored: &[Self], values: &mut [Self::Value]);
    fn is_nan(value: Self::Value) -> bool;
}

macro_rules! compared_as_is {
    ($type:ty) => {
        impl Logit for $type {
            type Value = $type;

            fn widen(stored: &[Self], values: &mut [$type]) {
                values.copy_from_slice(stored);
            }
            fn is_nan(value: $type) -> bool {
                value.is_nan()
            }
        }
    };
}

macro_rules! compared_as_single {
    ($type:ty) => {
        impl Logit for $type {
            type Value = f32;

            fn widen(stored: &[Self], values: &mut [f32]) {
                stored.convert_to_f32_slice(values); // the processor's own conversion, eight at a time
            }
            fn is_nan(value: f32) -> bool {
                value.is_nan()
            }
        }
    };
}

compared_as_is!(f32);
compared_as_is!(f64);
compared_as_single!(f16);
compared_as_single!(bf16);
