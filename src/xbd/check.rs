//! Reading everything of a root once, to say what is wrong with it before a training does.

use std::path::Path;

use super::class::UnClassified;
use super::image::ImageReader;
use super::index::{Index, Problem, Tile, TileFiles};
use super::label::{Label, Phase};
use super::mask::MaskSource;
use super::parallel::for_each_index;
use super::{pack, png};
use crate::{Error, Result};

/// What is wrong with the tiles of an index, its own problems included, by path.
///
/// Every image is decoded to its end, every label parsed, every target read, and their sizes are compared. `done` is called on
/// this thread after each tile, and its error ends the check.
pub fn check<E: From<Error>>(
    index: &Index,
    max_pixels: u64,
    mut done: impl FnMut() -> std::result::Result<(), E>,
) -> std::result::Result<Vec<Problem>, E> {
    let mut problems = index.problems.clone();
    let one = |at: usize| Ok(check_tile(&index.tiles[at], max_pixels));
    for_each_index(index.tiles.len(), one, |found| {
        problems.extend(found);
        done()
    })?;
    problems.sort();
    problems.dedup();
    Ok(problems)
}

fn check_tile(tile: &Tile, max_pixels: u64) -> Vec<Problem> {
    let mut found = Found::default();
    if pack::is_packed(&tile.post.image) {
        found.take(&tile.post.image, pack::check(&tile.post.image, max_pixels));
        return found.problems;
    }
    for (phase, half) in [(Phase::Pre, &tile.pre), (Phase::Post, &tile.post)] {
        check_half(half, phase, max_pixels, &mut found);
    }
    found.problems
}

fn check_half(half: &TileFiles, phase: Phase, max_pixels: u64, found: &mut Found) {
    let image = ImageReader::open(&half.image, max_pixels).and_then(|reader| {
        let size = reader.size();
        reader.read()?;
        Ok(size)
    });
    found.take_size(&half.image, image);
    if let Some(path) = &half.label {
        let label = found.take(path, Label::read(path, max_pixels));
        if let Some(label) = &label {
            found.take_size(path, Ok((label.height, label.width)));
            if label.phase != phase {
                found.add(path, "is a label of the other half of its tile");
            }
            // A building may stand over the edge, but not a whole image away: such numbers are no pixels of this image.
            let near = |at: f64, size: usize| (-(size as f64)..=2.0 * size as f64).contains(&at);
            for feature in &label.features {
                let mut vertices = feature.polygons.iter().flat_map(|polygon| polygon.rings.iter().flatten());
                if !vertices.all(|&[x, y]| near(x, label.width) && near(y, label.height)) {
                    found.add(path, &format!("feature {}: reaches more than an image's size beyond it", feature.uid));
                }
            }
        }
    }
    if let Some(path) = &half.target {
        let target = png::read_target(path, max_pixels);
        found.take_size(path, target.map(|target| target.dim()));
    }
}

#[derive(Default)]
struct Found {
    problems: Vec<Problem>,
    /// (height, width) of the tile's first file that has one.
    size: Option<(usize, usize)>,
}

impl Found {
    fn add(&mut self, path: &Path, message: &str) {
        self.problems.push(Problem { path: path.to_owned(), message: message.to_owned() });
    }

    fn take<T>(&mut self, path: &Path, result: Result<T>) -> Option<T> {
        let error = match result {
            Ok(value) => return Some(value),
            Err(error) => error.to_string(),
        };
        // Errors begin with the file that the problem names already.
        self.add(path, error.strip_prefix(&format!("{}: ", path.display())).unwrap_or(&error));
        None
    }

    fn take_size(&mut self, path: &Path, size: Result<(usize, usize)>) {
        let Some(size) = self.take(path, size) else { return };
        let first = *self.size.get_or_insert(size);
        if size != first {
            let message = format!("{} x {} pixels, expected {} x {} as its tile has", size.1, size.0, first.1, first.0);
            self.add(path, &message);
        }
    }
}

/// Targets written, and those that were there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Written {
    /// New ones.
    pub written: usize,
    /// Those that were left as they are.
    pub kept: usize,
}

/// Writes the targets that tiles of an index lack, drawn from their labels, pre and post.
///
/// Each appears when it is whole, so that an interrupted run can be gone on with. `done` is called on this thread after each
/// tile; its error, or a tile's, ends the run.
pub fn write_targets<E: From<Error>>(
    root: &Path,
    tiles: &[Tile],
    un_classified: UnClassified,
    max_pixels: u64,
    mut done: impl FnMut() -> std::result::Result<(), E>,
) -> std::result::Result<Written, E> {
    let mut total = Written::default();
    let one = |at: usize| {
        let (tile, mut count) = (&tiles[at], Written::default());
        if pack::is_packed(&tile.post.image) {
            return Err(Error::file(&tile.post.image, "is packed: targets belong in the root that it was packed from"));
        }
        for (phase, half) in [(Phase::Pre, &tile.pre), (Phase::Post, &tile.post)] {
            match (&half.target, &half.label) {
                (Some(_), _) => count.kept += 1,
                (None, Some(label)) => {
                    let [_, _, target] = super::index::paths(&root.join(&tile.split), &tile.name, phase);
                    let folder = target.parent().expect("has a folder");
                    std::fs::create_dir_all(folder).map_err(|source| Error::io(folder, source))?;
                    let mask = MaskSource::Label(label.clone()).read(un_classified, max_pixels)?;
                    png::write_target(&target, mask.view())?;
                    count.written += 1;
                }
                (None, None) => {}
            }
        }
        Ok(count)
    };
    for_each_index(tiles.len(), one, |count| {
        total.written += count.written;
        total.kept += count.kept;
        done()
    })?;
    Ok(total)
}
