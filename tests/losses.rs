//! Every loss on every instruction set that the machine has, against plain loops in double precision.

use proptest::prelude::*;
use rarepixel::cpu::simd::InstructionSet;
use rarepixel::cpu::{Problem, Target};
use rarepixel::loss::spec::{
    Absent, Average, LossSpec, Overlap, PixelLoss, ProbabilityOfTarget, Reduction, RegionTerm,
};
use rarepixel::tensor::{DType, View};

const IGNORED: i64 = 255;

/// (N, C, pixels) logits, (N, pixels) labels.
#[derive(Debug, Clone)]
struct Batch {
    samples: usize,
    classes: usize,
    pixels: usize,
    logits: Vec<f32>,
    labels: Vec<i64>,
}

impl Batch {
    fn logit(&self, sample: usize, class: usize, pixel: usize) -> f64 {
        f64::from(self.logits[(sample * self.classes + class) * self.pixels + pixel])
    }

    fn softmax(&self, sample: usize, pixel: usize) -> Vec<f64> {
        let z: Vec<f64> = (0..self.classes).map(|c| self.logit(sample, c, pixel)).collect();
        let m = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let e: Vec<f64> = z.iter().map(|z| (z - m).exp()).collect();
        let sum: f64 = e.iter().sum();
        e.iter().map(|e| e / sum).collect()
    }

    /// Cross entropy, focal (gamma, weighted), macro Dice and macro Tversky, from their definitions.
    fn naive(&self, spec: &LossSpec, weight: &[f64]) -> f64 {
        let (mut loss, mut weights, mut valid) = (0.0, 0.0, 0.0);
        let mut sums = vec![[0.0; 3]; self.classes];
        for sample in 0..self.samples {
            for pixel in 0..self.pixels {
                let label = self.labels[sample * self.pixels + pixel];
                if label == IGNORED {
                    continue;
                }
                let (p, y) = (self.softmax(sample, pixel), label as usize);
                valid += 1.0;
                weights += weight[y];
                loss += match spec.pixel {
                    Some((PixelLoss::CrossEntropy { label_smoothing: e }, _)) => {
                        let spread: f64 = p.iter().zip(weight).map(|(p, w)| -w * p.ln()).sum();
                        -(1.0 - e) * weight[y] * p[y].ln() + e / self.classes as f64 * spread
                    }
                    Some((PixelLoss::Focal { gamma, pt: ProbabilityOfTarget::Softmax }, _)) => {
                        -weight[y] * (1.0 - p[y]).powf(gamma) * p[y].ln()
                    }
                    Some((PixelLoss::Focal { gamma, .. }, _)) => {
                        let s = -weight[y] * p[y].ln();
                        (1.0 - (-s).exp()).powf(gamma) * s
                    }
                    None => 0.0,
                };
                for (class, sums) in sums.iter_mut().enumerate() {
                    let target = f64::from(u8::from(class == y));
                    *sums = [sums[0] + p[class] * target, sums[1] + p[class], sums[2] + target];
                }
            }
        }
        let denominator = if matches!(spec.pixel, Some((PixelLoss::CrossEntropy { .. }, _))) { weights } else { valid };
        let mut total = 0.0;
        if let Some((_, factor)) = spec.pixel
            && denominator > 0.0
        {
            total += factor * loss / denominator;
        }
        if let Some((region, factor)) = spec.region {
            let s = region.smooth;
            let of = |&[i, p, t]: &[f64; 3]| match region.overlap {
                Overlap::Dice => 1.0 - (2.0 * i + s) / (p + t + s),
                Overlap::Tversky { alpha, beta } => 1.0 - (i + s) / (i + alpha * (p - i) + beta * (t - i) + s),
            };
            total += factor * sums.iter().map(of).sum::<f64>() / self.classes as f64;
        }
        total
    }

    /// The loss and its gradient on an instruction set, by two passes or in the way of [`Problem`] that is faster, on labels as bytes.
    fn solve(
        &mut self,
        spec: &LossSpec,
        weight: &[f64],
        set: InstructionSet,
        (fast, streams): (bool, bool),
    ) -> (f64, Vec<f32>) {
        let shape = [self.samples, self.classes, self.pixels];
        let strides = [(self.classes * self.pixels) as isize, self.pixels as isize, 1];
        let (label_shape, label_strides) = ([self.samples, self.pixels], [self.pixels as isize, 1]);
        // From a cache line on.
        let mut memory = vec![f32::NAN; self.logits.len() + 16];
        let start = memory.as_ptr().align_offset(64);
        let gradient = &mut memory[start..][..self.logits.len()];
        // SAFETY: the vectors have these shapes and outlive the views.
        let (input, target, slope) = unsafe {
            let view = |pointer: *mut u8, dtype| View::new(pointer, dtype, &shape, &strides, true).unwrap();
            let labels = self.labels.as_mut_ptr().cast();
            (
                view(self.logits.as_mut_ptr().cast(), DType::Float32),
                View::new(labels, DType::Int64, &label_shape, &label_strides, false).unwrap(),
                view(gradient.as_mut_ptr().cast(), DType::Float32),
            )
        };
        let problem = Problem::new(spec, input, Target::Index(target), Some(weight), None, 2).unwrap();
        let problem = problem.with_instruction_set(set).with_streams(streams);
        let mut bytes = vec![0u8; self.samples * self.pixels];
        // SAFETY: as above.
        let narrowed =
            unsafe { View::new(bytes.as_mut_ptr(), DType::UInt8, &label_shape, &label_strides, false).unwrap() };
        let problem = if fast { problem.with_narrowed(narrowed).unwrap() } else { problem };
        let found = if fast && problem.is_one_pass() {
            problem.reduce_with_gradient(slope, 0.7).unwrap()
        } else if fast {
            let found = problem.reduce_keeping(slope).unwrap();
            problem.gradient_from_kept(&found.sums, 0.7, slope);
            found
        } else {
            let found = problem.reduce(None).unwrap();
            problem.gradient(&found.sums, 0.7, None, slope);
            found
        };
        let of_class = |c: usize| self.labels.iter().filter(|&&label| label == c as i64).count() as u64;
        assert_eq!(found.counts, (0..self.classes).map(of_class).collect::<Vec<_>>());
        assert!(
            !fast
                || bytes
                    .iter()
                    .zip(&self.labels)
                    .all(|(&b, &label)| b == if label == IGNORED { 254 } else { label as u8 })
        );
        (problem.finish(&found.sums), gradient.to_vec())
    }
}

