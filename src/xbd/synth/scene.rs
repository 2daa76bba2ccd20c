//! What stands where in a synthetic tile: streets, buildings and their damage, trees. Nothing here knows pixels' colours.
//!
//! Lengths are pixels of the pre image unless they say metres. Only + - * / and square roots are used, so that every machine
//! computes the same scene.

use std::collections::BTreeSet;

use ndarray::Array2;

use super::noise::{fractal, smoothstep};
use crate::xbd::class::Subtype;
use crate::xbd::random::SplitMix64;
use crate::xbd::raster::Rasterizer;
use crate::xbd::wkt::Polygon;

/// A place or a direction: x to the right, y down.
pub type Point = [f32; 2];

/// The kind of disaster; each damages in its own way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hazard {
    /// Debris and stripped roofs.
    Wind,
    /// Muddy water around the damaged buildings.
    Flood,
    /// Burnt ground and ash.
    Fire,
}

impl Hazard {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Wind, Self::Flood, Self::Fire];

    /// xBD's `disaster_type`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Wind => "wind",
            Self::Flood => "flooding",
            Self::Fire => "fire",
        }
    }

    /// The disaster's name in file names.
    pub fn disaster(self) -> &'static str {
        match self {
            Self::Wind => "synthetic-wind",
            Self::Flood => "synthetic-flood",
            Self::Fire => "synthetic-fire",
        }
    }
}

/// A rotated coordinate system.
#[derive(Debug, Clone, Copy)]
pub struct Frame {
    /// The origin.
    pub origin: Point,
    /// Cosine and sine of the turn.
    pub axis: Point,
}

impl Frame {
    /// Turned by an angle of which the half has a tangent in [-reach, reach]: rational points of the circle, no sines.
    fn turned(origin: Point, reach: f64, random: &mut SplitMix64) -> Self {
        let t = random.between(-reach, reach);
        let (cosine, sine) = ((1.0 - t * t) / (1.0 + t * t), 2.0 * t / (1.0 + t * t));
        Self { origin, axis: [cosine as f32, sine as f32] }
    }

    /// A place in this frame's coordinates.
    pub fn local(&self, [x, y]: Point) -> Point {
        let ([dx, dy], [c, s]) = ([x - self.origin[0], y - self.origin[1]], self.axis);
        [c * dx + s * dy, c * dy - s * dx]
    }

    /// A place given in this frame's coordinates.
    pub fn global(&self, [u, v]: Point) -> Point {
        let [c, s] = self.axis;
        [self.origin[0] + c * u - s * v, self.origin[1] + s * u + c * v]
    }
}

/// Blocks of houses between streets, of which some are built.
pub struct Grid {
    /// Streets run along its axes.
    pub frame: Frame,
    /// Length (u) and depth (v) of a block, from street middle to street middle.
    pub block: Point,
    /// Blocks with houses.
    pub built: BTreeSet<(i32, i32)>,
    /// Half the width of a street.
    pub street: f32,
    /// Half the width of the main road, which runs along v = 0 through the whole tile.
    pub main_road: f32,
}

impl Grid {
    /// The block that a local place lies in.
    fn cell(&self, [u, v]: Point) -> (i32, i32) {
        ((u / self.block[0]).floor() as i32, (v / self.block[1]).floor() as i32)
    }

    /// Whether a place lies in a built block.
    pub fn is_built(&self, place: Point) -> bool {
        self.built.contains(&self.cell(self.frame.local(place)))
    }

    /// Distance to the edge of the nearest street, negative on it, and whether that street is the main road.
    pub fn street_distance(&self, place: Point) -> (f32, bool) {
        let local = self.frame.local(place);
        let cell = self.cell(local);
        let here = self.built.contains(&cell);
        // The street at the nearer end of the block along one axis is there where a block on either side of it is built.
        let along = |at: f32, length: f32, beside: fn((i32, i32), i32) -> (i32, i32)| {
            let after = at.rem_euclid(length);
            let (distance, step) = if after < length - after { (after, -1) } else { (length - after, 1) };
            let is_street = here || self.built.contains(&beside(cell, step));
            if is_street { distance - self.street } else { f32::INFINITY }
        };
        let nearest = along(local[0], self.block[0], |(u, v), step| (u + step, v)).min(along(
            local[1],
            self.block[1],
            |(u, v), step| (u, v + step),
        ));
        let main = local[1].abs() - self.main_road;
        if main < nearest { (main, true) } else { (nearest, false) }
    }
}

/// The shape of a roof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Roof {
    /// Two slopes.
    Gable,
    /// Four slopes.
    Hip,
    /// No slope.
    Flat,
}

