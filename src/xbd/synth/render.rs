//! The pixels of a synthetic tile, before and after: ground, streets, shadows, houses, trees, then what the disaster did.

use ndarray::Array3;

use super::noise::{fractal, lattice, smoothstep, value};
use super::scene::{Building, Frame, Hazard, Point, Roof, Scene, Tree, distance};
use crate::xbd::class::Subtype;
use crate::xbd::label::Phase;
use crate::xbd::random::{SplitMix64, hash};

/// Red, green and blue, 0 to 255.
type Color = [f32; 3];

/// Colours of a region.
struct Palette {
    lawn: [Color; 2],
    fields: [Color; 6],
    forest: Color,
}

const PALETTES: [Palette; 3] = [
    Palette {
        lawn: [[92.0, 112.0, 66.0], [128.0, 132.0, 88.0]],
        fields: [
            [104.0, 122.0, 70.0],
            [128.0, 138.0, 84.0],
            [150.0, 140.0, 100.0],
            [86.0, 108.0, 62.0],
            [138.0, 124.0, 94.0],
            [116.0, 130.0, 78.0],
        ],
        forest: [58.0, 76.0, 46.0],
    },
    Palette {
        lawn: [[140.0, 128.0, 94.0], [118.0, 120.0, 78.0]],
        fields: [
            [164.0, 146.0, 108.0],
            [148.0, 134.0, 98.0],
            [126.0, 126.0, 82.0],
            [176.0, 156.0, 118.0],
            [140.0, 120.0, 90.0],
            [154.0, 144.0, 104.0],
        ],
        forest: [84.0, 90.0, 58.0],
    },
    Palette {
        lawn: [[82.0, 106.0, 58.0], [112.0, 124.0, 72.0]],
        fields: [
            [82.0, 112.0, 58.0],
            [98.0, 122.0, 62.0],
            [120.0, 108.0, 76.0],
            [76.0, 98.0, 52.0],
            [110.0, 126.0, 74.0],
            [132.0, 118.0, 86.0],
        ],
        forest: [46.0, 70.0, 40.0],
    },
];

const ROOFS: [Color; 8] = [
    [128.0, 124.0, 120.0],
    [104.0, 100.0, 98.0],
    [146.0, 134.0, 120.0],
    [152.0, 108.0, 88.0],
    [126.0, 94.0, 80.0],
    [172.0, 166.0, 156.0],
    [116.0, 112.0, 118.0],
    [164.0, 120.0, 96.0],
];
const FLAT_ROOFS: [Color; 3] = [[196.0, 194.0, 188.0], [170.0, 168.0, 164.0], [150.0, 150.0, 154.0]];
const CARS: [Color; 5] =
    [[208.0, 208.0, 208.0], [52.0, 54.0, 58.0], [148.0, 44.0, 40.0], [58.0, 78.0, 126.0], [136.0, 138.0, 140.0]];
const DEBRIS: [Color; 6] = [
    [206.0, 200.0, 188.0],
    [150.0, 132.0, 108.0],
    [96.0, 82.0, 68.0],
    [176.0, 160.0, 138.0],
    [70.0, 64.0, 60.0],
    [188.0, 186.0, 184.0],
];
const ASH: [Color; 6] = [
    [58.0, 56.0, 56.0],
    [128.0, 124.0, 120.0],
    [42.0, 38.0, 36.0],
    [166.0, 162.0, 158.0],
    [86.0, 78.0, 72.0],
    [104.0, 100.0, 98.0],
];
const ASPHALT: Color = [122.0, 120.0, 118.0];
const MARKING: Color = [206.0, 200.0, 180.0];
const CONCRETE: Color = [172.0, 168.0, 160.0];
const INTERIOR: Color = [50.0, 44.0, 42.0];
const UNDERLAY: Color = [66.0, 54.0, 46.0];
const TARPAULIN: Color = [62.0, 108.0, 176.0];
const WATER: Color = [126.0, 110.0, 84.0];
const BURNT: Color = [52.0, 46.0, 42.0];
const CLOUD: Color = [234.0, 236.0, 240.0];

