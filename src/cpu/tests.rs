//! Compares the kernel with a dense version of the formula in double precision, over pairings, thresholds,
//! formulations, element types, sizes, instruction sets and thread counts.
#![allow(clippy::unwrap_used, clippy::panic)]

use proptest::prelude::*;

use super::evaluate::evaluate_with;
use super::*;
use crate::error::{Error, Input, RowFault};
use crate::problem::{quantile_rank, Formulation, Pairing, Problem, Reduction, Threshold};

mod hostile;
mod joint;
mod kept;
mod margin;

/// A problem with its inputs in double precision.
#[derive(Debug, Clone)]
struct Case {
    problem: Problem,
    anchors: Vec<f64>,
    keys: Vec<f64>,
    /// The rows apart, of which each anchor has `Problem::rows_apart`.
    apart: Vec<f64>,
    positive_index: Vec<i64>,
    /// Lists of equal length, padded with -1.
    ignored_index: Vec<i64>,
    anchor_labels: Vec<i64>,
    key_labels: Vec<i64>,
}

/// Pseudo-random numbers.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Rows around a few centers. Their similarities spread like those of a trained network.
    fn rows(&mut self, rows: usize, dims: usize) -> Vec<f64> {
        let mut row_noise = |scale: f64| (0..dims).map(|_| (self.next() - 0.5) * scale).collect::<Vec<_>>();
        let centers: Vec<Vec<f64>> = (0..4).map(|_| row_noise(2.0)).collect();
        (0..rows).flat_map(|row| row_noise(1.5).into_iter().zip(centers[row % 4].clone()).map(|(a, b)| a + b)).collect()
    }
}

const IMPORTANCE: Formulation = Formulation::Importance { beta: 1.0, tau_plus: 0.1 };

impl Case {
    fn views(samples: usize, views: usize, dims: usize) -> Self {
        let anchors = samples * views;
        let problem = Problem {
            anchors,
            keys: anchors,
            dims,
            square: true,
            pairing: Pairing::Views { views, offset: 0 },
            own_negatives: 0,
            ignored: 0,
            threshold: Threshold::Adaptive { quantile: 0.9 },
            formulation: IMPORTANCE,
            temperature: 0.2,
            reduction: Reduction::Mean,
        };
        let labels: Vec<i64> = (0..anchors).map(|i| (i % samples % 3) as i64 - 7).collect();
        Self {
            problem,
            anchors: Noise(anchors as u64 + 1).rows(anchors, dims),
            keys: vec![],
            apart: vec![],
            positive_index: vec![],
            ignored_index: vec![],
            anchor_labels: labels,
            key_labels: vec![],
        }
    }

    fn gathered(samples: usize, dims: usize, before: usize, after: usize) -> Self {
        let mut case = Self::views(samples, 2, dims);
        let mut noise = Noise(99);
        case.keys = noise.rows(before, dims);
        case.keys.extend(&case.anchors);
        case.keys.extend(noise.rows(after, dims));
        case.problem.square = false;
        case.problem.keys = before + 2 * samples + after;
        case.problem.pairing = Pairing::Views { views: 2, offset: before };
        case.key_labels = (0..case.problem.keys).map(|j| (j % 3) as i64 - 7).collect();
        case
    }

    fn indexed(anchors: usize, keys: usize, dims: usize, positives: usize) -> Self {
        let mut case = Self::views(anchors.max(2), 2, dims);
        let mut noise = Noise(5);
        case.anchors = noise.rows(anchors, dims);
        case.keys = noise.rows(keys, dims);
        case.positive_index =
            (0..anchors).flat_map(|i| (0..positives).map(move |p| ((i + p * 2) % keys) as i64)).collect();
        case.ignored_index = (0..anchors).map(|i| if i % 3 == 0 { -1 } else { ((i + 1) % keys) as i64 }).collect();
        case.anchor_labels.truncate(anchors);
        case.anchor_labels.resize(anchors, -7);
        case.key_labels = (0..keys).map(|j| (j % 3) as i64 - 7).collect();
        case.problem =
            Problem { anchors, keys, square: false, pairing: Pairing::Indexed { positives }, ..case.problem };
        case
    }

    fn queue(anchors: usize, keys: usize, dims: usize) -> Self {
        let mut case = Self::indexed(anchors, keys, dims, 1);
        case.apart = Noise(17).rows(anchors, dims);
        case.positive_index.clear();
        case.ignored_index.clear();
        case.problem.pairing = Pairing::Apart;
        case
    }

