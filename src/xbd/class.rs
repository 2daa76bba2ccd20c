//! The classes of a mask, and the subtypes of a label that become them.

use crate::{Error, Result};

/// The classes, by index.
pub const CLASS_NAMES: [&str; 5] = ["background", "no-damage", "minor-damage", "major-damage", "destroyed"];

/// The index of pixels that count neither for nor against a prediction.
pub const IGNORE_INDEX: u8 = 255;

/// A building's damage, as label files name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subtype {
    /// 1: not visibly damaged.
    NoDamage,
    /// 2: partly burnt, roof elements missing, water around it.
    MinorDamage,
    /// 3: partial collapse of wall or roof.
    MajorDamage,
    /// 4: burnt down, collapsed, gone.
    Destroyed,
    /// Not judged, for example under a cloud: see [`UnClassified`].
    UnClassified,
}

impl Subtype {
    /// Every subtype, by damage.
    pub const ALL: [Self; 5] =
        [Self::NoDamage, Self::MinorDamage, Self::MajorDamage, Self::Destroyed, Self::UnClassified];

    /// The name in label files.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoDamage => "no-damage",
            Self::MinorDamage => "minor-damage",
            Self::MajorDamage => "major-damage",
            Self::Destroyed => "destroyed",
            Self::UnClassified => "un-classified",
        }
    }

    /// The subtype of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|subtype| subtype.name() == name)
    }

    /// The class index in a mask.
    pub fn class(self, un_classified: UnClassified) -> u8 {
        match self {
            Self::NoDamage => 1,
            Self::MinorDamage => 2,
            Self::MajorDamage => 3,
            Self::Destroyed => 4,
            Self::UnClassified => un_classified.class(),
        }
    }
}

/// What an un-classified building (about 2 % of xBD's) becomes in a mask. Published pipelines do all three.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UnClassified {
    /// [`IGNORE_INDEX`].
    #[default]
    Ignore,
    /// Class 1, as in the xView2 challenge.
    NoDamage,
    /// Class 0.
    Background,
}

impl UnClassified {
    /// The choice of that name: "ignore", "no-damage" or "background".
    pub fn from_name(name: &str) -> Result<Self> {
        match name {
            "ignore" => Ok(Self::Ignore),
            "no-damage" => Ok(Self::NoDamage),
            "background" => Ok(Self::Background),
            _ => Err(Error::value("un_classified", format!("{name:?}"), r#""ignore", "no-damage" or "background""#)),
        }
    }

    /// The class index it stands for.
    pub fn class(self) -> u8 {
        match self {
            Self::Ignore => IGNORE_INDEX,
            Self::NoDamage => 1,
            Self::Background => 0,
        }
    }
}

/// How many values are of each class; the last number counts those of none ([`IGNORE_INDEX`]).
pub fn count_classes(mask: &[u8]) -> [u64; CLASS_NAMES.len() + 1] {
    let mut counts = [0; CLASS_NAMES.len() + 1];
    // So short that a byte can count: compilers turn this into a few vector instructions.
    for chunk in mask.chunks(255) {
        for (class, count) in counts[..CLASS_NAMES.len()].iter_mut().enumerate() {
            *count += u64::from(chunk.iter().map(|&value| u8::from(value == class as u8)).sum::<u8>());
        }
    }
    counts[CLASS_NAMES.len()] = mask.len() as u64 - counts.iter().sum::<u64>();
    counts
}
