//! Label files: JSON with one feature for each building, its polygon in pixels as well-known text.

use std::borrow::Cow;
use std::convert::Infallible;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use ndarray::{Array2, ArrayViewMut2};
use serde::Deserialize;

use super::class::{Subtype, UnClassified};
use super::memory::zeros;
use super::png::check_pixels;
use super::raster::Rasterizer;
use super::wkt::{self, Polygon};
use crate::{Error, Result};

/// Label files beyond this are refused: xBD's largest are about 3 MB, and drawing time grows with the number of vertices.
pub const MAX_LABEL_BYTES: u64 = 16 << 20;

/// Before or after the disaster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// `_pre_disaster`: buildings, no damage.
    Pre,
    /// `_post_disaster`: buildings by damage.
    Post,
}

impl Phase {
    /// The ending of file names.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Pre => "_pre_disaster",
            Self::Post => "_post_disaster",
        }
    }

    /// The phase that a file name without its extension ends in.
    pub fn from_stem(stem: &str) -> Option<Self> {
        [Self::Pre, Self::Post].into_iter().find(|phase| stem.ends_with(phase.suffix()))
    }
}

/// A label file's content.
#[derive(Debug, Clone, PartialEq)]
pub struct Label {
    /// Before or after.
    pub phase: Phase,
    /// Rows of the image.
    pub height: usize,
    /// Columns of the image.
    pub width: usize,
    /// The buildings in file order, which is the order of drawing.
    pub features: Vec<Feature>,
}

/// One building.
#[derive(Debug, Clone, PartialEq)]
pub struct Feature {
    /// The same in the pre and the post file.
    pub uid: String,
    /// The damage; pre files have none.
    pub subtype: Option<Subtype>,
    /// Its outline, in pixels; more than one for a MULTIPOLYGON, none for an EMPTY one.
    pub polygons: Vec<Polygon>,
}

#[derive(Deserialize)]
struct RawLabel<'a> {
    #[serde(borrow)]
    features: RawFeatures<'a>,
    metadata: RawMetadata<'a>,
}

#[derive(Deserialize)]
struct RawFeatures<'a> {
    #[serde(borrow)]
    xy: Vec<RawFeature<'a>>,
}

#[derive(Deserialize)]
struct RawMetadata<'a> {
    width: u32,
    height: u32,
    #[serde(borrow, default)]
    img_name: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct RawFeature<'a> {
    #[serde(borrow)]
    properties: RawProperties<'a>,
    #[serde(borrow)]
    wkt: Cow<'a, str>,
}

#[derive(Deserialize)]
struct RawProperties<'a> {
    #[serde(borrow)]
    uid: Cow<'a, str>,
    #[serde(borrow, default)]
    subtype: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    feature_type: Option<Cow<'a, str>>,
}

impl Label {
    /// Reads a label file. Keys that a mask does not need are ignored; an image of more than `max_pixels` pixels is an error.
    ///
    /// Before or after: by the file's name, else by `metadata.img_name`, else after where any feature has a subtype.
    pub fn read(path: &Path, max_pixels: u64) -> Result<Self> {
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(|source| Error::io(path, source))?;
        file.take(MAX_LABEL_BYTES + 1).read_to_end(&mut bytes).map_err(|source| Error::io(path, source))?;
        if bytes.len() as u64 > MAX_LABEL_BYTES {
            return Err(Error::file(path, format!("more than {MAX_LABEL_BYTES} bytes, too large for a label file")));
        }
        Self::parse(path, &bytes, max_pixels)
    }

    /// Reads a label file's bytes; `path` is for its name and for errors.
    pub fn parse(path: &Path, bytes: &[u8], max_pixels: u64) -> Result<Self> {
        let raw: RawLabel<'_> = serde_json::from_slice(bytes)
            .map_err(|error| Error::file(path, format!("not a label file in the xBD format: {error}")))?;
        let (height, width) = check_pixels(path, raw.metadata.height, raw.metadata.width, max_pixels)?;
        let stem = |name: &str| Path::new(name).file_stem().and_then(|stem| Phase::from_stem(stem.to_str()?));
        let any_subtype = || raw.features.xy.iter().any(|feature| feature.properties.subtype.is_some());
        let phase = path
            .to_str()
            .and_then(stem)
            .or_else(|| raw.metadata.img_name.as_deref().and_then(stem))
            .unwrap_or_else(|| if any_subtype() { Phase::Post } else { Phase::Pre });
        let features = raw.features.xy.into_iter().map(|feature| Feature::parse(path, phase, feature));
        Ok(Self { phase, height, width, features: features.collect::<Result<_>>()? })
    }

