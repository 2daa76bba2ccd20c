//! Decoded tiles, so that a crop is read and not decoded: one safetensors file for each tile and a list of them.
//!
//! A file holds `pre` and `post` (3, H, W) and `mask` (H, W), all bytes, and in its metadata what they were made from and a
//! CRC-32 for every [`BLOCK_ROWS`] rows of each plane. Every row that is used is checked when it is read, so damage is an error
//! and never a wrong mask. Rows are read, not memory-mapped: under a mapping, a file that is truncated or a disk that fails
//! ends the process with SIGBUS, and both take the bytes from the same page cache.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use ndarray::{Array2, Array3, ArrayView1, ArrayViewMut3, Axis, s};
use safetensors::tensor::{Dtype, Metadata, TensorView};
use serde::{Deserialize, Serialize};

use super::class::{IGNORE_INDEX, UnClassified};
use super::index::{Index, Problem, Tile, TileFiles, is_hidden};
use super::label::Phase;
use super::memory::{zeroed, zeros};
use super::parallel::for_each_index;
use super::png::check_pixels;
use super::survey::Stamp;
use super::tile::TileSource;
use super::window::Window;
use super::write::write_whole;
use crate::{Error, Result};

/// The extension of a packed tile.
pub const EXTENSION: &str = "safetensors";

/// The list of tiles, written last: a folder without it is no pack, or one that is not finished.
const LIST: &str = "pack.json";

/// What is told of a packed tile that the list does not name.
const UNLISTED: &str = "not used, since the list does not name it: packing was interrupted, or its sources were gone; pack again or remove it";

/// Rows that share a checksum.
const BLOCK_ROWS: usize = 64;

/// The version of files and list.
const VERSION: u32 = 1;

/// No header of ours comes near this.
const MAX_HEADER_BYTES: u64 = 1 << 20;

/// The planes of a tile by tensor and channel.
const PLANES: [(&str, usize); 3] = [("pre", 3), ("post", 3), ("mask", 1)];

/// A packed tile of which the header has been read.
pub(super) struct PackedTile {
    path: PathBuf,
    file: File,
    height: usize,
    width: usize,
    /// Where each tensor of [`PLANES`] begins in the file.
    starts: [u64; 3],
    header: Header,
}

/// What the metadata says.
struct Header {
    /// Whether the mask was drawn from a label, with un-classified buildings ignored.
    drawn: bool,
    sources: Sources,
    /// Of each block of rows of each plane.
    checksums: Vec<u32>,
}

/// The stamps of the files that a tile was made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Sources {
    pre: Stamp,
    post: Stamp,
    mask: Stamp,
}

impl Sources {
    fn of(pre: &Path, post: &Path, mask: &Path) -> Result<Self> {
        Ok(Self { pre: Stamp::of(pre)?, post: Stamp::of(post)?, mask: Stamp::of(mask)? })
    }
}

