//! PNG round trips, windows, and hostile bytes: an error that names the file, or the right pixels; never a panic.

use std::fs;
use std::path::{Path, PathBuf};

use ndarray::{Array2, Array3, s};
use proptest::prelude::*;
use rarepixel::xbd::png::{ImageReader, MAX_PIXELS, read_image, read_target, write_image, write_target};
use rarepixel::xbd::window::Window;

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn image(height: usize, width: usize, seed: u64) -> Array3<u8> {
    let value = |y: usize, x: usize, channel: usize| (y * 7 + x * 3 + channel * 50) as u64 ^ seed;
    Array3::from_shape_fn((height, width, 3), |(y, x, channel)| value(y, x, channel) as u8)
}

fn target(height: usize, width: usize, seed: u64) -> Array2<u8> {
    let values = [0, 1, 2, 3, 4, 255];
    Array2::from_shape_fn((height, width), |(y, x)| values[((y as u64 * 5 + x as u64 * 3) ^ seed) as usize % 6])
}

fn write(path: &Path, bytes: &[u8]) -> PathBuf {
    fs::write(path, bytes).expect("a writable temporary folder");
    path.to_owned()
}

/// A chunk with its length and checksum.
fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let mut crc = u32::MAX;
    for &byte in kind.iter().chain(data) {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    [&(data.len() as u32).to_be_bytes()[..], kind, data, &(!crc).to_be_bytes()].concat()
}

/// A file that says it is so large, and has next to no data.
fn header_only(width: u32, height: u32) -> Vec<u8> {
    let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 2, 0, 0, 0]].concat();
    [b"\x89PNG\r\n\x1a\n".to_vec(), chunk(b"IHDR", &header), chunk(b"IDAT", &[0x78, 0x9c]), chunk(b"IEND", &[])]
        .concat()
}

#[test]
fn a_header_beyond_all_memory_is_an_error_whatever_max_pixels() {
    let folder = folder();
    let path = write(&folder.path().join("huge.png"), &header_only(1 << 30, 1 << 30));
    for error in [read_image(&path, u64::MAX).err(), read_target(&path, u64::MAX).err()] {
        let error = error.expect("more than there is").to_string();
        assert!(error.contains("huge.png: "), "{error}");
    }
    let error = read_image(&path, u64::MAX).unwrap_err().to_string();
    assert!(error.contains("there is no memory for 1152921504606846976 x 3 values"), "{error}");
}

#[test]
fn every_truncation_is_an_error_that_names_the_file() {
    let folder = folder();
    let path = folder.path().join("whole.png");
    write_image(&path, image(9, 13, 1).view()).unwrap();
    let bytes = fs::read(&path).unwrap();
    for length in 0..bytes.len() {
        let path = write(&folder.path().join("cut.png"), &bytes[..length]);
        let error = read_image(&path, MAX_PIXELS).expect_err("a cut file").to_string();
        assert!(error.contains("cut.png: not a "), "{length}: {error}");
    }
}

#[test]
fn every_flipped_bit_is_an_error_or_changes_nothing() {
    let folder = folder();
    let path = folder.path().join("whole.png");
    let pixels = target(9, 13, 2);
    write_target(&path, pixels.view()).unwrap();
    let bytes = fs::read(&path).unwrap();
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let path = write(&folder.path().join("flipped.png"), &flipped);
        match read_target(&path, MAX_PIXELS) {
            Ok(read) => assert_eq!(read, pixels, "bit {bit}"),
            Err(error) => assert!(error.to_string().contains("flipped.png: "), "{error}"),
        }
    }
}

#[test]
fn a_huge_header_is_refused_before_memory_is_taken() {
    let folder = folder();
    for (width, height) in [(65_536, 65_536), (u32::MAX >> 1, u32::MAX >> 1), (67_108_865, 1), (1, 67_108_865)] {
        let path = write(&folder.path().join("bomb.png"), &header_only(width, height));
        let error = read_image(&path, MAX_PIXELS).unwrap_err().to_string();
        let pixels = u64::from(width) * u64::from(height);
        let expected = format!("bomb.png: {width} x {height} = {pixels} pixels, more than max_pixels = 67108864");
        assert!(error.ends_with(&expected), "{error}");
    }
    let path = write(&folder.path().join("allowed.png"), &header_only(8192, 8192));
    let error = read_image(&path, MAX_PIXELS).unwrap_err().to_string();
    assert!(error.contains("allowed.png: not a "), "{error}");
}

#[test]
fn files_that_are_no_images_are_errors() {
    let folder = folder();
    assert!(matches!(read_image(&folder.path().join("absent.png"), MAX_PIXELS), Err(rarepixel::Error::Io { .. })));
    assert!(matches!(read_image(folder.path(), MAX_PIXELS), Err(rarepixel::Error::Io { .. })));
    for bytes in [&b""[..], b"\x89PNG\r\n\x1a\n", b"GIF89a", &header_only(0, 5)] {
        let path = write(&folder.path().join("no.png"), bytes);
        assert!(read_image(&path, MAX_PIXELS).unwrap_err().to_string().contains("no.png: "));
    }
}

