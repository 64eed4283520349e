//! What is found or made once for the whole process.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};

/// Nothing yet, or what came of making it. Whoever makes it holds the lock.
type Cell<V> = Arc<Mutex<Option<Result<V>>>>;

/// Results by key, each made once, whoever asks. A failure for want of memory is not kept: the next call tries again. All
/// other failures are those of every later call.
pub(super) struct Memo<K, V>(Mutex<BTreeMap<K, Cell<V>>>);

impl<K: Ord, V: Clone> Memo<K, V> {
    pub(super) const fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    /// What was made for that key, if it was.
    pub(super) fn known(&self, key: &K) -> Option<V> {
        let cell = Arc::clone(lock(&self.0).get(key)?);
        let known = lock(&cell);
        known.as_ref()?.as_ref().ok().cloned()
    }

    /// What `make` gave for that key, the first time that it did not run out of memory. Other keys do not wait for it.
    pub(super) fn get(&self, key: K, make: impl FnOnce() -> Result<V>) -> Result<V> {
        let cell = Arc::clone(lock(&self.0).entry(key).or_default());
        let mut known = lock(&cell);
        if let Some(found) = &*known {
            return found.clone();
        }
        let made = make();
        if !matches!(made, Err(Error::Memory(_))) {
            *known = Some(made.clone());
        }
        made
    }
}

/// A panic of another thread left nothing half done: what is under a lock is only ever added to.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_kept_but_for_those_of_memory() {
        let memo = Memo::new();
        let full = || Err(Error::Memory("full".into()));
        assert_eq!((memo.known(&1), memo.get(1, full), memo.known(&1)), (None, full(), None));
        assert_eq!(memo.get(1, || Ok("there")), Ok("there"));
        assert_eq!((memo.get(1, full), memo.known(&1)), (Ok("there"), Some("there")));
        assert_eq!(memo.get(2, || Err(Error::runtime("broken"))), Err(Error::runtime("broken")));
        assert_eq!(memo.get(2, || Ok("mended")), Err(Error::runtime("broken")));
    }

    #[test]
    fn keys_do_not_wait_for_each_other() {
        let memo = Memo::new();
        assert_eq!(memo.get(1, || memo.get(2, || Ok(3))), Ok(3));
    }
}
