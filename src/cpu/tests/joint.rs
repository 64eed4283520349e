//! Compares the joint pass with rows of the same similarities that are sorted and summed one by one. Also tests each
//! way in which the pass gives up or computes a row again.

use super::super::joint::Found;
use super::super::passes;
use super::super::prepared::Prepared;
use super::*;

/// The results of the joint pass for a square problem, and the expected results.
struct Both {
    found: Option<Found>,
    expected: Found,
}

fn both<E: Element>(case: &Case, narrow: fn(f64) -> E, threads: usize, isa: Isa) -> Both {
    let (problem, dims) = (&case.problem, case.problem.dims);
    let anchors: Vec<E> = case.anchors.iter().map(|&x| narrow(x)).collect();
    let inputs = operands(case, vec![Rows::from_slice(&anchors, dims)], &[], &[]);
    let prepared = Prepared::new(problem, &inputs, isa, threads).unwrap();
    let mut similarities = prepared.similarities(true);
    let Threshold::Adaptive { quantile } = problem.threshold else { panic!("an adaptive threshold is needed") };
    let rank = quantile_rank(problem.keys, quantile);
    let matrix: Vec<Vec<f64>> = (0..problem.anchors)
        .map(|anchor| {
            let mut rows = vec![E::Compute::ZERO; 8 * similarities.row_scratch()];
            similarities.rows(anchor / 8 * 8, 8, &mut rows);
            let row = &rows[anchor % 8 * similarities.row_scratch()..][..problem.keys];
            row.iter().map(|c| c.to_f64()).collect()
        })
        .collect();
    let quantiles: Vec<f64> = matrix
        .iter()
        .map(|row| {
            let mut row = row.clone();
            row.sort_by(|a, b| b.total_cmp(a));
            row[rank - 1]
        })
        .collect();
    let threshold = quantiles.iter().sum::<f64>() / problem.anchors as f64;
    // The comparison is in the precision of the similarities, as in the kernel.
    let limit = if threshold >= 1.0 { f64::INFINITY } else { E::Compute::from_f64(threshold).to_f64() };
    let beta = match problem.formulation {
        Formulation::Importance { beta, .. } => beta,
        _ => 1.0,
    };
    let sums = (0..problem.anchors)
        .map(|anchor| {
            let mut sums = [0.0; 4];
            for (key, &c) in matrix[anchor].iter().enumerate() {
                if prepared.pairs.excluded(anchor).any(|other| other == key as u32) {
                    continue;
                }
                let exponential = |factor: f64| (factor * (c - 1.0) / problem.temperature).exp();
                if c > limit {
                    sums[1] += exponential(1.0 + beta);
                    sums[2] += exponential(beta);
                    sums[3] += 1.0;
                } else {
                    sums[0] += exponential(1.0);
                }
            }
            sums
        })
        .collect();
    let found = passes::joint(problem, &mut similarities);
    Both { found, expected: Found { quantiles, threshold, sums } }
}

/// Checks that the pass succeeds with the expected results.
fn check<E: Element>(case: &Case, narrow: fn(f64) -> E, threads: usize, isa: Isa, tolerance: f64) {
    let Both { found, expected } = both(case, narrow, threads, isa);
    let found = found.unwrap();
    assert_eq!(found.quantiles, expected.quantiles);
    assert_eq!(found.threshold, expected.threshold);
    for (found, expected) in found.sums.iter().zip(&expected.sums) {
        assert_eq!(found[3], expected[3], "hierarchical negatives");
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() <= tolerance * expected, "{found} is not {expected}");
        }
    }
}

fn check_single(case: &Case) {
    check(case, |x| x as f32, 2, Isa::best(), 1e-5);
}

fn gives_up(case: &Case) {
    assert!(both(case, |x| x as f32, 2, Isa::best()).found.is_none());
}

fn with_quantile(samples: usize, dims: usize, quantile: f64) -> Case {
    Case::views(samples, 2, dims).with(|p| p.threshold = Threshold::Adaptive { quantile })
}

