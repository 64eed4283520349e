#![allow(clippy::unwrap_used)]
use std::cell::RefCell;

use super::*;
use crate::cuda::Operand;

const ALL: Wanted = Wanted { anchors: true, keys: true, positives: true };

fn chip(multiprocessors: u32) -> Chip {
    Chip { capability: (9, 0), multiprocessors, shared_bytes: 227 * 1024 }
}

/// Two views of `rows` / 2 samples.
fn views(rows: usize, quantile: f64) -> Problem {
    Problem {
        anchors: rows,
        keys: rows,
        dims: 128,
        square: true,
        pairing: Pairing::Views { views: 2, offset: 0 },
        threshold: Threshold::Adaptive { quantile },
        formulation: Formulation::Importance { beta: 1.0, tau_plus: 0.1 },
        temperature: 0.1,
        reduction: Reduction::Mean,
    }
}

/// Notes the kernels and the grids of launches.
#[derive(Default)]
struct Notes(RefCell<Vec<(String, [u32; 3])>>);

impl Executor for Notes {
    fn launch(&self, kernel: &str, grid: [u32; 3], _: u32, _: u32, _: &mut [*mut c_void]) -> Result<()> {
        self.0.borrow_mut().push((kernel.into(), grid));
        Ok(())
    }
}

fn launches(problem: &Problem, chip: Chip, operand: Operand) -> Vec<(String, [u32; 3])> {
    let notes = Notes::default();
    let variant = Variant::new(problem.dims, operand);
    evaluate(problem, &Buffers::nowhere(problem), ALL, chip, variant, &notes).unwrap();
    notes.0.take()
}

#[test]
fn memory_above_the_inputs_is_bounded() {
    let problem = views(65_536, 0.99);
    for multiprocessors in [132, 80, 108, 144, 148] {
        let variant = Variant::new(128, Operand::Bf16);
        let gradient = problem.anchors * problem.dims * 4;
        let bytes = gradient + scratch_bytes(&problem, ALL, chip(multiprocessors), variant);
        assert!(bytes < 100_000_000, "{bytes} bytes on {multiprocessors} multiprocessors");
    }
}

#[test]
fn columns_are_split_as_is_best_within_the_cap() {
    // 512 tiles of rows on 132 multiprocessors: in 9 parts 35 rounds of 116 tiles are best, in 2 parts 8 of 514, in
    // one 4 of 1026.
    assert_eq!([32, 2, 1].map(|most| splits(512, 1024, 1, chip(132), most)), [9, 1, 1]);
    assert_eq!(splits(512, 1024, 1, chip(132), 0), 1, "no part at all is none that is added up");
    let grids = launches(&views(65_536, 0.99), chip(132), Operand::Bf16);
    let (_, grid) = grids.iter().find(|(kernel, _)| kernel == "gradient").unwrap();
    assert_eq!(*grid, [512, 1, 1]);
}
