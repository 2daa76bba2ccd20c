//! How it is computed on the CPU.

mod ahead;
mod aligned;
mod cache;
mod count;
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
pub use problem::Problem;
