//! Memory that one call leaves for the next: at every step of a training the system would otherwise map the same pages
//! anew and clear them, which takes a fifth of a step of 1,024 rows.

use std::mem::take;
use std::ops::{Deref, DerefMut};
use std::sync::PoisonError;

use super::float::Float;

/// The most that is left, of each type.
const KEPT_BYTES: usize = 32 << 20;

/// Numbers of any value, as an earlier owner left them.
pub struct Spare<C: Float>(Vec<C>);

impl<C: Float> Spare<C> {
    /// `length` numbers.
    pub fn new(length: usize) -> Self {
        let mut pieces = C::spare().lock().unwrap_or_else(PoisonError::into_inner);
        let fits = (0..pieces.len()).filter(|&i| pieces[i].capacity() >= length);
        let Some(best) = fits.min_by_key(|&i| pieces[i].capacity()) else {
            return Self(vec![C::ZERO; length]);
        };
        let mut memory = pieces.swap_remove(best);
        memory.resize(length, C::ZERO);
        Self(memory)
    }
}

impl<C: Float> Drop for Spare<C> {
    fn drop(&mut self) {
        let mut pieces = C::spare().lock().unwrap_or_else(PoisonError::into_inner);
        let kept: usize = pieces.iter().map(Vec::capacity).sum();
        if (kept + self.0.capacity()) * size_of::<C>() <= KEPT_BYTES {
            pieces.push(take(&mut self.0));
        }
    }
}

impl<C: Float> Deref for Spare<C> {
    type Target = [C];

    fn deref(&self) -> &[C] {
        &self.0
    }
}

impl<C: Float> DerefMut for Spare<C> {
    fn deref_mut(&mut self) -> &mut [C] {
        &mut self.0
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
        owners.clear();
        assert_eq!(Spare::<f64>::new(10).len(), 10);
        assert_eq!(Spare::<f64>::new(1200).len(), 1200);
    }

    #[test]
    fn what_is_left_is_bounded() {
        let half = KEPT_BYTES / size_of::<f32>() / 2 + 1;
        drop([Spare::<f32>::new(half), Spare::<f32>::new(half), Spare::<f32>::new(half)]);
        let pieces = f32::spare().lock().unwrap_or_else(PoisonError::into_inner);
        assert!(pieces.iter().map(Vec::capacity).sum::<usize>() * size_of::<f32>() <= KEPT_BYTES);
    }
}
