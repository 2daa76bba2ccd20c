//! What is where: the pixels of each class in a tile and its buildings, kept in a small file so that it is found out once.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::UNIX_EPOCH;

use ndarray::ArrayView2;
use serde::{Deserialize, Serialize};

use super::class::{CLASS_NAMES, IGNORE_INDEX, UnClassified, count_classes};
use super::parallel::for_each_index;
use super::tile::TileSource;
use super::write::write_whole;
use crate::{Error, Result};

/// The version of the file; others are surveyed anew.
const VERSION: u32 = 1;

/// Pixels of one class that touch each other (at corners too): a building, or several that touch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "[usize; 7]", into = "[usize; 7]")]
pub struct Building {
    /// The class index.
    pub class: u8,
    /// First and last row.
    pub rows: (usize, usize),
    /// First and last column.
    pub columns: (usize, usize),
    /// The row of one of its pixels.
    pub y: usize,
    /// The column of that pixel.
    pub x: usize,
}

impl From<[usize; 7]> for Building {
    fn from([class, top, bottom, left, right, y, x]: [usize; 7]) -> Self {
        // A class beyond a byte is damage to the file, and no class.
        let class = u8::try_from(class).unwrap_or(IGNORE_INDEX);
        Self { class, rows: (top.min(bottom), bottom), columns: (left.min(right), right), y, x }
    }
}

impl From<Building> for [usize; 7] {
    fn from(Building { class, rows, columns, y, x }: Building) -> Self {
        [usize::from(class), rows.0, rows.1, columns.0, columns.1, y, x]
    }
}

/// What one mask holds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Survey {
    /// Pixels of each class, then ignored ones.
    pub counts: [u64; CLASS_NAMES.len() + 1],
    /// The buildings from top to bottom, ignored ones too.
    pub buildings: Vec<Building>,
}

impl Survey {
    /// Surveys a mask.
    pub fn of(mask: &ArrayView2<'_, u8>) -> Self {
        let mut counts = [0; CLASS_NAMES.len() + 1];
        let mut found = Components::default();
        for (y, row) in mask.outer_iter().enumerate() {
            let row = row.to_vec();
            for (total, count) in counts.iter_mut().zip(count_classes(&row)) {
                *total += count;
            }
            found.add_row(y, &row);
        }
        Self { counts, buildings: found.finish() }
    }

    /// With un-classified buildings as that choice has them: for masks that come from labels.
    fn with_un_classified(mut self, choice: UnClassified) -> Self {
        let class = choice.class();
        if class != IGNORE_INDEX {
            self.counts[usize::from(class)] += std::mem::take(&mut self.counts[CLASS_NAMES.len()]);
            self.buildings.iter_mut().filter(|building| building.class == IGNORE_INDEX).for_each(|b| b.class = class);
            self.buildings.retain(|building| building.class != 0);
        }
        self
    }
}

/// A run of pixels of one class in a row: first and last column, and the component it belongs to.
struct Run {
    first: usize,
    last: usize,
    class: u8,
    component: usize,
}

/// Connected components, row by row, with union-find.
#[derive(Default)]
struct Components {
    buildings: Vec<Building>,
    /// The component that each was joined to; itself while it stands alone.
    parents: Vec<usize>,
    above: Vec<Run>,
}

impl Components {
    fn add_row(&mut self, y: usize, row: &[u8]) {
        let mut runs: Vec<Run> = Vec::new();
        let mut x = 0;
        let mut reach = 0;
        while let Some(start) = row[x..].iter().position(|&value| value != 0) {
            let (first, class) = (x + start, row[x + start]);
            let length = row[first..].iter().position(|&value| value != class).unwrap_or(row.len() - first);
            let last = first + length - 1;
            x = last + 1;
            // Runs above that end left of this one's reach cannot touch a later one either.
            while self.above.get(reach).is_some_and(|run| run.last + 1 < first) {
                reach += 1;
            }
            let touching = self.above[reach..].iter().take_while(|run| run.first <= last + 1);
            let components: Vec<_> = touching.filter(|run| run.class == class).map(|run| run.component).collect();
            let mut component = None;
            for other in components {
                let other = self.root(other);
                component = Some(component.map_or(other, |component| self.join(component, other)));
            }
            let component = component.unwrap_or_else(|| {
                let pixel = first + length / 2;
                self.parents.push(self.buildings.len());
                self.buildings.push(Building { class, rows: (y, y), columns: (first, last), y, x: pixel });
                self.buildings.len() - 1
            });
            let building = &mut self.buildings[component];
            building.rows.1 = y;
            building.columns = (building.columns.0.min(first), building.columns.1.max(last));
            runs.push(Run { first, last, class, component });
        }
        self.above = runs;
    }

