//! Ties of margins over the positive.

use super::*;

#[test]
fn a_key_that_repeats_the_positive_is_as_similar_as_the_positive() {
    // Whatever the rounding, it is not above a margin of 0.
    for (rows, dims) in [(40, 7), (150, 33), (300, 100)] {
        for isa in Isa::all() {
            let check = |case: Case, repeated: f64| {
                let margin = |margin| Threshold::Margin { margin, relative: false };
                for (margin, expected) in [(margin(0.0), 0.0), (margin(-1e-6), repeated)] {
                    let case = case.clone().with(|p| p.threshold = margin);
                    for found in [
                        run::<f32>(&case, |x| x as f32, None, 2, isa),
                        run::<f64>(&case, |x| x, None, 2, isa),
                        run(&case, half::bf16::from_f64, None, 2, isa),
                    ] {
                        assert_eq!(found.evaluation.statistics.hierarchical, expected);
                    }
                }
            };
            // The keys are the anchors' positives, one and the same row.
            let positive = Noise(1).rows(1, dims);
            let mut indexed = Case::indexed(rows, rows, dims, 1);
            indexed.keys = positive.repeat(rows);
            indexed.ignored_index.clear();
            check(indexed, rows as f64 - 1.0);
            let mut queue = Case::queue(rows, 70, dims).with_own_negatives(2);
            (queue.keys, queue.apart) = (positive.repeat(70), positive.repeat(3 * rows));
            check(queue, 72.0);
            let mut towers = Case::towers(rows, dims);
            towers.anchors[rows * dims..].copy_from_slice(&positive.repeat(rows));
            let mut turned = towers.clone();
            turned.anchors.rotate_left(rows * dims);
            for towers in [towers, turned] {
                // From the tower of equal rows, the other rows' similarities have an order: (rows - 1) / 2 are above.
                let case = towers.with(|p| p.threshold = Threshold::Margin { margin: 0.0, relative: false });
                let found = run::<f32>(&case, |x| x as f32, None, 2, isa).evaluation;
                assert_eq!(found.statistics.hierarchical, (rows as f64 - 1.0) / 4.0);
            }
        }
    }
}