/// The (H, W, 3) image of a scene.
pub fn render(scene: &Scene, phase: Phase) -> Array3<u8> {
    let mut painter = Painter::new(scene, phase);
    painter.ground();
    painter.driveways();
    painter.cars();
    painter.hazard();
    painter.shadows();
    scene.buildings.iter().for_each(|building| painter.building(building));
    scene.trees.iter().for_each(|tree| painter.tree(tree));
    painter.debris();
    painter.clouds();
    painter.develop()
}

struct Painter<'a> {
    scene: &'a Scene,
    phase: Phase,
    palette: &'a Palette,
    /// Where scene places lie in this image.
    shift: Point,
    /// Towards the sun, as long as a shadow of height 1.
    sun: Point,
    /// How hard the disaster hit each pixel, about 0 to 1; empty before.
    impact: Vec<f32>,
    pixels: Vec<Color>,
}

impl<'a> Painter<'a> {
    fn new(scene: &'a Scene, phase: Phase) -> Self {
        let mut random = SplitMix64::new(&[scene.seed, 3 + phase as u64]);
        let palette = &PALETTES[hash(&[scene.seed, 4]) as usize % PALETTES.len()];
        let shift = if phase == Phase::Pre { [0.0; 2] } else { scene.shift };
        let sun = [random.between(-0.9, -0.4) as f32, random.between(-0.9, -0.3) as f32];
        let pixels = vec![[0.0; 3]; scene.size * scene.size];
        let mut painter = Self { scene, phase, palette, shift, sun, impact: vec![], pixels };
        if phase == Phase::Post {
            painter.impact = painter.measure_impact();
        }
        painter
    }

    /// Paints the pixels of the square of half side `radius` about a scene place.
    fn around(&mut self, place: Point, radius: f32, mut paint: impl FnMut(&Scene, Point, &mut Color)) {
        for (index, at) in pixels_around(self.scene.size, self.shift, place, radius) {
            paint(self.scene, at, &mut self.pixels[index]);
        }
    }

    /// Paints every pixel.
    fn everywhere(&mut self, mut paint: impl FnMut(&Scene, usize, Point, &mut Color)) {
        let size = self.scene.size;
        for (index, pixel) in self.pixels.iter_mut().enumerate() {
            let at = [(index % size) as f32 - self.shift[0], (index / size) as f32 - self.shift[1]];
            paint(self.scene, index, at, pixel);
        }
    }

    fn ground(&mut self) {
        let palette = self.palette;
        self.everywhere(|scene, _, at, pixel| {
            let metre = scene.metre;
            let tuft = noise(scene, 10, at, 1.1 * metre) - 0.5;
            let patch = fractal(scene.seed ^ 11, at[0] / (26.0 * metre), at[1] / (26.0 * metre), 3) - 0.5;
            let (street, is_main) = scene.grid.street_distance(at);
            let mut color = if scene.grid.is_built(at) {
                mix(palette.lawn[0], palette.lawn[1], (patch * 2.0 + 0.5).clamp(0.0, 1.0))
            } else {
                let open = field(scene, palette, at);
                mix(open, palette.forest, scene.forest(at) * 0.8)
            };
            color = lighten(color, tuft * 16.0 + patch * 26.0);
            // A verge of worn grass, a pavement, then the asphalt.
            color = mix(color, [150.0, 140.0, 116.0], 0.6 * smoothstep(3.0 * metre, 0.5 * metre, street));
            if !is_main && metre > 1.0 {
                color = mix(color, CONCRETE, cover((street - 0.9 * metre).abs() - 0.5 * metre) * 0.7);
            }
            let asphalt = lighten(ASPHALT, tuft * 8.0 + patch * 14.0);
            color = mix(color, asphalt, cover(street));
            if is_main {
                let [u, v] = scene.grid.frame.local(at);
                let is_dash = (u / (6.0 * metre)).rem_euclid(1.0) < 0.5;
                let middle = cover(v.abs() - 0.2 * metre);
                color = mix(color, MARKING, if is_dash { 0.9 * middle } else { 0.0 });
                color = mix(color, MARKING, 0.5 * cover((v.abs() - 5.6 * metre).abs() - 0.12 * metre));
            }
            *pixel = color;
        });
    }

