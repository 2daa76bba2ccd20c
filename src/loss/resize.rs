//! A full-size target for a map of logits of another size: what its pixels should be.

use crate::{Error, Result};

/// The label of an ignored pixel in a resized map.
pub const IGNORED: i32 = -1;

/// Check that labels can be brought to the size of the logits.
pub fn check_sizes(from: [usize; 2], to: [usize; 2]) -> Result<()> {
    if from.contains(&0) != to.contains(&0) {
        return Err(Error::value(
            "target",
            format!("{} x {} pixels", from[0], from[1]),
            "pixels where input has pixels",
        ));
    }
    Ok(())
}