    /// Reads a label file's mask, see [`Self::read`] and [`Self::rasterize`].
    ///
    /// `between` is called again and again while buildings are drawn, and its error ends the drawing.
    pub fn read_mask<E: From<Error>>(
        path: &Path,
        un_classified: UnClassified,
        max_pixels: u64,
        between: impl FnMut() -> std::result::Result<(), E>,
    ) -> std::result::Result<Array2<u8>, E> {
        let label = Self::read(path, max_pixels)?;
        let mut mask = zeros(path, (label.height, label.width))?;
        label.draw(mask.view_mut(), un_classified, between)?;
        Ok(mask)
    }

    /// The (H, W) mask: buildings drawn in file order, the later over the earlier; every building of a pre file is 1.
    pub fn rasterize(&self, un_classified: UnClassified) -> Array2<u8> {
        let mut mask = Array2::zeros((self.height, self.width));
        let Ok(()) = self.draw::<Infallible>(mask.view_mut(), un_classified, || Ok(()));
        mask
    }

    fn draw<E>(
        &self,
        mut mask: ArrayViewMut2<'_, u8>,
        un_classified: UnClassified,
        mut between: impl FnMut() -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let mut rasterizer = Rasterizer::default();
        for feature in &self.features {
            let class = feature.subtype.map_or(1, |subtype| subtype.class(un_classified));
            for polygon in &feature.polygons {
                rasterizer.fill(&mut mask, polygon, class, &mut between)?;
            }
        }
        Ok(())
    }
}