    /// From each house to its street.
    fn driveways(&mut self) {
        let metre = self.scene.metre;
        for building in &self.scene.buildings {
            let frame = building.frame;
            let seed = building.seed;
            let aside = (lattice(seed, 1, 0) - 0.5) * building.half[0];
            for toward in [-1.0, 1.0] {
                // The street is the nearer one: the drive ends where asphalt begins.
                let end = frame.global([aside, toward * (building.half[1] + 10.0 * metre)]);
                if self.scene.grid.street_distance(end).0 > 3.0 * metre {
                    continue;
                }
                self.around(frame.origin, building.radius() + 12.0 * metre, |scene, at, pixel| {
                    let [u, v] = frame.local(at);
                    let outside = (u - aside).abs() - 1.7 * metre;
                    let along = v * toward;
                    if along > 0.0 && along < building.half[1] + 12.0 * metre && scene.grid.street_distance(at).0 > -0.5
                    {
                        let tone = lighten(CONCRETE, (noise(scene, 12, at, 2.0 * metre) - 0.5) * 14.0);
                        *pixel = mix(*pixel, tone, cover(outside) * 0.8);
                    }
                });
            }
        }
    }

    /// Along the streets, and elsewhere after than before.
    fn cars(&mut self) {
        let metre = self.scene.metre;
        let mut random = SplitMix64::new(&[self.scene.seed, 5, self.phase as u64]);
        for building in &self.scene.buildings {
            let ahead = (building.half[1] + 9.0 * metre) * if random.below(2) == 0 { -1.0 } else { 1.0 };
            let place = building.frame.global([(random.between(-1.0, 1.0) as f32) * building.half[0], ahead]);
            let (color, wanted) = (CARS[random.below(CARS.len())], random.unit() < 0.6);
            let street = self.scene.grid.street_distance(place).0;
            if !wanted || !(-2.5 * metre..4.0 * metre).contains(&street) {
                continue;
            }
            let frame = Frame { origin: place, axis: self.scene.grid.frame.axis };
            self.around(place, 4.0 * metre, |_, at, pixel| {
                let [u, v] = frame.local(at);
                let outside = (u.abs() - 2.2 * metre).max(v.abs() - 0.95 * metre);
                let is_glass = (u.abs() - 1.2 * metre).abs() < 0.35 * metre;
                *pixel = mix(*pixel, if is_glass { [40.0, 44.0, 50.0] } else { color }, cover(outside));
            });
        }
    }

    /// Damaged buildings raise the impact around them and undamaged ones lower it, so that water stops short of them.
    fn measure_impact(&mut self) -> Vec<f32> {
        let size = self.scene.size;
        let mut impact = vec![0.0f32; size * size];
        for building in &self.scene.buildings {
            let weight = match building.subtype {
                Subtype::Destroyed => 1.3,
                Subtype::MajorDamage => 1.0,
                Subtype::MinorDamage => 0.7,
                Subtype::NoDamage | Subtype::UnClassified => -0.9,
            };
            let reach = building.radius() * if weight > 0.0 { 3.6 } else { 2.0 };
            let middle = building.frame.origin;
            for (index, at) in pixels_around(size, self.shift, middle, reach) {
                let away = distance(at, middle) / reach;
                let near = (1.0 - away * away).max(0.0);
                impact[index] += weight * near * near;
            }
        }
        impact
    }

