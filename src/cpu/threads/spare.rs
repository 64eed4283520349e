//! Memory that is kept between calls. Without it, the system would map and clear the same pages at every training step,
//! which takes a fifth of a step with 1,024 rows.
//!
//! Threads never wait for each other here, because in a forked process such a wait might never end.

use std::mem::take;
use std::ops::{Deref, DerefMut};
use std::sync::{MutexGuard, TryLockError};

use crate::cpu::simd::Float;

/// Largest number of bytes that are kept, for each type.
const KEPT_BYTES: usize = 32 << 20;
/// Largest number of bytes that are kept from one [`Spare::brief`].
const BRIEF_BYTES: usize = 4 << 20 | LINE_BYTES;
/// Number of bytes in a cache line.
const LINE_BYTES: usize = 64;

/// Numbers with the values that an earlier owner left. They start at a cache line, because a vector of 64 bytes that
/// spans two lines takes two accesses.
pub struct Spare<C: Float> {
    memory: Vec<C>,
    start: usize,
    length: usize,
    /// A larger piece, in bytes, goes back to the system.
    most: usize,
}

impl<C: Float> Spare<C> {
    /// `length` numbers.
    pub fn new(length: usize) -> Self {
        Self::leaving(KEPT_BYTES, length)
    }

    /// Like [`new`](Self::new), for memory that is dropped before the call needs the most memory. A large piece is not
    /// kept, because it would add to this peak.
    pub fn brief(length: usize) -> Self {
        Self::leaving(BRIEF_BYTES, length)
    }

    fn leaving(most: usize, length: usize) -> Self {
        let needed = length + LINE_BYTES / size_of::<C>();
        let left = pieces().and_then(|mut pieces| shortest(&mut pieces, needed));
        let memory = left.unwrap_or_else(|| vec![C::ZERO; needed]);
        let start = memory.as_ptr().align_offset(LINE_BYTES);
        Self { memory, start, length, most }
    }
}

impl<C: Float> Drop for Spare<C> {
    fn drop(&mut self) {
        if self.memory.len() * size_of::<C>() <= self.most {
            // The pieces are freed after the lock is released.
            let _rest = pieces().map(|mut pieces| keep(&mut pieces, take(&mut self.memory)));
        }
    }
}

/// The kept pieces. None while another thread holds the lock.
fn pieces<C: Float>() -> Option<MutexGuard<'static, Vec<Vec<C>>>> {
    match C::spare().try_lock() {
        Ok(pieces) => Some(pieces),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

/// Takes the shortest piece with at least `needed` numbers.
fn shortest<C>(pieces: &mut Vec<Vec<C>>, needed: usize) -> Option<Vec<C>> {
    let fits = (0..pieces.len()).filter(|&i| pieces[i].len() >= needed);
    let best = fits.min_by_key(|&i| pieces[i].len())?;
    Some(pieces.swap_remove(best))
}

/// Adds a piece, and removes shorter pieces if there is no room. Returns the pieces that are not kept.
fn keep<C>(pieces: &mut Vec<Vec<C>>, piece: Vec<C>) -> Vec<Vec<C>> {
    pieces.sort_unstable_by_key(Vec::len);
    let shorter = pieces.partition_point(|kept| kept.len() < piece.len());
    let bytes = |kept: &[Vec<C>]| (kept.iter().map(Vec::len).sum::<usize>() + piece.len()) * size_of::<C>();
    let Some(gone) = (0..=shorter).find(|&gone| bytes(&pieces[gone..]) <= KEPT_BYTES) else { return vec![piece] };
    let rest = pieces.drain(..gone).collect();
    pieces.push(piece);
    rest
}

impl<C: Float> Deref for Spare<C> {
    type Target = [C];

    fn deref(&self) -> &[C] {
        &self.memory[self.start..self.start + self.length]
    }
}

impl<C: Float> DerefMut for Spare<C> {
    fn deref_mut(&mut self) -> &mut [C] {
        &mut self.memory[self.start..self.start + self.length]
    }
}

#[cfg(test)]
mod tests {
    use std::sync::PoisonError;

    use super::*;

    #[test]
    fn no_memory_has_two_owners_and_lengths_are_as_asked() {
        let mut owners: Vec<_> = (0..4).map(|i| Spare::<f64>::new(1000 + i)).collect();
        owners.iter_mut().enumerate().for_each(|(i, owner)| owner.fill(i as f64));
        assert!(owners.iter().enumerate().all(|(i, owner)| owner.len() == 1000 + i && owner[999] == i as f64));
        assert!(owners.iter().all(|owner| (owner.as_ptr() as usize).is_multiple_of(LINE_BYTES)));
        owners.clear();
        assert_eq!(Spare::<f64>::new(10).len(), 10);
        assert_eq!(Spare::<f64>::new(1200).len(), 1200);
    }

    #[test]
    fn what_is_left_is_bounded() {
        let half = KEPT_BYTES / size_of::<f32>() / 2 + 1;
        drop([Spare::<f32>::new(half), Spare::<f32>::new(half), Spare::<f32>::new(half)]);
        let brief = BRIEF_BYTES / size_of::<f32>() + 7;
        drop(Spare::<f32>::brief(brief));
        let pieces = f32::spare().lock().unwrap_or_else(PoisonError::into_inner);
        assert!(pieces.iter().map(Vec::len).sum::<usize>() * size_of::<f32>() <= KEPT_BYTES);
        assert!(pieces.iter().all(|piece| piece.len() < brief || piece.len() > brief + LINE_BYTES));
    }

    #[test]
    fn a_longer_piece_takes_the_place_of_the_shortest() {
        let eighths = |eighths: usize| vec![0_u8; eighths * (KEPT_BYTES / 8)];
        let lengths = |pieces: &[Vec<u8>]| pieces.iter().map(|p| p.len() / (KEPT_BYTES / 8)).collect::<Vec<_>>();
        let mut pieces = vec![];
        for (came, gone, kept) in [
            (1, vec![], vec![1]),
            (2, vec![], vec![1, 2]),
            (3, vec![], vec![1, 2, 3]),
            (2, vec![], vec![1, 2, 3, 2]),
            (3, vec![1, 2], vec![2, 3, 3]),
            (1, vec![1], vec![2, 3, 3]),
            (3, vec![3], vec![2, 3, 3]),
            (8, vec![2, 3, 3], vec![8]),
            (7, vec![7], vec![8]),
            (9, vec![9], vec![8]),
        ] {
            let rest = keep(&mut pieces, eighths(came));
            assert_eq!((lengths(&rest), lengths(&pieces)), (gone, kept), "of {came} eighths");
        }
    }

    #[test]
    fn nobody_waits_for_another_owner() {
        let _held = f64::spare().lock().unwrap_or_else(PoisonError::into_inner);
        assert_eq!(Spare::<f64>::new(10).len(), 10);
    }
}
