//! `rarepixel._core.xbd_*`: what `rarepixel.xbd` is made of.

mod loader;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use numpy::{IntoPyArray, PyArray1, PyArray2, PyArray3};
use pyo3::prelude::*;

pub use loader::{XBDFeed, XBDRun};

use crate::xbd::check::{check, write_targets};
use crate::xbd::class::{Subtype, UnClassified};
use crate::xbd::image::ImageReader;
use crate::xbd::index::{Index, Tile};
use crate::xbd::label::{Label, Phase};
use crate::xbd::mask::{MaskSource, count_pixels};
use crate::xbd::pack::pack;
use crate::xbd::synth::{SynthesizeOptions, synthesize};
use crate::{Error, Result};

/// How long work may keep Ctrl-C from being seen.
const PATIENCE: Duration = Duration::from_millis(50);

/// Split, name, disaster, then image, label and target of pre and of post.
type TileTuple = (String, String, String, HalfTuple, HalfTuple);
type HalfTuple = (PathBuf, Option<PathBuf>, Option<PathBuf>);
/// Tiles, then problems as (path, message).
type IndexTuple = (Vec<TileTuple>, Vec<(PathBuf, String)>);

/// The tiles of a root and its problems, as tuples.
#[pyfunction]
pub fn xbd_index(py: Python<'_>, root: PathBuf, splits: Option<Vec<String>>) -> PyResult<IndexTuple> {
    let index = py.detach(|| Index::read(&root, splits.as_deref()))?;
    let tile = |Tile { split, name, disaster, pre, post }| {
        (split, name, disaster, (pre.image, pre.label, pre.target), (post.image, post.label, post.target))
    };
    let problems = index.problems.into_iter().map(|problem| (problem.path, problem.message));
    Ok((index.tiles.into_iter().map(tile).collect(), problems.collect()))
}

/// An image as (H, W, 3) RGB.
#[pyfunction]
pub fn xbd_read_image(py: Python<'_>, path: PathBuf, max_pixels: u64) -> PyResult<Bound<'_, PyArray3<u8>>> {
    Ok(py.detach(|| ImageReader::open(&path, max_pixels)?.read())?.into_pyarray(py))
}

/// A target as (H, W) class indices.
#[pyfunction]
pub fn xbd_read_target(py: Python<'_>, path: PathBuf, max_pixels: u64) -> PyResult<Bound<'_, PyArray2<u8>>> {
    Ok(py.detach(|| MaskSource::Target(path).read(UnClassified::Ignore, max_pixels))?.into_pyarray(py))
}

/// Uid, subtype, and for each polygon its rings as (N, 2) arrays.
type FeatureTuple<'py> = (String, Option<&'static str>, Vec<Vec<Bound<'py, PyArray2<f64>>>>);

/// Phase, height, width and features of a label file.
#[pyfunction]
pub fn xbd_read_label(
    py: Python<'_>,
    path: PathBuf,
    max_pixels: u64,
) -> PyResult<(&'static str, usize, usize, Vec<FeatureTuple<'_>>)> {
    let label = py.detach(|| Label::read(&path, max_pixels))?;
    let phase = match label.phase {
        Phase::Pre => "pre",
        Phase::Post => "post",
    };
    let ring = |ring: Vec<[f64; 2]>| ndarray::Array2::from(ring).into_pyarray(py);
    let features = label.features.into_iter().map(|feature| {
        let polygons = feature.polygons.into_iter().map(|polygon| polygon.rings.into_iter().map(ring).collect());
        (feature.uid, feature.subtype.map(Subtype::name), polygons.collect())
    });
    Ok((phase, label.height, label.width, features.collect()))
}

/// The (H, W) mask of a label file.
#[pyfunction]
pub fn xbd_rasterize_label<'py>(
    py: Python<'py>,
    path: PathBuf,
    un_classified: &str,
    max_pixels: u64,
) -> PyResult<Bound<'py, PyArray2<u8>>> {
    let un_classified = UnClassified::from_name(un_classified)?;
    let mut checked = Instant::now();
    let between = || {
        // Not for each building: other threads may hold the GIL, and each time is a wait for it.
        if checked.elapsed() < PATIENCE {
            return Ok(());
        }
        checked = Instant::now();
        check_signals()
    };
    let mask = py.detach(|| Label::read_mask(&path, un_classified, max_pixels, between))?;
    Ok(mask.into_pyarray(py))
}

