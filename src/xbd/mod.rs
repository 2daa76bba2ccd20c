//! xBD tiles: finding them, reading images, labels and targets, drawing masks, feeding a training, and making tiles like them.

pub mod augment;
pub mod check;
pub mod class;
mod guard;
pub mod image;
pub mod index;
pub mod label;
pub mod loader;
pub mod mask;
mod memory;
pub mod pack;
pub mod parallel;
pub mod png;
pub mod random;
pub mod raster;
pub mod sample;
pub mod survey;
pub mod synth;
pub mod tiff;
pub mod tile;
pub mod window;
pub mod wkt;
mod write;