    /// The case with own negatives. They come after the positives, if these are apart.
    fn with_own_negatives(mut self, count: usize) -> Self {
        let dims = self.problem.dims;
        let own = Noise(23).rows(self.problem.anchors * count, dims);
        let positives = std::mem::take(&mut self.apart);
        for (anchor, own) in own.chunks_exact(count * dims).enumerate() {
            self.apart.extend(positives.chunks_exact(dims).nth(anchor).unwrap_or_default());
            self.apart.extend(own);
        }
        self.with(|problem| problem.own_negatives = count)
    }

    /// The case with lists of keys to ignore: none, two or all negatives.
    fn ignoring_lists(mut self) -> Self {
        let keys = self.problem.keys as i64;
        let positives = self.positive_index.len() / self.problem.anchors;
        self.ignored_index = (0..self.problem.anchors)
            .flat_map(|anchor| {
                let own = self.positive_index[anchor * positives..][..positives].to_vec();
                let others = (0..keys).rev().filter(move |key| !own.contains(key));
                let most = [0, 2, keys as usize][anchor % 3];
                others.take(most).chain(std::iter::repeat(-1)).take(keys as usize)
            })
            .collect();
        self
    }

    fn towers(samples: usize, dims: usize) -> Self {
        Self::views(samples, 2, dims).with(|problem| problem.pairing = Pairing::Towers)
    }

    /// The case with SupCon's formulation, which uses the labels.
    fn supervised(self) -> Self {
        self.with(|problem| {
            problem.formulation = Formulation::Supervised;
            problem.threshold = Threshold::Labels;
        })
    }

    fn with(mut self, change: impl FnOnce(&mut Problem)) -> Self {
        change(&mut self.problem);
        self
    }
}

/// The results of a run.
#[derive(Debug, Clone)]
struct Outcome {
    evaluation: Evaluation,
    anchors: Vec<f64>,
    keys: Vec<f64>,
    apart: Vec<f64>,
}

/// The operands of a case, with rows of another element type.
fn operands<'a, E: Element>(
    case: &'a Case,
    views: Vec<Rows<'a, E>>,
    keys: &'a [E],
    apart: &'a [E],
) -> BorrowedOperands<'a, E> {
    let given = |list: &'a [i64]| (!list.is_empty()).then_some(list);
    BorrowedOperands {
        keys: (!case.problem.square).then(|| Rows::from_slice(keys, case.problem.dims)),
        positives: (!apart.is_empty()).then(|| Rows::from_slice(apart, case.problem.dims)),
        positive_index: given(&case.positive_index),
        ignored_index: given(&case.ignored_index),
        anchor_labels: given(&case.anchor_labels),
        key_labels: given(&case.key_labels),
        ..BorrowedOperands::of_views(views)
    }
}

/// Runs the kernel on elements of type `E`.
fn run<E: Element>(case: &Case, narrow: fn(f64) -> E, weights: Option<&[f64]>, threads: usize, isa: Isa) -> Outcome {
    let narrow = |all: &[f64]| all.iter().map(|&x| narrow(x)).collect::<Vec<E>>();
    let (anchors, keys, apart) = (narrow(&case.anchors), narrow(&case.keys), narrow(&case.apart));
    let dims = case.problem.dims;
    let half = anchors.len() / 2 / dims * dims;
    let parts = [Rows::from_slice(&anchors[..half], dims), Rows::from_slice(&anchors[half..], dims)];
    let inputs = BorrowedOperands { weights, ..operands(case, parts.to_vec(), &keys, &apart) };
    let mut outs = [&anchors, &keys, &apart].map(|rows| vec![E::Compute::MAX; rows.len()]);
    let [of_anchors, of_keys, of_apart] = &mut outs;
    let gradients = Gradients { anchors: Some(of_anchors), keys: Some(of_keys), positives: Some(of_apart) };
    let evaluation = evaluate_with(&case.problem, &inputs, gradients, threads, isa).unwrap();
    let [anchors, keys, apart] = outs.map(|out| out.into_iter().map(Float::to_f64).collect());
    Outcome { evaluation, anchors, keys, apart }
}

fn double(case: &Case) -> Outcome {
    run::<f64>(case, |x| x, None, 1, Isa::best())
}