/// Pixels of each class over masks given as (target, label), the target first.
#[pyfunction]
pub fn xbd_count_pixels<'py>(
    py: Python<'py>,
    masks: Vec<(Option<PathBuf>, Option<PathBuf>)>,
    un_classified: &str,
    max_pixels: u64,
    progress: Option<Py<PyAny>>,
) -> PyResult<Bound<'py, PyArray1<i64>>> {
    let un_classified = UnClassified::from_name(un_classified)?;
    let source = |(target, label): &(Option<PathBuf>, Option<PathBuf>)| {
        MaskSource::of(target.as_deref(), label.as_deref())
            .ok_or_else(|| Error::value("mask", "None", "a target or a label"))
    };
    let sources = masks.iter().map(source).collect::<Result<Vec<_>>>()?;
    let counts = py.detach(|| count_pixels(&sources, un_classified, max_pixels, || tell(progress.as_ref())))?;
    // A count of 2^63 pixels would take more disk than there is.
    Ok(counts.map(|count| count as i64).to_vec().into_pyarray(py))
}

/// Writes synthetic tiles; `progress` is called with 1 after each.
#[pyfunction]
pub fn xbd_synthesize(
    py: Python<'_>,
    root: PathBuf,
    tiles: usize,
    seed: u64,
    size: usize,
    split: String,
    un_classified: f64,
    progress: Option<Py<PyAny>>,
) -> PyResult<()> {
    let options = SynthesizeOptions { tiles, seed, size, split, un_classified };
    py.detach(|| synthesize(&root, &options, || tell(progress.as_ref())))
}

/// Packs the tiles of a root; gives how many were written and how many were there already.
#[pyfunction]
pub fn xbd_pack(
    py: Python<'_>,
    root: PathBuf,
    splits: Option<Vec<String>>,
    disasters: Option<Vec<String>>,
    out: PathBuf,
    max_pixels: u64,
    progress: Option<Py<PyAny>>,
) -> PyResult<(usize, usize)> {
    let packed = py.detach(|| {
        let index = Index::read(&root, splits.as_deref())?;
        pack(&root, &index.tiles, disasters.as_deref(), &out, max_pixels, || tell(progress.as_ref()))
    })?;
    Ok((packed.written, packed.kept))
}

/// The number of tiles of a root, and what is wrong with it as (path, message), when all of it has been read.
#[pyfunction]
pub fn xbd_check(
    py: Python<'_>,
    root: PathBuf,
    splits: Option<Vec<String>>,
    max_pixels: u64,
    progress: Option<Py<PyAny>>,
) -> PyResult<(usize, Vec<(PathBuf, String)>)> {
    py.detach(|| {
        let index = Index::read(&root, splits.as_deref())?;
        let problems = check(&index, max_pixels, || tell(progress.as_ref()))?;
        Ok((index.tiles.len(), problems.into_iter().map(|problem| (problem.path, problem.message)).collect()))
    })
}

/// Writes missing targets; gives how many were written and how many were there already.
#[pyfunction]
pub fn xbd_write_targets(
    py: Python<'_>,
    root: PathBuf,
    splits: Option<Vec<String>>,
    un_classified: &str,
    max_pixels: u64,
    progress: Option<Py<PyAny>>,
) -> PyResult<(usize, usize)> {
    let un_classified = UnClassified::from_name(un_classified)?;
    let total = py.detach(|| {
        let index = Index::read(&root, splits.as_deref())?;
        write_targets(&root, &index.tiles, un_classified, max_pixels, || tell(progress.as_ref()))
    })?;
    Ok((total.written, total.kept))
}

/// Lets Ctrl-C end a long call, and calls `progress` with 1; the GIL is not held by the caller.
fn tell(progress: Option<&Py<PyAny>>) -> PyResult<()> {
    Python::attach(|py| {
        py.check_signals()?;
        progress.map_or(Ok(()), |progress| progress.call1(py, (1,)).map(drop))
    })
}

/// Lets Ctrl-C end a long call; the GIL is not held by the caller.
fn check_signals() -> PyResult<()> {
    tell(None)
}