    fn root(&mut self, mut component: usize) -> usize {
        while self.parents[component] != component {
            self.parents[component] = self.parents[self.parents[component]];
            component = self.parents[component];
        }
        component
    }

    /// Joins two roots into the older, which has the higher pixel.
    fn join(&mut self, a: usize, b: usize) -> usize {
        let (into, from) = (a.min(b), a.max(b));
        if into != from {
            self.parents[from] = into;
            let from = self.buildings[from];
            let into = &mut self.buildings[into];
            into.rows.1 = into.rows.1.max(from.rows.1);
            into.columns = (into.columns.0.min(from.columns.0), into.columns.1.max(from.columns.1));
        }
        into
    }

    fn finish(self) -> Vec<Building> {
        let alone = self.parents.iter().enumerate().map(|(component, &parent)| component == parent);
        self.buildings.iter().zip(alone).filter(|(_, alone)| *alone).map(|(building, _)| *building).collect()
    }
}

/// What tells that a file has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// Its length.
    pub bytes: u64,
    /// When it was last written, in nanoseconds since 1970.
    pub modified: u64,
}

impl Stamp {
    /// The stamp of a file.
    pub fn of(path: &Path) -> Result<Self> {
        let metadata = fs::metadata(path).map_err(|source| Error::io(path, source))?;
        let modified = metadata.modified().map_err(|source| Error::io(path, source))?;
        let since = modified.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
        Ok(Self { bytes: metadata.len(), modified: since })
    }
}

#[derive(Serialize, Deserialize)]
struct Entry {
    stamp: Stamp,
    /// Whether the mask was drawn from a label.
    drawn: bool,
    #[serde(flatten)]
    survey: Survey,
}

#[derive(Serialize, Deserialize)]
struct SurveyFile {
    version: u32,
    /// By the mask's path relative to the file's folder.
    masks: BTreeMap<String, Entry>,
}

/// The surveys of tiles, and what went wrong with keeping them, which is no reason to stop.
pub struct Surveys {
    /// In the order of the tiles.
    pub tiles: Vec<Survey>,
    /// What could not be read, where that is to be skipped.
    pub skipped: Vec<Error>,
    /// Why the file could not be written.
    pub not_kept: Option<Error>,
}

