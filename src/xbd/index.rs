//! Finding tiles in the official layout: `<root>/<split>/{images,labels,targets}`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::image::EXTENSIONS;
use super::label::Phase;
use crate::{Error, Result};

/// What is in a root.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Index {
    /// Tiles with both images and a post label or target, by split and name.
    pub tiles: Vec<Tile>,
    /// What is missing or does not belong, by path. Nothing is left out of `tiles` without a line here.
    pub problems: Vec<Problem>,
}

/// The files of one tile.
#[derive(Debug, Clone, PartialEq)]
pub struct Tile {
    /// The folder under the root: "train", "tier3", "hold", "test".
    pub split: String,
    /// `<disaster>_<number>`.
    pub name: String,
    /// The name without its number.
    pub disaster: String,
    /// Before the disaster.
    pub pre: TileFiles,
    /// After it.
    pub post: TileFiles,
}

/// One half of a tile.
#[derive(Debug, Clone, PartialEq)]
pub struct TileFiles {
    /// The image.
    pub image: PathBuf,
    /// The label file, where there is one.
    pub label: Option<PathBuf>,
    /// The official target, where there is one.
    pub target: Option<PathBuf>,
}

/// Something missing or out of place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub message: String,
}

/// One of the three folders of a split.
struct Folder {
    name: &'static str,
    /// The first is what a missing file is called by, and what is taken where a file is there in several.
    extensions: &'static [&'static str],
    /// Between the phase and the extension.
    ending: &'static str,
}

const IMAGES: Folder = Folder { name: "images", extensions: &EXTENSIONS, ending: "" };
const LABELS: Folder = Folder { name: "labels", extensions: &["json"], ending: "" };
const TARGETS: Folder = Folder { name: "targets", extensions: &["png"], ending: "_target" };

impl Index {
    /// Indexes the given splits of `root`, or every folder in it that has an `images` folder; `root` may also be a pack.
    ///
    /// The order depends on names alone. A root or split that is not there is an error; an incomplete tile is a problem.
    pub fn read(root: &Path, splits: Option<&[String]>) -> Result<Self> {
        if let Some(index) = super::pack::index(root, splits)? {
            return Ok(index);
        }
        let found = splits_of(root)?;
        let splits = match splits {
            None if found.is_empty() => {
                return Err(Error::file(root, "has no <split>/images folder: not a root in the xBD layout"));
            }
            None => found,
            Some(splits) => {
                if let Some(missing) = splits.iter().find(|&split| !found.contains(split)) {
                    let found = found.into_iter().collect::<Vec<_>>().join(", ");
                    let expected = format!("a folder of {} with an images folder: {found}", root.display());
                    return Err(Error::value("splits", format!("{missing:?}"), expected));
                }
                splits.iter().cloned().collect()
            }
        };
        let mut index = Self::default();
        for split in splits {
            index.read_split(root, &split)?;
        }
        index.problems.sort();
        Ok(index)
    }

    fn read_split(&mut self, root: &Path, split: &str) -> Result<()> {
        let folder = root.join(split);
        let mut halves: BTreeMap<String, [Half; 2]> = BTreeMap::new();
        for kind in [&IMAGES, &LABELS, &TARGETS] {
            for path in kind.files(&folder)? {
                let Some((tile, phase)) = path.file_stem().and_then(|stem| kind.parse(stem.to_str()?)) else {
                    self.problems.push(Problem { path, message: format!("its name is not {}", kind.pattern()) });
                    continue;
                };
                let half = &mut halves.entry(tile.to_owned()).or_default()[phase as usize];
                let place = match kind.name {
                    "images" => &mut half.image,
                    "labels" => &mut half.label,
                    _ => &mut half.target,
                };
                // In the order of names, in which the preferred extension comes first.
                match place {
                    None => *place = Some(path),
                    Some(taken) => {
                        let message = format!("not used: {} is there as well", taken.display());
                        self.problems.push(Problem { path, message });
                    }
                }
            }
        }
        for (name, [pre, post]) in halves {
            let post_has_mask = post.label.is_some() || post.target.is_some();
            let pre = self.half(&folder, &name, Phase::Pre, pre);
            let post = self.half(&folder, &name, Phase::Post, post);
            if let (Some(pre), Some(post), true) = (pre, post, post_has_mask) {
                let disaster = disaster(&name);
                self.tiles.push(Tile { split: split.to_owned(), name, disaster, pre, post });
            }
        }
        Ok(())
    }