    /// What the disaster did to the ground.
    fn hazard(&mut self) {
        if self.phase == Phase::Pre {
            return;
        }
        let impact = std::mem::take(&mut self.impact);
        self.everywhere(|scene, index, at, pixel| {
            let metre = scene.metre;
            let rough = fractal(scene.seed ^ 20, at[0] / (18.0 * metre), at[1] / (18.0 * metre), 4) - 0.5;
            let hit = impact[index] + rough * 0.5;
            match scene.hazard {
                Hazard::Wind => *pixel = mix(*pixel, [150.0, 136.0, 112.0], 0.35 * smoothstep(0.3, 0.9, hit)),
                Hazard::Flood => {
                    let ripple = lighten(WATER, rough * 22.0 + (noise(scene, 21, at, 3.0 * metre) - 0.5) * 6.0);
                    *pixel = mix(*pixel, ripple, 0.92 * smoothstep(0.22, 0.34, hit));
                }
                Hazard::Fire => {
                    let soot = lighten(BURNT, (noise(scene, 21, at, 1.5 * metre) - 0.5) * 26.0);
                    *pixel = mix(*pixel, soot, 0.8 * smoothstep(0.2, 0.5, hit));
                }
            }
        });
        self.impact = impact;
    }

    fn shadows(&mut self) {
        for building in &self.scene.buildings {
            // A ruin casts next to none.
            let height = building.height
                * match self.damage(building) {
                    Subtype::Destroyed => 0.0,
                    Subtype::MajorDamage => 0.55,
                    _ => 1.0,
                };
            let step = [-self.sun[0] * height / 6.0, -self.sun[1] * height / 6.0];
            self.around(building.frame.origin, building.radius() + 1.5 * height + 1.0, |_, at, pixel| {
                let outside = (1..=6)
                    .map(|i| building.distance(building.frame.local(along(at, step, -(i as f32)))))
                    .fold(f32::INFINITY, f32::min);
                *pixel = mix(*pixel, [30.0, 34.0, 48.0], 0.52 * cover(outside));
            });
        }
        for tree in &self.scene.trees {
            let reach = tree.radius * 0.9;
            let middle = along(tree.place, self.sun, -reach);
            self.around(middle, tree.radius + 1.0, |_, at, pixel| {
                let outside = distance(at, middle) - tree.radius;
                *pixel = mix(*pixel, [26.0, 32.0, 38.0], 0.45 * smoothstep(0.5, -0.35 * tree.radius, outside));
            });
        }
    }

    /// The damage that shows in this image.
    fn damage(&self, building: &Building) -> Subtype {
        if self.phase == Phase::Pre { Subtype::NoDamage } else { building.subtype }
    }

    fn building(&mut self, building: &Building) {
        let damage = self.damage(building);
        let sun = self.sun;
        self.around(building.frame.origin, building.radius() + 1.5, |scene, at, pixel| {
            let local = building.frame.local(at);
            let inside = cover(building.distance(local));
            if inside > 0.0 {
                let roof = roof(building, local, sun, scene.metre);
                let color = match damage {
                    Subtype::NoDamage | Subtype::UnClassified => roof,
                    Subtype::MinorDamage => stripped(building, local, roof, scene),
                    Subtype::MajorDamage => collapsed(building, local, roof, scene),
                    Subtype::Destroyed => rubble(building, local, *pixel, scene),
                };
                *pixel = mix(*pixel, color, inside);
            }
        });
    }

    fn tree(&mut self, tree: &Tree) {
        let palette = self.palette;
        let sun = self.sun;
        let here = pixels_around(self.scene.size, self.shift, tree.place, 0.5).next();
        let hit = here.and_then(|(index, _)| self.impact.get(index)).copied().unwrap_or(0.0);
        // Wind fells what stands where it hits, fire chars it, water leaves it.
        let (hazard, tone) = (self.scene.hazard, lattice(tree.seed, 0, 0));
        if hazard == Hazard::Wind && hit > 0.25 + 0.4 * tone {
            return;
        }
        let charred = if hazard == Hazard::Fire { smoothstep(0.2, 0.5, hit) } else { 0.0 };
        let leaves = lighten(mix(palette.forest, palette.lawn[0], 0.45 * tone), 10.0 * tone - 4.0);
        let leaves = mix(leaves, [54.0, 48.0, 44.0], 0.8 * charred);
        self.around(tree.place, tree.radius + 1.5, |_, at, pixel| {
            let (dx, dy) = ((at[0] - tree.place[0]) / tree.radius, (at[1] - tree.place[1]) / tree.radius);
            let ragged = (value(tree.seed, dx * 2.5, dy * 2.5) - 0.5) * 0.5;
            let outside = ((dx * dx + dy * dy).sqrt() - 0.95 + ragged) * tree.radius;
            let lit = (dx * sun[0] + dy * sun[1]) * 26.0 + (value(tree.seed, dx * 4.0, dy * 4.0) - 0.5) * 30.0;
            *pixel = mix(*pixel, lighten(leaves, lit), cover(outside));
        });
    }

