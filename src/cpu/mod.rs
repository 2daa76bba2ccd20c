//! How it is computed on the CPU.

mod job;
mod kernel;
mod labels;
pub mod pool;
mod problem;
pub mod simd;
mod transfer;

pub use problem::Problem;
