//! One pass over the batches of an epoch: the threads and the queue between them and the consumer.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use ndarray::{ArrayViewMut2, ArrayViewMut3};

use super::{Feed, Order, Shares};
use crate::xbd::guard::fault;
use crate::xbd::sample::{ImageMut, SampleMut};
use crate::{Error, Result};

/// The memory of one batch: contiguous (N, 3, H, W) images, bytes or float32, and (N, H, W) masks.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    /// The images before.
    pub pre: *mut u8,
    /// The images after.
    pub post: *mut u8,
    /// The masks.
    pub mask: *mut u8,
}

// SAFETY: pointers to memory that nobody else touches while a run holds it, see `Run::submit`; no thread owns it.
unsafe impl Send for Memory {}

/// A batch that has been filled.
#[derive(Debug)]
pub struct Filled {
    /// How many samples it has.
    pub samples: usize,
    /// Pixels of each class, then ignored ones.
    pub counts: [u64; 6],
    /// What could not be read, and was replaced.
    pub skipped: Vec<Error>,
}

/// What [`Run::next`] found.
#[derive(Debug)]
pub enum Progress {
    /// The next batch, in the order of the epoch and of submission.
    Filled(Filled),
    /// Not yet.
    Pending,
    /// There is no memory to fill: all batches are out, or none was submitted.
    Finished,
}

/// A pass over the batches of an epoch. Dropping it ends its threads.
pub struct Run {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    process: u32,
}

struct Shared {
    feed: Arc<Feed>,
    shares: Shares,
    order: Order,
    epoch: u64,
    /// (height, width) of samples.
    size: (usize, usize),
    state: Mutex<State>,
    /// There are samples to begin, or the run has been closed.
    work: Condvar,
    /// The first batch has been filled, or the run has been closed.
    done: Condvar,
}

struct State {
    /// What has been submitted and not come back, in the order of the epoch.
    batches: VecDeque<Batch>,
    /// The number of the next batch to be submitted.
    next: usize,
    closed: bool,
}

struct Batch {
    number: usize,
    memory: Memory,
    samples: usize,
    begun: usize,
    finished: usize,
    counts: [u64; 6],
    skipped: Vec<(usize, Error)>,
    /// Of the first sample that failed, so that threads do not decide which error it is.
    error: Option<(usize, Error)>,
}

/// A sample to be filled.
struct Job {
    batch: usize,
    sample: usize,
    memory: Memory,
}

impl Run {
    /// Starts `threads` threads (at least one) that fill the batches from `first_batch` on, once there is memory for them.
    pub fn start(
        feed: Arc<Feed>,
        shares: Shares,
        size: (usize, usize),
        epoch: u64,
        first_batch: usize,
        threads: usize,
    ) -> Result<Self> {
        let order = Order::new(feed.tiles.len(), feed.shuffle, feed.seed, epoch);
        let state = State { batches: VecDeque::new(), next: first_batch, closed: false };
        let (work, done) = (Condvar::new(), Condvar::new());
        let shared = Arc::new(Shared { feed, shares, order, epoch, size, state: Mutex::new(state), work, done });
        let run = Self { shared, threads: Mutex::default(), process: std::process::id() };
        for index in 0..threads.max(1) {
            let shared = Arc::clone(&run.shared);
            let thread = thread::Builder::new().name(format!("rarepixel-loader-{index}"));
            // An error here drops the run, which ends the threads that were started.
            let handle = thread.spawn(move || shared.work_until_closed());
            let handle = handle.map_err(|source| Error::value("num_threads", threads, format!("fewer: {source}")))?;
            run.threads.lock().unwrap_or_else(PoisonError::into_inner).push(handle);
        }
        Ok(run)
    }

    /// Bytes of the parts of a [`Memory`], in order.
    pub fn memory_bytes(&self) -> [usize; 3] {
        let Shared { shares, size: (height, width), feed, .. } = &*self.shared;
        let mask = shares.batch_size.saturating_mul(*height).saturating_mul(*width);
        let image = mask.saturating_mul(3 * if feed.options.normalize.is_some() { size_of::<f32>() } else { 1 });
        [image, image, mask]
    }

    /// Hands in memory for the next batch; false where the epoch has no more, and then it is not kept.
    ///
    /// # Safety
    ///
    /// The memory must be as large as [`Self::memory_bytes`] says, aligned, and neither freed nor touched until the batch has come back
    /// from [`Self::next`] or the run has been closed.
    pub unsafe fn submit(&self, memory: Memory) -> bool {
        let mut state = self.shared.lock();
        let (number, samples) = (state.next, self.shared.shares.batch(state.next));
        if samples == 0 || state.closed {
            return false;
        }
        state.next += 1;
        let (counts, skipped) = ([0; 6], Vec::new());
        state.batches.push_back(Batch { number, memory, samples, begun: 0, finished: 0, counts, skipped, error: None });
        drop(state);
        self.shared.work.notify_all();
        true
    }

