//! Finding tiles in the official layout: `<root>/<split>/{images,labels,targets}`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, FileType};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::image::EXTENSIONS;
use super::label::Phase;
use crate::{Error, Result};

/// Images that are not read: told of in an images folder, where other files (notes, world files) are nobody's.
const OTHER_IMAGES: [&str; 6] = ["jpg", "jpeg", "jp2", "bmp", "gif", "webp"];

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
    /// Those of files that somebody may expect to be taken, and that are not.
    others: &'static [&'static str],
    /// Between the phase and the extension.
    ending: &'static str,
}

const IMAGES: Folder = Folder { name: "images", extensions: &EXTENSIONS, others: &OTHER_IMAGES, ending: "" };
const LABELS: Folder = Folder { name: "labels", extensions: &["json"], others: &[], ending: "" };
const TARGETS: Folder = Folder { name: "targets", extensions: &["png"], others: &[], ending: "_target" };

impl Index {
    /// Indexes the given splits of `root`, or every folder in it that has an `images` folder; `root` may also be a pack.
    ///
    /// The order depends on names alone. A root or split that is not there is an error; an incomplete tile is a problem.
    pub fn read(root: &Path, splits: Option<&[String]>) -> Result<Self> {
        if let Some(index) = super::pack::index(root, splits)? {
            return Ok(index);
        }
        let mut index = Self::default();
        let found = index.splits_of(root, splits)?;
        let splits = match splits {
            None if found.is_empty() && super::pack::is_unfinished(root)? => {
                let problem =
                    "has no <split>/images folder: it is a pack without its list, which is written last; pack again";
                return Err(Error::file(root, problem));
            }
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
        for split in splits {
            index.read_split(root, &split)?;
        }
        index.problems.sort();
        Ok(index)
    }

    /// The folders of `root` that have an `images` folder; one that cannot be looked into is an error where it is wanted.
    fn splits_of(&mut self, root: &Path, wanted: Option<&[String]>) -> Result<BTreeSet<String>> {
        let mut found = BTreeSet::new();
        for (path, _) in list(root)? {
            let name = path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
            let is_wanted = wanted.is_none_or(|wanted| name.as_ref().is_some_and(|name| wanted.contains(name)));
            let is_split = match is_folder(&path.join(IMAGES.name)) {
                Err(_) if !is_wanted => false,
                is_split => is_split? && !is_hidden(&path),
            };
            match name {
                Some(name) if is_split => _ = found.insert(name),
                None if is_split && wanted.is_none() => {
                    self.problems.push(Problem { path, message: "not used: its name is not UTF-8".to_owned() });
                }
                _ => {}
            }
        }
        Ok(found)
    }

    fn read_split(&mut self, root: &Path, split: &str) -> Result<()> {
        let folder = root.join(split);
        let mut halves: BTreeMap<String, [Half; 2]> = BTreeMap::new();
        // Without extension: what is there, though not to be read, is not missing as well.
        let mut unfit = BTreeSet::new();
        for kind in [&IMAGES, &LABELS, &TARGETS] {
            for (path, file_type) in kind.files(&folder)? {
                if let Some(message) = kind.misfit(&path, file_type) {
                    unfit.insert(path.with_extension(""));
                    self.problems.push(Problem { path, message });
                    continue;
                }
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
            let pre = self.half(&folder, &name, Phase::Pre, pre, &unfit);
            let post = self.half(&folder, &name, Phase::Post, post, &unfit);
            if let (Some(pre), Some(post), true) = (pre, post, post_has_mask) {
                let disaster = disaster(&name);
                self.tiles.push(Tile { split: split.to_owned(), name, disaster, pre, post });
            }
        }
        Ok(())
    }

    /// The half's files where it has an image; whatever it lacks becomes a problem.
    fn half(
        &mut self,
        folder: &Path,
        name: &str,
        phase: Phase,
        half: Half,
        unfit: &BTreeSet<PathBuf>,
    ) -> Option<TileFiles> {
        let Half { image, label, target } = half;
        let mut missing = |kind: &Folder, message: &str| {
            let path = kind.path(folder, name, phase);
            if !unfit.contains(&path.with_extension("")) {
                self.problems.push(Problem { path, message: message.to_owned() });
            }
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

    /// What the folder holds with a known extension; hidden files are nobody's. A missing folder holds nothing.
    fn files(&self, split: &Path) -> Result<Vec<(PathBuf, FileType)>> {
        let folder = split.join(self.name);
        if !is_folder(&folder)? {
            return Ok(Vec::new());
        }
        let mut files = list(&folder)?;
        let known = |path: &Path| has_extension(path, self.extensions) || has_extension(path, self.others);
        files.retain(|(path, _)| known(path) && !is_hidden(path));
        Ok(files)
    }

    /// Why one of [`Self::files`] cannot be read: anything but a regular file might even block for ever, as a pipe does.
    fn misfit(&self, path: &Path, file_type: FileType) -> Option<String> {
        if !has_extension(path, self.extensions) {
            return Some(format!("not used: its extension is not {}", self.extensions.join("|")));
        }
        if !file_type.is_symlink() {
            return (!file_type.is_file()).then(|| "not a regular file".to_owned());
        }
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_file() => None,
            Ok(_) => Some("not a link to a regular file".to_owned()),
            Err(error) => Some(format!("a link that cannot be followed: {error}")),
        }
    }
}

/// The images folders of a root.
pub(super) fn images_folders(root: &Path) -> Result<Vec<PathBuf>> {
    let splits = Index::default().splits_of(root, None)?;
    Ok(splits.into_iter().map(|split| root.join(split).join(IMAGES.name)).collect())
}

/// The disaster that a tile's name begins with.
pub(super) fn disaster(name: &str) -> String {
    name.rsplit_once('_').map_or(name, |(disaster, _)| disaster).to_owned()
}

/// The paths of one half of a tile, for writing it: image, label, target.
pub(super) fn paths(split: &Path, tile: &str, phase: Phase) -> [PathBuf; 3] {
    [&IMAGES, &LABELS, &TARGETS].map(|kind| kind.path(split, tile, phase))
}

/// Whether there is such a folder; that it cannot be found out is an error, and no folder the less.
fn is_folder(path: &Path) -> Result<bool> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(metadata.is_dir()),
        Err(source) if matches!(source.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(false),
        Err(source) => Err(Error::io(path, source)),
    }
}

fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    let extension = path.extension().unwrap_or_default();
    extensions.iter().any(|known| extension.eq_ignore_ascii_case(known))
}

pub(super) fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

/// What a folder holds, in the order of names.
fn list(folder: &Path) -> Result<Vec<(PathBuf, FileType)>> {
    let failed = |source| Error::io(folder, source);
    let described = |entry: fs::DirEntry| Ok((entry.path(), entry.file_type()?));
    let entries = fs::read_dir(folder).map_err(failed)?;
    let mut entries: Vec<_> =
        entries.map(|entry| entry.and_then(described)).collect::<io::Result<_>>().map_err(failed)?;
    entries.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(entries)
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
    fn images_that_are_not_read_are_problems() {
        let files = WHOLE.map(|file| file.replace("_disaster.png", "_disaster.jpg"));
        let root = root(&files.each_ref().map(String::as_str));
        let index = Index::read(root.path(), None).unwrap();
        let expected = |file: &String| format!("{file}: not used: its extension is not png|tif|tiff");
        assert_eq!(problems(&root, &index), [expected(&files[1]), expected(&files[0])]);
        assert_eq!(index.tiles, []);
    }

    #[cfg(unix)]
    #[test]
    fn what_is_no_regular_file_is_a_problem() {
        use std::os::unix::{fs::symlink, net::UnixListener};

        let root = root(&WHOLE[..2]);
        let labels = root.path().join("train/labels");
        fs::create_dir(&labels).unwrap();
        let [pre, post] = [WHOLE[2], WHOLE[3]].map(|file| root.path().join(file));
        // As a pipe, which would block its reader.
        let _socket = UnixListener::bind(&post).unwrap();
        symlink("nowhere", &pre).unwrap();
        let targets = root.path().join("train/targets/a-fire_00000002_post_disaster_target.png");
        fs::create_dir_all(&targets).unwrap();
        let index = Index::read(root.path(), None).unwrap();
        let problems = problems(&root, &index);
        assert_eq!(problems.len(), 3, "{problems:?}");
        assert_eq!(problems[0], format!("{}: not a regular file", WHOLE[3]));
        assert!(problems[1].starts_with(&format!("{}: a link that cannot be followed: ", WHOLE[2])), "{problems:?}");
        assert!(problems[2].ends_with("_target.png: not a regular file"), "{problems:?}");
        assert_eq!(index.tiles, []);

        // A link to a file is as good as the file.
        fs::write(labels.join("text"), b"").unwrap();
        for path in [&pre, &post] {
            fs::remove_file(path).unwrap();
            symlink("text", path).unwrap();
        }
        fs::remove_dir(&targets).unwrap();
        let index = Index::read(root.path(), None).unwrap();
        assert_eq!((index.problems.len(), index.tiles.len()), (0, 1));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_split_that_cannot_be_used_does_not_vanish() {
        use std::ffi::OsStr;
        use std::os::unix::{ffi::OsStrExt, fs::symlink};

        let root = root(&WHOLE);
        let odd = root.path().join(OsStr::from_bytes(b"sp\xe9"));
        fs::create_dir_all(odd.join("images")).unwrap();
        let index = Index::read(root.path(), None).unwrap();
        assert_eq!(index.problems, [Problem { path: odd, message: "not used: its name is not UTF-8".to_owned() }]);
        // A folder without permission is none for root, who may run the tests; a link to itself cannot be entered either.
        symlink("val", root.path().join("val")).unwrap();
        let error = Index::read(root.path(), None).unwrap_err();
        assert!(matches!(&error, Error::Io { path, .. } if path.ends_with("val/images")), "{error}");
        let train = Index::read(root.path(), Some(&["train".to_owned()])).unwrap();
        assert_eq!((train.tiles.len(), train.problems.len()), (1, 0));
        assert!(matches!(Index::read(root.path(), Some(&["val".to_owned()])), Err(Error::Io { .. })));
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
