//! How it is computed on the CPU.

mod ahead;
mod aligned;
pub mod argmax;
pub mod blocks;
mod cache;
mod count;
mod counted;
mod interleave;
mod job;
mod kernel;
pub(crate) mod labels;
mod pages;
pub mod pool;
mod problem;
pub mod resize;
pub mod simd;
pub mod team;
mod transfer;
pub(crate) mod upsample;

pub use crate::loss::operands::{Target, compute_type};
pub use count::count_labels;
pub use counted::{Counted, LabelMemory};
pub use problem::{Found, Problem};

/// The label of ignored pixels in labels as bytes.
pub const NARROWED_IGNORED: i64 = labels::IGNORED as i64;
