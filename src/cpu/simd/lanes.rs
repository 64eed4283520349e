//! Groups of 16 numbers. The compiler turns loops over a group into vector code for any instruction set.

use super::float::Float;

/// Number of numbers in a group.
pub const LANES: usize = 16;

/// A group of numbers.
pub type Group<C> = [C; LANES];

/// Makes a group, number by number. The compiler does not always turn `array::from_fn` into vector code.
#[inline(always)]
pub fn lanes<C: Float>(number: impl Fn(usize) -> C) -> Group<C> {
    let mut group = [C::ZERO; LANES];
    for (l, out) in group.iter_mut().enumerate() {
        *out = number(l);
    }
    group
}

/// The group that starts at `at`. The slice must contain the whole group: only debug builds check this.
#[inline(always)]
pub fn group<C>(slice: &[C], at: usize) -> &Group<C> {
    debug_assert!(at + LANES <= slice.len());
    // SAFETY: All callers in this crate pass `at` with at + LANES <= slice.len().
    unsafe { &*slice.as_ptr().add(at).cast() }
}

/// Like [`group`], for writing.
#[inline(always)]
pub fn group_mut<C>(slice: &mut [C], at: usize) -> &mut Group<C> {
    debug_assert!(at + LANES <= slice.len());
    // SAFETY: As in `group`.
    unsafe { &mut *slice.as_mut_ptr().add(at).cast() }
}

/// Adds a group to another group.
#[inline(always)]
pub fn add<C: Float>(sums: &mut Group<C>, terms: &Group<C>) {
    for l in 0..LANES {
        sums[l] += terms[l];
    }
}