impl PackedTile {
    pub fn open(path: &Path, max_pixels: u64) -> Result<Self> {
        let broken = |problem: &str| Error::file(path, format!("not a whole packed tile: {problem}; pack it again"));
        let reading = |source: std::io::Error| match source.kind() {
            ErrorKind::UnexpectedEof => broken("the file ends too early"),
            _ => Error::io(path, source),
        };
        let mut file = File::open(path).map_err(|source| Error::io(path, source))?;
        let mut length = [0; 8];
        file.read_exact(&mut length).map_err(reading)?;
        let length = u64::from_le_bytes(length);
        if length > MAX_HEADER_BYTES {
            return Err(broken("its header is too long"));
        }
        let mut json = vec![0; length as usize];
        file.read_exact(&mut json).map_err(reading)?;
        let metadata: Metadata =
            serde_json::from_slice(&json).map_err(|error| broken(&format!("its header cannot be read: {error}")))?;
        let header = Header::parse(&metadata).ok_or_else(|| broken("its header is not one of this version"))?;
        let mask = metadata.info("mask").map(|mask| mask.shape.as_slice());
        let &[height, width] = mask.unwrap_or_default() else { return Err(broken("it has no mask")) };
        let side = |length: usize| u32::try_from(length).map_err(|_| broken("it is too large"));
        let (height, width) = check_pixels(path, side(height)?, side(width)?, max_pixels)?;
        let area = height * width;
        let mut starts = [0; 3];
        let mut end = 8 + length;
        for (start, (name, channels)) in starts.iter_mut().zip(PLANES) {
            let info = metadata.info(name).filter(|info| {
                let shape: &[usize] = if channels == 1 { &[height, width] } else { &[channels, height, width] };
                let (from, to) = info.data_offsets;
                info.dtype == Dtype::U8 && info.shape == shape && to.checked_sub(from) == Some(channels * area)
            });
            let info = info.ok_or_else(|| broken(&format!("it has no {name} of {height} x {width} bytes")))?;
            *start = 8 + length + info.data_offsets.0 as u64;
            end = end.max(*start + (channels * area) as u64);
        }
        let expected = PLANES.iter().map(|(_, channels)| channels).sum::<usize>() * height.div_ceil(BLOCK_ROWS);
        if header.checksums.len() != expected {
            return Err(broken("it lacks checksums"));
        }
        let bytes = file.metadata().map_err(|source| Error::io(path, source))?.len();
        if bytes != end {
            return Err(broken(&format!("{bytes} bytes, expected {end}")));
        }
        Ok(Self { path: path.to_owned(), file, height, width, starts, header })
    }

    pub fn size(&self) -> (usize, usize) {
        (self.height, self.width)
    }

    /// Whether the mask was drawn from a label.
    pub fn mask_is_drawn(&self) -> bool {
        self.header.drawn
    }

    /// The pixels of `window` into (3, H, W) `planes` of its size.
    pub fn image(&self, phase: Phase, window: Window, planes: ArrayViewMut3<'_, u8>) -> Result<()> {
        self.read(phase as usize, window, planes)
    }

    /// The (H, W) class indices of `window`.
    pub fn mask(&self, window: Window, un_classified: UnClassified) -> Result<Array2<u8>> {
        let mut mask = zeros(&self.path, (window.height, window.width))?;
        self.read(2, window, mask.view_mut().insert_axis(Axis(0)))?;
        if self.header.drawn && un_classified != UnClassified::Ignore {
            mask.iter_mut().filter(|value| **value == IGNORE_INDEX).for_each(|value| *value = un_classified.class());
        }
        Ok(mask)
    }

    /// The pixels of `window` of a tensor into its `planes`.
    fn read(&self, tensor: usize, window: Window, mut planes: ArrayViewMut3<'_, u8>) -> Result<()> {
        window.check(self.size(), &self.path)?;
        if window.height == 0 || window.width == 0 {
            return Ok(());
        }
        let blocks = window.top / BLOCK_ROWS..(window.top + window.height).div_ceil(BLOCK_ROWS);
        let first_row = blocks.start * BLOCK_ROWS;
        let rows = (blocks.end * BLOCK_ROWS).min(self.height) - first_row;
        let in_plane = self.height.div_ceil(BLOCK_ROWS);
        let planes_before = PLANES[..tensor].iter().map(|(_, channels)| channels).sum::<usize>();
        let mut bytes = zeroed(&self.path, rows * self.width)?;
        for (channel, mut plane) in planes.outer_iter_mut().enumerate() {
            let start = self.starts[tensor] + ((channel * self.height + first_row) * self.width) as u64;
            self.read_at(start, &mut bytes)?;
            let checksums = &self.header.checksums[(planes_before + channel) * in_plane..][blocks.clone()];
            for (block, (&checksum, bytes)) in checksums.iter().zip(bytes.chunks(BLOCK_ROWS * self.width)).enumerate() {
                if crc32fast::hash(bytes) != checksum {
                    let row = first_row + block * BLOCK_ROWS;
                    let problem =
                        format!("rows from {row} of {} are damaged (checksum); pack it again", PLANES[tensor].0);
                    return Err(Error::file(&self.path, problem));
                }
            }
            let rows = bytes.chunks_exact(self.width).skip(window.top - first_row).take(window.height);
            for (row, mut pixels) in rows.zip(plane.outer_iter_mut()) {
                pixels.assign(&ArrayView1::from(&row[window.left..window.left + window.width]));
            }
        }
        Ok(())
    }

