//! Batches of samples, filled ahead by threads into memory that the consumer hands in.
//!
//! Threads belong to one pass over an epoch ([`Run`]) and end with it. The bound of the queue is the memory: a batch is begun
//! when the consumer has handed in memory for it, and samples are begun in their order, one a thread, so that the first batch
//! is there as soon as the machine can have it.

mod order;
mod run;
mod sampler;

pub use order::{Order, Shares};
pub use run::{Filled, Memory, Progress, Run};
pub use sampler::{Rare, Sampler};

use super::random::SplitMix64;
use super::sample::{Place, SampleMut, SampleOptions, fill_sample};
use super::tile::TileSource;
use crate::{Error, Result};

/// How many other tiles are tried in place of one that cannot be read.
const MOST_SUBSTITUTES: u64 = 16;

/// What is drawn from, and how.
pub struct Feed {
    /// The tiles, by index.
    pub tiles: Vec<TileSource>,
    /// What samples are to be.
    pub options: SampleOptions,
    /// How they are chosen.
    pub sampler: Sampler,
    /// Whether every tile comes in an order of its own in each pass; a [`Sampler::Rare`] has no order to shuffle.
    pub shuffle: bool,
    /// What all draws depend on.
    pub seed: u64,
    /// Whether another tile takes the place of one that cannot be read.
    pub skip_errors: bool,
}

impl Feed {
    /// Fills the sample at a position of an epoch; gives the pixels of each class, then ignored ones.
    ///
    /// With `skip_errors`, what could not be read is pushed to `skipped`, and a tile that depends on the key alone is taken
    /// instead; the last error comes back where that fails too often.
    fn fill(
        &self,
        order: &Order,
        epoch: u64,
        position: usize,
        mut memory: SampleMut<'_>,
        skipped: &mut Vec<Error>,
    ) -> Result<[u64; 6]> {
        let mut attempt = 0;
        loop {
            let (tile, place, id) = self.draw(order, epoch, position, attempt);
            let key = [self.seed, epoch, id, attempt];
            // The samples of XBDDataset, unless one stands in for another.
            let key = if attempt == 0 { &key[..3] } else { &key };
            match fill_sample(&self.tiles[tile], place, &self.options, key, memory.reborrow()) {
                Err(error) if self.skip_errors && attempt < MOST_SUBSTITUTES => skipped.push(error),
                result => return result,
            }
            attempt += 1;
        }
    }

    /// The tile, the place of its crop and the number of the sample.
    fn draw(&self, order: &Order, epoch: u64, position: usize, attempt: u64) -> (usize, Place, u64) {
        let key = [self.seed, epoch, position as u64, attempt, u64::from_be_bytes(*b"sampler\0")];
        let in_turn = || {
            let (tile, id) = order.at(position);
            if attempt == 0 { (tile, id) } else { (SplitMix64::new(&key).below(self.tiles.len()), id) }
        };
        match &self.sampler {
            Sampler::Uniform => {
                let (tile, id) = in_turn();
                (tile, Place::Anywhere, id)
            }
            Sampler::BestOf(most) => {
                let (tile, id) = in_turn();
                (tile, Place::BestOf(*most), id)
            }
            Sampler::Rare(rare) => {
                let (tile, place) = rare.draw(&key);
                (tile, place, position as u64)
            }
        }
    }
}
