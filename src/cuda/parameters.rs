//! What the kernels are told: the structures of `kernels/parameters.cu`, field by field.

use std::ffi::c_void;
use std::ptr::null_mut;

use super::variant::MAX_VIEWS;
use super::Matrix;

/// The rows of an input in the scratch memory.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Side {
    pub(super) rows: *mut c_void,
    pub(super) cards: *mut c_void,
    pub(super) splits: *mut c_void,
    pub(super) lengths: *mut c_void,
    pub(super) count: i32,
    pub(super) padded: i32,
}

/// What every launch of an evaluation is told.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Parameters {
    pub(super) views: [Matrix; MAX_VIEWS],
    pub(super) keys_matrix: Matrix,
    pub(super) positives_matrix: Matrix,
    pub(super) positive_index: *const i64,
    pub(super) ignored_index: *const i64,
    pub(super) anchor_labels: *const i64,
    pub(super) key_labels: *const i64,
    pub(super) epsilon: *const c_void,
    pub(super) anchor_weights: *const f32,
    pub(super) loss: *mut f32,
    pub(super) statistics: *mut f32,

    pub(super) header: *mut c_void,
    pub(super) anchors: Side,
    pub(super) keys: Side,
    pub(super) apart: Side,
    pub(super) quantiles: *mut c_void,
    pub(super) lows: *mut c_void,
    pub(super) highs: *mut c_void,
    pub(super) above: *mut c_void,
    pub(super) inside: *mut c_void,
    pub(super) survivors: *mut c_void,
    pub(super) failed: *mut c_void,
    pub(super) ranges: *mut c_void,
    pub(super) sums: *mut c_void,
    pub(super) positive_similarities: *mut c_void,
    pub(super) positive_slopes: *mut c_void,
    pub(super) totals: *mut c_void,

    pub(super) threshold_value: f64,
    pub(super) beta: f64,
    pub(super) tau_plus: f64,
    pub(super) temperature: f64,
    pub(super) exponent: f32,
    pub(super) concentration: f32,
    pub(super) dims: i32,
    pub(super) square: i32,
    pub(super) view_rows: i32,
    pub(super) pairing: i32,
    pub(super) positives: i32,
    pub(super) excluded: i32,
    pub(super) offset: i32,
    pub(super) threshold: i32,
    pub(super) formulation: i32,
    pub(super) mean: i32,
    pub(super) one_loss: i32,
    pub(super) epsilon_scalar: i32,
    pub(super) precise_shifts: i32,
    pub(super) capacity: i32,
    pub(super) splits: i32,
}

/// What differs from launch to launch of one kernel.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Launch {
    pub(super) partial: *mut c_void,
    pub(super) partial_rows: i64,
    pub(super) partial_dims: i64,
    pub(super) gradient: *mut f32,
    pub(super) output: *mut f32,
    pub(super) side: i32,
    pub(super) splits: i32,
    pub(super) first_row: i32,
    pub(super) rows: i32,
    pub(super) mode: i32,
    pub(super) columns: i32,
    pub(super) stride: i32,
    pub(super) rank: i32,
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
            stride: 1,
            rank: 1,
        }
    }
}