    fn read_at(&self, start: u64, bytes: &mut [u8]) -> Result<()> {
        let mut file = &self.file;
        file.seek(SeekFrom::Start(start)).and_then(|_| file.read_exact(bytes)).map_err(|source| match source.kind() {
            ErrorKind::UnexpectedEof => Error::file(&self.path, "the file ends too early; pack it again"),
            _ => Error::io(&self.path, source),
        })
    }

    /// Whether the file was made from sources with these stamps, and everything in it is whole.
    fn is_of(&self, sources: &Sources, drawn: bool) -> bool {
        self.header.sources == *sources && self.header.drawn == drawn && self.check().is_ok()
    }

    /// Reads everything.
    fn check(&self) -> Result<()> {
        let mut planes: Array3<u8> = zeros(&self.path, (3, self.height, self.width))?;
        (0..PLANES.len()).try_for_each(|tensor| {
            let planes = planes.slice_mut(s![..PLANES[tensor].1, .., ..]);
            self.read(tensor, Window::whole(self.size()), planes)
        })
    }
}

impl Header {
    fn parse(metadata: &Metadata) -> Option<Self> {
        let values = metadata.metadata().as_ref()?;
        if values.get("rarepixel.pack")? != &VERSION.to_string() {
            return None;
        }
        let drawn = match values.get("mask")?.as_str() {
            "label" => true,
            "target" => false,
            _ => return None,
        };
        let digits = values.get("crc32")?.as_bytes();
        let checksum = |digits: &[u8]| u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok();
        let checksums = digits.chunks(8).map(checksum).collect::<Option<_>>()?;
        Some(Self { drawn, sources: serde_json::from_str(values.get("sources")?).ok()?, checksums })
    }

    fn format(&self) -> HashMap<String, String> {
        let checksums = self.checksums.iter().map(|checksum| format!("{checksum:08x}")).collect();
        let sources = serde_json::to_string(&self.sources).expect("numbers can be written");
        let mask = if self.drawn { "label" } else { "target" };
        let pairs = [
            ("rarepixel.pack", VERSION.to_string()),
            ("mask", mask.to_owned()),
            ("sources", sources),
            ("crc32", checksums),
        ];
        pairs.map(|(key, value)| (key.to_owned(), value)).into()
    }
}

/// The list of a pack's tiles.
#[derive(Serialize, Deserialize)]
struct List {
    version: u32,
    /// The root that was packed; it need not be there when the pack is read.
    root: PathBuf,
    /// By split, then by name.
    splits: BTreeMap<String, BTreeMap<String, Entry>>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    /// Relative to the root.
    pre: PathBuf,
    post: PathBuf,
    mask: PathBuf,
    sources: Sources,
}

/// What [`pack`] has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Packed {
    /// Tiles that were written.
    pub written: usize,
    /// Tiles that were there, of the same sources and whole.
    pub kept: usize,
}