/// A rectangle, or an L: a rectangle without one corner.
pub struct Building {
    /// Origin in the middle, u along the longer side.
    pub frame: Frame,
    /// Half of length and depth.
    pub half: Point,
    /// The missing corner: its length and depth, and the signs of u and v there.
    pub notch: Option<(Point, Point)>,
    /// Height above ground.
    pub height: f32,
    /// Its roof.
    pub roof: Roof,
    /// A seed for its colours and its ruin.
    pub seed: u64,
    /// Its damage.
    pub subtype: Subtype,
}

impl Building {
    /// Signed distance from a local place to the outline, negative inside.
    pub fn distance(&self, [u, v]: Point) -> f32 {
        let outer = (u.abs() - self.half[0]).max(v.abs() - self.half[1]);
        match self.notch {
            None => outer,
            Some((size, sign)) => {
                let gap = (self.half[0] - size[0] - u * sign[0]).max(self.half[1] - size[1] - v * sign[1]);
                outer.max(-gap)
            }
        }
    }

    /// The corners, moved by `shift`, in order; the first again at the end.
    pub fn outline(&self, shift: Point) -> Polygon {
        let [a, b] = self.half;
        let mut corners = vec![[-a, -b], [a, -b], [a, b], [-a, b]];
        if let Some((size, sign)) = self.notch {
            let at = corners.iter().position(|c| c[0] * sign[0] > 0.0 && c[1] * sign[1] > 0.0).unwrap_or(0);
            let [u, v] = corners[at];
            let inner = [u - sign[0] * size[0], v - sign[1] * size[1]];
            let mut three = [[inner[0], v], inner, [u, inner[1]]];
            if sign[0] == sign[1] {
                three.reverse();
            }
            corners.splice(at..=at, three);
        }
        let place = |corner: Point| {
            let [x, y] = self.frame.global(corner);
            [f64::from(x + shift[0]), f64::from(y + shift[1])]
        };
        let mut ring: Vec<_> = corners.into_iter().map(place).collect();
        ring.push(ring[0]);
        Polygon { rings: vec![ring] }
    }

    /// Radius of a circle about the middle that holds the building.
    pub fn radius(&self) -> f32 {
        (self.half[0] * self.half[0] + self.half[1] * self.half[1]).sqrt()
    }
}

/// A tree's crown.
pub struct Tree {
    /// Its middle.
    pub place: Point,
    /// Its radius.
    pub radius: f32,
    /// A seed for its tone and outline.
    pub seed: u64,
}

/// Everything that is the same before and after, and the damage.
pub struct Scene {
    /// Side of the tile.
    pub size: usize,
    /// Pixels in a metre.
    pub metre: f32,
    /// What happens.
    pub hazard: Hazard,
    /// Streets and blocks.
    pub grid: Grid,
    /// Fields outside the blocks.
    pub fields: Frame,
    /// Buildings, in the order of the label file.
    pub buildings: Vec<Building>,
    /// Trees.
    pub trees: Vec<Tree>,
    /// How far the post image lies off the pre image.
    pub shift: Point,
    /// A seed for textures.
    pub seed: u64,
}

/// How much of what a tile is to have.
pub struct Plan {
    /// Share of the tile's pixels that are buildings.
    pub buildings: f64,
    /// Share of each of minor damage, major damage and destroyed.
    pub damage: f64,
    /// Chance of an undamaged building to be un-classified.
    pub un_classified: f64,
}

/// What makes a suburb; lengths in metres.
mod suburb {
    /// Length and depth of a block.
    pub const BLOCK: [f32; 2] = [128.0, 62.0];
    /// Half the width of a street.
    pub const STREET: f32 = 4.0;
    /// Half the width of the main road.
    pub const MAIN_ROAD: f32 = 6.5;
    /// Least width of a lot.
    pub const LOT: f32 = 23.0;
    /// Chance of a lot to be empty.
    pub const EMPTY_LOTS: f64 = 0.12;
    /// Chance of a building over two lots.
    pub const LONG_HOUSES: f64 = 0.08;
    /// Chance of an L.
    pub const L_SHAPES: f64 = 0.45;
    /// One place for a tree in so many square metres; most are not taken.
    pub const TREE_EVERY: f32 = 45.0;
}

