//! How much the last cache before the memory holds.

use std::sync::OnceLock;

/// Bytes of the last-level cache, as the system says; none where it does not.
pub fn last_level() -> Option<usize> {
    static BYTES: OnceLock<Option<usize>> = OnceLock::new();
    *BYTES.get_or_init(|| {
        // Levels come in rising order: the last one that there is.
        (0..8).rev().find_map(|index| {
            let path = format!("/sys/devices/system/cpu/cpu0/cache/index{index}/size");
            parse(std::fs::read_to_string(path).ok()?.trim())
        })
    })
}

/// A size as Linux writes it, such as 32768K.
fn parse(size: &str) -> Option<usize> {
    let (number, unit) = match size.as_bytes().last()? {
        b'K' => (&size[..size.len() - 1], 1 << 10),
        b'M' => (&size[..size.len() - 1], 1 << 20),
        b'G' => (&size[..size.len() - 1], 1 << 30),
        _ => (size, 1),
    };
    number.parse::<usize>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        let sizes = ["32768K", "96M", "1G", "512", "", "K", "lots"].map(parse);
        assert_eq!(sizes, [Some(32 << 20), Some(96 << 20), Some(1 << 30), Some(512), None, None, None]);
        assert!(last_level().is_none_or(|bytes| bytes > 1 << 14));
    }
}
