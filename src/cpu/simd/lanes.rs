//! Groups of 16 numbers that are handled together: loops over them become vector code of any instruction set.

use super::float::Float;

/// Numbers in a group.
pub const LANES: usize = 16;

/// Numbers that are handled together.
pub type Group<C> = [C; LANES];

/// A group, number by number. (`array::from_fn` is not reliably turned into vector code.)
#[inline(always)]
pub fn lanes<C: Float>(number: impl Fn(usize) -> C) -> Group<C> {
    let mut group = [C::ZERO; LANES];
    for (l, out) in group.iter_mut().enumerate() {
        *out = number(l);
    }
    group
}

/// The group that starts at `at`.
#[inline(always)]
pub fn group<C>(slice: &[C], at: usize) -> &Group<C> {
    debug_assert!(at + LANES <= slice.len());
    // SAFETY: tiles and per-column slices are at least `columns`, a multiple of LANES, long.
    unsafe { &*slice.as_ptr().add(at).cast() }
}

/// As [`group`].
#[inline(always)]
pub fn group_mut<C>(slice: &mut [C], at: usize) -> &mut Group<C> {
    debug_assert!(at + LANES <= slice.len());
    // SAFETY: as in `group`.
    unsafe { &mut *slice.as_mut_ptr().add(at).cast() }
}

/// Adds number by number.
#[inline(always)]
pub fn add<C: Float>(sums: &mut Group<C>, terms: &Group<C>) {
    for l in 0..LANES {
        sums[l] += terms[l];
    }
}
