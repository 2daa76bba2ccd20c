//! How it is computed on the CPU.

pub mod pool;
pub mod simd;
