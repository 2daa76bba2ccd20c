//! Which sample comes when: a pure function of (seed, epoch, rank, world size), whatever the threads.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use crate::xbd::random::SplitMix64;

/// The samples of an epoch and their share-out over ranks and batches.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shares {
    /// Samples of an epoch over all ranks.
    pub samples: usize,
    /// Samples of a batch.
    pub batch_size: usize,
    /// Whether what does not fill a batch on every rank is left out.
    pub drop_last: bool,
    /// This process.
    pub rank: usize,
    /// How many there are.
    pub world_size: usize,
}

impl Shares {
    /// Samples of this rank, which are as many as of every other: without `drop_last` the epoch is extended to come out even.
    pub fn of_rank(&self) -> usize {
        if self.drop_last {
            self.samples / self.world_size / self.batch_size * self.batch_size
        } else {
            self.samples.div_ceil(self.world_size)
        }
    }

    /// Batches of this rank, which are as many as of every other.
    pub fn batches(&self) -> usize {
        self.of_rank().div_ceil(self.batch_size)
    }

    /// Samples of batch `batch`; only the last may be short.
    pub fn batch(&self, batch: usize) -> usize {
        self.of_rank().saturating_sub(batch * self.batch_size).min(self.batch_size)
    }

    /// The position in the epoch of sample `sample` of batch `batch` of this rank.
    pub fn position(&self, batch: usize, sample: usize) -> usize {
        (batch * self.batch_size + sample) * self.world_size + self.rank
    }

    /// Positions of an epoch, extension included.
    pub fn positions(&self) -> usize {
        self.of_rank() * self.world_size
    }
}

/// Passes that are remembered: batches that are filled at the same time seldom reach over more.
const PASSES_KEPT: usize = 4;

/// The order of the tiles in one epoch: pass after pass over all of them, each in an order of its own.
#[derive(Debug)]
pub struct Order {
    tiles: usize,
    shuffle: bool,
    seed: u64,
    epoch: u64,
    /// The last passes asked for, with their numbers; all passes of a long epoch would not fit into memory.
    passes: Mutex<VecDeque<(usize, Vec<u32>)>>,
}

impl Order {
    /// The order of an epoch.
    pub fn new(tiles: usize, shuffle: bool, seed: u64, epoch: u64) -> Self {
        Self { tiles, shuffle, seed, epoch, passes: Mutex::default() }
    }

    /// The tile at a position, and a number that no other position of the epoch has; in the first pass it is the tile's index.
    pub fn at(&self, position: usize) -> (usize, u64) {
        let (pass, at) = (position / self.tiles, position % self.tiles);
        let tile = if self.shuffle { self.shuffled(pass, at) } else { at };
        (tile, (pass * self.tiles + tile) as u64)
    }

    fn shuffled(&self, pass: usize, at: usize) -> usize {
        // A panic of another thread leaves no pass half made: one is kept when it is whole.
        let mut passes = self.passes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, order)) = passes.iter().find(|(number, _)| *number == pass) {
            return order[at] as usize;
        }
        let mut order: Vec<u32> = (0..self.tiles as u32).collect();
        let mut random = SplitMix64::new(&[self.seed, self.epoch, pass as u64, u64::from_be_bytes(*b"shuffle\0")]);
        // Fisher and Yates
        (1..self.tiles).rev().for_each(|last| order.swap(last, random.below(last + 1)));
        let tile = order[at] as usize;
        if passes.len() == PASSES_KEPT {
            passes.pop_front();
        }
        passes.push_back((pass, order));
        tile
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_shuffle_is_a_permutation_and_each_pass_and_epoch_has_its_own() {
        let all = |seed: u64, epoch: u64| {
            let order = Order::new(50, true, seed, epoch);
            (0..150).map(|at| order.at(at).0).collect::<Vec<_>>()
        };
        let order = all(1, 2);
        let mut sorted = order[..50].to_vec();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..50).collect::<Vec<_>>());
        assert_ne!(order[..50], order[50..100]);
        assert_ne!(order, all(1, 3));
        assert_ne!(order, all(2, 2));
        assert_eq!(order, all(1, 2));
        let plain = Order::new(3, false, 1, 2);
        assert_eq!((0..5).map(|at| plain.at(at)).collect::<Vec<_>>(), [(0, 0), (1, 1), (2, 2), (0, 3), (1, 4)]);
    }

    #[test]
    fn an_order_is_that_of_version_0_1_0_and_does_not_depend_on_what_was_asked_for_before() {
        let order = Order::new(5, true, 1, 2);
        let tiles = |positions: &[usize]| positions.iter().map(|&at| order.at(at).0).collect::<Vec<_>>();
        let forwards = tiles(&(0..60).collect::<Vec<_>>());
        assert_eq!(forwards[..10], [4, 3, 1, 2, 0, 2, 3, 0, 1, 4]);
        let mut backwards = tiles(&(0..60).rev().collect::<Vec<_>>());
        backwards.reverse();
        assert_eq!(forwards, backwards);
    }

    #[test]
    fn an_epoch_of_any_length_takes_no_memory_for_it() {
        let far = 1_000_000_000_000_000_000;
        let order = Order::new(8, true, 1, 2);
        let mut tiles: Vec<_> = (far..far + 8).map(|at| order.at(at).0).collect();
        tiles.sort_unstable();
        assert_eq!(tiles, (0..8).collect::<Vec<_>>());
        assert_eq!(order.at(far + 3).1 / 8, far as u64 / 8);
    }

    proptest! {
        #[test]
        fn ranks_share_every_position_once(samples in 1usize..60, batch_size in 1usize..9, world_size in 1usize..6, drop_last: bool) {
            let mut seen = Vec::new();
            let mut batches = Vec::new();
            for rank in 0..world_size {
                let shares = Shares { samples, batch_size, drop_last, rank, world_size };
                batches.push(shares.batches());
                for batch in 0..shares.batches() {
                    let size = shares.batch(batch);
                    prop_assert!(size == batch_size || (!drop_last && batch + 1 == shares.batches() && size > 0));
                    seen.extend((0..size).map(|sample| shares.position(batch, sample)));
                }
                prop_assert_eq!(shares.batch(shares.batches()), 0);
            }
            prop_assert!(batches.iter().all(|&count| count == batches[0]));
            seen.sort_unstable();
            let shares = Shares { samples, batch_size, drop_last, rank: 0, world_size };
            prop_assert_eq!(seen, (0..shares.positions()).collect::<Vec<_>>());
            // Nothing is left out but by drop_last, and nothing is added but to come out even.
            let added = shares.positions() as i64 - samples as i64;
            let fits = if drop_last { added <= 0 } else { (0..world_size as i64).contains(&added) };
            prop_assert!(fits);
        }
    }
}