fn unit(rows: &[f64], dims: usize) -> Vec<Vec<f64>> {
    rows.chunks_exact(dims)
        .map(|row| {
            let length = row.iter().map(|x| x * x).sum::<f64>().sqrt();
            row.iter().map(|x| x / length).collect()
        })
        .collect()
}

/// A dense transcription of the formula. Returns the loss of each anchor (None if undefined), and the thresholds.
fn reference(case: &Case, thresholds: Option<&[f64]>) -> (Vec<Option<f64>>, Vec<f64>) {
    let p = &case.problem;
    let anchors = unit(&case.anchors, p.dims);
    let keys = if p.square { anchors.clone() } else { unit(&case.keys, p.dims) };
    let apart = unit(&case.apart, p.dims);
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    let positives_of = |i: usize| -> Vec<usize> {
        match p.pairing {
            Pairing::Views { views, offset } => {
                (1..views).map(|v| offset + (i + v * (p.anchors / views)) % p.anchors).collect()
            }
            Pairing::Indexed { positives } => {
                case.positive_index[i * positives..][..positives].iter().map(|&j| j as usize).collect()
            }
            Pairing::Apart => vec![],
            Pairing::Towers => vec![(i + p.anchors / 2) % p.anchors],
        }
    };
    let is_left_out = |i: usize, j: usize| match p.pairing {
        Pairing::Views { offset, .. } => offset + i == j,
        _ => {
            let each = case.ignored_index.len() / p.anchors;
            case.ignored_index[i * each..][..each].contains(&(j as i64))
        }
    };
    let compared = |i: usize, j: usize| p.pairing != Pairing::Towers || (i < p.anchors / 2) != (j < p.anchors / 2);
    let rows: Vec<Vec<f64>> = (0..p.anchors)
        .map(|i| {
            let mut row: Vec<f64> = keys.iter().map(|key| dot(&anchors[i], key)).collect();
            if let Pairing::Views { offset, .. } = p.pairing {
                row[offset + i] = 1.0;
            }
            row.extend(apart.iter().skip(i * p.rows_apart()).take(p.rows_apart()).map(|other| dot(&anchors[i], other)));
            row
        })
        .collect();
    let thresholds: Vec<f64> = match (thresholds, p.threshold) {
        (Some(given), _) => given.to_vec(),
        (None, Threshold::Adaptive { quantile }) => {
            let quantiles = rows.iter().enumerate().map(|(i, row)| {
                let mut row: Vec<f64> =
                    row.iter().enumerate().filter(|&(j, _)| compared(i, j)).map(|(_, &c)| c).collect();
                row.sort_by(|a, b| b.total_cmp(a));
                row[quantile_rank(row.len(), quantile) - 1]
            });
            vec![quantiles.sum::<f64>() / p.anchors as f64; p.anchors]
        }
        (None, Threshold::Cosine { value }) => vec![value; p.anchors],
        (None, Threshold::MinMax { value }) => rows
            .iter()
            .enumerate()
            .map(|(i, row)| {
                let row = row.iter().enumerate().filter(|&(j, _)| compared(i, j)).map(|(_, &c)| c);
                let row: Vec<f64> = row.collect();
                let low = row.iter().copied().fold(f64::INFINITY, f64::min);
                let high = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                if value >= 1.0 {
                    f64::INFINITY
                } else {
                    low + value * (high - low)
                }
            })
            .collect(),
        (None, Threshold::Margin { margin, relative }) => (0..p.anchors)
            .map(|i| {
                let among_keys = positives_of(i).into_iter().map(|j| rows[i][j]).fold(f64::NEG_INFINITY, f64::max);
                let closest = if p.pairing == Pairing::Apart { rows[i][p.keys] } else { among_keys };
                if relative {
                    closest + margin * closest.abs()
                } else {
                    closest + margin
                }
            })
            .collect(),
        (None, Threshold::Labels | Threshold::Given) => vec![f64::NAN; p.anchors],
    };
    let key_labels = if p.square { &case.anchor_labels } else { &case.key_labels };
    let losses = (0..p.anchors).map(|i| {
        let positives = positives_of(i);
        let is_negative = |j: &usize| !positives.contains(j) && !is_left_out(i, *j) && compared(i, *j);
        // The own negatives are the last numbers of the row. They have no label.
        let negatives = (0..p.keys).filter(is_negative).chain(rows[i].len() - p.own_negatives..rows[i].len());
        let (local, global): (Vec<usize>, Vec<usize>) = negatives.partition(|&j| match p.threshold {
            Threshold::Labels => key_labels.get(j) == Some(&case.anchor_labels[i]),
            _ => thresholds[i] < 1.0 && rows[i][j] > thresholds[i],
        });
        let s = |j: usize| rows[i][j] / p.temperature;
        let positive_logits: Vec<f64> = match p.pairing {
            Pairing::Apart => vec![s(p.keys)],
            _ => positives.iter().map(|&j| s(j)).collect(),
        };
        let count = local.len() as f64;
        let negatives = (local.len() + global.len()) as f64;
        if p.formulation == Formulation::Supervised {
            let attracted = positive_logits.iter().copied().chain(local.iter().map(|&j| s(j)));
            let all = positive_logits.iter().copied().chain((0..p.keys).filter(is_negative).map(s));
            let denominator = all.map(f64::exp).sum::<f64>().ln();
            let count = positive_logits.len() + local.len();
            return (count > 0).then(|| denominator - attracted.sum::<f64>() / count as f64);
        }
        let e_global: f64 = global.iter().map(|&j| s(j).exp()).sum();
        let losses = positive_logits.iter().map(|&positive| match p.formulation {
            Formulation::Importance { beta, tau_plus } => {
                let mean = local.iter().map(|&j| (beta * s(j)).exp()).sum::<f64>() / count;
                let r: f64 = local.iter().map(|&j| (beta * s(j)).exp() / mean * s(j).exp()).sum();
                let debiased = (r - tau_plus * count * positive.exp()) / (1.0 - tau_plus);
                let q = if count == 0.0 { 0.0 } else { debiased.max(count * (-1.0 / p.temperature).exp()) };
                Some(-positive + (positive.exp() + e_global + q).ln())
            }
            Formulation::Elimination => Some((e_global / positive.exp()).ln_1p()),
            _ if global.is_empty() => None,
            Formulation::Official => Some(-positive + e_global.ln() + negatives * (-1.0 / p.temperature).exp()),
            Formulation::Decoupled | Formulation::Supervised => Some(-positive + e_global.ln()),
        });
        losses.sum::<Option<f64>>().map(|sum| sum / positive_logits.len() as f64)
    });
    (losses.collect(), thresholds)
}

