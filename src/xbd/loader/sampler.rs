//! Which tile a sample is of, and where it is cropped.

use crate::xbd::class::CLASS_NAMES;
use crate::xbd::random::SplitMix64;
use crate::xbd::sample::Place;
use crate::xbd::survey::{Building, Survey};
use crate::{Error, Result};

/// How samples are chosen.
#[derive(Debug, Clone, PartialEq)]
pub enum Sampler {
    /// Every tile in turn, cropped anywhere.
    Uniform,
    /// Every tile in turn, cropped at the best of up to so many places, see [`Place::BestOf`].
    BestOf(usize),
    /// By class.
    Rare(Rare),
}

/// Each place is scored, and no sample that has been begun can be interrupted: more would only seem to hang.
pub const MOST_CANDIDATES: usize = 1024;

impl Sampler {
    /// A [`Sampler::BestOf`].
    pub fn best_of(candidates: usize) -> Result<Self> {
        if !(1..=MOST_CANDIDATES).contains(&candidates) {
            let expected = format!("1 to {MOST_CANDIDATES} places for each sample");
            return Err(Error::value("candidates", candidates, expected));
        }
        Ok(Self::BestOf(candidates))
    }
}

/// Draws a class by weight, then a tile that has it, then a crop around one of its buildings there.
#[derive(Debug, Clone, PartialEq)]
pub struct Rare {
    /// For each class its weight (0 where no tile has it), and where it is.
    classes: [(f64, Vec<InTile>); CLASS_NAMES.len()],
    tiles: usize,
}

/// The buildings of one class in the tile of that index.
type InTile = (usize, Vec<Building>);

impl Rare {
    /// From the surveys of all tiles. Class 0 stands for a crop anywhere in any tile.
    ///
    /// Classes that no tile has are left out; that nothing is left is an error.
    pub fn new(surveys: &[Survey], weights: [f64; CLASS_NAMES.len()]) -> Result<Self> {
        if weights.iter().any(|weight| !weight.is_finite() || *weight < 0.0) {
            return Err(Error::value("class_weights", format!("{weights:?}"), "finite numbers of at least 0"));
        }
        // Only weights beyond all sums are scaled: others would be rounded, and their draws change.
        let scale = if weights.iter().sum::<f64>().is_finite() { 1.0 } else { weights.into_iter().fold(0.0, f64::max) };
        let mut class = 0;
        let classes = weights.map(|weight| {
            let weight = weight / scale;
            let of_class = |survey: &Survey| -> Vec<Building> {
                survey.buildings.iter().filter(|building| usize::from(building.class) == class).copied().collect()
            };
            let tiles: Vec<_> = match class {
                0 => Vec::new(),
                _ => surveys.iter().map(of_class).enumerate().filter(|(_, buildings)| !buildings.is_empty()).collect(),
            };
            class += 1;
            (if class == 1 || !tiles.is_empty() { weight } else { 0.0 }, tiles)
        });
        if classes.iter().all(|(weight, _)| *weight == 0.0) {
            return Err(Error::value(
                "class_weights",
                format!("{weights:?}"),
                "a weight above 0 for a class that a tile has",
            ));
        }
        Ok(Self { classes, tiles: surveys.len() })
    }

    /// The tile and place of the sample with that key.
    pub fn draw(&self, key: &[u64]) -> (usize, Place) {
        let mut random = SplitMix64::new(key);
        let total: f64 = self.classes.iter().map(|(weight, _)| weight).sum();
        let mut left = random.unit() * total;
        let mut chosen = None;
        for (class, (weight, _)) in self.classes.iter().enumerate().filter(|(_, (weight, _))| *weight > 0.0) {
            // The last stays chosen where rounding leaves a rest.
            chosen = Some(class);
            if left < *weight {
                break;
            }
            left -= weight;
        }
        match chosen {
            None | Some(0) => (random.below(self.tiles), Place::Anywhere),
            Some(class) => {
                let tiles = &self.classes[class].1;
                let (tile, buildings) = &tiles[random.below(tiles.len())];
                (*tile, Place::Around(buildings[random.below(buildings.len())]))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn building(class: u8, at: usize) -> Building {
        Building { class, rows: (at, at), columns: (at, at), y: at, x: at }
    }

    fn surveys() -> [Survey; 3] {
        let of = |buildings| Survey { buildings, ..Survey::default() };
        [
            of(vec![building(1, 0), building(1, 1), building(2, 2)]),
            of(vec![]),
            of(vec![building(2, 3), building(255, 4)]),
        ]
    }

    #[test]
    fn classes_come_by_weight_and_tiles_and_buildings_evenly() {
        let rare = Rare::new(&surveys(), [1.0, 1.0, 2.0, 5.0, 0.0]).unwrap();
        let mut tiles = [[0; 3]; 3];
        for sample in 0..40_000 {
            let (tile, place) = rare.draw(&[sample]);
            let class = match place {
                Place::Around(building) => {
                    assert!(surveys()[tile].buildings.contains(&building));
                    usize::from(building.class)
                }
                _ => 0,
            };
            tiles[class][tile] += 1;
        }
        // Class 3 has no tile, so that 4 are the whole.
        for (got, expected) in tiles.iter().flatten().zip([3333, 3333, 3333, 10_000, 0, 0, 10_000, 0, 10_000]) {
            assert!((*got as i64 - expected).abs() < 400, "{tiles:?}");
        }
    }

    #[test]
    fn weights_whose_sum_is_infinite_are_weights_as_others() {
        let huge = Rare::new(&surveys(), [0.0, 1e308, 1e308, 1e308, 1e308]).unwrap();
        let plain = Rare::new(&surveys(), [0.0, 1.0, 1.0, 1.0, 1.0]).unwrap();
        assert!((0..1000).all(|sample| huge.draw(&[sample]) == plain.draw(&[sample])));
    }

    #[test]
    fn so_many_candidates_that_a_crop_would_take_minutes_are_refused() {
        assert_eq!(Sampler::best_of(MOST_CANDIDATES).unwrap(), Sampler::BestOf(MOST_CANDIDATES));
        for candidates in [0, 100_000_000] {
            let error = Sampler::best_of(candidates).unwrap_err().to_string();
            assert_eq!(error, format!("candidates: got {candidates}, expected 1 to 1024 places for each sample"));
        }
    }

    #[test]
    fn weights_that_are_none_are_errors() {
        for weights in [[0.0; 5], [0.0, 0.0, 0.0, 1.0, 1.0], [1.0, -1.0, 0.0, 0.0, 0.0], [f64::NAN; 5]] {
            assert!(Rare::new(&surveys(), weights).is_err(), "{weights:?}");
        }
    }
}
