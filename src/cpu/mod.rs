//! How it is computed on the CPU.

mod count;
mod job;
mod kernel;
mod labels;
pub mod pool;
mod problem;
pub mod resize;
pub mod simd;
pub mod team;
mod transfer;
mod upsample;

pub use count::count_labels;
pub use job::Target;
pub use problem::{Problem, compute_type};