fn reduce(losses: &[Option<f64>], reduction: Reduction) -> f64 {
    let sum: f64 = losses.iter().flatten().sum();
    match reduction {
        Reduction::Mean => sum / losses.iter().flatten().count().max(1) as f64,
        _ => sum,
    }
}

fn assert_close(got: &[f64], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}");
    let norm = |all: &mut dyn Iterator<Item = f64>| all.map(|x| x * x).sum::<f64>().sqrt();
    let off = norm(&mut got.iter().zip(expected).map(|(a, b)| a - b));
    let size = norm(&mut expected.iter().copied());
    assert!(off <= tolerance * size.max(1e-9), "{what}: off by {off:e} of {size:e}");
}

/// Checks the loss, and the gradients of all inputs by central differences with fixed thresholds.
fn check_against_reference(case: &Case) {
    let (losses, thresholds) = reference(case, None);
    let outcome = double(case);
    let expected: Vec<f64> = losses.iter().map(|loss| loss.unwrap_or(0.0)).collect();
    assert_close(&outcome.evaluation.losses, &expected, 1e-11, "losses");
    let loss = reduce(&losses, case.problem.reduction);
    assert_close(&[outcome.evaluation.loss], &[loss], 1e-11, "loss");
    assert_eq!(outcome.evaluation.statistics.undefined, losses.iter().filter(|loss| loss.is_none()).count() as f64);
    let at = |case: &Case| reduce(&reference(case, Some(&thresholds)).0, case.problem.reduction);
    let differences = |pick: fn(&mut Case) -> &mut Vec<f64>| {
        let mut moved = case.clone();
        (0..pick(&mut moved).len())
            .map(|i| {
                let old = pick(&mut moved)[i];
                pick(&mut moved)[i] = old + 1e-5;
                let up = at(&moved);
                pick(&mut moved)[i] = old - 1e-5;
                let down = at(&moved);
                pick(&mut moved)[i] = old;
                (up - down) / 2e-5
            })
            .collect::<Vec<_>>()
    };
    let at_temperature = |change: f64| at(&case.clone().with(|problem| problem.temperature += change));
    let slope = (at_temperature(1e-6) - at_temperature(-1e-6)) / 2e-6;
    let off = (outcome.evaluation.temperature - slope).abs();
    assert!(
        off <= 1e-6 * slope.abs() + 1e-8,
        "derivative with respect to the temperature: off by {off:e} of {slope:e}"
    );
    if case.problem.square || !matches!(case.problem.pairing, Pairing::Views { .. }) {
        assert_close(&outcome.anchors, &differences(|case| &mut case.anchors), 1e-7, "anchors' gradient");
        assert_close(&outcome.keys, &differences(|case| &mut case.keys), 1e-7, "keys' gradient");
        assert_close(&outcome.apart, &differences(|case| &mut case.apart), 1e-7, "positives' gradient");
    }
}

