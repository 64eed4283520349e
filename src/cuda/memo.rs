//! Results that are computed once per process.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};

/// A result, if there is one. The thread that computes it holds the lock.
type Cell<V> = Arc<Mutex<Option<Result<V>>>>;

/// Results by key. Each is computed once, also if several threads ask for it. Errors are kept too, except for those
/// from a lack of memory: the next call tries again.
pub(super) struct Memo<K, V>(Mutex<BTreeMap<K, Cell<V>>>);

impl<K: Ord, V: Clone> Memo<K, V> {
    pub(super) const fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    /// The result for a key, if there is one that is no error.
    pub(super) fn known(&self, key: &K) -> Option<V> {
        let cell = Arc::clone(lock(&self.0).get(key)?);
        let known = lock(&cell);
        known.as_ref()?.as_ref().ok().cloned()
    }

    /// The result for a key, from `make` if there is none yet. Calls for other keys do not wait.
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

/// Locks a mutex. A panic of another thread does no harm, because the data are only ever added to.
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