/// Writes tiles of `root` into the folder `out`, then its list; tiles that are there already are checked and kept.
///
/// With `disasters`, only their tiles. Each file appears when it is whole, so that a killed run is gone on with by another.
/// Tiles of other splits, and of disasters that were not asked for, stay in the list.
/// One process at a time: another is refused. `done` is called on this thread after each tile; its error, or a tile's, ends the
/// run without a new list.
pub fn pack<E: From<Error>>(
    root: &Path,
    tiles: &[Tile],
    disasters: Option<&[String]>,
    out: &Path,
    max_pixels: u64,
    mut done: impl FnMut() -> std::result::Result<(), E>,
) -> std::result::Result<Packed, E> {
    let wanted = |disaster: &String| disasters.is_none_or(|disasters| disasters.contains(disaster));
    let tiles: Vec<_> = tiles.iter().filter(|tile| wanted(&tile.disaster)).collect();
    let root = fs::canonicalize(root).map_err(|source| Error::io(root, source))?;
    if root.to_str().is_none() {
        // The list names it, and is text.
        return Err(Error::value("root", root.display(), "a path that is UTF-8").into());
    }
    let failed = |source| Error::io(out, source);
    fs::create_dir_all(out).map_err(failed)?;
    if fs::canonicalize(out).map_err(failed)? == root {
        return Err(Error::value("out", out.display(), "another folder than root").into());
    }
    if let Some(images) = super::index::images_folders(out)?.first() {
        // The list would hide its tiles from every reader.
        let got = format!("{}, a root of tiles: {}", out.display(), images.display());
        return Err(Error::value("out", got, "an empty folder, or a pack of this root").into());
    }
    let lock_path = out.join(".lock");
    let lock = File::create(&lock_path).map_err(|source| Error::io(&lock_path, source))?;
    // The system lets go of it when this process ends, however it ends.
    lock.try_lock().map_err(|error| match error {
        fs::TryLockError::WouldBlock => Error::file(out, "another process is packing into this folder"),
        fs::TryLockError::Error(source) => Error::io(&lock_path, source),
    })?;
    let mut list = match List::read(out)? {
        Some(list) if list.root != root => {
            let problem =
                format!("holds tiles of {}, expected none or those of {}", list.root.display(), root.display());
            return Err(Error::file(out, problem).into());
        }
        Some(list) => list,
        None => List { version: VERSION, root: root.clone(), splits: BTreeMap::new() },
    };
    for split in tiles.iter().map(|tile| &tile.split).collect::<BTreeSet<_>>() {
        let folder = out.join(split);
        fs::create_dir_all(&folder).map_err(|source| Error::io(&folder, source))?;
        let listed = list.splits.entry(split.clone()).or_default();
        listed.retain(|name, _| !wanted(&super::index::disaster(name)));
    }
    for split in list.splits.keys() {
        remove_partial(&out.join(split))?;
    }
    let mut packed = Packed::default();
    let one = |index: usize| {
        let tile = tiles[index];
        let (target, label) = (tile.post.target.as_deref(), tile.post.label.as_deref());
        let source = TileSource::of(&tile.pre.image, &tile.post.image, target, label)?;
        if matches!(source, TileSource::Packed(_)) {
            return Err(Error::file(&tile.post.image, "is packed already"));
        }
        let (drawn, mask) = (source.mask_is_drawn(max_pixels)?, source.mask_path());
        let sources = Sources::of(&tile.pre.image, &tile.post.image, mask)?;
        let path = packed_path(out, &tile.split, &tile.name);
        let kept = PackedTile::open(&path, max_pixels).is_ok_and(|packed| packed.is_of(&sources, drawn));
        if !kept {
            write_tile(&path, &source, drawn, sources, max_pixels)?;
        }
        let relative = |path: &Path| {
            let whole = fs::canonicalize(path).map_err(|source| Error::io(path, source))?;
            Ok::<_, Error>(whole.strip_prefix(&root).map_or_else(|_| whole.clone(), Path::to_owned))
        };
        let entry = Entry {
            pre: relative(&tile.pre.image)?,
            post: relative(&tile.post.image)?,
            mask: relative(mask)?,
            sources,
        };
        Ok((index, kept, entry))
    };
    for_each_index(tiles.len(), one, |(index, kept, entry)| {
        let tile = tiles[index];
        list.splits.get_mut(&tile.split).expect("inserted above").insert(tile.name.clone(), entry);
        if kept {
            packed.kept += 1;
        } else {
            packed.written += 1;
        }
        done()
    })?;
    let json = serde_json::to_vec(&list).map_err(|error| Error::file(out, format!("cannot be listed: {error}")))?;
    write_whole(&out.join(LIST), &json)?;
    Ok(packed)
}

