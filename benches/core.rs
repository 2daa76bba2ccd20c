//! The losses of the core on one thread, by instruction set and dtype, into memory that is there already. Each answer is checked
//! against plain loops in double precision before it is timed.
//!
//! `cargo bench --bench core`, or with a part of a name, as `cargo bench --bench core -- focal/training/large/avx512`.

use std::cell::OnceCell;
use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput};
use half::{bf16, f16};
use rarepixel::cpu::simd::InstructionSet;
use rarepixel::cpu::{Problem, Target};
use rarepixel::loss::spec::{
    Absent, Average, LossSpec, Overlap, PixelLoss, ProbabilityOfTarget, Reduction, RegionTerm,
};
use rarepixel::tensor::{DType, View};

const CLASSES: usize = 5;
const WEIGHT: [f64; CLASSES] = [1.0, 5.0, 20.0, 20.0, 20.0];
/// Neighbours share a class, as in a mask.
const BLOB: usize = 4;
const SMOOTH: f64 = 1e-6;

/// (samples, CLASSES, pixels) logits of one dtype as bytes, and (samples, pixels) uint8 labels.
struct Batch {
    samples: usize,
    pixels: usize,
    dtype: DType,
    logits: Vec<u8>,
    labels: Vec<u8>,
}

/// Element `i` of a buffer of `dtype`.
fn element(bytes: &[u8], dtype: DType, i: usize) -> f64 {
    macro_rules! read {
        ($type:ty) => {{
            const SIZE: usize = size_of::<$type>();
            f64::from(<$type>::from_ne_bytes(bytes[i * SIZE..][..SIZE].try_into().expect("SIZE bytes")))
        }};
    }
    match dtype {
        DType::Float16 => read!(f16),
        DType::BFloat16 => read!(bf16),
        DType::Float64 => read!(f64),
        _ => read!(f32),
    }
}