/// Surveys tiles, taking from `file` those whose mask has not changed since, and keeps the result there.
///
/// Entries of other tiles are kept. A file that cannot be read as one of these is written anew. `done` is called on this
/// thread after each tile; its error, or a mask's, ends the survey. With `skip_errors`, a tile whose mask cannot be read has an
/// empty survey instead, which is not kept.
pub fn survey<E: From<Error>>(
    tiles: &[TileSource],
    file: &Path,
    un_classified: UnClassified,
    max_pixels: u64,
    skip_errors: bool,
    mut done: impl FnMut() -> std::result::Result<(), E>,
) -> std::result::Result<Surveys, E> {
    let known = fs::read(file).ok().and_then(|bytes| serde_json::from_slice::<SurveyFile>(&bytes).ok());
    let mut masks = known.filter(|known| known.version == VERSION).map_or_else(BTreeMap::new, |known| known.masks);
    let folder = file.parent().unwrap_or(Path::new(""));
    let name = |tile: &TileSource| {
        let path = tile.mask_path();
        path.strip_prefix(folder).unwrap_or(path).to_string_lossy().into_owned()
    };
    let one = |index: usize| {
        let tile = &tiles[index];
        let fresh = || {
            let stamp = Stamp::of(tile.mask_path())?;
            if masks.get(&name(tile)).is_some_and(|entry| entry.stamp == stamp) {
                return Ok(None);
            }
            let survey = Survey::of(&tile.read_mask(max_pixels)?.view());
            Ok(Some(Entry { stamp, drawn: tile.mask_is_drawn(max_pixels)?, survey }))
        };
        match fresh() {
            Err(error) if !skip_errors => Err(error),
            fresh => Ok((index, fresh)),
        }
    };
    let (mut fresh, mut failed) = (Vec::new(), BTreeMap::new());
    for_each_index(tiles.len(), one, |(index, entry)| {
        match entry {
            Ok(entry) => fresh.extend(entry.map(|entry| (index, entry))),
            Err(error) => _ = failed.insert(index, error),
        }
        done()
    })?;
    let changed = !fresh.is_empty();
    masks.extend(fresh.into_iter().map(|(index, entry)| (name(&tiles[index]), entry)));
    let surveyed = |(index, tile): (usize, &TileSource)| match masks.get(&name(tile)) {
        Some(Entry { survey, drawn: true, .. }) if !failed.contains_key(&index) => {
            survey.clone().with_un_classified(un_classified)
        }
        Some(Entry { survey, .. }) if !failed.contains_key(&index) => survey.clone(),
        _ => Survey::default(),
    };
    let tiles = tiles.iter().enumerate().map(surveyed).collect();
    let skipped = failed.into_values().collect();
    let not_kept = changed.then(|| {
        let bytes = serde_json::to_vec(&SurveyFile { version: VERSION, masks }).expect("has only text keys");
        write_whole(file, &bytes).err()
    });
    Ok(Surveys { tiles, skipped, not_kept: not_kept.flatten() })
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use ndarray::Array2;
    use proptest::prelude::*;

    use super::*;
    use crate::xbd::mask::MaskSource;
    use crate::xbd::png::{MAX_PIXELS, write_target};

    /// Flood fill: class, rows, columns and pixels of each component, by the first pixel.
    fn oracle(mask: &Array2<u8>) -> Vec<(Building, Vec<(usize, usize)>)> {
        let mut seen = Array2::from_elem(mask.dim(), false);
        let mut found = Vec::new();
        for ((y, x), &class) in mask.indexed_iter() {
            if class == 0 || seen[[y, x]] {
                continue;
            }
            seen[[y, x]] = true;
            let (mut pixels, mut queue) = (Vec::new(), VecDeque::from([(y, x)]));
            while let Some((y, x)) = queue.pop_front() {
                pixels.push((y, x));
                for (ny, nx) in
                    (y.saturating_sub(1)..=y + 1).flat_map(|ny| (x.saturating_sub(1)..=x + 1).map(move |nx| (ny, nx)))
                {
                    if mask.get([ny, nx]) == Some(&class) && !seen[[ny, nx]] {
                        seen[[ny, nx]] = true;
                        queue.push_back((ny, nx));
                    }
                }
            }
            let span = |of: fn(&(usize, usize)) -> usize| {
                (pixels.iter().map(of).min().unwrap(), pixels.iter().map(of).max().unwrap())
            };
            found.push((Building { class, rows: span(|p| p.0), columns: span(|p| p.1), y, x }, pixels));
        }
        found
    }

    proptest! {
        #[test]
        fn buildings_are_connected_components(
            mask in (1usize..12, 1usize..14).prop_flat_map(|(height, width)| {
                prop::collection::vec(prop::sample::select(vec![0u8, 0, 1, 1, 2, 255]), height * width)
                    .prop_map(move |values| Array2::from_shape_vec((height, width), values).unwrap())
            })
        ) {
            let survey = Survey::of(&mask.view());
            let expected = oracle(&mask);
            prop_assert_eq!(survey.buildings.len(), expected.len());
            for (building, (other, pixels)) in survey.buildings.iter().zip(&expected) {
                prop_assert_eq!((building.class, building.rows, building.columns), (other.class, other.rows, other.columns));
                prop_assert!(pixels.contains(&(building.y, building.x)));
            }
            for (class, &count) in survey.counts[..5].iter().enumerate() {
                prop_assert_eq!(count, mask.iter().filter(|&&value| usize::from(value) == class).count() as u64);
            }
            prop_assert_eq!(survey.counts.iter().sum::<u64>(), mask.len() as u64);
        }
    }

    fn tile(path: &Path, mask: &Array2<u8>) -> TileSource {
        write_target(path, mask.view()).unwrap();
        let image = path.to_owned();
        TileSource::Files { pre: image.clone(), post: image, mask: MaskSource::Target(path.to_owned()) }
    }

    fn take(tiles: &[TileSource], file: &Path) -> Surveys {
        survey(tiles, file, UnClassified::Ignore, MAX_PIXELS, false, || Result::Ok(())).unwrap()
    }

    #[test]
    fn a_changed_tile_is_surveyed_anew_and_a_damaged_file_altogether() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(".survey.json");
        let mask = |class| Array2::from_elem((4, 5), class);
        let paths = ["a.png", "b.png"].map(|name| folder.path().join(name));
        let tiles = [tile(&paths[0], &mask(1)), tile(&paths[1], &mask(2))];
        let first = take(&tiles, &file);
        assert_eq!(first.tiles.iter().map(|survey| survey.buildings[0].class).collect::<Vec<_>>(), [1, 2]);
        let kept = fs::read(&file).unwrap();
        take(&tiles, &file);
        assert_eq!(fs::read(&file).unwrap(), kept);

        // Read from the file, not from the mask: a lie there comes back while the mask is as it was.
        fs::write(&file, String::from_utf8(kept.clone()).unwrap().replace("[2,0,3,0,4,0,2]", "[3,0,3,0,4,0,2]"))
            .unwrap();
        assert_eq!(take(&tiles, &file).tiles[1].buildings[0].class, 3);
        let changed = [tiles[0].clone(), tile(&paths[1], &Array2::from_elem((5, 5), 4))];
        let second = take(&changed, &file);
        assert_eq!(second.tiles.iter().map(|survey| survey.buildings[0].class).collect::<Vec<_>>(), [1, 4]);

        for damage in [&kept[..kept.len() / 2], b"{}", b"[1]", b"\xff"] {
            fs::write(&file, damage).unwrap();
            assert_eq!(take(&changed, &file).tiles, second.tiles);
        }
    }

    #[test]
    fn a_mask_that_cannot_be_read_is_an_error_or_an_empty_survey() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(".survey.json");
        let [broken, whole] = ["a.png", "b.png"].map(|name| folder.path().join(name));
        let tiles = [tile(&broken, &Array2::from_elem((4, 5), 1)), tile(&whole, &Array2::from_elem((4, 5), 2))];
        // What the file says of it is not taken for what it is now.
        take(&tiles, &file);
        fs::write(&broken, b"broken").unwrap();
        let survey =
            |skip_errors| survey(&tiles, &file, UnClassified::Ignore, MAX_PIXELS, skip_errors, || Result::Ok(()));
        assert!(survey(false).err().unwrap().to_string().contains("a.png: not a "));
        for _ in 0..2 {
            let surveys = survey(true).unwrap();
            assert_eq!(surveys.tiles.iter().map(|survey| survey.buildings.len()).collect::<Vec<_>>(), [0, 1]);
            let [error] = &surveys.skipped[..] else { panic!("one error") };
            assert!(error.to_string().contains("a.png: not a "), "{error}");
        }
    }

    #[test]
    fn a_folder_that_cannot_be_written_to_is_no_obstacle() {
        let folder = tempfile::tempdir().unwrap();
        let tiles = [tile(&folder.path().join("a.png"), &Array2::from_elem((4, 5), 1))];
        let surveys = take(&tiles, &folder.path().join("absent/.survey.json"));
        assert_eq!(surveys.tiles[0].counts[1], 20);
        assert!(surveys.not_kept.unwrap().to_string().contains(".survey.json"));
    }
}
