//! Tests of the checks, with one wrong operand at a time.
#![allow(clippy::unwrap_used)]

use super::*;

/// A description of an operand, without memory.
#[derive(Debug, Clone)]
struct Given {
    shape: Vec<i64>,
    dtype: &'static str,
    device: &'static str,
    integers: Vec<i64>,
}

impl Described for Given {
    fn shape(&self) -> &[i64] {
        &self.shape
    }

    fn scalar(&self) -> Option<Scalar> {
        [Scalar::Bf16, Scalar::F16, Scalar::F32, Scalar::F64].into_iter().find(|scalar| scalar.name() == self.dtype)
    }

    fn dtype_name(&self) -> String {
        self.dtype.into()
    }

    fn device_name(&self) -> String {
        self.device.into()
    }

    fn is_beside(&self, other: &Self) -> bool {
        self.device == other.device
    }

    fn integers(&self) -> Result<Option<Vec<i64>>> {
        Ok((self.device == "cpu").then(|| self.integers.clone()))
    }
}

fn floats(shape: &[i64]) -> Given {
    Given { shape: shape.to_vec(), dtype: "float32", device: "cpu", integers: vec![] }
}

fn integers(shape: &[i64], integers: &[i64]) -> Given {
    Given { dtype: "int64", integers: integers.to_vec(), ..floats(shape) }
}

/// Two anchors, three keys, and one positive for each anchor.
fn indexed() -> Operands<Given> {
    Operands {
        keys: Some(floats(&[3, 4])),
        positive_index: Some(integers(&[2, 1], &[0, 1])),
        ignored_index: Some(integers(&[2, 2], &[1, -1, -1, -1])),
        weights: Some(floats(&[2])),
        ..Operands::of_views(vec![floats(&[2, 4])])
    }
}

fn check(operands: &Operands<Given>, threshold: Threshold) -> Result<Problem> {
    let problem = operands.problem(0, threshold, Formulation::Decoupled, 0.5, Reduction::Mean, false)?;
    operands.check(&problem).map(|()| problem)
}

fn message(change: impl FnOnce(&mut Operands<Given>), threshold: Threshold) -> String {
    let mut operands = indexed();
    change(&mut operands);
    check(&operands, threshold).unwrap_err().to_string()
}

const COSINE: Threshold = Threshold::Cosine { value: 0.5 };

#[test]
fn shapes_make_the_problem() {
    let problem = check(&indexed(), COSINE).unwrap();
    assert_eq!((problem.anchors, problem.keys, problem.dims, problem.square), (2, 3, 4, false));
    assert_eq!((problem.pairing, problem.ignored), (Pairing::Indexed { positives: 1 }, 2));
    let views = Operands::of_views(vec![floats(&[5, 4]), floats(&[5, 4])]);
    let problem = check(&views, COSINE).unwrap();
    assert_eq!((problem.anchors, problem.keys, problem.square), (10, 10, true));
    assert_eq!(problem.pairing, Pairing::Views { views: 2, offset: 0 });
    let apart = Operands { keys: Some(floats(&[7, 4])), positives: Some(floats(&[5, 4])), ..views };
    let apart = Operands { views: vec![floats(&[5, 4])], ..apart };
    let problem = check(&apart, COSINE).unwrap();
    assert_eq!((problem.pairing, problem.own_negatives, problem.rows_apart()), (Pairing::Apart, 0, 1));
    let own = Operands { positives: Some(floats(&[15, 4])), ..apart };
    let problem = check(&own, COSINE).unwrap();
    assert_eq!((problem.pairing, problem.own_negatives, problem.rows_apart()), (Pairing::Apart, 2, 3));
    let own = Operands { positives: Some(floats(&[6, 4])), ..indexed() };
    let problem = check(&own, COSINE).unwrap();
    assert_eq!((problem.pairing, problem.own_negatives), (Pairing::Indexed { positives: 1 }, 3));
}

#[test]
fn a_number_may_be_given_in_any_floating_dtype() {
    let mut operands = indexed();
    for dtype in ["bfloat16", "float16", "float32", "float64"] {
        operands.threshold = Some(Given { dtype, ..floats(&[]) });
        assert_eq!(check(&operands, Threshold::Given).unwrap().threshold, Threshold::Given);
    }
}

#[test]
fn indices_on_a_device_are_not_waited_for() {
    let mut operands = indexed();
    for operand in
        [&mut operands.positive_index, &mut operands.ignored_index, &mut operands.keys, &mut operands.weights]
    {
        operand.as_mut().unwrap().device = "cuda:0";
    }
    operands.views[0].device = "cuda:0";
    operands.positive_index.as_mut().unwrap().integers = vec![9, 9];
    check(&operands, COSINE).unwrap();
}

#[test]
fn what_does_not_fit_is_named() {
    type Change = fn(&mut Operands<Given>);
    let cases: [(Change, Threshold, &str); 14] = [
        (|o| o.views.clear(), COSINE, "expected at least 1 view, but got 0"),
        (
            |o| o.views[0].dtype = "int64",
            COSINE,
            "expected `anchors` to be float64, float32, bfloat16 or float16, but got int64",
        ),
        (
            |o| o.keys = Some(floats(&[3, 5])),
            COSINE,
            "expected `keys` to have shape [N, 4], D as in `anchors`, but got [3, 5]",
        ),
        (
            |o| o.keys.as_mut().unwrap().device = "cuda:1",
            COSINE,
            "expected `keys` on cpu like the anchors, but got a tensor on cuda:1",
        ),
        (
            |o| o.positives = Some(floats(&[3, 4])),
            COSINE,
            "expected `positives` to have shape [2 R, 4], R rows for each anchor, but got [3, 4]",
        ),
        (
            |o| (o.keys, o.positives) = (None, Some(floats(&[2, 4]))),
            COSINE,
            "expected `keys`, the negatives, along with `positives`, but got none",
        ),
        (
            |o| o.positive_index = None,
            COSINE,
            "expected `positives` or `positive_index` along with `ignored_index`, but got neither",
        ),
        (
            |o| o.ignored_index = Some(integers(&[2], &[1, -1])),
            COSINE,
            "expected `ignored_index` to have shape [M, I], but got [2]",
        ),
        (
            |o| o.positive_index.as_mut().unwrap().integers = vec![0, 3],
            COSINE,
            "expected `positive_index` to be in [0, 3), but got 3",
        ),
        (
            |o| o.ignored_index.as_mut().unwrap().integers = vec![2, 0, -1, -1],
            COSINE,
            "expected the positives and the ignored keys of an anchor to differ, but anchor 0 has key 0 twice",
        ),
        (
            |o| o.weights.as_mut().unwrap().dtype = "float64",
            COSINE,
            "expected `weights` to be float32, but got float64",
        ),
        (|_| (), Threshold::Labels, "expected `anchor_labels` for the rule \"labels\", but got none"),
        (|_| (), Threshold::Given, "expected `threshold` for the rule \"given\", but got none"),
        (
            |o| o.threshold = Some(floats(&[])),
            COSINE,
            "expected `threshold` only for the rule \"given\", but the rule is \"cosine\"",
        ),
    ];
    for (change, threshold, expected) in cases {
        assert_eq!(message(change, threshold), expected);
    }
}
