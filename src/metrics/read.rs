//! Reads one tile of labels as class numbers, checked against the number of classes.

use crate::cpu::argmax::TILE;
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

    /// The labels from pixel `first` on: `number_of_classes` where ignored, [`INVALID`] where out of range.
    #[inline(always)]
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

    #[inline(always)]
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
        self.load(sample, first, stored);
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
            self.load(sample, pixel, &mut label);
            label[0].to_i64()
        })
    }

    /// Copies labels from pixel `first` on. `T` is always the type that the view's dtype names.
    #[inline(always)]
    fn load<T: Copy>(&self, sample: usize, first: usize, out: &mut [T]) {
        debug_assert!(first + out.len() <= self.view.pixels);
        let stride = self.view.strides[2];
        // SAFETY: callers dispatch on the dtype and pass a sample and a range of pixels that lie in the view, all of which
        // `View::new` promises to be readable; neither way leaves that range. A tensor need not be aligned.
        unsafe {
            let pointer: *const T = self.view.at(sample, 0, first);
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
