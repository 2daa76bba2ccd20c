//! `rarepixel._core.xbd_*`: what `rarepixel.xbd` is made of.

use std::path::PathBuf;

use numpy::{IntoPyArray, PyArray1, PyArray2, PyArray3};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::xbd::class::{Subtype, UnClassified};
use crate::xbd::index::{Index, Tile};
use crate::xbd::label::{Label, Phase};
use crate::xbd::mask::{MaskSource, count_pixels};
use crate::xbd::png;
use crate::xbd::sample::{Image, Sample, SampleOptions, read_sample};
use crate::xbd::synth::{SynthesizeOptions, synthesize};
use crate::{Error, Result};

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
    Ok(py.detach(|| png::read_image(&path, max_pixels))?.into_pyarray(py))
}

/// A target as (H, W) class indices.
#[pyfunction]
pub fn xbd_read_target(py: Python<'_>, path: PathBuf, max_pixels: u64) -> PyResult<Bound<'_, PyArray2<u8>>> {
    Ok(py.detach(|| png::read_target(&path, max_pixels))?.into_pyarray(py))
}

/// Uid, subtype, and for each polygon its rings as (N, 2) arrays.
type FeatureTuple<'py> = (String, Option<&'static str>, Vec<Vec<Bound<'py, PyArray2<f64>>>>);

/// Phase, height, width and features of a label file.
#[pyfunction]
pub fn xbd_read_label(py: Python<'_>, path: PathBuf) -> PyResult<(&'static str, usize, usize, Vec<FeatureTuple<'_>>)> {
    let label = py.detach(|| Label::read(&path))?;
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
) -> PyResult<Bound<'py, PyArray2<u8>>> {
    let un_classified = UnClassified::from_name(un_classified)?;
    let mask = py.detach(|| Ok::<_, Error>(Label::read(&path)?.rasterize(un_classified)))?;
    Ok(mask.into_pyarray(py))
}

/// Pixels of each class over masks given as (target, label), the target first.
#[pyfunction]
pub fn xbd_count_pixels<'py>(
    py: Python<'py>,
    masks: Vec<(Option<PathBuf>, Option<PathBuf>)>,
    un_classified: &str,
    max_pixels: u64,
) -> PyResult<Bound<'py, PyArray1<i64>>> {
    let un_classified = UnClassified::from_name(un_classified)?;
    let sources = masks.into_iter().map(|(target, label)| mask_source(target, label)).collect::<Result<Vec<_>>>()?;
    let counts = py.detach(|| count_pixels(&sources, un_classified, max_pixels, check_signals))?;
    // A count of 2^63 pixels would take more disk than there is.
    Ok(counts.map(|count| count as i64).to_vec().into_pyarray(py))
}

/// The (pre, post, mask) arrays of one sample, see `XBDDataset`.
#[pyfunction]
pub fn xbd_read_sample<'py>(
    py: Python<'py>,
    pre: PathBuf,
    post: PathBuf,
    target: Option<PathBuf>,
    label: Option<PathBuf>,
    crop: Option<usize>,
    augment: bool,
    normalize: Option<([f32; 3], [f32; 3])>,
    un_classified: &str,
    max_pixels: u64,
    seed: u64,
    epoch: u64,
    index: u64,
) -> PyResult<Bound<'py, PyTuple>> {
    let un_classified = UnClassified::from_name(un_classified)?;
    let options = SampleOptions { crop, augment, normalize, un_classified, max_pixels };
    let Sample { pre, post, mask } = py.detach(|| {
        let mask = mask_source(target, label)?;
        read_sample(&pre, &post, &mask, &options, [seed, epoch, index])
    })?;
    let array = |image| match image {
        Image::Bytes(pixels) => pixels.into_pyarray(py).into_any(),
        Image::Normalized(pixels) => pixels.into_pyarray(py).into_any(),
    };
    (array(pre), array(post), mask.into_pyarray(py)).into_pyobject(py)
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
    let done = || {
        Python::attach(|py| {
            py.check_signals()?;
            progress.as_ref().map_or(Ok(()), |progress| progress.call1(py, (1,)).map(drop))
        })
    };
    py.detach(|| synthesize(&root, &options, done))
}

fn mask_source(target: Option<PathBuf>, label: Option<PathBuf>) -> Result<MaskSource> {
    let source = target.map(MaskSource::Target).or(label.map(MaskSource::Label));
    source.ok_or_else(|| Error::value("mask", "None", "a target or a label"))
}

/// Lets Ctrl-C end a long call; the GIL is not held by the caller.
fn check_signals() -> PyResult<()> {
    Python::attach(|py| py.check_signals())
}