impl Batch {
    /// xBD's class mix, 96 % background; logits of a network that gets most pixels right.
    fn new(samples: usize, pixels: usize, dtype: DType) -> Self {
        let mut state = 1u64;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f64 / (1u64 << 24) as f64
        };
        let mut label = || match uniform() {
            x if x < 0.96 => 0,
            x if x < 0.997 => 1,
            x => 2 + ((x - 0.997) / 0.001) as u8,
        };
        let labels: Vec<u8> = (0..samples * pixels / BLOB).flat_map(|_| [label(); BLOB]).collect();
        let mut logits = Vec::new();
        for sample in 0..samples {
            for class in 0..CLASSES {
                for pixel in 0..pixels {
                    let right = usize::from(labels[sample * pixels + pixel]) == class;
                    let z = 8.0 * uniform() - 4.0 + if right { 4.0 } else { 0.0 };
                    match dtype {
                        DType::Float16 => logits.extend(f16::from_f64(z).to_ne_bytes()),
                        DType::BFloat16 => logits.extend(bf16::from_f64(z).to_ne_bytes()),
                        DType::Float64 => logits.extend(z.to_ne_bytes()),
                        _ => logits.extend((z as f32).to_ne_bytes()),
                    }
                }
            }
        }
        Self { samples, pixels, dtype, logits, labels }
    }

    fn label(&self, sample: usize, pixel: usize) -> usize {
        usize::from(self.labels[sample * self.pixels + pixel])
    }

    fn softmax(&self, sample: usize, pixel: usize) -> [f64; CLASSES] {
        let z = |class| element(&self.logits, self.dtype, (sample * CLASSES + class) * self.pixels + pixel);
        let e: [f64; CLASSES] = std::array::from_fn(|class| z(class).exp());
        e.map(|x| x / e.iter().sum::<f64>())
    }

    /// Do `work(sample, pixel, softmax, label)` for every pixel.
    fn each(&self, mut work: impl FnMut(usize, usize, [f64; CLASSES], usize)) {
        for sample in 0..self.samples {
            for pixel in 0..self.pixels {
                work(sample, pixel, self.softmax(sample, pixel), self.label(sample, pixel));
            }
        }
    }

    /// Loss and gradient from the definitions: dL/dz_k = p_k (a_k - sum_c a_c p_c) with a_c = dL/dp_c.
    fn naive(&self, spec: &LossSpec) -> (f64, Vec<f64>) {
        let (mut weights, mut sums) = (0.0, [[0.0; 3]; CLASSES]);
        self.each(|_, _, p, y| {
            weights += WEIGHT[y];
            for c in 0..CLASSES {
                let target = f64::from(u8::from(c == y));
                sums[c] = [sums[c][0] + p[c] * target, sums[c][1] + p[c], sums[c][2] + target];
            }
        });
        // The loss of one pixel in p_y, and its derivative.
        let pixel_loss = |p: f64, y: usize| match spec.pixel {
            Some((PixelLoss::CrossEntropy { .. }, _)) => (-WEIGHT[y] * p.ln() / weights, -WEIGHT[y] / p / weights),
            Some((PixelLoss::Focal { .. }, _)) => {
                let (u, scale) = (1.0 - p, WEIGHT[y] / (self.samples * self.pixels) as f64);
                (-scale * u * u * p.ln(), scale * (2.0 * u * p.ln() - u * u / p))
            }
            None => (0.0, 0.0),
        };
        let dice = spec.region.is_some();
        let parts = sums.map(|[i, p, t]| (2.0 * i + SMOOTH, p + t + SMOOTH));
        let mut loss = parts.iter().map(|(n, d)| 1.0 - n / d).sum::<f64>() / CLASSES as f64 * f64::from(u8::from(dice));
        let mut gradient = vec![0.0; self.samples * CLASSES * self.pixels];
        self.each(|sample, pixel, p, y| {
            let (value, slope) = pixel_loss(p[y], y);
            loss += value;
            let a: [f64; CLASSES] = std::array::from_fn(|c| {
                let (n, d) = parts[c];
                let target = f64::from(u8::from(c == y));
                target * slope + if dice { (n - 2.0 * target * d) / (d * d) / CLASSES as f64 } else { 0.0 }
            });
            let mean: f64 = (0..CLASSES).map(|c| a[c] * p[c]).sum();
            for c in 0..CLASSES {
                gradient[(sample * CLASSES + c) * self.pixels + pixel] = p[c] * (a[c] - mean);
            }
        });
        (loss, gradient)
    }

    /// A view of such logits.
    fn view<'a>(&self, logits: *mut u8) -> View<'a> {
        let strides = [(CLASSES * self.pixels) as isize, self.pixels as isize, 1];
        // SAFETY: the callers pass `self.logits`, which is only read, or room of the same size, and keep both while they use views.
        let view = unsafe { View::new(logits, self.dtype, &[self.samples, CLASSES, self.pixels], &strides, true) };
        view.expect("contiguous")
    }

    fn problem<'a>(&'a self, spec: &'a LossSpec, set: InstructionSet) -> Problem<'a> {
        let labels = self.labels.as_ptr().cast_mut();
        let (shape, strides) = ([self.samples, self.pixels], [self.pixels as isize, 1]);
        // SAFETY: the labels have this shape, are borrowed for `'a`, and are only read.
        let target = unsafe { View::new(labels, DType::UInt8, &shape, &strides, false) }.expect("contiguous");
        let weight = spec.pixel.is_some().then_some(&WEIGHT[..]);
        let input = self.view(self.logits.as_ptr().cast_mut());
        let problem = Problem::new(spec, input, Target::Index(target), weight, None, 1).expect("the parts fit");
        problem.with_instruction_set(set)
    }

    /// Panics unless loss and gradient are near the truth.
    fn check(&self, loss: f64, gradient: &[u8], truth: &(f64, Vec<f64>)) {
        let off = (loss / truth.0 - 1.0).abs();
        assert!(off < 1e-6, "loss {loss}, expected {}: off by {off:.1e}", truth.0);
        // Half types are rounded once; the smallest float16 is 6e-8.
        let (relative, absolute) = match self.dtype {
            DType::Float16 => (1e-3, 6e-8),
            DType::BFloat16 => (4e-3, 0.0),
            _ => (1e-5, 0.0),
        };
        let bound = relative * truth.1.iter().fold(0.0, |largest: f64, x| largest.max(x.abs())) + absolute;
        for (i, expected) in truth.1.iter().enumerate() {
            let off = (element(gradient, self.dtype, i) - expected).abs();
            assert!(off <= bound, "gradient[{i}] off by {off:.1e}, allowed {bound:.1e}");
        }
    }
}