    /// Chips scattered around what fell down.
    fn debris(&mut self) {
        if self.phase == Phase::Pre {
            return;
        }
        for building in &self.scene.buildings {
            let (density, reach) = match (building.subtype, self.scene.hazard) {
                (Subtype::NoDamage | Subtype::UnClassified, _) | (_, Hazard::Fire) => continue,
                (Subtype::MinorDamage, _) => (0.05, 0.7),
                (Subtype::MajorDamage, _) => (0.16, 1.0),
                (Subtype::Destroyed, Hazard::Flood) => (0.2, 1.2),
                (Subtype::Destroyed, Hazard::Wind) => (0.38, 1.5),
            };
            let reach = reach * building.half[1] * 1.6;
            self.around(building.frame.origin, building.radius() + reach, |scene, at, pixel| {
                let local = building.frame.local(at);
                let outside = building.distance(local);
                if outside > -0.5 && outside < reach {
                    let fade = 1.0 - outside / reach;
                    let (chip, color) = chips(building.seed ^ 30, local, scene.metre, &DEBRIS);
                    if chip < density * fade * (0.6 + 0.8 * noise(scene, 31, at, 4.0 * scene.metre)) {
                        *pixel = mix(*pixel, color, 0.85);
                    }
                }
            });
        }
    }

    /// Why a building could not be judged.
    fn clouds(&mut self) {
        if self.phase == Phase::Pre {
            return;
        }
        for building in self.scene.buildings.iter().filter(|building| building.subtype == Subtype::UnClassified) {
            let reach = 5.0 * self.scene.metre;
            self.around(building.frame.origin, building.radius() + reach, |scene, at, pixel| {
                let wisp = fractal(building.seed, at[0] / (9.0 * scene.metre), at[1] / (9.0 * scene.metre), 3) - 0.5;
                let outside = building.distance(building.frame.local(at)) - wisp * reach;
                *pixel = mix(*pixel, CLOUD, 0.96 * smoothstep(reach, 0.3 * reach, outside));
            });
        }
    }

    /// Light of the day, haze and sensor noise; then bytes.
    fn develop(self) -> Array3<u8> {
        let size = self.scene.size;
        let mut random = SplitMix64::new(&[self.scene.seed, 6, self.phase as u64]);
        let exposure = random.between(0.9, 1.12) as f32;
        let gain: Color = std::array::from_fn(|_| exposure * random.between(0.97, 1.03) as f32);
        let haze = random.between(0.0, 16.0) as f32;
        let grain = random.bits();
        Array3::from_shape_fn((size, size, 3), |(y, x, channel)| {
            let word = lattice(grain.wrapping_add(channel as u64), x as i64, y as i64);
            let light = self.pixels[y * size + x][channel] * gain[channel] * (1.0 - haze / 255.0) + haze;
            (light + (word - 0.5) * 9.0).round().clamp(0.0, 255.0) as u8
        })
    }
}

/// The pixels of the square of half side `radius` about a scene place, in an image moved by `shift`: index and scene place.
fn pixels_around(size: usize, shift: Point, place: Point, radius: f32) -> impl Iterator<Item = (usize, Point)> {
    let range = |at: f32| {
        // Negative numbers become 0 here, so a square outside the image is empty.
        let end = (at + radius).floor() + 1.0;
        (at - radius).ceil() as usize..(end as usize).min(size)
    };
    let columns = range(place[0] + shift[0]);
    range(place[1] + shift[1])
        .flat_map(move |y| columns.clone().map(move |x| (y * size + x, [x as f32 - shift[0], y as f32 - shift[1]])))
}

