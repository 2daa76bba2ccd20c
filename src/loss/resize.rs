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
    // Pixels behind one of the smaller map are counted in 32 bits.
    let window = |axis: usize| from[axis].div_ceil(to[axis].max(1)) as u128 + 1;
    if window(0).saturating_mul(window(1)) > u128::from(u32::MAX) {
        return Err(Error::value(
            "target",
            format!("{} x {} pixels", from[0], from[1]),
            format!("fewer than 2^32 pixels for each of the {} x {} of input", to[0], to[1]),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_counted_in_32_bits() {
        assert!(check_sizes([65_534, 65_534], [1, 1]).is_ok());
        let error = check_sizes([65_537, 65_536], [1, 1]).unwrap_err().to_string();
        let got = "target: got 65537 x 65536 pixels, expected fewer than 2^32 pixels for each of the 1 x 1 of input";
        assert_eq!(error, got);
        assert!(check_sizes([1 << 20, 1 << 20], [1 << 10, 1 << 10]).is_ok());
        assert!(check_sizes([usize::MAX, usize::MAX], [1, 1]).is_err());
        assert!(check_sizes([0, 5], [0, 5]).is_ok());
    }
}