/// The loss, and the gradient written: in one pass where the loss allows it, else in two, with the softmax kept where it can be.
fn training(problem: &Problem<'_>, gradient: View<'_>) -> f64 {
    let sums = if problem.is_one_pass() {
        problem.reduce_with_gradient(gradient, 1.0).expect("valid labels").sums
    } else if problem.keeps(&gradient) && gradient.strides[2] == 1 {
        let sums = problem.reduce_keeping(gradient).expect("valid labels").sums;
        problem.gradient_from_kept(&sums, 1.0, gradient);
        sums
    } else {
        let sums = problem.reduce(None).expect("valid labels").sums;
        problem.gradient(&sums, 1.0, None, gradient);
        sums
    };
    problem.finish(&sums)
}

fn losses() -> [(&'static str, LossSpec); 4] {
    let cross_entropy = PixelLoss::CrossEntropy { label_smoothing: 0.0 };
    let focal = PixelLoss::Focal { gamma: 2.0, pt: ProbabilityOfTarget::Softmax };
    let dice = RegionTerm {
        overlap: Overlap::Dice,
        smooth: SMOOTH,
        average: Average::Macro,
        per_sample: false,
        include_background: true,
        absent: Absent::Count,
    };
    let spec = |pixel: Option<PixelLoss>, region: Option<RegionTerm>| LossSpec {
        pixel: pixel.map(|pixel| (pixel, 1.0)),
        region: region.map(|region| (region, 1.0)),
        ignore_index: -100,
        reduction: Reduction::Mean,
    };
    [
        ("cross_entropy", spec(Some(cross_entropy), None)),
        ("focal", spec(Some(focal), None)),
        ("dice", spec(None, Some(dice))),
        ("dice_focal", spec(Some(focal), Some(dice))),
    ]
}

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    for dtype in [DType::Float32, DType::BFloat16, DType::Float16] {
        bench(&mut criterion, "large", &Batch::new(4, 512 * 512, dtype));
    }
    bench(&mut criterion, "small", &Batch::new(1, 16 * 16, DType::Float32));
    bench(&mut criterion, "cached", &Batch::new(1, 128 * 128, DType::Float32));
    criterion.final_summary();
}

/// Every loss on every instruction set.
fn bench(criterion: &mut Criterion, size: &str, batch: &Batch) {
    let mut room = vec![0u8; batch.logits.len()];
    let gradient = batch.view(room.as_mut_ptr());
    for (loss, spec) in &losses() {
        let truth = OnceCell::new();
        for set in InstructionSet::available() {
            let problem = batch.problem(spec, set);
            let checked = OnceCell::new();
            // Only once a bench that the user has chosen runs.
            let check = || {
                checked.get_or_init(|| {
                    let loss = training(&problem, gradient);
                    batch.check(loss, &room, truth.get_or_init(|| batch.naive(spec)));
                });
            };
            let name = format!("{size}/{}/{}", set.name(), batch.dtype.name());
            let mut group = criterion.benchmark_group(*loss);
            group.throughput(Throughput::Elements((batch.samples * CLASSES * batch.pixels) as u64));
            group.bench_function(format!("forward/{name}"), |b| {
                check();
                b.iter(|| black_box(&problem).reduce(None).expect("valid labels"));
            });
            group.bench_function(format!("training/{name}"), |b| {
                check();
                b.iter(|| training(black_box(&problem), gradient));
            });
        }
    }
}