fn all_cases() -> Vec<Case> {
    vec![
        Case::views(7, 2, 5),
        Case::views(5, 3, 4),
        Case::views(2, 2, 3),
        Case::gathered(6, 4, 4, 6),
        Case::indexed(7, 11, 5, 1),
        Case::indexed(5, 9, 3, 2),
        Case::queue(6, 13, 4),
        Case::towers(7, 5),
        Case::indexed(6, 8, 4, 1).ignoring_lists(),
        Case::queue(6, 8, 4).ignoring_lists(),
        Case::indexed(5, 9, 3, 2).with_own_negatives(3),
        Case::queue(4, 5, 3).ignoring_lists().with_own_negatives(1),
    ]
}

const THRESHOLDS: [Threshold; 12] = [
    Threshold::Adaptive { quantile: 0.75 },
    Threshold::Adaptive { quantile: 0.99 },
    Threshold::Cosine { value: 0.3 },
    Threshold::Cosine { value: f64::NEG_INFINITY },
    Threshold::Cosine { value: f64::INFINITY },
    Threshold::MinMax { value: 0.6 },
    Threshold::MinMax { value: 1.0 },
    Threshold::MinMax { value: f64::NEG_INFINITY },
    Threshold::Labels,
    Threshold::Margin { margin: 0.1, relative: false },
    Threshold::Margin { margin: -0.3, relative: false },
    Threshold::Margin { margin: -0.4, relative: true },
];

const FORMULATIONS: [Formulation; 7] = [
    IMPORTANCE,
    Formulation::Importance { beta: 0.0, tau_plus: 0.0 },
    Formulation::Importance { beta: 2.5, tau_plus: 0.0 },
    Formulation::Importance { beta: 0.5, tau_plus: 0.01 },
    Formulation::Official,
    Formulation::Decoupled,
    Formulation::Elimination,
];

#[test]
fn every_mode_is_the_formula() {
    for case in all_cases() {
        for threshold in THRESHOLDS {
            for formulation in FORMULATIONS {
                for (temperature, reduction) in [(0.5, Reduction::Mean), (0.1, Reduction::Sum)] {
                    check_against_reference(&case.clone().with(|p| {
                        *p = Problem { threshold, formulation, temperature, reduction, ..*p };
                    }));
                }
            }
        }
    }
}

#[test]
fn supervised_is_the_formula() {
    let alone = Case::views(9, 1, 4);
    let mut unpaired = alone.clone();
    unpaired.anchor_labels[4] = 99;
    let cases = [
        alone.clone(),
        unpaired,
        Case::views(7, 2, 5),
        Case::views(5, 3, 4),
        Case::gathered(6, 4, 4, 6),
        Case::indexed(7, 11, 5, 1),
        Case::indexed(5, 9, 3, 2),
        Case::queue(6, 13, 4),
    ];
    for case in cases {
        for (temperature, reduction) in [(0.5, Reduction::Mean), (0.1, Reduction::Sum), (0.02, Reduction::Mean)] {
            let case = case.clone().supervised();
            check_against_reference(&case.with(|p| *p = Problem { temperature, reduction, ..*p }));
        }
    }
    for temperature in [0.001, 10.0] {
        let outcome = run::<f32>(
            &Case::views(200, 2, 16).supervised().with(|p| p.temperature = temperature),
            |x| x as f32,
            None,
            2,
            Isa::best(),
        );
        assert!(outcome.anchors.iter().chain([&outcome.evaluation.loss]).all(|x| x.is_finite()));
    }
}