/// The colour of open land: fields of one crop each, with furrows, hedges and dirt tracks.
fn field(scene: &Scene, palette: &Palette, at: Point) -> Color {
    let metre = scene.metre;
    let [u, v] = scene.fields.local(at);
    let (length, depth) = (115.0 * metre, 72.0 * metre);
    let row = (v / depth).floor();
    let u = u + lattice(scene.seed ^ 40, row as i64, 0) * length;
    let column = (u / length).floor();
    let (cell_u, cell_v) = (u - column * length, v - row * depth);
    let seed = scene.seed ^ 41;
    let crop = lattice(seed, column as i64, row as i64);
    let color = palette.fields[(crop * palette.fields.len() as f32) as usize % palette.fields.len()];
    let across = if lattice(seed ^ 1, column as i64, row as i64) < 0.5 { cell_u } else { cell_v };
    let furrow = ((across / (4.5 * metre)).rem_euclid(1.0) - 0.5).abs() * 4.0 - 1.0;
    let color = lighten(color, furrow * 4.0);
    let edge = cell_u.min(length - cell_u).min(cell_v).min(depth - cell_v);
    if lattice(seed ^ 2, 0, row as i64) < 0.4 && cell_v < 3.0 * metre {
        return mix(color, [170.0, 152.0, 120.0], cover((cell_v - 1.5 * metre).abs() - 1.3 * metre));
    }
    let hedge = smoothstep(2.5 * metre, 0.5 * metre, edge) * noise(scene, 42, at, 6.0 * metre);
    mix(color, palette.forest, hedge)
}

/// A whole roof: slopes lit by the sun, courses of shingles, a ridge, a darker eave.
fn roof(building: &Building, [u, v]: Point, sun: Point, metre: f32) -> Color {
    let seed = building.seed;
    let pick = |colors: &[Color]| colors[(seed >> 8) as usize % colors.len()];
    let eave = building.distance([u, v]);
    let grit =
        (lattice(seed ^ 50, (u / (0.9 * metre)).floor() as i64, (v / (0.6 * metre)).floor() as i64) - 0.5) * 10.0;
    if building.roof == Roof::Flat {
        let plant = (u - 0.3 * building.half[0]).abs().max((v + 0.2 * building.half[1]).abs()) - 0.9 * metre;
        let color = lighten(pick(&FLAT_ROOFS), grit + if eave > -0.7 * metre { 22.0 } else { 0.0 });
        return mix(color, [110.0, 110.0, 112.0], cover(plant));
    }
    let [a, b] = building.half;
    let is_end = building.roof == Roof::Hip && a - u.abs() < b - v.abs();
    let [c, s] = building.frame.axis;
    let downhill = if is_end { [c * u.signum(), s * u.signum()] } else { [-s * v.signum(), c * v.signum()] };
    let lit = (downhill[0] * sun[0] + downhill[1] * sun[1]) * 34.0;
    let ridge = if is_end { 0.0 } else { cover(v.abs() - 0.3 * metre.max(1.0)) * 16.0 };
    let eave = if eave > -0.5 * metre { -14.0 } else { 0.0 };
    lighten(pick(&ROOFS), lit + grit + ridge + eave)
}

/// Minor damage: part of the roof's skin is gone, one hole has a tarpaulin over it.
fn stripped(building: &Building, local: Point, roof: Color, scene: &Scene) -> Color {
    let metre = scene.metre;
    let torn = fractal(building.seed ^ 60, local[0] / (4.0 * metre), local[1] / (4.0 * metre), 2);
    let bare = lighten(UNDERLAY, (noise(scene, 61, local, 0.8 * metre) - 0.5) * 30.0);
    let mut color = mix(lighten(roof, -6.0), bare, 0.9 * smoothstep(0.54, 0.62, torn));
    let corner =
        [building.half[0] * 0.42, building.half[1] * 0.42].map(|at| if building.seed & 1 == 0 { at } else { -at });
    let sheet = ((local[0] - corner[0]).abs() - 0.34 * building.half[0])
        .max((local[1] - corner[1]).abs() - 0.4 * building.half[1]);
    match scene.hazard {
        Hazard::Wind => color = mix(color, TARPAULIN, 0.9 * cover(sheet)),
        Hazard::Flood => color = mix(color, WATER, 0.45 * smoothstep(0.42, 0.6, torn)),
        Hazard::Fire => color = mix(color, BURNT, 0.85 * cover(sheet)),
    }
    color
}

