//! `rarepixel._core.XBDFeed` and `XBDRun`: what `XBDDataset` and `XBDLoader` draw from.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use numpy::{IntoPyArray, PyArray1};
use pyo3::exceptions::PyIndexError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::{PATIENCE, check_signals};
use crate::Error;
use crate::cpu::pool::default_threads;
use crate::xbd::augment::{Augment, Chance};
use crate::xbd::class::UnClassified;
use crate::xbd::loader::{Feed, Filled, Memory, Progress, Rare, Run, Sampler, Shares};
use crate::xbd::sample::{Image, Place, Sample, SampleOptions, read_sample};
use crate::xbd::survey::survey;
use crate::xbd::tile::TileSource;

/// The images before and after, then target and label of the image after, of which one is needed.
type TileFiles = (PathBuf, PathBuf, Option<PathBuf>, Option<PathBuf>);

/// Tiles, and what samples of them are to be.
#[pyclass(frozen)]
pub struct XBDFeed {
    feed: Arc<Feed>,
    /// Why the survey could not be kept.
    #[pyo3(get)]
    survey_not_kept: Option<String>,
    /// What the survey could not read and skipped.
    #[pyo3(get)]
    survey_skipped: Vec<String>,
}

#[pymethods]
impl XBDFeed {
    #[new]
    fn new(
        py: Python<'_>,
        tiles: Vec<TileFiles>,
        crop: Option<usize>,
        augment: PyAugment,
        normalize: Option<([f32; 3], [f32; 3])>,
        un_classified: &str,
        max_pixels: u64,
        seed: u64,
        shuffle: bool,
        sampler: &str,
        class_weights: [f64; 5],
        candidates: usize,
        survey_file: PathBuf,
        skip_errors: bool,
    ) -> PyResult<Self> {
        let un_classified = UnClassified::from_name(un_classified)?;
        let options = SampleOptions { crop, augment: augment.0, normalize, un_classified, max_pixels };
        let tile =
            |(pre, post, target, label): &TileFiles| TileSource::of(pre, post, target.as_deref(), label.as_deref());
        let tiles = tiles.iter().map(tile).collect::<Result<Vec<_>, Error>>()?;
        let (mut survey_not_kept, mut survey_skipped) = (None, Vec::new());
        let sampler = match sampler {
            "uniform" => Sampler::Uniform,
            "best_of_k" => Sampler::best_of(candidates)?,
            "rare" => {
                let read = || survey(&tiles, &survey_file, un_classified, max_pixels, skip_errors, check_signals);
                let surveys = py.detach(read)?;
                survey_skipped = surveys.skipped.iter().map(Error::to_string).collect();
                survey_not_kept = surveys.not_kept.map(|error| error.to_string());
                Sampler::Rare(Rare::new(&surveys.tiles, class_weights)?)
            }
            _ => {
                let expected = r#""uniform", "rare" or "best_of_k""#;
                return Err(Error::value("sampler", format!("{sampler:?}"), expected).into());
            }
        };
        let feed = Feed { tiles, options, sampler, shuffle, seed, skip_errors };
        Ok(Self { feed: Arc::new(feed), survey_not_kept, survey_skipped })
    }

    /// The (pre, post, mask) arrays of tile `index`, cropped anywhere.
    fn read_sample<'py>(&self, py: Python<'py>, epoch: u64, index: usize) -> PyResult<Bound<'py, PyTuple>> {
        let feed = &*self.feed;
        let tile = self.tile(index)?;
        let key = [feed.seed, epoch, index as u64];
        let Sample { pre, post, mask } = py.detach(|| read_sample(tile, Place::Anywhere, &feed.options, &key))?;
        let array = |image| match image {
            Image::Bytes(pixels) => pixels.into_pyarray(py).into_any(),
            Image::Normalized(pixels) => pixels.into_pyarray(py).into_any(),
        };
        (array(pre), array(post), mask.into_pyarray(py)).into_pyobject(py)
    }

    /// (height, width) of a tile in pixels.
    fn tile_size(&self, py: Python<'_>, index: usize) -> PyResult<(usize, usize)> {
        let SampleOptions { max_pixels, .. } = self.feed.options;
        let tile = self.tile(index)?;
        Ok(py.detach(|| tile.size(max_pixels))?)
    }

    /// Starts threads (0: as many as the machine has cores) that fill the batches of an epoch, from one of them on.
    fn start(
        &self,
        epoch: u64,
        first_batch: usize,
        shares: (usize, usize, bool, usize, usize),
        size: (usize, usize),
        threads: usize,
    ) -> PyResult<XBDRun> {
        let threads = if threads == 0 { default_threads() } else { threads };
        let run = Run::start(Arc::clone(&self.feed), to_shares(shares), size, epoch, first_batch, threads)?;
        Ok(XBDRun { run, owners: Mutex::default() })
    }

    /// Batches of each rank, of (samples, batch_size, drop_last, rank, world_size).
    #[staticmethod]
    fn batches(shares: (usize, usize, bool, usize, usize)) -> usize {
        to_shares(shares).batches()
    }
}

