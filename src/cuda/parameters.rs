//! The arguments of the kernels: the structures of `kernels/parameters.cu`. A test compares them field by field.

use std::ffi::c_void;
use std::ptr::null_mut;

use super::sizes::MAX_VIEWS;
use super::Matrix;

/// Offset in the scratch memory, which starts with a `Header`, of the number of rows that `select_failed` searched, a
/// `u32`.
pub const FAILED_AT: usize = 24;
/// As above, whether `sums` computed all sums again after one pass for quantiles and sums.
pub const RERUN_AT: usize = 100;

/// A structure of `kernels/parameters.cu`, with a list of its fields for the test.
macro_rules! told {
    ($(#[$meta:meta])* $name:ident { $($field:ident: $type:ty,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy)]
        #[repr(C)]
        pub(super) struct $name {
            $(pub(super) $field: $type,)*
        }

        #[cfg(test)]
        impl $name {
            /// Name, offset and size of each field.
            const FIELDS: &[(&str, usize, usize)] =
                &[$((stringify!($field), std::mem::offset_of!($name, $field), size_of::<$type>())),*];
        }
    };
}

told! {
    /// The rows of an input in the scratch memory.
    Side {
        rows: *mut c_void,
        cards: *mut c_void,
        splits: *mut c_void,
        lengths: *mut c_void,
        count: i32,
        padded: i32,
    }
}

told! {
    /// A copy of the rows of a side in the layout that the kernels for sm_90a read.
    Tiles {
        rows: *mut c_void,
        notes: *mut c_void,
    }
}

told! {
    /// The matrices of the caller, for the kernel `rows`.
    Inputs {
        views: [Matrix; MAX_VIEWS],
        keys: Matrix,
        positives: Matrix,
    }
}

told! {
    /// The arguments that all launches of an evaluation share.
    Parameters {
        positive_index: *const i64,
        ignored_index: *const i64,
        anchor_labels: *const i64,
        key_labels: *const i64,
        epsilon: *const c_void,
        given_temperature: *const c_void,
        anchor_weights: *const f32,
        loss: *mut f32,
        statistics: *mut f32,
        temperature_gradient: *mut f32,

        header: *mut c_void,
        anchors: Side,
        keys: Side,
        apart: Side,
        quantiles: *mut c_void,
        lows: *mut c_void,
        highs: *mut c_void,
        above: *mut c_void,
        inside: *mut c_void,
        survivors: *mut c_void,
        failed: *mut c_void,
        excluded_keys: *mut c_void,
        key_ends: *mut c_void,
        key_pairs: *mut c_void,
        ranges: *mut c_void,
        sums: *mut c_void,
        parts: *mut c_void,
        row_sums: *mut c_void,
        pending: *mut c_void,
        pending_at: *mut c_void,
        positive_similarities: *mut c_void,
        positive_slopes: *mut c_void,
        totals: *mut c_void,
        radials: *mut c_void,

        threshold_value: f64,
        beta: f64,
        tau_plus: f64,
        temperature: f64,
        least_temperature: f64,
        dims: i32,
        square: i32,
        view_rows: i32,
        tower: i32,
        pairing: i32,
        positives: i32,
        excluded: i32,
        offset: i32,
        threshold: i32,
        formulation: i32,
        mean: i32,
        one_loss: i32,
        epsilon_scalar: i32,
        temperature_scalar: i32,
        capacity: i32,
        splits: i32,
        joint: i32,
        pending_capacity: i32,
        anchor_tiles: Tiles,
        key_tiles: Tiles,
        apart_similarities: *mut c_void,
        own_sums: *mut c_void,
        rows_apart: i32,
    }
}

told! {
    /// The arguments that differ between launches of a kernel.
    Launch {
        partial: *mut c_void,
        partial_rows: i64,
        partial_dims: i64,
        gradient: *mut f32,
        output: *mut f32,
        side: i32,
        splits: i32,
        first_row: i32,
        rows: i32,
        mode: i32,
        columns: i32,
        rank: i32,
        high_rank: i32,
        floor_rank: i32,
        ceiling_rank: i32,
    }
}

impl Default for Launch {
    fn default() -> Self {
        Self {
            partial: null_mut(),
            partial_rows: 0,
            partial_dims: 0,
            gradient: null_mut(),
            output: null_mut(),
            side: 0,
            splits: 1,
            first_row: 0,
            rows: 0,
            mode: 0,
            columns: 0,
            rank: 1,
            high_rank: 0,
            floor_rank: 0,
            ceiling_rank: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use std::collections::HashMap;

    use super::super::search::bracket;
    use super::*;
    use crate::operands::Scalar;

    const SOURCE: &str = concat!(include_str!("kernels/parameters.cu"), include_str!("kernels/digits.cu"));

    /// Name, offset and size of each field.
    type Fields = Vec<(String, usize, usize)>;

    /// The structures of the sources by name, with the layout of C++: size, alignment, fields.
    fn structures(source: &str) -> HashMap<String, (usize, usize, Fields)> {
        let mut known = HashMap::new();
        for (name, body) in blocks(source, "struct ") {
            let (mut end, mut alignment, mut fields) = (0_usize, 1, Vec::new());
            for declaration in body.split(';').map(str::trim).filter(|text| !text.is_empty()) {
                let (kind, field) = declaration.rsplit_once(' ').unwrap();
                let (field, count) = match field.strip_suffix(']').and_then(|field| field.split_once('[')) {
                    Some((field, "MAX_VIEWS")) => (field, MAX_VIEWS),
                    Some((field, count)) => (field, count.parse().unwrap()),
                    None => (field, 1),
                };
                let (size, aligned) = match kind.trim_start_matches("const ") {
                    pointer if pointer.ends_with('*') => (8, 8),
                    "i64" | "double" => (8, 8),
                    "int" | "u32" | "float" => (4, 4),
                    structure => known.get(structure).map(|&(size, aligned, _)| (size, aligned)).unwrap(),
                };
                end = end.next_multiple_of(aligned);
                fields.push((field.to_string(), end, size * count));
                end += size * count;
                alignment = alignment.max(aligned);
            }
            known.insert(name, (end.next_multiple_of(alignment), alignment, fields));
        }
        known
    }

    /// The name and the body of every declaration with `keyword`, without comments.
    fn blocks(source: &str, keyword: &str) -> Vec<(String, String)> {
        let lines = source.lines().map(|line| line.split("//").next().unwrap_or_default());
        let text = lines.collect::<Vec<_>>().join("\n");
        let declares = format!("\n{keyword}");
        let starts = text.match_indices(&declares).map(|(at, found)| at + found.len());
        starts
            .filter_map(|start| {
                let (name, rest) = text[start..].split_once('{')?;
                Some((name.trim().to_string(), rest.split_once("};")?.0.to_string()))
            })
            .collect()
    }

    fn expect_same(source: &str) -> std::result::Result<(), String> {
        let known = structures(source);
        for (name, size, fields) in [
            ("Side", size_of::<Side>(), Side::FIELDS),
            ("Tiles", size_of::<Tiles>(), Tiles::FIELDS),
            ("Inputs", size_of::<Inputs>(), Inputs::FIELDS),
            ("Parameters", size_of::<Parameters>(), Parameters::FIELDS),
            ("Launch", size_of::<Launch>(), Launch::FIELDS),
        ] {
            let (their_size, _, theirs) = &known[name];
            let ours: Fields = fields.iter().map(|&(name, at, size)| (name.to_string(), at, size)).collect();
            if let Some((ours, theirs)) = ours.iter().zip(theirs).find(|(ours, theirs)| ours != theirs) {
                return Err(format!("{name}: {ours:?} here, {theirs:?} in the kernels"));
            }
            if (size, ours.len()) != (*their_size, theirs.len()) {
                return Err(format!("{name}: {size} bytes here, {their_size} in the kernels"));
            }
        }
        Ok(())
    }

    #[test]
    fn the_kernels_have_the_same_structures() {
        let source = include_str!("kernels/parameters.cu").split("DEVICE int lane_of_thread").next().unwrap();
        assert_eq!(expect_same(source), Ok(()));
        let (_, _, header) = &structures(source)["Header"];
        assert!(header.contains(&("failed".into(), FAILED_AT, 4)));
        assert!(header.contains(&("rerun".into(), RERUN_AT, 4)));
        let matrix = &structures(source)["Matrix"];
        let fields =
            [("pointer", 0), ("row_stride", 8), ("dim_stride", 16)].map(|(name, at)| (name.to_string(), at, 8));
        assert_eq!((matrix.0, &matrix.2[..]), (size_of::<Matrix>(), &fields[..]));
        for (text, other) in [
            ("float* lows;", "float* low;"),
            ("double beta;", "float beta;"),
            ("int side;  // of which", "i64 side;  // of which"),
            ("    int splits;  // parts of the columns that have their own sums\n", ""),
            ("    int square;\n    int view_rows;", "    int view_rows;\n    int square;"),
        ] {
            assert!(source.contains(text), "{text}");
            assert!(expect_same(&source.replacen(text, other, 1)).is_err(), "{text} as {other}");
        }
    }

    #[test]
    fn the_kernels_have_the_same_numbers() {
        let enums: HashMap<_, _> = blocks(SOURCE, "enum ").into_iter().collect();
        let names = |name: &str| enums[name].split(',').map(|name| name.trim().to_string()).collect::<Vec<_>>();
        let number = |name: &str, value: &str| names(name).iter().position(|found| found == value).unwrap() as i32;
        assert_eq!(
            names("Bracket"),
            [("LOW", bracket::LOW), ("HIGH", bracket::HIGH)].map(|(name, bit)| format!("{name} = {bit}"))
        );
        let scalars = [Scalar::Bf16, Scalar::F16, Scalar::F32, Scalar::F64].map(|scalar| scalar as i32);
        let named = ["SCALAR_BF16", "SCALAR_F16", "SCALAR_F32", "SCALAR_F64"].map(|name| number("Scalar", name));
        assert_eq!(scalars, named);
        assert_eq!(names("Pairing"), ["VIEWS", "INDEXED", "APART"]);
        assert_eq!(names("Threshold"), ["ADAPTIVE", "COSINE", "MINMAX", "LABELS", "MARGIN", "RELATIVE_MARGIN"]);
        assert_eq!(names("Formulation"), ["IMPORTANCE", "OFFICIAL", "DECOUPLED", "SUPERVISED", "ELIMINATION"]);
    }
}