fn write_tile(path: &Path, source: &TileSource, drawn: bool, sources: Sources, max_pixels: u64) -> Result<()> {
    let mut tile = source.open(UnClassified::Ignore, max_pixels)?;
    let (height, width) = tile.size();
    let whole = Window::whole((height, width));
    let mask = tile.mask(whole)?;
    let mut images: [Array3<u8>; 2] = [zeros(path, (3, height, width))?, zeros(path, (3, height, width))?];
    for (phase, planes) in [Phase::Pre, Phase::Post].into_iter().zip(&mut images) {
        tile.read_image(phase, whole, planes.view_mut())?;
    }
    let planes = [images[0].as_slice(), images[1].as_slice(), mask.as_slice()];
    let planes = planes.map(|plane| plane.expect("tiles are read in standard layout"));
    let blocks = planes.iter().flat_map(|planes| planes.chunks(height * width));
    let blocks = blocks.flat_map(|plane| plane.chunks(BLOCK_ROWS * width));
    let header = Header { drawn, sources, checksums: blocks.map(crc32fast::hash).collect() };
    let tensors = PLANES.iter().zip(planes).map(|(&(name, channels), bytes)| {
        let shape = if channels == 1 { vec![height, width] } else { vec![channels, height, width] };
        (name, TensorView::new(Dtype::U8, shape, bytes).expect("the bytes fill the shape"))
    });
    let bytes = safetensors::serialize(tensors, Some(header.format()))
        .map_err(|error| Error::file(path, format!("cannot be packed: {error}")))?;
    write_whole(path, &bytes)
}

/// The file of a packed tile.
fn packed_path(out: &Path, split: &str, name: &str) -> PathBuf {
    out.join(split).join(format!("{name}.{EXTENSION}"))
}

/// Whether a path is that of a packed tile.
pub(super) fn is_packed(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == EXTENSION)
}