impl Scene {
    /// Lays out the scene of that seed.
    pub fn new(seed: u64, size: usize, hazard: Hazard, plan: &Plan) -> Self {
        let mut random = SplitMix64::new(&[seed, 1]);
        // Smaller tiles show less ground, but their houses are smaller too: both shrink, so that there is something to find.
        let part = size as f32 / 1024.0;
        let metre = 2.0 * part.sqrt() * part.sqrt().sqrt();
        let side = size as f64;
        let place = |random: &mut SplitMix64, low: f64, high: f64| -> Point {
            [(side * random.between(low, high)) as f32, (side * random.between(low, high)) as f32]
        };
        let middle = place(&mut random, 0.3, 0.7);
        let grid = Grid {
            frame: Frame::turned(middle, 0.41, &mut random),
            block: suburb::BLOCK.map(|length| length * metre * random.between(0.9, 1.1) as f32),
            built: BTreeSet::new(),
            street: suburb::STREET * metre,
            main_road: suburb::MAIN_ROAD * metre,
        };
        let fields = Frame::turned(place(&mut random, 0.0, 1.0), 0.41, &mut random);
        let reach = random.between(1.0, 3.0) as f32 * (metre / 2.0).max(0.5);
        let shift = Frame::turned([0.0; 2], 3.0, &mut random).axis.map(|part| part * reach);
        let mut scene = Self { size, metre, hazard, grid, fields, buildings: vec![], trees: vec![], shift, seed };
        scene.place_buildings(plan, &mut random);
        scene.place_trees(&mut SplitMix64::new(&[seed, 2]));
        scene
    }