#[test]
fn damage_below_a_window_goes_unseen_and_above_does_not() {
    let folder = folder();
    let path = folder.path().join("tall.png");
    // Noise, so that the data does not fit into one buffer.
    let mut state = 1u32;
    let mut noise = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    let pixels = Array3::from_shape_simple_fn((400, 300, 3), &mut noise);
    write_image(&path, pixels.view()).unwrap();
    let bytes = fs::read(&path).unwrap();
    let cut = write(&folder.path().join("cut.png"), &bytes[..bytes.len() / 2]);
    let window = |top| Window { top, left: 10, height: 50, width: 20 };
    let open = || ImageReader::open(&cut, MAX_PIXELS).unwrap();
    assert_eq!(open().read_window(window(0)).unwrap(), pixels.slice(s![..50, 10..30, ..]));
    assert!(open().read_window(window(350)).is_err());
}

#[test]
fn a_window_outside_is_an_error() {
    let folder = folder();
    let path = folder.path().join("small.png");
    write_image(&path, image(4, 6, 0).view()).unwrap();
    for (top, left, height, width) in [(0, 0, 5, 1), (0, 0, 1, 7), (4, 0, 1, 1), (usize::MAX, 0, 2, 1)] {
        let window = Window { top, left, height, width };
        let error = ImageReader::open(&path, MAX_PIXELS).unwrap().read_window(window).unwrap_err().to_string();
        assert!(error.starts_with("window: got "), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn images_and_windows_of_them_come_back(
        height in 1..40usize,
        width in 1..40usize,
        seed: u64,
        part in prop::array::uniform4(0.0..1.0f64),
    ) {
        let folder = folder();
        let path = folder.path().join("image.png");
        let pixels = image(height, width, seed);
        write_image(&path, pixels.view()).unwrap();
        prop_assert_eq!(&read_image(&path, MAX_PIXELS).unwrap(), &pixels);
        prop_assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no partial file is left");

        let cut = |length: usize, from: f64, share: f64| {
            let start = (from * length as f64) as usize;
            (start, 1 + (share * (length - start - 1) as f64) as usize)
        };
        let ((top, rows), (left, columns)) = (cut(height, part[0], part[1]), cut(width, part[2], part[3]));
        let window = Window { top, left, height: rows, width: columns };
        let read = ImageReader::open(&path, MAX_PIXELS).unwrap().read_window(window).unwrap();
        prop_assert_eq!(read, pixels.slice(s![top..top + rows, left..left + columns, ..]));
    }

    #[test]
    fn targets_come_back(height in 1..40usize, width in 1..40usize, seed: u64) {
        let folder = folder();
        let path = folder.path().join("target.png");
        let pixels = target(height, width, seed);
        write_target(&path, pixels.view()).unwrap();
        prop_assert_eq!(read_target(&path, MAX_PIXELS).unwrap(), pixels);
    }

    #[test]
    fn any_bytes_after_the_signature_are_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let folder = folder();
        let bytes = [b"\x89PNG\r\n\x1a\n", &bytes[..]].concat();
        let path = write(&folder.path().join("any.png"), &bytes);
        prop_assert!(read_image(&path, MAX_PIXELS).is_err());
        prop_assert!(read_target(&path, MAX_PIXELS).is_err());
    }

    #[test]
    fn damaged_chunks_with_right_checksums_never_panic(
        size in prop::array::uniform2(0..40u32),
        depth: u8,
        color in 0..8u8,
        interlaced in 0..3u8,
        palette in prop::collection::vec(any::<u8>(), 0..20),
        transparency in prop::collection::vec(any::<u8>(), 0..8),
        data in prop::collection::vec(any::<u8>(), 0..60),
    ) {
        let folder = folder();
        let header = [&size[0].to_be_bytes()[..], &size[1].to_be_bytes(), &[1 << (depth % 5), color, 0, 0, interlaced]].concat();
        // Stored deflate blocks: the data arrives as it is, whatever it is.
        let stored = [&[0x78, 0x01, 1], &(data.len() as u16).to_le_bytes()[..], &(!(data.len() as u16)).to_le_bytes(), &data].concat();
        let bytes = [
            b"\x89PNG\r\n\x1a\n".to_vec(),
            chunk(b"IHDR", &header),
            chunk(b"PLTE", &palette),
            chunk(b"tRNS", &transparency),
            chunk(b"IDAT", &stored),
            chunk(b"IEND", &[]),
        ].concat();
        let path = write(&folder.path().join("made.png"), &bytes);
        let _ = read_image(&path, MAX_PIXELS);
        let _ = read_target(&path, MAX_PIXELS);
    }
}
