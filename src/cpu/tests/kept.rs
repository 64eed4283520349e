//! Which tiles of similarities are kept between the passes, and that they have the bits of tiles that are not.

use super::*;
use crate::cpu::passes;
use crate::cpu::prepared::Prepared;
use crate::cpu::similarities::Similarities;

/// Calls `check` with the similarities of a case, twice. `gradients`: whether a gradient of each is wanted.
fn with_similarities(
    case: &Case,
    gradients: [bool; 2],
    check: impl for<'s> FnOnce(Similarities<'s, f32>, Similarities<'s, f32>),
) {
    let rows: Vec<f32> = case.anchors.iter().map(|&x| x as f32).collect();
    let inputs = operands(case, vec![Rows::from_slice(&rows, case.problem.dims)], &[], &[]);
    let prepared = Prepared::new(&case.problem, &inputs, Isa::best(), 2).unwrap();
    let [first, second] = gradients.map(|gradient| prepared.similarities(gradient));
    check(first, second);
}

/// All tiles of two towers.
fn tiles(case: &Case, tile: usize) -> impl Iterator<Item = (usize, usize)> {
    let (tower, all) = (case.problem.anchors / 2, case.problem.anchors.div_ceil(tile));
    (0..tower.div_ceil(tile)).flat_map(move |a| (a.max(tower / tile)..all).map(move |b| (a, b)))
}

/// Whether a tile is kept: it is then not in the scratch memory.
fn keeps(similarities: &Similarities<'_, f32>, (a, b): (usize, usize)) -> bool {
    let mut scratch = vec![0.0; similarities.tile * similarities.tile];
    let start = scratch.as_ptr();
    similarities.tile(a, b, &mut scratch).as_ptr() != start
}

#[test]
fn two_towers_have_the_same_similarities_where_they_are_kept() {
    // Towers of whole tiles, and towers that meet within a tile.
    for samples in [20, 40, 100, 128, 700] {
        let case = Case::towers(samples, 16);
        with_similarities(&case, [true; 2], |mut kept, fresh| {
            kept.keep();
            let mut scratch = [0, 1].map(|_| vec![0.0; (kept.row_scratch() * 8).max(kept.tile * kept.tile)]);
            let [x, y] = &mut scratch;
            for start in (0..2 * samples).step_by(8) {
                kept.rows(start, 8, x);
                fresh.rows(start, 8, y);
                for anchor in start..(2 * samples).min(start + 8) {
                    let row = (anchor - start) * kept.row_scratch();
                    let other = case.problem.compared_keys(anchor);
                    assert_eq!(x[row..][other.clone()], y[row..][other]);
                }
            }
            kept.keep_negatives();
            for (a, b) in tiles(&case, kept.tile) {
                assert!(keeps(&kept, (a, b)));
                assert_eq!(kept.tile(a, b, x), fresh.tile(a, b, y));
            }
        });
        with_similarities(&case, [true; 2], |mut kept, fresh| {
            kept.keep_next();
            let [mut x, mut y] = [0, 1].map(|_| vec![0.0; kept.tile * kept.tile]);
            for _ in 0..2 {
                for (a, b) in tiles(&case, kept.tile) {
                    assert_eq!(kept.tile(a, b, &mut x), fresh.tile(a, b, &mut y));
                    assert!(keeps(&kept, (a, b)));
                }
            }
        });
    }
}

#[test]
fn tiles_are_kept_in_the_cache_or_where_rows_are_few_beside_the_dimensions() {
    for (samples, dims, gradient, expected) in [
        (2048, 8, true, true),
        (2048, 8, false, true),
        (2049, 8, true, false),
        (2304, 288, true, true),
        (2304, 288, false, false),
        (2305, 288, true, false),
    ] {
        let case = Case::towers(samples, dims);
        with_similarities(&case, [gradient; 2], |mut next, mut all| {
            next.keep_next();
            all.keep();
            let last = next.anchors.padded_rows / next.tile - 1;
            for similarities in [next, all] {
                assert_eq!(keeps(&similarities, (0, last)), expected, "{samples} {dims} {gradient}");
            }
        });
    }
}

#[test]
fn a_loss_without_a_gradient_keeps_no_tiles_of_the_joint_pass() {
    let mut case = Case::views(200, 2, 16);
    case.problem.threshold = Threshold::Adaptive { quantile: 0.99 };
    with_similarities(&case, [true, false], |mut with, mut without| {
        for (similarities, expected) in [(&mut with, true), (&mut without, false)] {
            assert!(passes::joint(&case.problem, similarities).is_some());
            assert_eq!(keeps(similarities, (0, 0)), expected);
        }
    });
}

#[test]
fn the_loss_has_the_same_bits_without_a_gradient() {
    let low = |mut case: Case| {
        case.problem.temperature = 0.01;
        case
    };
    let none = |mut case: Case| {
        case.problem.threshold = Threshold::Cosine { value: 1.0 };
        case
    };
    for case in [Case::views(150, 2, 16), Case::towers(150, 16), Case::indexed(90, 200, 16, 1)] {
        for case in [case.clone(), low(case.clone()), none(case.clone()), low(none(case))] {
            let narrow = |rows: &[f64]| rows.iter().map(|&x| x as f32).collect::<Vec<f32>>();
            let (anchors, keys) = (narrow(&case.anchors), narrow(&case.keys));
            let inputs = operands(&case, vec![Rows::from_slice(&anchors, case.problem.dims)], &keys, &[]);
            let alone = evaluate(&case.problem, &inputs, Gradients::none(), 2).unwrap();
            let both = run(&case, |x| x as f32, None, 2, Isa::best()).evaluation;
            assert_eq!(alone.losses, both.losses);
        }
    }
}
