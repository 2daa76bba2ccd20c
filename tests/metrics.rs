//! The confusion matrix without Python: any thread count, and which wrong label is reported.

use proptest::prelude::*;
use rarepixel::metrics::confusion_matrix;
use rarepixel::tensor::{DType, View};

/// A contiguous view of (samples, [channels,] pixels).
fn view<'a, T>(data: &'a mut [T], dtype: DType, shape: &[usize]) -> View<'a> {
    assert_eq!(data.len(), shape.iter().product::<usize>());
    let strides: Vec<isize> = (0..shape.len()).map(|d| shape[d + 1..].iter().product::<usize>() as isize).collect();
    // SAFETY: the strides are those of a contiguous array of `shape`, which is the length of `data`.
    unsafe { View::new(data.as_mut_ptr().cast(), dtype, shape, &strides, shape.len() == 3) }.expect("contiguous")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Enough pixels for several jobs of several threads; counted one by one as the truth.
    #[test]
    fn every_thread_count_gives_the_brute_force_counts(seed: u64, classes in 2usize..20, threads in 1usize..5) {
        let (samples, pixels) = (2, 70_001);
        let mut state = seed | 1;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            ((state >> 33) % below) as i16
        };
        let mut prediction: Vec<i16> = (0..samples * pixels).map(|_| random(classes as u64)).collect();
        let mut target: Vec<i16> = (0..samples * pixels).map(|_| random(classes as u64 + 1)).collect(); // C: ignored
        let mut expected = vec![0u64; classes * classes];
        for (&p, &t) in prediction.iter().zip(&target) {
            if t as usize != classes {
                expected[t as usize * classes + p as usize] += 1;
            }
        }
        let shape = [samples, pixels];
        let input = view(&mut prediction, DType::Int16, &shape);
        let target = view(&mut target, DType::Int16, &shape);
        let counts = confusion_matrix(&input, &target, &[pixels], classes, classes as i64, threads).unwrap();
        prop_assert_eq!(counts, expected);
    }

    /// With several wrong labels in several jobs, the first in memory order is named, whoever finds it.
    #[test]
    fn the_first_wrong_label_is_reported(at in prop::collection::vec(0usize..200_000, 1..5), threads in 1usize..5) {
        let mut target = vec![0u8; 200_000];
        for &index in &at {
            target[index] = 9;
        }
        let mut logits = vec![0f32; 2 * 200_000];
        let input = view(&mut logits, DType::Float32, &[1, 2, 200_000]);
        let target = view(&mut target, DType::UInt8, &[1, 200_000]);
        let error = confusion_matrix(&input, &target, &[400, 500], 2, 255, threads).unwrap_err().to_string();
        let first = at.iter().min().unwrap();
        prop_assert!(error.starts_with(&format!("target: got label 9 at position [0, {}, {}],", first / 500, first % 500)), "{}", error);
    }
}

#[test]
fn views_that_do_not_fit_are_refused() {
    let (mut logits, mut labels, mut shorter) = (vec![0f32; 12], vec![0i64; 4], vec![0i64; 3]);
    let input = view(&mut logits, DType::Float32, &[1, 3, 4]);
    let target = view(&mut labels, DType::Int64, &[1, 4]);
    let error = |result: rarepixel::Result<Vec<u64>>| result.unwrap_err().to_string();
    assert_eq!(confusion_matrix(&input, &target, &[2, 2], 3, 255, 1).unwrap(), [4, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert!(
        error(confusion_matrix(&input, &target, &[2, 2], 5, 255, 1)).starts_with("input: got 1 samples, 3 channels")
    );
    assert!(error(confusion_matrix(&input, &target, &[2, 3], 3, 255, 1)).starts_with("spatial: got [2, 3]"));
    assert!(error(confusion_matrix(&input, &target, &[4], 0, 255, 1)).starts_with("num_classes: got 0"));
    assert!(error(confusion_matrix(&input, &input, &[4], 3, 255, 1)).starts_with("target: got float32"));
    let shorter = view(&mut shorter, DType::Int64, &[1, 3]);
    assert!(error(confusion_matrix(&input, &shorter, &[3], 3, 255, 1)).contains("3 pixels, as in target"));
}
