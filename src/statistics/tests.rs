//! Compares the statistics with plain loops over all pairs, in double precision.
#![allow(clippy::unwrap_used, clippy::panic)]

use super::*;
use crate::error::RowFault;

/// Pseudo-random rows around seven centers.
fn embeddings(rows: usize, dims: usize) -> Vec<f64> {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1u64 << 53) as f64 - 0.5
    };
    let centers: Vec<f64> = (0..7 * dims).map(|_| next()).collect();
    (0..rows * dims).map(|i| centers[(i / dims % 7) * dims + i % dims] + 0.7 * next()).collect()
}

fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// All statistics, by plain loops.
fn by_loops(data: &[f64], dims: usize, request: &Request<'_>) -> SimilarityStatistics {
    let rows = data.len() / dims;
    let row = |i: usize| &data[i * dims..][..dims];
    let label = |labels: Option<&[i64]>, i: usize, own: i64| labels.map_or(own, |labels| labels[i]);
    let kind = |i: usize, j: usize| {
        let class = label(request.classes, i, i as i64) == label(request.classes, j, j as i64);
        let superclass = request.superclasses.map_or(class, |labels| labels[i] == labels[j]);
        if class {
            0
        } else if superclass {
            1
        } else {
            2
        }
    };
    let quantiles: Vec<f64> = (0..rows)
        .map(|i| {
            let mut all: Vec<f64> = (0..rows).map(|j| if i == j { 1.0 } else { cosine(row(i), row(j)) }).collect();
            all.sort_by(|a, b| b.total_cmp(a));
            all[quantile_rank(rows, request.quantile) - 1]
        })
        .collect();
    let threshold = request.threshold.unwrap_or(quantiles.iter().sum::<f64>() / rows as f64);
    let mut found = SimilarityStatistics {
        quantiles,
        threshold,
        negatives: vec![[0; GROUPS]; rows],
        means: vec![[0.0; GROUPS]; rows],
        above: vec![[0; GROUPS]; rows],
        histogram: std::array::from_fn(|_| vec![0; request.bins as usize]),
    };
    for i in 0..rows {
        for j in (0..rows).filter(|&j| j != i) {
            let (kind, c) = (kind(i, j), cosine(row(i), row(j)));
            found.negatives[i][kind] += 1;
            found.means[i][kind] += c;
            found.above[i][kind] += u32::from(c > threshold);
            if j > i {
                let bin = ((c + 1.0) / 2.0 * request.bins as f64) as usize;
                found.histogram[kind][bin.min(request.bins as usize - 1)] += 1;
            }
        }
        for kind in 0..GROUPS {
            found.means[i][kind] /= found.negatives[i][kind] as f64; // 0 / 0 is NaN
        }
    }
    found
}

fn assert_near(found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    for (a, b) in found.iter().zip(expected) {
        assert!((a - b).abs() <= tolerance || (a.is_nan() && b.is_nan()), "{a} is not {b}");
    }
}

#[test]
fn equals_plain_loops_in_double_precision() {
    for (rows, dims) in [(2, 1), (3, 5), (63, 8), (128, 33), (300, 17)] {
        let data = embeddings(rows, dims);
        let classes: Vec<i64> = (0..rows as i64).map(|i| 100 + i % 7).collect();
        let superclasses: Vec<i64> = (0..rows as i64).map(|i| (i % 7) / 3).collect();
        for (classes, superclasses) in [
            (None, None),
            (Some(&classes[..]), None),
            (None, Some(&superclasses[..])),
            (Some(&classes[..]), Some(&superclasses[..])),
        ] {
            for threshold in [None, Some(0.25)] {
                let request = Request { classes, superclasses, quantile: 0.9, threshold, bins: 23 };
                let expected = by_loops(&data, dims, &request);
                for threads in [1, 3] {
                    let found = similarity_statistics(Rows::from_slice(&data, dims), &request, threads).unwrap();
                    assert_near(&found.quantiles, &expected.quantiles, 1e-12);
                    assert_near(&[found.threshold], &[expected.threshold], 1e-12);
                    assert_eq!(found.negatives, expected.negatives);
                    assert_near(found.means.as_flattened(), expected.means.as_flattened(), 1e-9);
                    // In one dimension every cosine is 1 or -1, and rounding may put it on either side of the
                    // threshold.
                    if dims > 1 {
                        assert_eq!(found.above, expected.above);
                    }
                    assert_eq!(found.histogram, expected.histogram);
                }
            }
        }
    }
}

#[test]
fn single_precision_is_near_and_the_same_for_any_number_of_threads() {
    let (rows, dims) = (500, 40);
    let data = embeddings(rows, dims);
    let single: Vec<f32> = data.iter().map(|&x| x as f32).collect();
    let classes: Vec<i64> = (0..rows as i64).map(|i| i % 7).collect();
    let request = Request { classes: Some(&classes), superclasses: None, quantile: 0.99, threshold: None, bins: 50 };
    let expected = by_loops(&data, dims, &request);
    let run = |threads| similarity_statistics(Rows::from_slice(&single, dims), &request, threads).unwrap();
    let (one, three) = (run(1), run(3));
    assert_near(&one.quantiles, &expected.quantiles, 1e-6);
    assert_near(one.means.as_flattened(), expected.means.as_flattened(), 1e-6);
    assert_eq!((&one.quantiles, &one.above, &one.histogram), (&three.quantiles, &three.above, &three.histogram));
    let pairs: u64 = one.histogram.iter().flatten().sum();
    assert_eq!(pairs, (rows * (rows - 1) / 2) as u64);
}

#[test]
fn arguments_are_named() {
    let data = [1.0, 0.0, 0.0, 1.0, 1.0, 1.0];
    let good = Request { classes: None, superclasses: None, quantile: 0.9, threshold: None, bins: 10 };
    let message = |data: &[f64], request: Request<'_>| {
        similarity_statistics(Rows::from_slice(data, 2), &request, 1).unwrap_err().to_string()
    };
    for (request, expected) in [
        (Request { quantile: 1.5, ..good }, "expected `quantile` to be in [0, 1], but got 1.5"),
        (Request { threshold: Some(f64::NAN), ..good }, "expected `threshold` to be a number, but got NaN"),
        (Request { bins: 0, ..good }, "expected `bins` to be in [1, 10000], but got 0"),
        (Request { bins: -1, ..good }, "expected `bins` to be in [1, 10000], but got -1"),
        (Request { classes: Some(&[1, 2]), ..good }, "expected `classes` to have shape [3], but got [2]"),
        (Request { superclasses: Some(&[1, -1, 2]), ..good }, "expected `superclasses` to be at least 0, but got -1"),
        (
            Request { classes: Some(&[4, 4, 5]), superclasses: Some(&[0, 1, 1]), ..good },
            "expected `superclasses` to be one for each class, but class 4 has 0 and 1",
        ),
    ] {
        assert_eq!(message(&data, request), expected);
    }
    assert_eq!(
        message(&data[..2], good),
        "expected `embeddings` to have shape [N, D] with N at least 2 and D at least 1, but got [1, 2]"
    );
    let zero = similarity_statistics(Rows::from_slice(&[1.0, 0.0, 0.0, 0.0], 2), &good, 1);
    assert_eq!(zero.unwrap_err(), Error::Row { input: Input::Anchors, row: 1, fault: RowFault::Zero });
}
