//! Memory that one call leaves for the next: at every step of a training the system would otherwise map the same pages
//! anew and clear them, which takes a quarter of a step of 1,024 rows.

use std::mem::take;
use std::ops::{Deref, DerefMut};
use std::sync::PoisonError;

use super::float::Float;

/// Numbers of any value, as the last owner left them. One piece for each type outlives its owner.
pub struct Spare<C: Float>(Vec<C>);

impl<C: Float> Spare<C> {
    /// `length` numbers.
    pub fn new(length: usize) -> Self {
        let mut memory = take(&mut *C::spare().lock().unwrap_or_else(PoisonError::into_inner));
        if memory.capacity() < length {
            memory = vec![C::ZERO; length];
        } else {
            memory.resize(length, C::ZERO);
        }
        Self(memory)
    }
}

impl<C: Float> Drop for Spare<C> {
    fn drop(&mut self) {
        let mut spare = C::spare().lock().unwrap_or_else(PoisonError::into_inner);
        if spare.capacity() < self.0.capacity() {
            *spare = take(&mut self.0);
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
    fn memory_is_used_again_and_never_by_two() {
        let mut first = Spare::<f64>::new(1000);
        first[999] = 7.0;
        let at = first.as_ptr();
        let other = Spare::<f64>::new(1000);
        assert_ne!(other.as_ptr(), at);
        drop(first);
        drop(other);
        assert_eq!(Spare::<f64>::new(10).len(), 10);
        assert_eq!(Spare::<f64>::new(1200).len(), 1200);
    }
}