    /// Waits up to `patience` for the first batch that is out. Its first error closes the run.
    pub fn next(&self, patience: Duration) -> Result<Progress> {
        let state = self.shared.lock();
        let waiting = |state: &mut State| {
            !state.closed && state.batches.front().is_some_and(|batch| batch.finished < batch.samples)
        };
        let (mut state, _) =
            self.shared.done.wait_timeout_while(state, patience, waiting).unwrap_or_else(PoisonError::into_inner);
        if state.closed || state.batches.is_empty() {
            return Ok(Progress::Finished);
        }
        if waiting(&mut state) {
            return Ok(Progress::Pending);
        }
        let mut batch = state.batches.pop_front().expect("there is a first");
        drop(state);
        if let Some((_, error)) = batch.error {
            self.close();
            return Err(error);
        }
        batch.skipped.sort_by_key(|(sample, _)| *sample);
        let skipped = batch.skipped.into_iter().map(|(_, error)| error).collect();
        Ok(Progress::Filled(Filled { samples: batch.samples, counts: batch.counts, skipped }))
    }

    /// Ends the threads, after the samples at hand; from then on no memory is touched.
    ///
    /// In a forked child, which has none of the threads, there is nothing to end and nothing to wait for.
    pub fn close(&self) {
        if std::process::id() != self.process {
            return;
        }
        self.shared.lock().closed = true;
        self.shared.work.notify_all();
        self.shared.done.notify_all();
        for thread in self.threads.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // A thread's own panic has been told already, as its sample's error.
            let _ = thread.join();
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    /// No holder leaves the state half changed, so a panic of one is no reason to stop the others.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work_until_closed(&self) {
        while let Some(job) = self.wait_for_job() {
            let mut skipped = Vec::new();
            let fill = AssertUnwindSafe(|| self.fill(&job, &mut skipped));
            let filled = catch_unwind(fill).unwrap_or_else(|panic| Err(self.panicked(&job, &*panic)));
            let mut state = self.lock();
            let front = state.batches.front().map_or(0, |batch| batch.number);
            // Gone where the run was closed meanwhile.
            let Some(batch) = job.batch.checked_sub(front).and_then(|at| state.batches.get_mut(at)) else { continue };
            batch.finished += 1;
            batch.skipped.extend(skipped.into_iter().map(|error| (job.sample, error)));
            match filled {
                Ok(counts) => batch.counts.iter_mut().zip(counts).for_each(|(total, count)| *total += count),
                Err(error) => {
                    if batch.error.as_ref().is_none_or(|(first, _)| job.sample < *first) {
                        batch.error = Some((job.sample, error));
                    }
                }
            }
            if batch.finished == batch.samples {
                self.done.notify_all();
            }
        }
    }

    /// The next sample of the epoch that has memory; none when the run is closed.
    fn wait_for_job(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            if let Some(batch) = state.batches.iter_mut().find(|batch| batch.begun < batch.samples) {
                batch.begun += 1;
                return Some(Job { batch: batch.number, sample: batch.begun - 1, memory: batch.memory });
            }
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn fill(&self, job: &Job, skipped: &mut Vec<Error>) -> Result<[u64; 6]> {
        let (height, width) = self.size;
        let (area, sample) = (height * width, job.sample);
        let image = |start: *mut u8| {
            let offset = sample * 3 * area;
            // SAFETY: `submit`'s caller vouches for batch_size images of this dtype, and `sample` is one of them; each job has
            // a sample of its own, so no other view overlaps.
            unsafe {
                match self.feed.options.normalize {
                    None => ImageMut::Bytes(ArrayViewMut3::from_shape_ptr((3, height, width), start.add(offset))),
                    Some(_) => {
                        let start = start.cast::<f32>().add(offset);
                        ImageMut::Normalized(ArrayViewMut3::from_shape_ptr((3, height, width), start))
                    }
                }
            }
        };
        let (pre, post) = (image(job.memory.pre), image(job.memory.post));
        // SAFETY: as above, for masks.
        let mask = unsafe { ArrayViewMut2::from_shape_ptr((height, width), job.memory.mask.add(sample * area)) };
        let position = self.shares.position(job.batch, sample);
        self.feed.fill(&self.order, self.epoch, position, SampleMut { pre, post, mask }, skipped)
    }

    fn panicked(&self, job: &Job, panic: &(dyn std::any::Any + Send)) -> Error {
        let (tile, _, _) = self.feed.draw(&self.order, self.epoch, self.shares.position(job.batch, job.sample), 0);
        Error::file(self.feed.tiles[tile].path(), fault(panic))
    }
}
