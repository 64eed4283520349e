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

/// The group that starts at `at`. The slice must contain the whole group.
#[inline(always)]
pub fn group<C>(slice: &[C], at: usize) -> &Group<C> {
    &slice[at..at + LANES].as_chunks().0[0]
}

/// Like [`group`], for writing.
#[inline(always)]
pub fn group_mut<C>(slice: &mut [C], at: usize) -> &mut Group<C> {
    &mut slice[at..at + LANES].as_chunks_mut().0[0]
}

/// Adds a group to another group.
#[inline(always)]
pub fn add<C: Float>(sums: &mut Group<C>, terms: &Group<C>) {
    for l in 0..LANES {
        sums[l] += terms[l];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "out of range")]
    fn a_group_past_the_end_is_refused() {
        group_mut(&mut [0.0f32; 2 * LANES], LANES + 1);
    }
}
