//! The exact k-th largest number of a row, without sorting.

use super::float::Float;
use super::instruction_set::{InstructionSet, Isa, Kernel};
use super::lanes::{group_mut, LANES};

/// Finds the k-th largest numbers of rows that resemble each other. The earlier rows give a guess, and few numbers are
/// above it, so only these are searched. If fewer than k numbers are above the guess, the whole row is searched.
pub struct Selector<C> {
    isa: Isa,
    rank: usize,
    survivors: Vec<C>,
    guess: Option<Guess<C>>,
}

/// Running mean and spread of the results.
#[derive(Clone, Copy)]
struct Guess<C> {
    center: C,
    spread: C,
}

impl<C: Float> Selector<C> {
    /// A selector of the `rank`-th largest number. `rank` is at least 1. Rows have at least `rank` numbers and no NaN.
    pub fn new(rank: usize, isa: Isa) -> Self {
        Self { isa, rank, survivors: Vec::new(), guess: None }
    }

    /// The `rank`-th largest number of `row`.
    pub fn select(&mut self, row: &[C]) -> C {
        self.survivors.resize(row.len() + 2 * LANES, C::ZERO);
        let mut count = 0;
        if let Some(Guess { center, spread }) = self.guess {
            let above = center - spread - spread;
            self.isa.run(Compact { row, above, out: &mut self.survivors, count: &mut count });
        }
        if count < self.rank {
            self.survivors[..row.len()].copy_from_slice(row);
            count = row.len();
        }
        let (_, &mut found, _) = self.survivors[..count].select_nth_unstable_by(self.rank - 1, C::descending);
        self.learn(found);
        found
    }

    fn learn(&mut self, found: C) {
        let new = match self.guess {
            None => Guess { center: found, spread: C::from_f64(0.02) },
            Some(Guess { center, spread }) => {
                let mix = |old: C, new: C, share: f64| old * C::from_f64(1.0 - share) + new * C::from_f64(share);
                let off = (found - center).abs() * C::from_f64(1.5);
                Guess { center: mix(center, found, 0.1), spread: mix(spread, off, 0.05).larger(C::from_f64(1e-4)) }
            }
        };
        self.guess = Some(new);
    }
}

/// Copies the numbers above `above` to the front of `out`, which must be longer than `row` by two groups.
struct Compact<'a, C> {
    row: &'a [C],
    above: C,
    out: &'a mut [C],
    count: &'a mut usize,
}

impl<C: Float> Kernel for Compact<'_, C> {
    #[inline(always)]
    fn run<S: InstructionSet>(self) {
        let Self { row, above, out, count } = self;
        let (groups, rest) = row.as_chunks::<LANES>();
        let (bounds, mut places, mut last) = ([above; LANES], [0; LANES], [C::NEG_INFINITY; LANES]);
        last[..rest.len()].copy_from_slice(rest);
        let mut kept = 0;
        for at in 0..=groups.len() {
            kept += S::above(groups.get(at).unwrap_or(&last), &bounds, group_mut(out, kept), &mut places);
        }
        *count = kept;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equals_a_sort_on_rows_that_change() {
        for isa in Isa::all() {
            for length in [1usize, 2, 31, 32, 33, 100, 1000] {
                for rank in [1, 2, length.div_ceil(100), length] {
                    let rank = rank.min(length);
                    let mut selector = Selector::new(rank, isa);
                    let mut state = 1u64;
                    for round in 0..20 {
                        let mut row: Vec<f32> = (0..length)
                            .map(|_| {
                                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(round);
                                // Few distinct values, so that there are ties.
                                ((state >> 58) as f32) / 64.0 - round as f32 * 0.01
                            })
                            .collect();
                        let found = selector.select(&row);
                        row.sort_by(f32::descending);
                        assert_eq!(found, row[rank - 1]);
                    }
                }
            }
        }
    }
}
