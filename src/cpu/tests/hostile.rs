//! Any input gives a finite result or an error, and never a panic, with every instruction set and every precision.

use super::*;

/// Elements of a row: usual numbers, zeros, tiny and huge numbers, NaN and infinities.
fn entry() -> impl Strategy<Value = f64> {
    prop_oneof![
        12 => -2.0f64..2.0,
        2 => Just(0.0),
        1 => prop_oneof![Just(1e-38), Just(-1e-44), Just(3e38), Just(-1e30)],
        1 => prop_oneof![Just(f64::NAN), Just(f64::INFINITY), Just(f64::NEG_INFINITY)],
    ]
}

fn threshold() -> impl Strategy<Value = Threshold> {
    let value = || prop_oneof![-2.0f64..2.0, Just(f64::NEG_INFINITY), Just(f64::INFINITY)];
    prop_oneof![
        (0.0f64..=1.0).prop_map(|quantile| Threshold::Adaptive { quantile }),
        value().prop_map(|value| Threshold::Cosine { value }),
        value().prop_map(|value| Threshold::MinMax { value }),
        (-2.0f64..2.0, any::<bool>()).prop_map(|(margin, relative)| Threshold::Margin { margin, relative }),
        Just(Threshold::Labels),
    ]
}

fn formulation() -> impl Strategy<Value = Formulation> {
    prop_oneof![
        (0.0f64..50.0, 0.0f64..0.999).prop_map(|(beta, tau_plus)| Formulation::Importance { beta, tau_plus }),
        Just(Formulation::Official),
        Just(Formulation::Decoupled),
        Just(Formulation::Elimination),
    ]
}

/// The loss and all gradients, or the error.
fn try_run<E: Element>(case: &Case, narrow: fn(f64) -> E, threads: usize, isa: Isa) -> crate::error::Result<Vec<f64>> {
    let all = [&case.anchors, &case.keys, &case.apart];
    let [anchors, keys, apart] = all.map(|rows| rows.iter().map(|&x| narrow(x)).collect::<Vec<E>>());
    let dims = case.problem.dims;
    let inputs = operands(case, vec![Rows::from_slice(&anchors, dims)], &keys, &apart);
    let mut outs = [&anchors, &keys, &apart].map(|rows| vec![E::Compute::MAX; rows.len()]);
    let [of_anchors, of_keys, of_apart] = &mut outs;
    let gradients = Gradients { anchors: Some(of_anchors), keys: Some(of_keys), positives: Some(of_apart) };
    let evaluation = evaluate_with(&case.problem, &inputs, gradients, threads, isa)?;
    let gradients = outs.into_iter().flatten().map(Float::to_f64);
    Ok([evaluation.loss].into_iter().chain(evaluation.losses).chain(gradients).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_finite_result_or_an_error(
        (kind, samples, views, dims, rows) in (0usize..6, 2usize..12, 2usize..4, 1usize..20).prop_flat_map(
            |(kind, samples, views, dims)| {
                (Just(kind), Just(samples), Just(views), Just(dims), prop::collection::vec(entry(), samples * views * dims))
            }
        ),
        threshold in threshold(),
        formulation in formulation(),
        temperature in prop_oneof![0.005f64..10.0, Just(1e-3), Just(1e3)],
        threads in 1usize..4,
        clean in any::<bool>(),
    ) {
        let case = match kind {
            0 => Case::views(samples, views, dims),
            1 => Case::gathered(samples, dims, samples, views),
            2 => Case::indexed(samples, samples * views, dims, views - 1),
            3 => Case::queue(samples, samples * views, dims),
            4 => Case::indexed(samples, samples * views, dims, views - 1).ignoring_lists().with_own_negatives(views),
            _ => Case::queue(samples, samples * views, dims).ignoring_lists().with_own_negatives(views),
        };
        let mut case = case.with(|p| *p = Problem { threshold, formulation, temperature, ..*p });
        if !clean {
            case.anchors.iter_mut().zip(&rows).for_each(|(x, &hostile)| *x = hostile);
        }
        for isa in Isa::all() {
            let outcomes = [
                try_run(&case, |x| x, threads, isa),
                try_run(&case, |x| x as f32, threads, isa),
                try_run(&case, half::f16::from_f64, threads, isa),
                try_run(&case, half::bf16::from_f64, threads, isa),
            ];
            for outcome in outcomes {
                match outcome {
                    Ok(values) => prop_assert!(values.iter().all(|x| x.is_finite()), "{isa:?}: {values:?}"),
                    Err(error) => prop_assert!(matches!(error, Error::Row { .. }) && !clean, "{error:?}"),
                }
            }
        }
    }
}