/// Shifts rows towards the same direction, so that they become similar.
fn attract(case: &mut Case, rows: impl Iterator<Item = usize>, strength: f64) {
    let dims = case.problem.dims;
    for row in rows {
        for (dim, x) in case.anchors[row * dims..][..dims].iter_mut().enumerate() {
            *x += strength * if dim % 3 == 0 { 1.0 } else { -1.0 };
        }
    }
}

#[test]
fn finds_the_same_in_every_precision_and_on_every_instruction_set() {
    for isa in Isa::all() {
        for samples in [32, 150, 333, 700] {
            let case = with_quantile(samples, 24, 0.99);
            check(&case, |x| x as f32, 1, isa, 1e-5);
            check(&case, |x| x, 3, isa, 1e-12);
        }
        check(&with_quantile(300, 24, 0.97), half::bf16::from_f64, 2, isa, 1e-5);
        check(&with_quantile(300, 24, 0.97), half::f16::from_f64, 2, isa, 1e-5);
    }
}

#[test]
fn finds_the_same_for_other_temperatures_weights_and_pairs() {
    for formulation in FORMULATIONS {
        for temperature in [0.15, 2.0] {
            if let Formulation::Importance { beta: 2.5, .. } = formulation {
                continue; // a single shift is not enough
            }
            check_single(
                &with_quantile(120, 16, 0.98).with(|p| (p.formulation, p.temperature) = (formulation, temperature)),
            );
        }
    }
    check_single(&Case::views(90, 3, 16).with(|p| p.threshold = Threshold::Adaptive { quantile: 0.98 }));
    // The keys that are not negatives are lists of different lengths.
    let mut own = with_quantile(150, 16, 0.99).with(|p| p.pairing = Pairing::Indexed { positives: 1 });
    own.positive_index = (0..300).collect();
    check_single(&own);
    own.ignored_index = (0..300)
        .flat_map(|i| {
            [(i + 150) % 300, if i % 150 < 20 || i % 150 >= 130 { 149 - i % 150 + i / 150 * 150 } else { -1 }]
        })
        .collect();
    check_single(&own);
}

#[test]
fn full_lists_are_shortened() {
    // A list of 512 numbers should hold the 120 largest of 4000 numbers, and about 120 (give or take 100) more.
    check_single(&with_quantile(2000, 48, 0.97));
    // A fifth of the rows are so similar that their lists fill with numbers above the threshold.
    let mut case = with_quantile(2000, 48, 0.97);
    attract(&mut case, (0..4000).step_by(5), 1.0);
    check_single(&case);
}

#[test]
fn rows_that_the_sample_misjudges_are_looked_at_again() {
    // Row 5 is similar to only four rows, and all of them are in the sample.
    let mut case = with_quantile(256, 64, 0.99);
    case.anchors[5 * 64..6 * 64].fill(0.0);
    attract(&mut case, [16, 32, 48, 64, 5].into_iter(), 10.0);
    check_single(&case);
}

#[test]
fn ties_do_not_matter() {
    // First thirty copies of each row, then rows with few distinct similarities.
    let mut case = with_quantile(300, 8, 0.97);
    let first: Vec<f64> = case.anchors[..20 * 8].to_vec();
    case.anchors = first.repeat(30);
    for quantile in [0.95, 0.97, 0.99] {
        let case = case.clone().with(|p| p.threshold = Threshold::Adaptive { quantile });
        let Both { found, expected } = both(&case, |x| x as f32, 2, Isa::best());
        if let Some(found) = found {
            assert_eq!(found.quantiles, expected.quantiles);
            let counts = |found: &Found| found.sums.iter().map(|sums| sums[3]).take(600).collect::<Vec<_>>();
            assert_eq!(counts(&found), counts(&expected));
        }
    }
    case.anchors.iter_mut().for_each(|x| *x = x.signum());
    check_single(&case);
}