#[test]
fn towers_are_two_problems_of_one_direction() {
    // Whole tiles, partial tiles, and a tile with the end of one tower and the start of the other.
    for (samples, threads) in [(64, 1), (65, 3), (128, 2), (257, 2), (300, 4)] {
        for threshold in [Threshold::Adaptive { quantile: 0.9 }, Threshold::Cosine { value: 0.4 }, Threshold::Labels] {
            let dims = 6;
            let both =
                Case::towers(samples, dims).with(|p| *p = Problem { threshold, reduction: Reduction::Sum, ..*p });
            let (first, second) = both.anchors.split_at(samples * dims);
            let (first_labels, second_labels) = both.anchor_labels.split_at(samples);
            let direction = |anchors: &[f64], keys: &[f64], labels: &[i64], key_labels: &[i64], number: f64| {
                let mut case = Case::indexed(samples, samples, dims, 1);
                (case.anchors, case.keys) = (anchors.to_vec(), keys.to_vec());
                (case.anchor_labels, case.key_labels) = (labels.to_vec(), key_labels.to_vec());
                case.positive_index = (0..samples as i64).collect();
                case.ignored_index.clear();
                let threshold = match threshold {
                    Threshold::Adaptive { .. } => Threshold::Cosine { value: number },
                    other => other,
                };
                double(&case.with(|p| *p = Problem { threshold, reduction: Reduction::Sum, ..*p }))
            };
            let joint = run::<f64>(&both, |x| x, None, threads, Isa::best());
            let number = joint.evaluation.statistics.threshold;
            let there = direction(first, second, first_labels, second_labels, number);
            let back = direction(second, first, second_labels, first_labels, number);
            let losses = [there.evaluation.losses.clone(), back.evaluation.losses.clone()].concat();
            assert_close(&joint.evaluation.losses, &losses, 1e-11, "losses");
            let sum = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a + b).collect::<Vec<_>>();
            let gradient = [sum(&there.anchors, &back.keys), sum(&there.keys, &back.anchors)].concat();
            assert_close(&joint.anchors, &gradient, 1e-10, "gradient");
            let temperature = there.evaluation.temperature + back.evaluation.temperature;
            assert_close(&[joint.evaluation.temperature], &[temperature], 1e-9, "temperature");
            let single = run::<f32>(&both, |x| x as f32, None, threads, Isa::best());
            assert_close(&single.anchors, &gradient, 2e-4, "single gradient");
        }
    }
}

#[test]
fn low_temperatures_stay_exact() {
    // exp(200) fits the double precision of the reference. The kernel must not need it.
    for case in all_cases() {
        for threshold in [THRESHOLDS[0], THRESHOLDS[3], THRESHOLDS[4], THRESHOLDS[7], THRESHOLDS[9]] {
            for formulation in [IMPORTANCE, Formulation::Official] {
                let case = case.clone().with(|p| *p = Problem { threshold, formulation, temperature: 0.02, ..*p });
                let expected: Vec<f64> = reference(&case, None).0.iter().map(|loss| loss.unwrap_or(0.0)).collect();
                let single = run::<f32>(&case, |x| x as f32, None, 1, Isa::best());
                let exact = double(&case);
                assert_close(&exact.evaluation.losses, &expected, 1e-10, "losses");
                assert_close(&single.evaluation.losses, &expected, 1e-4, "single losses");
                assert_close(&single.anchors, &exact.anchors, 1e-3, "single gradient");
            }
        }
    }
}

#[test]
fn extreme_temperatures_are_finite() {
    for temperature in [0.001, 0.005, 0.01, 10.0, 1000.0] {
        for threshold in THRESHOLDS {
            for formulation in FORMULATIONS {
                let case = Case::views(40, 2, 16).with(|p| *p = Problem { threshold, formulation, temperature, ..*p });
                let outcome = run::<f32>(&case, |x| x as f32, None, 2, Isa::best());
                assert!(outcome.evaluation.loss.is_finite());
                assert!(outcome.anchors.iter().all(|x| x.is_finite()));
            }
        }
    }
}