/// Major damage: beyond a ragged line the roof has fallen in and the rooms lie open.
fn collapsed(building: &Building, local: Point, roof: Color, scene: &Scene) -> Color {
    let metre = scene.metre;
    let [a, b] = building.half;
    let ragged = (value(building.seed ^ 70, local[0] / (2.2 * metre), local[1] / (2.2 * metre)) - 0.5) * 0.6;
    let side = if building.seed & 2 == 0 { 1.0 } else { -1.0 };
    let fallen = cover((-(local[0] / a + 0.3 * local[1] / b) * side - 0.1 + ragged) * a);
    let wall = (local[0] / (0.55 * a)).rem_euclid(1.0).min((local[1] / (0.7 * b)).rem_euclid(1.0));
    let mut room =
        if wall < 0.12 || building.distance(local) > -0.6 * metre.max(1.2) { [158.0, 148.0, 132.0] } else { INTERIOR };
    let (chip, color) =
        chips(building.seed ^ 71, local, metre, if scene.hazard == Hazard::Fire { &ASH } else { &DEBRIS });
    if chip < 0.34 {
        room = mix(room, color, 0.85);
    }
    mix(stripped(building, local, roof, scene), room, fallen)
}

/// Destroyed: a heap of chips over what was the floor, thinner towards a ragged edge.
fn rubble(building: &Building, local: Point, ground: Color, scene: &Scene) -> Color {
    let metre = scene.metre;
    let heap = fractal(building.seed ^ 80, local[0] / (5.0 * metre), local[1] / (5.0 * metre), 2);
    let edge = building.distance(local) / building.half[1];
    let floor = match scene.hazard {
        Hazard::Fire => mix(BURNT, [150.0, 146.0, 142.0], smoothstep(0.45, 0.7, heap)),
        Hazard::Flood => mix(WATER, CONCRETE, smoothstep(0.5, 0.66, heap)),
        Hazard::Wind => mix([120.0, 108.0, 92.0], CONCRETE, smoothstep(0.5, 0.66, heap)),
    };
    let base = mix(ground, floor, smoothstep(0.02, -0.22, edge + (heap - 0.5) * 0.4));
    let (chip, color) =
        chips(building.seed ^ 81, local, metre, if scene.hazard == Hazard::Fire { &ASH } else { &DEBRIS });
    if chip < 0.72 { mix(base, color, 0.92) } else { base }
}

/// A patchwork of chips of about 0.8 m: a uniform number and a colour for the one at this place.
fn chips(seed: u64, [u, v]: Point, metre: f32, colors: &[Color; 6]) -> (f32, Color) {
    let step = (0.8 * metre).max(1.0);
    // Slanted, so that chips do not line up with the walls.
    let (x, y) = (((u + 0.6 * v) / step).floor() as i64, ((v - 0.35 * u) / step).floor() as i64);
    let color = colors[(lattice(seed ^ 0xc0, x, y) * 6.0) as usize % 6];
    (lattice(seed, x, y), color)
}

fn noise(scene: &Scene, kind: u64, at: Point, length: f32) -> f32 {
    value(scene.seed ^ kind, at[0] / length, at[1] / length)
}

/// The share of a pixel that lies inside, from its signed distance to the outline.
fn cover(distance: f32) -> f32 {
    (0.5 - distance).clamp(0.0, 1.0)
}

fn along(at: Point, direction: Point, length: f32) -> Point {
    [at[0] + direction[0] * length, at[1] + direction[1] * length]
}

fn mix(a: Color, b: Color, share: f32) -> Color {
    std::array::from_fn(|i| a[i] + (b[i] - a[i]) * share)
}

fn lighten(color: Color, by: f32) -> Color {
    color.map(|channel| channel + by)
}
