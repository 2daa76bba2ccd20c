//! A target that was gone through once.

use super::blocks::Block;
use super::labels::MAX_COMPARED;
use crate::tensor::{DType, View};

/// Labels as bytes may take a twentieth of the logits' memory.
const SHARE: usize = 20;
/// Fewer labels are not worth it.
const LEAST: usize = 1 << 15;

/// A target all of whose labels were counted, and with that checked.
pub struct Counted {
    /// The labels as bytes, where that was worth it; [`IGNORED`](super::labels::IGNORED) for ignored pixels.
    pub narrowed: Option<LabelMemory>,
    /// Pixels of each class.
    pub counts: Vec<u64>,
    /// The label that was not counted.
    pub ignore_index: i64,
}

/// Memory for labels of our own.
pub struct LabelMemory {
    labels: Block,
    dtype: DType,
    /// (N, pixels).
    shape: [usize; 2],
}

impl LabelMemory {
    /// For (N, pixels) labels of that type; none where there is not as much memory.
    pub fn new(dtype: DType, shape: [usize; 2]) -> Option<Self> {
        Some(Self { labels: Block::of(shape[0] * shape[1] * dtype.size())?, dtype, shape })
    }

    /// For the labels of the target of these logits as bytes, if they are worth making: each pass reads them.
    pub fn narrowed(target: &View<'_>, input: &View<'_>) -> Option<Self> {
        let labels = target.samples * target.pixels;
        let logits = input.samples * input.channels * input.pixels * input.dtype().size();
        let worth = SHARE * labels <= logits && labels >= LEAST && input.channels <= MAX_COMPARED;
        let wide = !target.dtype().is_floating() && target.dtype().size() > 1;
        if worth && wide { Self::new(DType::UInt8, [target.samples, target.pixels]) } else { None }
    }

    /// A destination, while there is no other view.
    pub fn view(&mut self) -> View<'_> {
        self.written()
    }

    /// The labels, once they are written.
    pub fn written(&self) -> View<'_> {
        let (pointer, strides) = (self.labels.address().as_ptr(), [self.shape[1] as isize, 1]);
        // SAFETY: the block has room for each label, and is borrowed as long as the view lives.
        unsafe { View::new(pointer, self.dtype, &self.shape, &strides, false) }.expect("contiguous")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(dtype: DType, classes: usize, pixels: usize) -> View<'static> {
        // SAFETY: it is not followed.
        unsafe { View::new(std::ptr::null_mut(), dtype, &[1, classes, pixels], &[0, 0, 1], true) }.expect("one stride")
    }

    #[test]
    fn wide_labels_of_large_logits_become_bytes() {
        let worth = |label, classes, pixels| {
            let (target, input) = (view(label, 1, pixels), view(DType::Float32, classes, pixels));
            LabelMemory::narrowed(&target, &input).is_some_and(|mut bytes| bytes.view().pixels == pixels)
        };
        assert!(worth(DType::Int64, 5, LEAST) && worth(DType::Int16, 16, LEAST));
        assert!(!worth(DType::UInt8, 5, LEAST), "they are bytes");
        assert!(!worth(DType::Int64, 4, LEAST), "a sixteenth of the logits");
        assert!(!worth(DType::Int64, 17, LEAST), "counted by a table");
        assert!(!worth(DType::Int64, 5, LEAST - 1), "few");
    }
}