/// Whether a folder holds packed tiles in its folders: its list is missing then.
pub(super) fn is_unfinished(root: &Path) -> Result<bool> {
    for folder in files_of(root)?.into_iter().filter(|folder| folder.is_dir()) {
        if files_of(&folder)?.iter().any(|path| is_packed(path)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What a folder of a pack holds; nothing where somebody has removed it.
fn files_of(folder: &Path) -> Result<Vec<PathBuf>> {
    let failed = |source| Error::io(folder, source);
    let entries = match fs::read_dir(folder) {
        Err(source) if source.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    entries.map(|entry| entry.map(|entry| entry.path()).map_err(failed)).collect()
}

/// Removes what a killed run has left half written: hidden files, see [`write_whole`]. The caller has the folder's lock.
fn remove_partial(folder: &Path) -> Result<()> {
    for path in files_of(folder)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with('.') && name.contains(&format!(".{EXTENSION}.")) {
            fs::remove_file(&path).map_err(|source| Error::io(&path, source))?;
        }
    }
    Ok(())
}

impl List {
    /// The list of a folder; none where it has none.
    fn read(out: &Path) -> Result<Option<Self>> {
        let path = out.join(LIST);
        let bytes = match fs::read(&path) {
            Err(source) if source.kind() == ErrorKind::NotFound => return Ok(None),
            bytes => bytes.map_err(|source| Error::io(&path, source))?,
        };
        let list: Self = serde_json::from_slice(&bytes).map_err(|error| {
            Error::file(&path, format!("not the list of a pack ({error}); remove it and pack again"))
        })?;
        if list.version != VERSION {
            return Err(Error::file(&path, format!("version {}, expected {VERSION}; pack again", list.version)));
        }
        Ok(Some(list))
    }
}

/// The tiles of a pack as an index, if `root` is one: all paths of a tile are its one file.
///
/// Problems are files that are missing or not in the list, and, where the packed root is there, sources that have changed since.
pub(super) fn index(root: &Path, splits: Option<&[String]>) -> Result<Option<Index>> {
    let Some(list) = List::read(root)? else { return Ok(None) };
    if let Some(missing) = splits.and_then(|splits| splits.iter().find(|split| !list.splits.contains_key(*split))) {
        let found = list.splits.into_keys().collect::<Vec<_>>().join(", ");
        return Err(Error::value("splits", format!("{missing:?}"), format!("a split of {}: {found}", root.display())));
    }
    let mut index = Index::default();
    for path in super::index::images_folders(root)? {
        let message = format!("not used: {LIST} makes this root a pack");
        index.problems.push(Problem { path, message });
    }
    let root_is_there = list.root.is_dir();
    for (split, tiles) in list.splits {
        if splits.is_some_and(|splits| !splits.contains(&split)) {
            continue;
        }
        let listed: BTreeSet<_> = tiles.keys().map(|name| packed_path(root, &split, name)).collect();
        for path in files_of(&root.join(&split))? {
            if is_packed(&path) && !is_hidden(&path) && !listed.contains(&path) {
                index.problems.push(Problem { path, message: UNLISTED.to_owned() });
            }
        }
        for (name, entry) in tiles {
            let path = packed_path(root, &split, &name);
            if !path.is_file() {
                index.problems.push(Problem { path, message: "missing: pack again".to_owned() });
                continue;
            }
            let Sources { pre, post, mask } = entry.sources;
            for (source, stamp) in [(&entry.pre, pre), (&entry.post, post), (&entry.mask, mask)] {
                let source = list.root.join(source);
                if root_is_there && Stamp::of(&source).ok() != Some(stamp) {
                    let message = "changed since it was packed: pack again".to_owned();
                    index.problems.push(Problem { path: source, message });
                }
            }
            let [_, _, target] = super::index::paths(&list.root.join(&split), &name, Phase::Post);
            if root_is_there && list.root.join(&entry.mask) != target && target.is_file() {
                let message = "not there when this was packed, with the mask of the label: pack again".to_owned();
                index.problems.push(Problem { path: target, message });
            }
            let files = |target| TileFiles { image: path.clone(), label: None, target };
            let disaster = super::index::disaster(&name);
            let (pre, post) = (files(None), files(Some(path.clone())));
            index.tiles.push(Tile { split: split.clone(), disaster, name, pre, post });
        }
    }
    index.problems.sort();
    Ok(Some(index))
}

/// The mask of a packed tile.
pub(super) fn read_mask(path: &Path, un_classified: UnClassified, max_pixels: u64) -> Result<Array2<u8>> {
    let tile = PackedTile::open(path, max_pixels)?;
    tile.mask(Window::whole(tile.size()), un_classified)
}

/// Reads all of a packed tile.
pub(super) fn check(path: &Path, max_pixels: u64) -> Result<()> {
    PackedTile::open(path, max_pixels)?.check()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xbd::png::MAX_PIXELS;
    use crate::xbd::synth::{SynthesizeOptions, synthesize};

    fn made(split: &str, root: &Path) {
        let options = SynthesizeOptions { tiles: 2, seed: 0, size: 64, split: split.to_owned(), un_classified: 0.0 };
        synthesize(root, &options, || Result::Ok(())).unwrap();
    }

    fn packed(root: &Path, out: &Path) -> Result<Packed> {
        pack(root, &Index::read(root, None)?.tiles, None, out, MAX_PIXELS, || Result::Ok(()))
    }

    #[test]
    fn a_root_is_not_packed_into_itself() {
        let root = tempfile::tempdir().unwrap();
        made("train", root.path());
        let out = root.path().join("train/..");
        let error = packed(root.path(), &out).unwrap_err().to_string();
        assert_eq!(error, format!("out: got {}, expected another folder than root", out.display()));
        assert!(!root.path().join(".lock").exists());
        assert_eq!(Index::read(root.path(), None).unwrap().tiles.len(), 2);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_root_that_the_list_cannot_name_is_refused_at_once() {
        use std::os::unix::ffi::OsStrExt;

        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join(std::ffi::OsStr::from_bytes(b"ro\xe9t"));
        made("train", &root);
        let out = folder.path().join("out");
        let error = packed(&root, &out).unwrap_err().to_string();
        assert!(error.starts_with("root: got ") && error.ends_with(", expected a path that is UTF-8"), "{error}");
        assert!(!out.exists());
    }

    #[test]
    fn a_removed_split_does_not_stop_others() {
        let folder = tempfile::tempdir().unwrap();
        let (root, out) = (folder.path().join("root"), folder.path().join("out"));
        made("train", &root);
        made("val", &root);
        packed(&root, &out).unwrap();
        fs::remove_dir_all(out.join("val")).unwrap();
        fs::remove_dir_all(root.join("val")).unwrap();
        assert_eq!(packed(&root, &out).unwrap(), Packed { written: 0, kept: 2 });
        let index = Index::read(&out, None).unwrap();
        assert_eq!(
            (index.tiles.len(), index.problems.iter().filter(|p| p.message == "missing: pack again").count()),
            (2, 2)
        );
    }

    #[test]
    fn a_tile_whose_sources_are_gone_is_told_of() {
        let folder = tempfile::tempdir().unwrap();
        let (root, out) = (folder.path().join("root"), folder.path().join("out"));
        made("train", &root);
        packed(&root, &out).unwrap();
        let gone = &Index::read(&root, None).unwrap().tiles[0];
        fs::remove_file(&gone.post.image).unwrap();
        packed(&root, &out).unwrap();
        let index = Index::read(&out, None).unwrap();
        assert_eq!(index.tiles.len(), 1);
        let path = packed_path(&out, "train", &gone.name);
        assert_eq!(index.problems, [Problem { path, message: UNLISTED.to_owned() }]);
    }

    #[test]
    fn a_root_of_tiles_is_not_hidden_by_a_pack() {
        let folder = tempfile::tempdir().unwrap();
        let (root, out) = (folder.path().join("root"), folder.path().join("out"));
        made("train", &root);
        made("val", &out);
        let error = packed(&root, &out).unwrap_err().to_string();
        let images = out.join("val/images");
        let got = format!("out: got {}, a root of tiles: {}", out.display(), images.display());
        assert_eq!(error, format!("{got}, expected an empty folder, or a pack of this root"));
        assert!(!out.join(".lock").exists());
        let index = Index::read(&out, None).unwrap();
        assert_eq!((&index.tiles[0].split[..], index.problems.len()), ("val", 0));
        // One that came later is told of.
        let pack = folder.path().join("pack");
        packed(&root, &pack).unwrap();
        made("val", &pack);
        let index = Index::read(&pack, None).unwrap();
        let message = "not used: pack.json makes this root a pack".to_owned();
        assert_eq!(index.problems, [Problem { path: pack.join("val/images"), message }]);
        assert!(index.tiles.iter().all(|tile| tile.split == "train"));
    }

    #[test]
    fn a_target_that_came_later_is_told_of() {
        let folder = tempfile::tempdir().unwrap();
        let (root, out) = (folder.path().join("root"), folder.path().join("out"));
        made("train", &root);
        let targets = root.join("train/targets");
        let away = root.join("away");
        fs::rename(&targets, &away).unwrap();
        packed(&root, &out).unwrap();
        assert_eq!(Index::read(&out, None).unwrap().problems, []);
        fs::rename(&away, &targets).unwrap();
        let index = Index::read(&out, None).unwrap();
        let message = "not there when this was packed, with the mask of the label: pack again".to_owned();
        let path = |tile: &Tile| targets.join(format!("{}_post_disaster_target.png", tile.name));
        // The list has the folder's name without links.
        let expected = index
            .tiles
            .iter()
            .map(|tile| Problem { path: fs::canonicalize(path(tile)).unwrap(), message: message.clone() });
        assert_eq!(index.problems, expected.collect::<Vec<_>>());
        packed(&root, &out).unwrap();
        assert_eq!(Index::read(&out, None).unwrap().problems, []);
    }
}