    /// The half's files where it has an image; whatever it lacks becomes a problem.
    fn half(&mut self, folder: &Path, name: &str, phase: Phase, half: Half) -> Option<TileFiles> {
        let Half { image, label, target } = half;
        let mut missing = |kind: &Folder, message: &str| {
            self.problems.push(Problem { path: kind.path(folder, name, phase), message: message.to_owned() });
        };
        if label.is_none() && target.is_none() {
            missing(&LABELS, "missing, and so is the target");
        }
        if image.is_none() {
            missing(&IMAGES, "missing");
        }
        image.map(|image| TileFiles { image, label, target })
    }
}

#[derive(Default)]
struct Half {
    image: Option<PathBuf>,
    label: Option<PathBuf>,
    target: Option<PathBuf>,
}

impl Folder {
    fn path(&self, split: &Path, tile: &str, phase: Phase) -> PathBuf {
        split.join(self.name).join(format!("{tile}{}{}.{}", phase.suffix(), self.ending, self.extensions[0]))
    }

    fn pattern(&self) -> String {
        format!("<disaster>_<number>_<pre|post>_disaster{}.{}", self.ending, self.extensions.join("|"))
    }

    /// The tile and phase of a file name without its extension.
    fn parse<'a>(&self, stem: &'a str) -> Option<(&'a str, Phase)> {
        let stem = stem.strip_suffix(self.ending)?;
        let phase = Phase::from_stem(stem)?;
        let tile = stem.strip_suffix(phase.suffix())?;
        let (disaster, number) = tile.rsplit_once('_')?;
        let numbered = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        (!disaster.is_empty() && numbered).then_some((tile, phase))
    }

    /// The folder's files with the right extension; hidden files are nobody's. A missing folder has none.
    fn files(&self, split: &Path) -> Result<Vec<PathBuf>> {
        let folder = split.join(self.name);
        if !folder.is_dir() {
            return Ok(Vec::new());
        }
        let mut files = list(&folder)?;
        let is = |path: &Path| {
            let extension = path.extension().unwrap_or_default();
            self.extensions.iter().any(|known| extension.eq_ignore_ascii_case(known))
        };
        files.retain(|path| is(path) && !is_hidden(path));
        Ok(files)
    }
}

/// The disaster that a tile's name begins with.
pub(super) fn disaster(name: &str) -> String {
    name.rsplit_once('_').map_or(name, |(disaster, _)| disaster).to_owned()
}

/// The paths of one half of a tile, for writing it: image, label, target.
pub(super) fn paths(split: &Path, tile: &str, phase: Phase) -> [PathBuf; 3] {
    [&IMAGES, &LABELS, &TARGETS].map(|kind| kind.path(split, tile, phase))
}