#[test]
fn gives_up_where_lists_cannot_hold_what_is_open() {
    for quantile in [0.0, 0.3, 0.5] {
        gives_up(&with_quantile(500, 16, quantile));
    }
    // Nothing is above a threshold of 1, and the similarity of a row with itself is the largest in the row.
    check_single(&with_quantile(500, 16, 1.0));
    // A temperature for which a single shift is not enough.
    gives_up(&with_quantile(500, 16, 0.99).with(|p| p.temperature = 0.01));
    // A third of the rows have a third of all rows near the threshold.
    let mut case = with_quantile(1000, 24, 0.99);
    attract(&mut case, (0..2000).step_by(3), 3.0);
    gives_up(&case);
}

#[test]
fn gives_up_where_the_sample_misjudges_the_threshold() {
    // The keys in the sample are similar to each other, and all rows are more similar to them than to other keys.
    let mut case = with_quantile(256, 64, 0.99);
    let mut noise = Noise(3);
    case.anchors.iter_mut().for_each(|x| *x = noise.next() - 0.5);
    attract(&mut case, 0..512, 0.3);
    attract(&mut case, (0..512).step_by(16), 10.0);
    gives_up(&case);
}

#[test]
fn keeps_tiles_as_they_are_computed_otherwise() {
    for samples in [40, 700, 1200] {
        let case = with_quantile(samples, 16, 0.99);
        let anchors: Vec<f32> = case.anchors.iter().map(|&x| x as f32).collect();
        let inputs = operands(&case, vec![Rows::from_slice(&anchors, 16)], &[], &[]);
        let prepared = Prepared::new(&case.problem, &inputs, Isa::best(), 2).unwrap();
        let (mut kept, mut joint, fresh) =
            (prepared.similarities(true), prepared.similarities(true), prepared.similarities(true));
        kept.keep();
        let mut scratch = [0, 1, 2].map(|_| vec![0.0; (kept.row_scratch() * 16).max(kept.tile * kept.tile)]);
        for start in (0..2 * samples).step_by(16) {
            let [a, b, _] = &mut scratch;
            kept.rows(start, 16, a);
            fresh.rows(start, 16, b);
            for (a, b) in a.chunks(kept.row_scratch()).zip(b.chunks(kept.row_scratch())).take(16) {
                assert_eq!(a[..2 * samples], b[..2 * samples]);
            }
        }
        kept.keep_negatives();
        assert!(passes::joint(&case.problem, &mut joint).is_some());
        let blocks = 2 * samples / kept.tile;
        for (a, b) in (0..blocks).flat_map(|a| (a..blocks).map(move |b| (a, b))) {
            let [x, y, z] = &mut scratch;
            let (x, y, z) = (kept.tile(a, b, x), joint.tile(a, b, y), fresh.tile(a, b, z));
            let tile = kept.tile * kept.tile;
            assert_eq!(x[..tile], z[..tile]);
            assert_eq!(y[..tile], z[..tile]);
        }
    }
}

#[test]
fn the_loss_is_the_formula() {
    for (samples, quantile) in [(60, 0.97), (200, 0.99)] {
        for formulation in FORMULATIONS {
            let case = with_quantile(samples, 12, quantile).with(|p| p.formulation = formulation);
            let expected: Vec<f64> = reference(&case, None).0.into_iter().flatten().collect();
            assert_close(&double(&case).evaluation.losses, &expected, 1e-11, "losses");
        }
    }
}

#[test]
fn row_quantiles_are_those_of_the_loss() {
    let case = with_quantile(200, 16, 0.99);
    let anchors: Vec<f32> = case.anchors.iter().map(|&x| x as f32).collect();
    let inputs = operands(&case, vec![Rows::from_slice(&anchors, 16)], &[], &[]);
    let quantiles = row_quantiles(&case.problem, &inputs, 0.99, 2).unwrap();
    assert_eq!(quantiles, both(&case, |x| x as f32, 1, Isa::best()).expected.quantiles);
}
