//! Fused losses for rare pixels, and the xBD tiles to train them on.
//!
//! The crate is the Rust core of the Python package `rarepixel`; [`python`] is the only module that knows Python.

pub mod cpu;
pub mod cuda;
pub mod error;
pub mod loss;
mod memory;
pub mod metrics;
#[cfg(feature = "python")]
mod python;
pub mod tensor;
pub mod xbd;

pub use error::{Error, Result};