/// The folders of `root` that have an `images` folder.
fn splits_of(root: &Path) -> Result<BTreeSet<String>> {
    let is_split = |path: &PathBuf| !is_hidden(path) && path.join(IMAGES.name).is_dir();
    let name = |path: PathBuf| path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
    Ok(list(root)?.into_iter().filter(is_split).filter_map(name).collect())
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

/// What a folder holds, in the order of names.
fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let failed = |source| Error::io(folder, source);
    let entries = fs::read_dir(folder).map_err(failed)?;
    let mut paths: Vec<_> =
        entries.map(|entry| entry.map(|entry| entry.path())).collect::<std::io::Result<_>>().map_err(failed)?;
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(files: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for file in files {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, b"").unwrap();
        }
        root
    }

    fn problems(root: &tempfile::TempDir, index: &Index) -> Vec<String> {
        let shown = |problem: &Problem| {
            format!("{}: {}", problem.path.strip_prefix(root.path()).unwrap().display(), problem.message)
        };
        index.problems.iter().map(shown).collect()
    }

    const WHOLE: [&str; 4] = [
        "train/images/a-fire_00000002_pre_disaster.png",
        "train/images/a-fire_00000002_post_disaster.png",
        "train/labels/a-fire_00000002_pre_disaster.json",
        "train/labels/a-fire_00000002_post_disaster.json",
    ];

    #[test]
    fn splits_and_tiles_come_in_the_order_of_names() {
        let mut files = WHOLE.to_vec();
        let others = WHOLE.map(|file| file.replace("00000002", "00000001"));
        let tier3 = WHOLE.map(|file| file.replace("train", "tier3").replace("a-fire", "b_c-flood"));
        files.extend(others.iter().chain(&tier3).map(String::as_str));
        files.extend(["train/images/.hidden.png", "train/images/notes.txt", "readme/text.md"]);
        let root = root(&files);
        let index = Index::read(root.path(), None).unwrap();
        let names: Vec<_> = index.tiles.iter().map(|t| [&t.split, &t.disaster, &t.name].map(String::as_str)).collect();
        let expected = [
            ["tier3", "b_c-flood", "b_c-flood_00000002"],
            ["train", "a-fire", "a-fire_00000001"],
            ["train", "a-fire", "a-fire_00000002"],
        ];
        assert_eq!(names, expected);
        assert_eq!(index.problems, []);
        let train = Index::read(root.path(), Some(&["train".to_owned()])).unwrap();
        assert_eq!(train.tiles, index.tiles[1..]);
    }

    #[test]
    fn each_missing_file_is_a_problem() {
        for (left_out, expected) in WHOLE.iter().zip([
            vec!["train/images/a-fire_00000002_pre_disaster.png: missing"],
            vec!["train/images/a-fire_00000002_post_disaster.png: missing"],
            vec!["train/labels/a-fire_00000002_pre_disaster.json: missing, and so is the target"],
            vec!["train/labels/a-fire_00000002_post_disaster.json: missing, and so is the target"],
        ]) {
            let files: Vec<_> = WHOLE.into_iter().filter(|file| file != left_out).collect();
            let root = root(&files);
            let index = Index::read(root.path(), None).unwrap();
            assert_eq!(problems(&root, &index), expected);
            // The mask comes from the post half: a missing pre label is reported, and the tile is kept.
            assert_eq!(index.tiles.len(), usize::from(left_out.contains("labels") && left_out.contains("_pre_")));
        }
    }

    #[test]
    fn a_target_stands_in_for_a_label() {
        let mut files = WHOLE.to_vec();
        files[3] = "train/targets/a-fire_00000002_post_disaster_target.png";
        let root = root(&files);
        let index = Index::read(root.path(), None).unwrap();
        assert_eq!(index.problems, []);
        assert_eq!(index.tiles[0].post.label, None);
        assert_eq!(index.tiles[0].post.target.as_deref(), Some(root.path().join(files[3]).as_path()));
    }

    #[test]
    fn a_stray_name_is_a_problem() {
        for stray in [
            "train/images/a-fire_x_post_disaster.png",
            "train/labels/_1_pre_disaster.json",
            "train/targets/a_1_post_disaster.png",
        ] {
            let mut files = WHOLE.to_vec();
            files.push(stray);
            let root = root(&files);
            let index = Index::read(root.path(), None).unwrap();
            assert_eq!(index.tiles.len(), 1);
            let [problem] = &problems(&root, &index)[..] else { panic!("one problem") };
            assert!(problem.starts_with(&format!("{stray}: its name is not <disaster>_<number>_")), "{problem}");
        }
    }

    #[test]
    fn a_wrong_root_or_split_is_an_error() {
        let root = root(&WHOLE);
        let unknown = Index::read(root.path(), Some(&["hold".to_owned()])).unwrap_err().to_string();
        assert!(unknown.starts_with("splits: got \"hold\", expected a folder of "), "{unknown}");
        assert!(unknown.ends_with(": train"), "{unknown}");
        assert!(matches!(Index::read(&root.path().join("absent"), None), Err(Error::Io { .. })));
        let inside = Index::read(&root.path().join("train"), None).unwrap_err().to_string();
        assert!(inside.ends_with("train: has no <split>/images folder: not a root in the xBD layout"), "{inside}");
    }
}
