//! Specs of losses from keyword arguments.

use pyo3::prelude::*;

use crate::loss::resize::IGNORED;
use crate::loss::spec::{Absent, Average, LossSpec, Overlap, PixelLoss, ProbabilityOfTarget, Reduction, RegionTerm};
use crate::{Error, Result, cpu};

/// The variant of that name.
fn choose<T: Copy>(argument: &'static str, name: &str, choices: &[(&str, T)]) -> Result<T> {
    choices.iter().find(|(choice, _)| *choice == name).map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<String> = choices.iter().map(|(choice, _)| format!("{choice:?}")).collect();
        Error::value(argument, format!("{name:?}"), names.join(" or "))
    })
}

/// How a target of another size than the logits is brought together with them.
#[derive(Clone, Copy)]
pub enum Sizes {
    /// They have the same.
    Equal,
    /// Labels of the logits' size, each the nearest one.
    Nearest,
    /// Labels of the logits' size, each the most frequent one of a window.
    Majority,
    /// Shares of classes in windows.
    Shares,
    /// The logits are upsampled.
    Upsample { align_corners: bool },
}

/// Which terms a loss has and their options; immutable.
#[pyclass(frozen, name = "LossSpec", module = "rarepixel._core")]
pub struct PyLossSpec {
    /// As the user gave them.
    pub spec: LossSpec,
    /// The same with the label of ignored pixels that labels and shares of another size have.
    pub resized: LossSpec,
    /// The same with that of labels as bytes.
    pub narrowed: LossSpec,
    /// Where sizes may differ.
    pub sizes: Sizes,
}

#[pymethods]
impl PyLossSpec {
    #[new]
    fn new(
        pixel: &str,
        lambda_pixel: f64,
        gamma: f64,
        pt: &str,
        label_smoothing: f64,
        region: &str,
        lambda_region: f64,
        alpha: f64,
        beta: f64,
        smooth: f64,
        average: &str,
        per_sample: bool,
        include_background: bool,
        absent: &str,
        ignore_index: i64,
        reduction: &str,
        target_mode: &str,
        align_corners: bool,
    ) -> Result<Self> {
        #[derive(Clone, Copy)]
        enum Kind {
            None,
            CrossEntropy,
            Focal,
        }
        let kind = choose(
            "pixel",
            pixel,
            &[("none", Kind::None), ("cross_entropy", Kind::CrossEntropy), ("focal", Kind::Focal)],
        )?;
        let pt = choose(
            "pt",
            pt,
            &[("softmax", ProbabilityOfTarget::Softmax), ("weighted_ce", ProbabilityOfTarget::WeightedCrossEntropy)],
        )?;
        let pixel = match kind {
            Kind::None => None,
            Kind::CrossEntropy => Some(PixelLoss::CrossEntropy { label_smoothing }),
            Kind::Focal => Some(PixelLoss::Focal { gamma, pt }),
        };
        let tversky = Overlap::Tversky { alpha, beta };
        let overlap =
            choose("region", region, &[("none", None), ("dice", Some(Overlap::Dice)), ("tversky", Some(tversky))])?;
        let average = choose("average", average, &[("micro", Average::Micro), ("macro", Average::Macro)])?;
        let absent = choose("absent", absent, &[("count", Absent::Count), ("skip", Absent::Skip)])?;
        let region =
            overlap.map(|overlap| RegionTerm { overlap, smooth, average, per_sample, include_background, absent });
        let spec = LossSpec {
            pixel: pixel.map(|pixel| (pixel, lambda_pixel)),
            region: region.map(|region| (region, lambda_region)),
            ignore_index,
            reduction: choose(
                "reduction",
                reduction,
                &[("mean", Reduction::Mean), ("sum", Reduction::Sum), ("none", Reduction::None)],
            )?,
        };
        spec.validate()?;
        let sizes = choose(
            "target_mode",
            target_mode,
            &[
                ("exact", Sizes::Equal),
                ("nearest", Sizes::Nearest),
                ("majority", Sizes::Majority),
                ("area", Sizes::Shares),
                ("upsample_logits", Sizes::Upsample { align_corners }),
            ],
        )?;
        if matches!((sizes, kind), (Sizes::Shares, Kind::Focal)) {
            let expected =
                "\"nearest\", \"majority\" or \"upsample_logits\": the focal loss takes no shares of classes";
            return Err(Error::value("target_mode", "\"area\"", expected));
        }
        let ignoring = |ignore_index| LossSpec { ignore_index, ..spec.clone() };
        let (resized, narrowed) = (ignoring(IGNORED.into()), ignoring(cpu::NARROWED_IGNORED));
        Ok(Self { spec, resized, narrowed, sizes })
    }

    /// Whether loss and gradient can be had in one pass.
    #[getter]
    fn one_pass(&self) -> bool {
        self.spec.is_one_pass() && !matches!(self.sizes, Sizes::Upsample { .. })
    }

    /// Whether the gradient's memory can keep what the second pass needs of the first.
    #[getter]
    fn keeps(&self) -> bool {
        self.spec.region.is_some() && matches!(self.sizes, Sizes::Equal | Sizes::Nearest | Sizes::Majority)
    }

    fn __repr__(&self) -> String {
        format!("{:?}", self.spec)
    }
}