impl XBDFeed {
    fn tile(&self, index: usize) -> PyResult<&TileSource> {
        let tiles = &self.feed.tiles;
        let missing = || PyIndexError::new_err(format!("index: got {index}, expected one of {} tiles", tiles.len()));
        tiles.get(index).ok_or_else(missing)
    }
}

fn to_shares((samples, batch_size, drop_last, rank, world_size): (usize, usize, bool, usize, usize)) -> Shares {
    Shares { samples, batch_size, drop_last, rank, world_size }
}

/// An owner of memory, the number of samples, the pixels of each class and of ignored ones, and what was skipped.
type FilledTuple<'py> = (Py<PyAny>, usize, Bound<'py, PyArray1<i64>>, Vec<String>);

/// Threads that fill the batches of one pass over an epoch.
#[pyclass(frozen, weakref)]
pub struct XBDRun {
    // Dropped first: its threads end before the memory goes that they write to.
    run: Run,
    owners: Mutex<VecDeque<Py<PyAny>>>,
}

#[pymethods]
impl XBDRun {
    /// Hands in the memory of a batch as the addresses and bytes of pre, post and mask; false where there is none left to fill.
    fn submit(&self, memory: [(usize, usize); 3], owner: Py<PyAny>) -> PyResult<bool> {
        let (bytes, expected) = (memory.map(|(_, bytes)| bytes), self.run.memory_bytes());
        if bytes != expected {
            return Err(Error::value("memory", format!("{bytes:?} bytes"), format!("{expected:?}")).into());
        }
        let [pre, post, mask] = memory.map(|(address, _)| address as *mut u8);
        let memory = Memory { pre, post, mask };
        let mut owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the sizes are the run's; rarepixel's own Python code makes contiguous arrays and hands in their owner, which is
        // kept until the batch has come back or the run is gone; nothing else has a reference to the arrays till then.
        let taken = unsafe { self.run.submit(memory) };
        if taken {
            owners.push_back(owner);
        }
        Ok(taken)
    }

    /// Waits for the next batch; none when there is none.
    fn next<'py>(&self, py: Python<'py>) -> PyResult<Option<FilledTuple<'py>>> {
        loop {
            match py.detach(|| self.run.next(PATIENCE))? {
                Progress::Pending => py.check_signals()?,
                Progress::Finished => return Ok(None),
                Progress::Filled(Filled { samples, counts, skipped }) => {
                    let owner = self.owners.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                    let owner = owner.expect("every batch has an owner");
                    let counts = counts.map(|count| count as i64).to_vec().into_pyarray(py);
                    return Ok(Some((owner, samples, counts, skipped.iter().map(Error::to_string).collect())));
                }
            }
        }
    }

    /// Ends the threads; samples at hand are finished first.
    fn close(&self, py: Python<'_>) {
        py.detach(|| self.run.close());
    }
}

/// An [`Augment`] as a dictionary: a probability for `flip_rotate`, (range, probability) for the rest.
struct PyAugment(Augment);

impl<'py> FromPyObject<'_, 'py> for PyAugment {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let chance = |name: &str| {
            let (range, probability) = object.get_item(name)?.extract()?;
            Ok::<_, PyErr>(Chance { range, probability })
        };
        Ok(Self(Augment {
            flip_rotate: object.get_item("flip_rotate")?.extract()?,
            scale: chance("scale")?,
            shift: chance("shift")?,
            brightness: chance("brightness")?,
            contrast: chance("contrast")?,
            saturation: chance("saturation")?,
            hue: chance("hue")?,
            registration: chance("registration")?,
        }))
    }
}