fn batches() -> impl Strategy<Value = Batch> {
    // Of 64 pixels, every class begins at a cache line.
    let pixels = prop_oneof![3 => 1usize..70, 1 => Just(64)];
    (1usize..4, prop::sample::select(vec![2usize, 3, 5, 11]), pixels).prop_flat_map(|(samples, classes, pixels)| {
        // Whole numbers too, so that several classes are the largest.
        let logit = prop_oneof![4 => -8f32..8.0, 1 => (-2i8..3).prop_map(f32::from)];
        let logits = prop::collection::vec(logit, samples * classes * pixels);
        let label = prop_oneof![4 => 0..classes as i64, 1 => Just(IGNORED)];
        // In runs, too: kernels take whole registers of one class, or of ignored pixels, apart.
        let labels = (prop::collection::vec(label, samples * pixels), prop::sample::select(vec![1usize, 12, 64]));
        (logits, labels).prop_map(move |(logits, (labels, run))| {
            let labels = (0..labels.len()).map(|i| labels[i / run]).collect();
            Batch { samples, classes, pixels, logits, labels }
        })
    })
}

fn specs() -> impl Strategy<Value = LossSpec> {
    let pixel = prop_oneof![
        (0f64..0.5).prop_map(|label_smoothing| Some(PixelLoss::CrossEntropy { label_smoothing })),
        prop::sample::select(vec![0.5, 1.0, 2.0, 2.7]).prop_flat_map(|gamma| {
            prop_oneof![Just(ProbabilityOfTarget::Softmax), Just(ProbabilityOfTarget::WeightedCrossEntropy)]
                .prop_map(move |pt| Some(PixelLoss::Focal { gamma, pt }))
        }),
        Just(None),
    ];
    let overlap = prop_oneof![Just(Overlap::Dice), Just(Overlap::Tversky { alpha: 0.3, beta: 1.2 })];
    (pixel, any::<bool>(), overlap).prop_map(move |(pixel, region, overlap)| LossSpec {
        region: (region || pixel.is_none()).then_some((
            RegionTerm {
                overlap,
                smooth: 1e-3,
                average: Average::Macro,
                per_sample: false,
                include_background: true,
                absent: Absent::Count,
            },
            0.7,
        )),
        pixel: pixel.map(|pixel| (pixel, 1.3)),
        ignore_index: IGNORED,
        reduction: Reduction::Mean,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn every_instruction_set_equals_the_plain_loops(mut batch in batches(), spec in specs()) {
        let weight: Vec<f64> = (0..batch.classes).map(|c| if c == 1 { 0.0 } else { 0.5 + c as f64 }).collect();
        let truth = batch.naive(&spec, &weight);
        let mut gradients = Vec::new();
        for set in InstructionSet::available() {
            let (loss, gradient) = batch.solve(&spec, &weight, set, (false, false));
            prop_assert!((loss - truth).abs() <= 2e-6 * truth.abs().max(1.0), "{}: {loss} {truth}", set.name());
            for streams in [false, true] {
                let fast = batch.solve(&spec, &weight, set, (true, streams));
                prop_assert_eq!((loss, &gradient), (fast.0, &fast.1), "one pass or two, a softmax kept or not: the same bits");
            }
            gradients.push(gradient);
        }
        // The derivative along a direction, by central differences of the plain loops.
        let step = 1e-3f32;
        let direction: Vec<f32> = (0..batch.logits.len()).map(|i| if i % 3 == 0 { step } else { -step / 2.0 }).collect();
        let mut moved = [batch.clone(), batch.clone()];
        let mut exact = vec![0.0f64; batch.logits.len()];
        for (i, d) in direction.iter().enumerate() {
            moved[0].logits[i] += d;
            moved[1].logits[i] -= d;
            exact[i] = f64::from(moved[0].logits[i]) - f64::from(moved[1].logits[i]);
        }
        let slope = 0.7 * (moved[0].naive(&spec, &weight) - moved[1].naive(&spec, &weight));
        for gradient in &gradients {
            let along: f64 = gradient.iter().zip(&exact).map(|(g, d)| f64::from(*g) * d).sum();
            let size: f64 = gradient.iter().zip(&exact).map(|(g, d)| (f64::from(*g) * d).abs()).sum();
            prop_assert!((along - slope).abs() <= 1e-4 * size + 1e-9, "{along} {slope}");
            prop_assert!(gradient.iter().zip(&gradients[0]).all(|(a, b)| (a - b).abs() <= 1e-5 * b.abs() + 1e-7));
        }
    }
}
