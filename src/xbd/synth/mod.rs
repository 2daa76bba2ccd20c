//! Made-up tiles in xBD's layout: suburbs from above, before and after a disaster, with labels and targets.
//!
//! They are the default data of the demo and of the tests. Every tile is a pure function of (seed, split, index, size, share
//! of un-classified buildings), whatever the machine and the number of threads. The class mix over a set is xBD's: about 97 %
//! background, 2.7 % no damage and 0.1 % each of minor damage, major damage and destroyed; single tiles differ widely.

mod annotation;
mod noise;
mod render;
mod scene;

use std::fs;
use std::path::Path;

use super::class::UnClassified;
use super::index;
use super::label::{Label, Phase};
use super::parallel::for_each_index;
use super::png;
use super::random::{SplitMix64, hash};
use super::write::write_whole;
use crate::{Error, Result};
use scene::{Hazard, Plan, Scene};

/// Sides of a tile that can be made.
pub const SIZES: std::ops::RangeInclusive<usize> = 32..=4096;

/// Share of the pixels of a set that are buildings.
const BUILDINGS: f64 = 0.030;
/// Share of the pixels of a set of each of the three damage classes.
const DAMAGE: f64 = 0.001;
/// How built-up the tiles of a block of eight are, as a factor of which the mean is 1: the four without damage (one of them
/// without any building, as in xBD), then the four with all of the block's damage.
const DENSITY: [[f64; 4]; 2] = [[0.0, 0.4, 0.7, 1.0], [0.9, 1.2, 1.6, 2.2]];

/// What to make.
#[derive(Debug, Clone)]
pub struct SynthesizeOptions {
    /// How many tiles.
    pub tiles: usize,
    /// Another seed makes other tiles.
    pub seed: u64,
    /// Side of a tile in pixels.
    pub size: usize,
    /// The folder under the root, which decides the tiles too.
    pub split: String,
    /// Share of the undamaged buildings that are un-classified.
    pub un_classified: f64,
}

/// Writes tiles into `<root>/<split>/{images,labels,targets}`; a tile that is there already is written anew.
///
/// Targets hold un-classified buildings as 255. `done` is called on this thread after each tile; its error, or that of a file,
/// ends the run.
pub fn synthesize<E: From<Error>>(
    root: &Path,
    options: &SynthesizeOptions,
    mut done: impl FnMut() -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    let SynthesizeOptions { size, un_classified, ref split, .. } = *options;
    if !SIZES.contains(&size) {
        return Err(Error::value("size", size, format!("{} to {} pixels", SIZES.start(), SIZES.end())).into());
    }
    if !(0.0..=1.0).contains(&un_classified) {
        return Err(Error::value("un_classified", un_classified, "a share of 0 to 1").into());
    }
    if split.is_empty() || split.starts_with('.') || split.contains(['/', '\\']) {
        return Err(Error::value("split", format!("{split:?}"), "the name of a folder").into());
    }
    let folder = root.join(split);
    for path in index::paths(&folder, "", Phase::Pre).iter().filter_map(|path| path.parent()) {
        fs::create_dir_all(path).map_err(|source| Error::io(path, source))?;
    }
    for_each_index(options.tiles, |index| write_tile(&folder, options, index), |()| done())
}

fn write_tile(folder: &Path, options: &SynthesizeOptions, index: usize) -> Result<()> {
    let scene = scene_of(options, index);
    let tile = format!("{}_{index:08}", scene.hazard.disaster());
    for phase in [Phase::Pre, Phase::Post] {
        let [image, label, target] = index::paths(folder, &tile, phase);
        let annotation = annotation::annotate(&scene, phase, &tile);
        let mask = Label::parse(&label, &annotation, png::MAX_PIXELS)?.rasterize(UnClassified::Ignore);
        png::write_image(&image, render::render(&scene, phase).view())?;
        png::write_target(&target, mask.view())?;
        write_whole(&label, &annotation)?;
    }
    Ok(())
}

