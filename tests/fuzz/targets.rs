//! What is done with bytes that nobody should have written. A target may refuse them; it may not panic, hang, or read an
//! image in two ways. cargo-fuzz runs these (`fuzz_targets`), and so does `tests/xbd_fuzz.rs` without it.

use std::fs;
use std::path::{Path, PathBuf};

use ndarray::s;
use rarepixel::xbd::class::UnClassified;
use rarepixel::xbd::index::Index;
use rarepixel::xbd::label::Label;
use rarepixel::xbd::png::{self, ImageReader, read_image, read_target};
use rarepixel::xbd::raster::Rasterizer;
use rarepixel::xbd::tile::TileSource;
use rarepixel::xbd::window::Window;
use rarepixel::xbd::wkt;

/// Enough for every seed, and little to clear for each of many thousand runs.
const MAX_PIXELS: u64 = 1 << 16;

/// What a target does with bytes.
pub type Target = fn(&[u8]);

/// By the names of their folders in `corpus`.
pub const TARGETS: [(&str, Target); 5] =
    [("png", png), ("label", label), ("wkt", polygon), ("pack_tile", pack_tile), ("pack_list", pack_list)];

/// Images, whole and in part, and targets.
pub fn png(bytes: &[u8]) {
    let file = File::new("image.png", bytes);
    let _ = read_target(&file.path, MAX_PIXELS);
    let Ok(whole) = read_image(&file.path, MAX_PIXELS) else { return };
    let (height, width, _) = whole.dim();
    let window = Window { top: height / 3, left: width / 3, height: height.div_ceil(2), width: width.div_ceil(2) };
    let part = ImageReader::open(&file.path, MAX_PIXELS).and_then(|reader| reader.read_window(window));
    let rows = window.top..window.top + window.height;
    let columns = window.left..window.left + window.width;
    assert_eq!(part.expect("part of an image that could be read"), whole.slice(s![rows, columns, ..]));
}

/// Labels, drawn where they are small.
pub fn label(bytes: &[u8]) {
    if let Ok(label) = Label::parse(Path::new("made.json"), bytes, png::MAX_PIXELS)
        && (label.height * label.width) as u64 <= MAX_PIXELS
    {
        label.rasterize(UnClassified::Ignore);
    }
}

/// Well-known text, drawn.
pub fn polygon(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut mask = ndarray::Array2::zeros((32, 40));
    for polygon in wkt::parse(text).unwrap_or_default() {
        Rasterizer::default().fill_all(&mut mask.view_mut(), &polygon, 1);
    }
}

/// A packed tile: its size and its mask.
pub fn pack_tile(bytes: &[u8]) {
    let file = File::new("tile.safetensors", bytes);
    let source = TileSource::Packed(file.path.clone());
    let size = source.size(MAX_PIXELS);
    if let Ok(mask) = source.read_mask(MAX_PIXELS) {
        assert_eq!(size.expect("the size of a tile that could be read"), mask.dim());
    }
}

/// The list of a pack.
pub fn pack_list(bytes: &[u8]) {
    let file = File::new("pack.json", bytes);
    let _ = Index::read(file.folder.path(), None);
}

/// A file in a folder of its own.
struct File {
    folder: tempfile::TempDir,
    path: PathBuf,
}

impl File {
    fn new(name: &str, bytes: &[u8]) -> Self {
        let folder = tempfile::tempdir().expect("a folder for temporary files");
        let path = folder.path().join(name);
        fs::write(&path, bytes).expect("room for a small file");
        Self { folder, path }
    }
}