impl Feature {
    fn parse(path: &Path, phase: Phase, raw: RawFeature<'_>) -> Result<Self> {
        let RawProperties { uid, subtype, feature_type } = raw.properties;
        let problem = |text: String| Error::file(path, format!("feature {uid}: {text}"));
        if let Some(other) = feature_type.filter(|kind| kind != "building") {
            return Err(problem(format!("feature_type: got {other:?}, expected \"building\"")));
        }
        let expected = || Subtype::ALL.map(Subtype::name).join(", ");
        let subtype = match (phase, subtype) {
            (Phase::Pre, _) => None,
            (Phase::Post, Some(name)) => Some(
                Subtype::from_name(&name)
                    .ok_or_else(|| problem(format!("subtype: got {name:?}, expected one of {}", expected())))?,
            ),
            (Phase::Post, None) => return Err(problem(format!("subtype: got none, expected one of {}", expected()))),
        };
        let polygons = wkt::parse(&raw.wkt).map_err(|text| problem(format!("wkt: {text}")))?;
        Ok(Self { uid: uid.into_owned(), subtype, polygons })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::xbd::png::MAX_PIXELS;

    fn json(features: &str) -> String {
        format!(
            r#"{{"features": {{"lng_lat": [], "xy": [{features}]}}, "metadata": {{"width": 8, "height": 6, "gsd": 2.5}}}}"#
        )
    }

    fn feature(subtype: &str, wkt: &str) -> String {
        format!(r#"{{"properties": {{"feature_type": "building", {subtype} "uid": "a-1"}}, "wkt": "{wkt}"}}"#)
    }

    fn parse(name: &str, features: &str) -> std::result::Result<Label, String> {
        Label::parse(Path::new(name), json(features).as_bytes(), MAX_PIXELS).map_err(|error| error.to_string())
    }

    const SQUARE: &str = "POLYGON ((1 1, 4 1, 4 4, 1 4, 1 1))";

    #[test]
    fn later_buildings_lie_over_earlier_ones() {
        let both = [
            feature(r#""subtype": "destroyed","#, SQUARE),
            feature(r#""subtype": "un-classified","#, "POLYGON ((4 4, 7 4, 7 5, 4 5, 4 4))"),
        ]
        .join(",");
        let label = parse("x_1_post_disaster.json", &both).unwrap();
        for (choice, value) in [(UnClassified::Ignore, 255), (UnClassified::NoDamage, 1), (UnClassified::Background, 0)]
        {
            let mask = label.rasterize(choice);
            assert_eq!(mask.dim(), (6, 8));
            assert_eq!((mask[[1, 1]], mask[[4, 4]], mask[[5, 7]], mask[[0, 0]]), (4, value, value, 0));
        }
    }

    #[test]
    fn the_phase_is_found_by_name_then_img_name_then_content() {
        let post = feature(r#""subtype": "destroyed","#, SQUARE);
        let pre = feature("", SQUARE);
        assert_eq!(parse("x_1_pre_disaster.json", &post).unwrap().rasterize(UnClassified::Ignore)[[2, 2]], 1);
        assert_eq!(parse("x_1_post_disaster.json", &post).unwrap().phase, Phase::Post);
        assert_eq!(parse("other.json", &post).unwrap().phase, Phase::Post);
        assert_eq!(parse("other.json", &pre).unwrap().phase, Phase::Pre);
        let named = json(&post).replace("\"gsd\"", "\"img_name\": \"x_1_pre_disaster.png\", \"gsd\"");
        assert_eq!(Label::parse(Path::new("other.json"), named.as_bytes(), MAX_PIXELS).unwrap().phase, Phase::Pre);
        let unnamed = json(&post).replace("\"gsd\"", "\"img_name\": null, \"gsd\"");
        assert_eq!(Label::parse(Path::new("other.json"), unnamed.as_bytes(), MAX_PIXELS).unwrap().phase, Phase::Post);
    }

    #[test]
    fn errors_name_the_file_the_uid_and_the_value() {
        let name = "d/x_1_post_disaster.json";
        let list = "expected one of no-damage, minor-damage, major-damage, destroyed, un-classified";
        for (features, message) in [
            (feature(r#""subtype": "burnt","#, SQUARE), format!("{name}: feature a-1: subtype: got \"burnt\", {list}")),
            (feature("", SQUARE), format!("{name}: feature a-1: subtype: got none, {list}")),
            (
                feature(r#""subtype": "destroyed","#, "POLYGON ((NaN 1, 4 1, 4 4))"),
                format!(
                    "{name}: feature a-1: wkt: got `NaN` at byte 10, expected a finite coordinate of at most 1073741824 pixels"
                ),
            ),
            (
                feature(r#""subtype": "destroyed","#, SQUARE).replace("building", "lake"),
                format!("{name}: feature a-1: feature_type: got \"lake\", expected \"building\""),
            ),
        ] {
            assert_eq!(parse(name, &features), Err(message));
        }
        let broken = parse(name, "{]").unwrap_err();
        assert!(broken.starts_with("d/x_1_post_disaster.json: not a label file in the xBD format: "), "{broken}");
        let huge = json("").replace("\"width\": 8", "\"width\": 4000000000");
        let parse = |max_pixels| Label::parse(Path::new(name), huge.as_bytes(), max_pixels);
        let message =
            |max_pixels| format!("{name}: 4000000000 x 6 = 24000000000 pixels, more than max_pixels = {max_pixels}");
        assert_eq!(parse(MAX_PIXELS).unwrap_err().to_string(), message(67_108_864));
        assert_eq!(parse(5).unwrap_err().to_string(), message(5));
        assert_eq!(parse(24_000_000_000).unwrap().width, 4_000_000_000);
    }

    #[test]
    fn drawing_ends_where_it_is_interrupted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x_1_pre_disaster.json");
        std::fs::write(&path, json(&vec![feature("", SQUARE); 5].join(","))).unwrap();
        let read = |most: usize| {
            let mut drawn = 0;
            let between = || {
                drawn += 1;
                if drawn > most { Err(Error::value("drawn", drawn, most)) } else { Ok(()) }
            };
            (Label::read_mask(&path, UnClassified::Ignore, MAX_PIXELS, between).is_ok(), drawn)
        };
        let (whole, calls) = read(usize::MAX);
        // For each of five buildings four edges and some rows.
        assert!(whole && calls >= 5 * 5, "{calls}");
        assert_eq!((read(calls), read(calls - 1), read(2)), ((true, calls), (false, calls), (false, 3)));
    }

    #[test]
    fn escaped_text_is_read() {
        let label = parse("x_1_pre_disaster.json", &feature("", SQUARE).replace("POLYGON", "\\u0050OLYGON")).unwrap();
        assert_eq!(label.features[0].polygons.len(), 1);
    }

    proptest! {
        #[test]
        fn damaged_bytes_never_panic(at in 0..400usize, byte: u8, cut in 0..400usize) {
            let mut bytes = json(&feature(r#""subtype": "destroyed","#, SQUARE)).into_bytes();
            let (at, cut) = (at % bytes.len(), cut % bytes.len());
            bytes[at] = byte;
            for bytes in [&bytes[..], &bytes[..cut]] {
                if let Ok(label) = Label::parse(Path::new("x_1_post_disaster.json"), bytes, MAX_PIXELS) {
                    // A damaged size may still be a legal one; drawing it is the raster tests' business.
                    if label.height * label.width < 1 << 20 {
                        label.rasterize(UnClassified::Ignore);
                    }
                }
            }
        }
    }
}
