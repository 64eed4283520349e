//! Threads: torch's OpenMP team if it is loaded, else threads of the standard library.
//!
//! libgomp's workers spin for a while after each torch operation. A second pool would compete with them for the cores,
//! which is 1.7 times slower right after a torch operation. So the same team does the work, through libgomp's stable C
//! entry `GOMP_parallel`, if the process has it.

use std::any::Any;
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Calls `work` once on each of at most `threads` threads, at the same time. `work` must not rely on the number of
/// threads, because a team may be smaller.
pub fn run(threads: usize, work: &(dyn Fn() + Sync)) {
    if threads <= 1 {
        return work();
    }
    match libgomp::entry() {
        Some(entry) => run_on_team(entry, threads, work),
        None => std::thread::scope(|scope| {
            for _ in 1..threads {
                scope.spawn(work);
            }
            work();
        }),
    }
}

/// Calls `each(state, index)` once for every index below `count`, on any free thread. Each thread has its own state.
pub fn for_each<S>(threads: usize, count: usize, state: impl Fn() -> S + Sync, each: impl Fn(&mut S, usize) + Sync) {
    let next = AtomicUsize::new(0);
    run(threads.min(count), &|| {
        let mut own = None;
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                break;
            }
            each(own.get_or_insert_with(&state), index);
        }
    });
}

/// The data that crosses the C boundary: the work, and the panic of a thread, which must not unwind into C.
struct Job<'a> {
    work: &'a (dyn Fn() + Sync),
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

fn run_on_team(entry: libgomp::Parallel, threads: usize, work: &(dyn Fn() + Sync)) {
    let job = Job { work, panic: Mutex::new(None) };
    // SAFETY: `entry` is `GOMP_parallel`. It returns only after every call of `call_job` has returned, so `job`
    // outlives its use. The threads only get `&Job`, and `Job` is `Sync`.
    unsafe { entry(call_job, (&raw const job).cast_mut().cast(), threads as u32, 0) };
    if let Some(panic) = job.panic.into_inner().unwrap_or_else(PoisonError::into_inner) {
        resume_unwind(panic);
    }
}

unsafe extern "C" fn call_job(data: *mut libc::c_void) {
    // SAFETY: `run_on_team` passes a `Job` that lives until every call has returned.
    let job = unsafe { &*data.cast::<Job<'_>>() };
    if let Err(panic) = catch_unwind(AssertUnwindSafe(job.work)) {
        job.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(panic);
    }
}

/// The entry of libgomp, if the process has it. torch makes its symbols visible.
mod libgomp {
    use std::sync::OnceLock;

    /// `void GOMP_parallel(void (*fn)(void *), void *data, unsigned num_threads, unsigned flags)`
    pub type Parallel = unsafe extern "C" fn(unsafe extern "C" fn(*mut libc::c_void), *mut libc::c_void, u32, u32);

    pub fn entry() -> Option<Parallel> {
        static ENTRY: OnceLock<Option<Parallel>> = OnceLock::new();
        *ENTRY.get_or_init(find)
    }

    #[cfg(unix)]
    fn find() -> Option<Parallel> {
        // SAFETY: This looks up a NUL-terminated name among the loaded libraries.
        let symbol = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"GOMP_parallel".as_ptr()) };
        // SAFETY: The ABI of libgomp fixes the signature for this name. Other OpenMP libraries that export the name
        // follow it.
        (!symbol.is_null()).then(|| unsafe { std::mem::transmute::<*mut libc::c_void, Parallel>(symbol) })
    }

    #[cfg(not(unix))]
    fn find() -> Option<Parallel> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_index_is_visited_once() {
        for threads in [1, 2, 5] {
            let seen: Vec<AtomicUsize> = (0..1000).map(|_| AtomicUsize::new(0)).collect();
            for_each(
                threads,
                1000,
                || (),
                |(), i| {
                    seen[i].fetch_add(1, Ordering::Relaxed);
                },
            );
            assert!(seen.iter().all(|count| count.load(Ordering::Relaxed) == 1));
        }
    }

    #[test]
    fn a_panic_reaches_the_caller() {
        let outcome = catch_unwind(|| for_each(3, 100, || (), |(), i| assert!(i != 50)));
        assert!(outcome.is_err());
    }
}
