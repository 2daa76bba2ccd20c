//! xBD tiles: finding them, reading images, labels and targets, drawing masks, and making tiles like them.

pub mod class;
pub mod index;
pub mod label;
pub mod mask;
pub mod parallel;
pub mod png;
pub mod random;
pub mod raster;
pub mod sample;
pub mod synth;
pub mod wkt;
mod write;