    /// Fills blocks with houses, from one to three centres outwards, until the plan's share is reached; then damages some.
    fn place_buildings(&mut self, plan: &Plan, random: &mut SplitMix64) {
        let size = self.size as f64;
        let centres: Vec<Point> = (0..=random.below(3))
            .map(|_| [(size * random.between(0.1, 0.9)) as f32, (size * random.between(0.1, 0.9)) as f32])
            .collect();
        let mut blocks = self.blocks_in_sight();
        let far = |place: Point| centres.iter().map(|&centre| distance(centre, place)).fold(f32::INFINITY, f32::min);
        blocks.sort_by(|a, b| far(a.1).total_cmp(&far(b.1)));

        let budget = plan.buildings * size * size;
        let mut area = 0.0;
        let mut areas = Vec::new();
        let mut mask = Array2::zeros((self.size, self.size));
        'blocks: for (cell, _) in blocks {
            for building in self.houses(cell, plan, random) {
                let pixels = covered(&mut mask, &building) - area;
                if pixels == 0.0 {
                    continue;
                }
                if !fits(budget - area, pixels, random) {
                    break 'blocks;
                }
                area += pixels;
                areas.push(pixels);
                self.buildings.push(building);
                self.grid.built.insert(cell);
            }
        }
        self.damage(plan, &areas, random);
    }

    /// Every block that shows in the tile, with its middle.
    fn blocks_in_sight(&self) -> Vec<((i32, i32), Point)> {
        let side = self.size as f32;
        let reach = |length: f32| (2.0 * side / length) as i32 + 1;
        let [length, depth] = self.grid.block;
        let (columns, rows) = (reach(length), reach(depth));
        let cells = (-columns..=columns).flat_map(|u| (-rows..=rows).map(move |v| (u, v)));
        let middle =
            |cell: (i32, i32)| self.grid.frame.global([(cell.0 as f32 + 0.5) * length, (cell.1 as f32 + 0.5) * depth]);
        let inside = |place: &Point| place.iter().all(|&at| at > -length / 2.0 && at < side + length / 2.0);
        cells.map(|cell| (cell, middle(cell))).filter(|(_, place)| inside(place)).collect()
    }

    /// Two rows of houses in a block, each row along its street.
    fn houses(&self, cell: (i32, i32), plan: &Plan, random: &mut SplitMix64) -> Vec<Building> {
        let [length, depth] = self.grid.block;
        let frontage = length - 2.0 * self.grid.street;
        let lots = ((frontage / (suburb::LOT * self.metre)) as usize).max(1);
        let lot = frontage / lots as f32;
        let mut houses = Vec::new();
        for far_side in [false, true] {
            let is_on_main_road = cell.1 == -i32::from(far_side);
            let road = if is_on_main_road { self.grid.main_road } else { self.grid.street };
            let mut first = 0;
            while first < lots {
                let taken = if first + 1 < lots && random.unit() < suburb::LONG_HOUSES { 2 } else { 1 };
                let middle = self.grid.street + (first as f32 + taken as f32 / 2.0) * lot;
                first += taken;
                if random.unit() < suburb::EMPTY_LOTS {
                    continue;
                }
                let half = if taken == 2 {
                    [lot - self.metres(2.5, 4.0, random), self.metres(4.5, 6.5, random)]
                } else {
                    [self.metres(5.5, 8.5, random), self.metres(4.2, 6.0, random)]
                };
                let back = road + self.metres(5.5, 9.0, random) + half[1];
                let u = cell.0 as f32 * length + middle + self.metres(-1.5, 1.5, random);
                let v = cell.1 as f32 * depth + if far_side { depth - back } else { back };
                houses.push(self.house(self.grid.frame.global([u, v]), half, plan, random));
            }
        }
        houses
    }

    /// A house along the streets, if not quite, of a size and with a shape and a roof of its own.
    fn house(&self, place: Point, half: Point, plan: &Plan, random: &mut SplitMix64) -> Building {
        let skew = Frame::turned([0.0; 2], 0.025, random).axis;
        let along = Frame { origin: [0.0; 2], axis: self.grid.frame.axis };
        let notch = (random.unit() < suburb::L_SHAPES).then(|| {
            let size = [half[0] * random.between(0.6, 1.1) as f32, half[1] * random.between(0.5, 0.9) as f32];
            (size, [0, 1].map(|_| if random.below(2) == 0 { -1.0 } else { 1.0 }))
        });
        Building {
            frame: Frame { origin: place, axis: along.global(skew) },
            half,
            notch,
            height: self.metres(3.5, 6.5, random),
            roof: match random.below(20) {
                0..9 => Roof::Gable,
                9..16 => Roof::Hip,
                _ => Roof::Flat,
            },
            seed: random.bits(),
            subtype: if random.unit() < plan.un_classified { Subtype::UnClassified } else { Subtype::NoDamage },
        }
    }

    /// A length between two in metres.
    fn metres(&self, low: f64, high: f64, random: &mut SplitMix64) -> f32 {
        random.between(low, high) as f32 * self.metre
    }

    /// Damages the buildings around one of them: destroyed in the middle, then major, then minor, each to the plan's share.
    fn damage(&mut self, plan: &Plan, areas: &[f64], random: &mut SplitMix64) {
        let Some(centre) = self.buildings.get(random.below(self.buildings.len())).map(|b| b.frame.origin) else {
            return;
        };
        let mut order: Vec<usize> =
            (0..self.buildings.len()).filter(|&i| self.buildings[i].subtype == Subtype::NoDamage).collect();
        let jitter: Vec<f32> = areas.iter().map(|_| self.metres(0.0, 25.0, random)).collect();
        let far = |i: &usize| distance(self.buildings[*i].frame.origin, centre) + jitter[*i];
        order.sort_by(|a, b| far(a).total_cmp(&far(b)));
        let mut order = order.into_iter();
        for subtype in [Subtype::Destroyed, Subtype::MajorDamage, Subtype::MinorDamage] {
            let mut left = plan.damage * (self.size * self.size) as f64;
            for index in order.by_ref() {
                if !fits(left, areas[index], random) {
                    break;
                }
                left -= areas[index];
                self.buildings[index].subtype = subtype;
            }
        }
    }

    fn place_trees(&mut self, random: &mut SplitMix64) {
        let side = self.size as f32;
        let candidates = (side * side / (suburb::TREE_EVERY * self.metre * self.metre)) as usize;
        for _ in 0..candidates {
            let place = [random.unit() as f32 * side, random.unit() as f32 * side];
            let radius = self.metres(1.4, 3.6, random);
            let (chance, seed) = (random.unit() as f32, random.bits());
            let wanted = if self.grid.is_built(place) { 0.16 } else { 0.03 + 0.9 * self.forest(place) };
            let clear = self.grid.street_distance(place).0 > radius * 0.8
                && self.buildings.iter().all(|b| b.distance(b.frame.local(place)) > radius * 0.7);
            if chance < wanted && clear {
                self.trees.push(Tree { place, radius, seed });
            }
        }
    }

    /// How wooded a place outside the blocks is, 0 to 1.
    pub fn forest(&self, [x, y]: Point) -> f32 {
        let scale = 130.0 * self.metre;
        smoothstep(0.52, 0.64, fractal(self.seed ^ 0x7ee, x / scale, y / scale, 4))
    }
}

/// Draws a building and gives the pixels that all drawn so far cover.
fn covered(mask: &mut Array2<u8>, building: &Building) -> f64 {
    Rasterizer::default().fill_all(&mut mask.view_mut(), &building.outline([0.0; 2]), 1);
    mask.iter().filter(|&&value| value != 0).count() as f64
}

/// Whether to spend `pixels` of what is `left`: by chance where it is less, so that the mean over tiles is exact.
fn fits(left: f64, pixels: f64, random: &mut SplitMix64) -> bool {
    random.unit() * pixels < left
}

pub(super) fn distance(a: Point, b: Point) -> f32 {
    let (dx, dy) = (a[0] - b[0], a[1] - b[1]);
    (dx * dx + dy * dy).sqrt()
}
