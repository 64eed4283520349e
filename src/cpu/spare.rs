//! Memory that one call leaves for the next: at every step of a training the system would otherwise map the same pages
//! anew and clear them, which takes a fifth of a step of 1,024 rows.

use std::mem::take;
use std::ops::{Deref, DerefMut};
use std::sync::PoisonError;

use super::float::Float;

/// The most that is left, of each type.
const KEPT_BYTES: usize = 32 << 20;
/// The most of it that is left by an owner of [`Spare::brief`].
const BRIEF_BYTES: usize = 4 << 20 | LINE_BYTES;
/// Bytes of a cache line.
const LINE_BYTES: usize = 64;

/// Numbers of any value, as an earlier owner left them, from the start of a cache line on: a vector of 64 bytes across
/// two lines takes two accesses.
pub struct Spare<C: Float> {
    memory: Vec<C>,
    start: usize,
    length: usize,
    /// More bytes than this are given back to the system.
    most: usize,
}

impl<C: Float> Spare<C> {
    /// `length` numbers.
    pub fn new(length: usize) -> Self {
        Self::leaving(KEPT_BYTES, length)
    }

    /// The same for an owner that is gone before the call needs most memory: what many rows take would only be added to
    /// that.
    pub fn brief(length: usize) -> Self {
        Self::leaving(BRIEF_BYTES, length)
    }

    fn leaving(most: usize, length: usize) -> Self {
        let needed = length + LINE_BYTES / size_of::<C>();
        let mut pieces = C::spare().lock().unwrap_or_else(PoisonError::into_inner);
        let fits = (0..pieces.len()).filter(|&i| pieces[i].len() >= needed);
        let best = fits.min_by_key(|&i| pieces[i].len());
        let memory = best.map_or_else(|| vec![C::ZERO; needed], |best| pieces.swap_remove(best));
        let start = memory.as_ptr().align_offset(LINE_BYTES);
        Self { memory, start, length, most }
    }
}

impl<C: Float> Drop for Spare<C> {
    fn drop(&mut self) {
        let mut pieces = C::spare().lock().unwrap_or_else(PoisonError::into_inner);
        let kept: usize = pieces.iter().map(Vec::len).sum();
        let own = self.memory.len();
        if own * size_of::<C>() <= self.most && (kept + own) * size_of::<C>() <= KEPT_BYTES {
            pieces.push(take(&mut self.memory));
        }
    }
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
}