/// Blocks of eight tiles share out densities, and pairs of tiles damage, so that the mix of a small set is close to that of a
/// large one.
fn scene_of(options: &SynthesizeOptions, index: usize) -> Scene {
    let split: Vec<u64> = options.split.bytes().map(u64::from).collect();
    let key = hash(&[options.seed, hash(&split)]);
    let mut random = SplitMix64::new(&[key, index as u64 / 8, 0]);
    let mut densities = DENSITY;
    for densities in &mut densities {
        for last in (1..densities.len()).rev() {
            densities.swap(last, random.below(last + 1));
        }
    }
    let pair = index % 8 / 2;
    let is_damaged = index % 2 == SplitMix64::new(&[key, index as u64 / 2, 3]).below(2);
    let plan = Plan {
        buildings: BUILDINGS * densities[usize::from(is_damaged)][pair],
        damage: if is_damaged { 2.0 * DAMAGE } else { 0.0 },
        un_classified: options.un_classified,
    };
    let hazard = Hazard::ALL[SplitMix64::new(&[key, index as u64, 1]).below(Hazard::ALL.len())];
    Scene::new(hash(&[key, index as u64, 2]), options.size, hazard, &plan)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xbd::class::UnClassified;
    use crate::xbd::index::Index;
    use crate::xbd::mask::{MaskSource, count_pixels};

    fn options(tiles: usize, size: usize) -> SynthesizeOptions {
        SynthesizeOptions { tiles, seed: 0, size, split: "train".to_owned(), un_classified: 0.02 }
    }

    fn make(options: &SynthesizeOptions) -> (tempfile::TempDir, Index) {
        let root = tempfile::tempdir().unwrap();
        synthesize(root.path(), options, || Result::Ok(())).unwrap();
        let index = Index::read(root.path(), None).unwrap();
        (root, index)
    }

    fn shares(options: &SynthesizeOptions) -> [f64; 5] {
        let (_root, index) = make(options);
        let sources: Vec<_> = index
            .tiles
            .iter()
            .filter_map(|tile| MaskSource::of(tile.post.target.as_deref(), tile.post.label.as_deref()))
            .collect();
        let counts = count_pixels(&sources, UnClassified::Ignore, u64::MAX, || Result::Ok(())).unwrap();
        let total: u64 = counts.iter().sum();
        counts.map(|count| count as f64 / total as f64)
    }

    #[test]
    fn the_class_mix_is_xbds_at_every_size() {
        for (tiles, size) in [(64, 128), (16, 256), (16, 1024)] {
            let [background, none, damage @ ..] = shares(&options(tiles, size));
            assert!((0.955..0.98).contains(&background), "{size}: background {background}");
            assert!((0.018..0.036).contains(&none), "{size}: no damage {none}");
            assert!(damage.iter().all(|share| (0.0004..0.002).contains(share)), "{size}: {damage:?}");
        }
    }

    #[test]
    fn a_tile_depends_on_its_own_key_only() {
        let few = make(&options(2, 64));
        let many = make(&options(5, 64));
        let read = |(_, index): &(tempfile::TempDir, Index)| {
            let first =
                |n: usize| index.tiles.iter().find(move |tile| tile.name.ends_with(&format!("{n:08}"))).unwrap();
            [0, 1].map(|n| fs::read(&first(n).post.image).unwrap())
        };
        assert_eq!(read(&few), read(&many));
        assert_eq!(many.1.tiles.len(), 5);
        assert_eq!(many.1.problems, []);
        for other in [
            SynthesizeOptions { seed: 1, ..options(2, 64) },
            SynthesizeOptions { split: "test".to_owned(), ..options(2, 64) },
        ] {
            let other = make(&other);
            let name = |index: &Index| index.tiles.iter().map(|tile| tile.name.clone()).collect::<Vec<_>>();
            assert!(name(&other.1) != name(&few.1) || read(&other) != read(&few));
        }
    }

    #[test]
    fn targets_are_the_labels_drawn() {
        let (_root, index) = make(&options(8, 96));
        for half in index.tiles.iter().flat_map(|tile| [&tile.pre, &tile.post]) {
            let target = png::read_target(half.target.as_ref().unwrap(), png::MAX_PIXELS).unwrap();
            let label = Label::read(half.label.as_ref().unwrap(), png::MAX_PIXELS).unwrap();
            assert_eq!(target, label.rasterize(UnClassified::Ignore));
        }
    }

    #[test]
    fn wrong_options_are_errors() {
        for (wrong, message) in [
            (options(1, 16), "size: got 16, expected 32 to 4096 pixels"),
            (
                SynthesizeOptions { un_classified: 1.5, ..options(1, 64) },
                "un_classified: got 1.5, expected a share of 0 to 1",
            ),
            (
                SynthesizeOptions { split: "../x".to_owned(), ..options(1, 64) },
                "split: got \"../x\", expected the name of a folder",
            ),
        ] {
            let error: Error = synthesize(Path::new("unused"), &wrong, || Ok(())).unwrap_err();
            assert_eq!(error.to_string(), message);
        }
    }
}
