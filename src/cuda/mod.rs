//! How it is computed on CUDA: kernels compiled at first use by NVRTC, launched on the caller's stream.
//!
//! Nothing here allocates device memory or waits for the device: the caller (torch) hands over pointers and a stream.

mod arguments;
pub mod cache;
pub mod compile;
mod confusion;
mod device;
pub mod library;
pub mod nvrtc;
mod problem;
mod resize;
mod upsample;
pub mod variant;

pub use confusion::{add_confusion, confusion_length};
pub use device::{Device, describe};
pub use problem::{Backward, Forward, Images, Matching, Problem};
pub use resize::Resize;
