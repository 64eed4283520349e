#![allow(clippy::unwrap_used)]
use std::cell::RefCell;
use std::collections::BTreeSet;

use super::*;
use crate::cuda::Operand;

const ALL: Wanted = Wanted { anchors: true, keys: true, positives: true };

fn chip(multiprocessors: u32) -> Chip {
    Chip { capability: (9, 0), multiprocessors, shared_bytes: 227 * 1024 }
}

/// Two views of `rows` / 2 samples.
pub(in crate::cuda) fn views(rows: usize, quantile: f64) -> Problem {
    Problem {
        anchors: rows,
        keys: rows,
        dims: 128,
        square: true,
        pairing: Pairing::Views { views: 2, offset: 0 },
        own_negatives: 0,
        ignored: 0,
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
    launches_of(problem, chip, Variant::new(problem.dims, operand))
}

fn launches_of(problem: &Problem, chip: Chip, variant: Variant) -> Vec<(String, [u32; 3])> {
    let notes = Notes::default();
    evaluate(problem, &Buffers::nowhere(problem), ALL, chip, variant, &notes).unwrap();
    notes.0.take()
}

#[test]
fn memory_above_the_inputs_is_bounded() {
    // With the gradient. The kernels for sm_90a have the rows twice.
    let bytes = |rows: usize, multiprocessors, on_hopper| {
        let (problem, chip) = (views(rows, 0.99), chip(multiprocessors));
        let usual = Variant::new(128, Operand::Bf16);
        let variant = if on_hopper { usual.on_hopper(&problem, chip) } else { usual };
        rows * problem.dims * 4 + scratch_bytes(&problem, Some(ALL), chip, variant)
    };
    // Chips, and instances of a part of a chip.
    for multiprocessors in (8..=200).step_by(2) {
        for on_hopper in [false, true] {
            let bytes = bytes(65_536, multiprocessors, on_hopper);
            assert!(bytes < 100_000_000, "{bytes} bytes on {multiprocessors} multiprocessors");
        }
    }
    // The survivors of fewer rows do not fit into the memory of the gradient.
    for rows in [16_384, 32_768, 57_344] {
        let bytes = bytes(rows, 132, true);
        assert!(bytes < 155_000_000, "{bytes} bytes for {rows} rows");
    }
}

#[test]
fn launches_are_few_whatever_the_quantile() {
    for (quantile, expected) in [(0.99, 78), (0.9, 96), (0.5, 150)] {
        let kernels = launches(&views(65_536, quantile), chip(132), Operand::Bf16);
        let of_quantiles =
            kernels.iter().filter(|(kernel, _)| [Part::Quantiles, Part::Joint].contains(&Part::of(kernel)));
        assert_eq!(of_quantiles.count(), expected, "quantile {quantile}");
    }
}

#[test]
fn launches_for_quantiles_end_earliest() {
    // Rows of a launch of 256 rows a block, and the parts of the columns.
    let sift = |rows: usize, multiprocessors| {
        let (problem, chip) = (views(rows, 0.99), chip(multiprocessors));
        let kernels = launches_of(&problem, chip, Variant::new(128, Operand::Bf16).on_hopper(&problem, chip));
        let grids = kernels.iter().filter(|(kernel, _)| kernel == "sift_wgmma").map(|(_, grid)| [grid[0], grid[1]]);
        grids.collect::<Vec<_>>()
    };
    // 7 x 18 blocks, for which the lists have room, leave 6 multiprocessors idle.
    let large = sift(65_536, 132);
    assert_eq!((large.len(), large[0], large[42]), (43, [6, 22], [4, 32]));
    assert_eq!(sift(32_768, 132), [[16, 8]; 8]);
    assert_eq!(sift(8192, 132), [[32, 4]]);
    assert_eq!(sift(65_536, 126)[0], [7, 18]);
}

#[test]
fn one_pass_finds_quantiles_and_sums_where_that_pays() {
    let usual = views(8192, 0.99);
    let all = Variant::new(128, Operand::Bf16);
    let formulation = Formulation::Importance { beta: 2.0, tau_plus: 0.0 };
    for (problem, variant, joint) in [
        (usual, all, true),
        (views(65_536, 0.99), all, true),
        (views(32_768, 0.95), all, true),
        // The similarities that wait for the threshold would take too much memory.
        (views(65_536, 0.95), all, false),
        (views(131_072, 0.99), all, false),
        // The lists would.
        (views(8192, 0.9), all, false),
        (views(1024, 0.99), all, false),
        (views(8192, 0.99), all.on_hopper(&usual, chip(132)), true),
        (Problem { pairing: Pairing::Towers, ..usual }, all, false),
        (Problem { pairing: Pairing::Apart, square: false, anchors: 512, ..usual }, all, true),
        (Problem { formulation, ..usual }, all, false),
        (Problem { temperature: f64::NAN, ..usual }, all, false),
    ] {
        let kernels = launches_of(&problem, chip(132), variant);
        let count = |wanted: &str| kernels.iter().filter(|(kernel, _)| kernel.starts_with(wanted)).count();
        let adaptive = ["sift", "gather", "survivors", "pick"].map(|kernel| count(kernel) > 0);
        let sampled = problem.compared_keys(0).len() > 1024;
        assert_eq!(adaptive, [joint, joint, sampled && !joint, sampled && !joint], "{problem:?}");
        assert_eq!(count("settle") - count("settle_"), usize::from(joint));
        // `sums` returns at once after a pass that has found them.
        assert_eq!(count("sums"), 1);
    }
}

#[test]
fn many_similarities_are_added_up_as_rows() {
    let sums = |problem: &Problem, multiprocessors| {
        let buffers = Buffers::nowhere(problem);
        let variant = Variant::new(problem.dims, Operand::Bf16);
        let plan = Plan::new(problem, &buffers, ALL, chip(multiprocessors), variant);
        let launched = launches(problem, chip(multiprocessors), Operand::Bf16);
        let count = launched.iter().filter(|(kernel, _)| kernel == "total_similarity").count();
        assert_eq!(count, usize::from(!plan.parameters.row_sums.is_null()), "{problem:?}");
        count
    };
    assert_eq!([4096, 8192, 16_384, 65_536].map(|rows| sums(&views(rows, 0.99), 132)), [0, 0, 1, 1]);
    assert_eq!(sums(&views(8192, 0.99), 108), 1);
    // Two passes do.
    assert_eq!(sums(&views(65_536, 0.9), 132), 0);
    let queue = Problem { pairing: Pairing::Apart, square: false, anchors: 512, keys: 65_536, ..views(512, 0.99) };
    assert_eq!((sums(&queue, 132), sums(&Problem { anchors: 2048, ..queue }, 132)), (0, 1));
}

#[test]
fn the_memory_serves_quantiles_alone_too() {
    for rows in [1300, 8192, 65_536] {
        let (problem, variant) = (views(rows, 0.95), Variant::new(128, Operand::Bf16));
        let buffers = Buffers::nowhere(&problem);
        let apart = Plan::of_quantiles(&problem, &buffers, chip(132), variant);
        assert!(apart.joint.is_none() && apart.parameters.joint == 0);
        assert!(scratch_bytes(&problem, None, chip(132), variant) >= apart.scratch_bytes);
    }
}

#[test]
fn few_rows_take_six_launches_with_few_arguments() {
    let kernels = launches(&views(512, 0.99), chip(132), Operand::Bf16);
    let names: Vec<_> = kernels.iter().map(|(kernel, _)| kernel.as_str()).collect();
    assert_eq!(names, ["rows", "select", "sums", "anchors", "gradient", "finish"]);
    assert_eq!([size_of::<Parameters>(), size_of::<Launch>(), size_of::<Inputs>()], [536, 80, 432]);
}

#[test]
fn each_thread_has_an_anchor_of_its_own_where_there_are_many() {
    let blocks = |rows, wanted| {
        let kernels = launches(&views(rows, 0.99), chip(132), Operand::Bf16);
        kernels.iter().find(|(kernel, _)| kernel == wanted).map(|(_, grid)| grid[0])
    };
    assert_eq!(blocks(65_536, "anchors"), Some(65_536 / 256));
    // Few rows are spread over the chip.
    assert_eq!([512, 8192].map(|rows| blocks(rows, "anchors")), [Some(512 / 32), Some(8192 / 64)]);
    assert_eq!([512, 1024].map(|rows| blocks(rows, "select")), [Some(512 / 8), Some(1024 / 8)]);
    assert_eq!([4096, 1040].map(|rows| blocks(rows, "sample")), [Some(4096 / 16), Some(1040 / 8)]);
    assert_eq!((spread(512, 16, 8, chip(64)), spread(512, 16, 8, chip(63))), (8, 16));
}

#[test]
fn all_blocks_search_few_rows_in_the_memory_of_the_survivors() {
    /// Notes the grid of the kernel that searches all keys, and how many rows it is told to keep at most.
    #[derive(Default)]
    struct Kept(RefCell<Vec<(u32, i32)>>);
    impl Executor for Kept {
        fn launch(&self, kernel: &str, grid: [u32; 3], _: u32, _: u32, arguments: &mut [*mut c_void]) -> Result<()> {
            if ["select_failed", "select_wgmma"].contains(&kernel) {
                // SAFETY: the second argument of these kernels is a `Launch`.
                let launch = unsafe { &*arguments[1].cast::<Launch>() };
                self.0.borrow_mut().push((grid[0], launch.rows));
            }
            Ok(())
        }
    }
    let of_queue = |anchors, keys| Problem { square: false, anchors, keys, pairing: Pairing::Apart, ..views(2, 0.99) };
    let towers = Problem { pairing: Pairing::Towers, ..views(4096, 0.9) };
    // The blocks and the rows, of the kernels of every chip and of those for sm_90a.
    for (problem, every, sm_90a) in [
        (views(65_536, 0.99), (264, 16), Some((132, 64))),
        (views(65_536, 0.5), (264, 16), Some((132, 64))),
        (views(2048, 0.99), (132, 16), Some((132, 64))),
        (of_queue(64, 65_536), (132, 8), Some((132, 17))),
        (of_queue(1, 65_536), (132, 8), Some((132, 17))),
        (Problem { own_negatives: 5000, ..of_queue(64, 65_536) }, (132, 8), None),
        (towers, (256, 16), None),
    ] {
        let usual = Variant::new(problem.dims, Operand::Bf16);
        for (variant, expected) in [(usual, Some(every)), (usual.on_hopper(&problem, chip(132)), sm_90a)] {
            let Some((blocks, rows)) = expected else { continue };
            let kept = Kept::default();
            let buffers = Buffers::nowhere(&problem);
            evaluate(&problem, &buffers, ALL, chip(132), variant, &kept).unwrap();
            assert_eq!(kept.0.take(), [(blocks, rows)], "{problem:?}");
            let plan = Plan::new(&problem, &buffers, ALL, chip(132), variant);
            let sample = plan.search.and_then(|search| search.sample).unwrap();
            assert!(rows as usize * problem.row_length().next_multiple_of(4) * 4 <= sample.survivor_bytes());
            // They are loaded four at a time.
            assert_eq!(plan.parameters.survivors as usize % 16, 0);
        }
    }
}

#[test]
fn a_call_has_the_parts_that_it_launches() {
    let usual = views(3000, 0.9);
    let indexed = Problem { square: false, pairing: Pairing::Indexed { positives: 2 }, ..usual };
    let formulation = Formulation::Importance { beta: 2.0, tau_plus: 0.0 };
    let cosine = Threshold::Cosine { value: 0.5 };
    let problems = [
        usual,
        indexed,
        Problem { formulation, ..usual },
        Problem { threshold: cosine, ..usual },
        Problem { threshold: Threshold::MinMax { value: 0.5 }, ..usual },
        Problem { threshold: Threshold::Margin { margin: 0.1, relative: false }, ..usual },
        Problem { temperature: 0.01, ..usual },
        Problem { temperature: f64::NAN, ..usual },
        Problem { pairing: Pairing::Towers, ..usual },
        Problem { threshold: Threshold::Labels, formulation: Formulation::Supervised, ..usual },
        Problem { own_negatives: 3, ..indexed },
        Problem { own_negatives: 3, threshold: Threshold::Margin { margin: 0.1, relative: true }, ..indexed },
    ];
    for problem in problems {
        let usual = Variant::new(problem.dims, Operand::Bf16);
        for variant in [usual, usual.on_hopper(&problem, chip(132))] {
            let launched: BTreeSet<Part> =
                launches_of(&problem, chip(132), variant).iter().map(|(kernel, _)| Part::of(kernel)).collect();
            let expected: BTreeSet<Part> = parts(&problem, Some(ALL), variant).into_iter().collect();
            assert_eq!(expected, launched, "{problem:?}");
            assert_eq!(variant.hopper.is_some(), launched.contains(&Part::Hopper));
        }
    }
}

#[test]
fn shifts_are_searched_where_the_host_does_not_know_the_temperature() {
    for (temperature, searches) in [(0.05, false), (0.04, true), (f64::NAN, true)] {
        let names = launches(&Problem { temperature, ..views(300, 0.9) }, chip(132), Operand::Bf16);
        assert_eq!(names.iter().any(|(kernel, _)| kernel == "maxima"), searches, "temperature {temperature}");
    }
}

#[test]
fn a_tower_is_compared_with_the_other_one() {
    let towers = Problem { pairing: Pairing::Towers, ..views(2048, 0.9) };
    let grid = |problem: &Problem, wanted: &str| {
        launches(problem, chip(132), Operand::Bf16)
            .into_iter()
            .find(|(kernel, _)| kernel == wanted)
            .map(|(_, grid)| grid)
    };
    // 1,024 keys need no sample, and no block has rows of both towers.
    assert_eq!(grid(&towers, "select"), Some([128, 1, 1]), "16 rows each");
    assert_eq!(grid(&views(2048, 0.9), "select"), None);
    let odd = Problem { pairing: Pairing::Towers, ..views(2 * 1000, 0.9) };
    assert_eq!(grid(&odd, "select"), Some([2 * 63, 1, 1]));
}

#[test]
fn keys_are_sorted_where_they_are_named() {
    let others = Problem { square: false, ..views(3000, 0.9) };
    let sorting = |pairing, ignored| {
        let kernels = launches(&Problem { pairing, ignored, ..others }, chip(132), Operand::Bf16);
        kernels.into_iter().map(|(kernel, _)| kernel).filter(|kernel| kernel.starts_with("index_")).collect::<Vec<_>>()
    };
    for (pairing, ignored) in
        [(Pairing::Indexed { positives: 2 }, 0), (Pairing::Indexed { positives: 2 }, 5), (Pairing::Apart, 1)]
    {
        assert_eq!(sorting(pairing, ignored), ["index_anchors", "index_starts", "index_pairs", "index_keys"]);
    }
    for pairing in [Pairing::Apart, Pairing::Views { views: 2, offset: 0 }] {
        assert!(sorting(pairing, 0).is_empty());
    }
}

#[test]
fn named_pairs_have_numbers_of_31_bits() {
    let variant = Variant::new(128, Operand::Bf16);
    let supported = |anchors, pairing, ignored| {
        let problem = Problem { square: false, anchors, pairing, ignored, ..views(65_536, 0.9) };
        supports(&problem, 1, chip(132), variant)
    };
    let (rows, indexed) = (1 << 20, Pairing::Indexed { positives: 2 });
    assert_eq!(supported(rows, indexed, 2045), Ok(()));
    assert!(supported(rows, indexed, 2046).unwrap_err().contains("2^31 pairs"));
    assert_eq!(supported(rows, Pairing::Apart, 2047), Ok(()));
    assert!(supported(rows, Pairing::Apart, 2048).unwrap_err().contains("2^31 pairs"));
    // Tiles have 128 rows, also those of a single anchor.
    assert!(supported(1, Pairing::Apart, 1 << 24).is_err());
    // Rows apart are as many as other rows may be.
    let own = |own_negatives| {
        let problem = Problem { square: false, own_negatives, pairing: indexed, anchors: rows, ..views(65_536, 0.9) };
        supports(&problem, 1, chip(132), variant)
    };
    assert_eq!(own(512), Ok(()));
    assert!(own(513).unwrap_err().contains("2^29 rows"));
    // Without names there is no such limit.
    assert_eq!(supported(1 << 28, Pairing::Views { views: 16, offset: 0 }, 0), Ok(()));
}

#[test]
fn rows_apart_are_compared_once_if_anything_reads_that() {
    let queue = Problem { square: false, anchors: 300, pairing: Pairing::Apart, ..views(3000, 0.9) };
    let indexed = Problem { pairing: Pairing::Indexed { positives: 2 }, ..queue };
    let cosine = Threshold::Cosine { value: 0.5 };
    let margin = Threshold::Margin { margin: 0.1, relative: false };
    let grids = |problem: &Problem| {
        let kernels = launches(problem, chip(132), Operand::Bf16);
        let of =
            |wanted| kernels.iter().filter(|(kernel, _)| kernel == wanted).map(|&(_, grid)| grid).collect::<Vec<_>>();
        (of("apart_similarities"), of("closest_positives").len(), of("finish").pop())
    };
    // The positives alone, and with own negatives. 64 anchors for each block.
    assert_eq!(grids(&queue), (vec![[5, 1, 1]], 0, Some([38, 1, 1])));
    assert_eq!(grids(&Problem { own_negatives: 8, ..queue }), (vec![[5, 3, 1]], 0, Some([338, 1, 1])));
    assert_eq!(grids(&Problem { threshold: cosine, ..queue }), (vec![], 0, Some([38, 1, 1])));
    assert_eq!(grids(&Problem { threshold: margin, ..queue }), (vec![[5, 1, 1]], 0, Some([38, 1, 1])));
    // Positives among the keys.
    assert_eq!(grids(&indexed), (vec![], 0, Some([375, 1, 1])));
    assert_eq!(grids(&Problem { threshold: margin, ..indexed }), (vec![], 1, Some([375, 1, 1])));
    let own = Problem { own_negatives: 1000, threshold: margin, ..indexed };
    assert_eq!(grids(&own), (vec![[5, 64, 1]], 1, Some([37_500, 1, 1])));
}

#[test]
fn own_negatives_are_summed_between_the_keys_and_the_anchors() {
    let without = Problem { square: false, anchors: 300, pairing: Pairing::Apart, ..views(3000, 0.9) };
    let with = Problem { own_negatives: 8, ..without };
    let expected = ("own_sums".to_string(), [38, 1, 1]);
    assert!(!launches(&without, chip(132), Operand::Bf16).contains(&expected));
    let kernels = launches(&with, chip(132), Operand::Bf16);
    let at = kernels.iter().position(|launch| *launch == expected).unwrap();
    assert_eq!((kernels[at - 1].0.as_str(), kernels[at + 1].0.as_str()), ("sums", "anchors"));
}

#[test]
fn own_negatives_widen_the_brackets() {
    let problem = |own_negatives| Problem {
        square: false,
        anchors: 300,
        pairing: Pairing::Apart,
        own_negatives,
        ..views(32768, 0.99)
    };
    let searched = |own| {
        let problem = problem(own);
        let search = Search::new(&problem, 0.99, TILE_ROWS);
        (search.rank, search.sample.unwrap(), Joint::new(&problem, &search, TILE_ROWS))
    };
    let (rank, sample, joint) = searched(0);
    assert_eq!((rank, sample.columns, sample.low, sample.high), (329, 2048, Some(46), Some(2)));
    let joint = joint.unwrap();
    // 160 of them in a row of 32,929 take 10 of the sample's 2,048 places.
    let (rank, wide, with_own) = searched(160);
    assert_eq!((rank, wide.low, wide.high), (330, Some(46), None));
    let with_own = with_own.unwrap();
    assert_eq!(with_own.floor - with_own.ceiling, joint.floor - joint.ceiling + 10);
    // The lower end as if all of them were below the quantile, the upper end as if all were above.
    let sample = Search::new(&problem(160), 0.9, TILE_ROWS).sample.unwrap();
    assert_eq!((sample.low, sample.high), (Some(271), Some(137)));
    // More of them than keys: the quantile may be any of the similarities.
    let (rank, all, _) = searched(80_000);
    assert_eq!((rank, all.low, all.high), (1129, Some(112), None));
    // Too many similarities would wait for the threshold.
    let pays = |own| {
        let problem = Problem { anchors: 2048, ..problem(own) };
        Joint::new(&problem, &Search::new(&problem, 0.99, TILE_ROWS), TILE_ROWS).is_some()
    };
    assert_eq!([0, 400, 4000].map(pays), [true, true, false]);
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