#[test]
fn single_precision_equals_double_on_every_instruction_set() {
    let cases = [
        Case::views(150, 2, 33),
        Case::views(1030, 2, 20),
        Case::views(77, 4, 64),
        Case::gathered(70, 40, 66, 130),
        Case::queue(100, 300, 24),
        Case::indexed(150, 170, 24, 2).with_own_negatives(5),
    ];
    for case in cases {
        for formulation in [IMPORTANCE, Formulation::Official] {
            let case = case.clone().with(|p| p.formulation = formulation);
            let exact = double(&case);
            // Pairs must be on the same side of the threshold in both precisions.
            let threshold = exact.evaluation.statistics.threshold;
            let case = case.with(|p| p.threshold = Threshold::Cosine { value: threshold + 1e-9 });
            let exact = double(&case);
            for isa in Isa::all() {
                let single = run::<f32>(&case, |x| x as f32, None, 2, isa);
                let hierarchical = |outcome: &Outcome| outcome.evaluation.statistics.hierarchical;
                assert!((hierarchical(&single) - hierarchical(&exact)).abs() < 0.01);
                assert_close(&single.evaluation.losses, &exact.evaluation.losses, 3e-5, "losses");
                assert_close(&single.anchors, &exact.anchors, 3e-3, "gradient");
                let wide = run::<f64>(&case, |x| x, None, 2, isa);
                assert_close(&wide.anchors, &exact.anchors, 1e-12, "double gradient");
                assert_close(&wide.keys, &exact.keys, 1e-12, "double gradient of the keys");
            }
        }
    }
}

#[test]
fn half_precision_is_the_loss_of_the_rounded_inputs() {
    let case = Case::views(100, 2, 48).with(|p| p.temperature = 0.5);
    let rounded = |round: fn(f64) -> f64| {
        let mut case = case.clone();
        case.anchors.iter_mut().for_each(|x| *x = round(*x));
        case
    };
    let check = |got: Outcome, expected: Outcome, loss: f64, gradient: f64| {
        assert_close(&[got.evaluation.loss], &[expected.evaluation.loss], loss, "loss");
        assert_close(&got.anchors, &expected.anchors, gradient, "gradient");
    };
    let f16 = |x| half::f16::from_f64(x);
    check(run(&case, f16, None, 2, Isa::best()), double(&rounded(|x| half::f16::from_f64(x).to_f64())), 1e-5, 5e-3);
    let bf16 = |x| half::bf16::from_f64(x);
    check(run(&case, bf16, None, 2, Isa::best()), double(&rounded(|x| half::bf16::from_f64(x).to_f64())), 1e-5, 5e-3);
}

#[test]
fn the_same_bits_from_run_to_run() {
    for case in [
        Case::views(300, 2, 40),
        Case::views(1100, 2, 16),
        Case::gathered(90, 24, 64, 200),
        Case::queue(150, 100, 24).with_own_negatives(3),
    ] {
        let once = |threads| {
            let outcome = run::<f32>(&case, |x| x as f32, None, threads, Isa::best());
            [outcome.evaluation.losses, outcome.anchors, outcome.keys]
        };
        let bits = |all: &[Vec<f64>; 3]| all.each_ref().map(|v| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>());
        let alone = once(1);
        for threads in [1, 2, 3, 8] {
            let first = once(threads);
            assert!((0..3).all(|_| bits(&once(threads)) == bits(&first)), "differs on {threads} threads");
            for (got, expected) in first.iter().zip(&alone) {
                assert_close(got, expected, 1e-5, "on several threads");
            }
        }
    }
}

#[test]
fn weights_give_the_gradient_of_the_weighted_sum() {
    let case = Case::views(9, 2, 6).with(|p| p.reduction = Reduction::Sum);
    let mut expected = vec![0.0; case.anchors.len()];
    let weights: Vec<f64> = (0..18).map(|i| f64::from(i) * 0.3 - 1.0).collect();
    for (i, weight) in weights.iter().enumerate() {
        let mut one = vec![0.0; 18];
        one[i] = 1.0;
        let part = run::<f64>(&case, |x| x, Some(&one), 1, Isa::best());
        expected.iter_mut().zip(&part.anchors).for_each(|(sum, x)| *sum += weight * x);
    }
    let whole = run::<f64>(&case, |x| x, Some(&weights), 1, Isa::best());
    assert_close(&whole.anchors, &expected, 1e-12, "gradient");
    let loss: f64 = whole.evaluation.losses.iter().zip(&weights).map(|(a, b)| a * b).sum();
    assert_close(&[whole.evaluation.loss], &[loss], 1e-12, "loss");
}

