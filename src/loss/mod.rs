//! What is computed: specs, the maths of one pixel, and losses from sums. No threads, no SIMD, no CUDA.

pub mod operands;
pub mod pixel;
pub mod real;
pub mod resize;
pub mod spec;
pub mod sums;

pub use spec::{LossSpec, validate_weight};
