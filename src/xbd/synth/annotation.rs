//! The label file of a synthetic tile, with the keys that xBD's have.

use serde::Serialize;

use super::scene::{Building, Scene};
use crate::xbd::class::Subtype;
use crate::xbd::label::Phase;
use crate::xbd::random::hash;
use crate::xbd::wkt::Polygon;

#[derive(Serialize)]
struct Annotation {
    features: Features,
    metadata: Metadata,
}

#[derive(Serialize)]
struct Features {
    lng_lat: Vec<Feature>,
    xy: Vec<Feature>,
}

#[derive(Serialize)]
struct Feature {
    properties: Properties,
    wkt: String,
}

#[derive(Serialize, Clone)]
struct Properties {
    feature_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    subtype: Option<&'static str>,
    uid: String,
}

#[derive(Serialize)]
struct Metadata {
    sensor: &'static str,
    gsd: f64,
    capture_date: &'static str,
    disaster: &'static str,
    disaster_type: &'static str,
    original_width: usize,
    original_height: usize,
    width: usize,
    height: usize,
    img_name: String,
}

/// The JSON of one half of a tile.
pub fn annotate(scene: &Scene, phase: Phase, tile: &str) -> Vec<u8> {
    let gsd = 1.0 / f64::from(scene.metre);
    let shift = if phase == Phase::Pre { [0.0; 2] } else { scene.shift };
    let features = |to_wkt: &dyn Fn(&Polygon) -> String| {
        let feature = |(index, building): (usize, &Building)| Feature {
            properties: Properties {
                feature_type: "building",
                subtype: (phase == Phase::Post).then(|| Subtype::name(building.subtype)),
                uid: uid(scene.seed, index as u64),
            },
            wkt: to_wkt(&building.outline(shift)),
        };
        scene.buildings.iter().enumerate().map(feature).collect()
    };
    // Degrees along the equator, about as far from any land as one can be.
    let degree = gsd / 111_320.0;
    let annotation = Annotation {
        features: Features {
            lng_lat: features(&|polygon| wkt(polygon, |[x, y]| [-140.0 + x * degree, -y * degree])),
            xy: features(&|polygon| wkt(polygon, |point| point)),
        },
        metadata: Metadata {
            sensor: "SYNTHETIC",
            gsd,
            capture_date: if phase == Phase::Pre { "2020-01-01T10:00:00.000Z" } else { "2020-02-01T10:00:00.000Z" },
            disaster: scene.hazard.disaster(),
            disaster_type: scene.hazard.name(),
            original_width: scene.size,
            original_height: scene.size,
            width: scene.size,
            height: scene.size,
            img_name: format!("{tile}{}.png", phase.suffix()),
        },
    };
    serde_json::to_vec(&annotation).expect("plain strings and finite numbers are always JSON")
}

/// A UUID-shaped name, the same in the pre and the post file.
fn uid(seed: u64, index: u64) -> String {
    let (a, b) = (hash(&[seed, index, 0]), hash(&[seed, index, 1]));
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        a >> 32,
        (a >> 16) & 0xffff,
        a & 0xffff,
        b >> 48,
        b & 0xffff_ffff_ffff
    )
}

fn wkt(polygon: &Polygon, place: impl Fn([f64; 2]) -> [f64; 2]) -> String {
    let point = |&point: &[f64; 2]| {
        let [x, y] = place(point);
        format!("{x} {y}")
    };
    let ring = |ring: &Vec<[f64; 2]>| format!("({})", ring.iter().map(point).collect::<Vec<_>>().join(", "));
    format!("POLYGON ({})", polygon.rings.iter().map(ring).collect::<Vec<_>>().join(", "))
}