#[test]
fn a_given_threshold_is_that_number() {
    for case in all_cases() {
        let parts = vec![Rows::from_slice(&case.anchors, case.problem.dims)];
        let given = operands(&case, parts, &case.keys, &case.apart);
        let given = BorrowedOperands { threshold: Some(0.3), ..given };
        let losses = |threshold| {
            let problem = Problem { threshold, ..case.problem };
            evaluate(&problem, &given, Gradients::none(), 1).unwrap().losses
        };
        assert_eq!(losses(Threshold::Given), losses(Threshold::Cosine { value: 0.3 }));
        assert_ne!(losses(Threshold::Given), losses(Threshold::Cosine { value: -0.3 }));
    }
}

#[test]
fn lengths_of_rows_do_not_matter() {
    let case = Case::views(20, 2, 8);
    let expected = run::<f32>(&case, |x| x as f32, None, 1, Isa::best());
    for scale in [1e-37, 1e-20, 1e20, 1e37] {
        let mut scaled = case.clone();
        scaled.anchors.iter_mut().for_each(|x| *x *= scale);
        let got = run::<f32>(&scaled, |x| x as f32, None, 1, Isa::best());
        assert_close(&[got.evaluation.loss], &[expected.evaluation.loss], 1e-5, "loss");
        assert!(got.anchors.iter().all(|x| x.is_finite()));
    }
}

#[test]
fn duplicates_and_tiny_batches_are_finite() {
    for samples in 2..30 {
        for formulation in FORMULATIONS {
            let mut case = Case::views(samples, 2, 4).with(|p| {
                *p = Problem { formulation, threshold: Threshold::Adaptive { quantile: 0.99 }, temperature: 0.1, ..*p };
            });
            for fill in [false, true] {
                if fill {
                    case.anchors.fill(0.3);
                }
                let outcome = run::<f32>(&case, |x| x as f32, None, 1, Isa::best());
                assert!(outcome.evaluation.loss.is_finite());
                assert!(outcome.anchors.iter().all(|x| x.is_finite()));
                // The quantile of each row is the anchor's similarity with itself. It is exactly 1, so nothing is above
                // it.
                if 2 * samples <= 50 {
                    assert_eq!(outcome.evaluation.statistics.threshold, 1.0);
                    assert_eq!(outcome.evaluation.statistics.hierarchical, 0.0);
                }
            }
        }
    }
}

#[test]
fn equal_similarities_exceed_minus_infinity() {
    // Their range is 0, so they cannot be rescaled.
    let mut case = Case::views(6, 2, 4).with(|p| p.threshold = Threshold::MinMax { value: f64::NEG_INFINITY });
    case.anchors.fill(0.3);
    assert_eq!(double(&case).evaluation.statistics.hierarchical, 10.0);
}

#[test]
fn rows_without_a_direction_are_named() {
    for (bad, fault) in [(0.0, RowFault::Zero), (f64::NAN, RowFault::NonFinite), (f64::INFINITY, RowFault::NonFinite)] {
        let mut case = Case::views(50, 2, 3);
        case.anchors[66 * 3..67 * 3].fill(bad);
        case.anchors[80 * 3..81 * 3].fill(bad);
        let inputs = operands(&case, vec![Rows::from_slice(&case.anchors, 3)], &[], &[]);
        let error = evaluate(&case.problem, &inputs, Gradients::none(), 3).unwrap_err();
        assert_eq!(error, Error::Row { input: Input::Anchors, row: 66, fault });
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn any_shape_is_the_formula(
        samples in 2usize..20,
        views in 2usize..4,
        dims in 1usize..40,
        temperature in 0.05f64..5.0,
        quantile in 0.0f64..1.0,
        beta in 0.0f64..3.0,
        tau_plus in 0.0f64..0.5,
    ) {
        let case = Case::views(samples, views, dims).with(|p| {
            p.temperature = temperature;
            p.threshold = Threshold::Adaptive { quantile };
            p.formulation = Formulation::Importance { beta, tau_plus };
        });
        let expected: Vec<f64> = reference(&case, None).0.into_iter().flatten().collect();
        // In one dimension all similarities are 1 or -1, and rounding decides the sides of the threshold.
        if dims > 1 {
            assert_close(&double(&case).evaluation.losses, &expected, 1e-9, "losses");
        }
    }
}
