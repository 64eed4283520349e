//! The order in which tiles are worked on.
//!
//! A tile (a, b) adds to what belongs to row block a and to column block b. Tiles are dealt out in
//! rounds in which no block occurs twice, and a tile waits until the earlier tiles of its two blocks
//! are done. So threads share one set of accumulators without locks, whichever thread is free takes
//! the next tile, and every block sums its tiles in one fixed order: the same bits whatever the
//! threads do, and however many they are.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use super::threads;

/// One tile, and how many tiles of its blocks come before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Turn {
    row: u32,
    column: u32,
    before_row: u32,
    before_column: u32,
}

/// All tiles of a matrix of blocks, or of its upper triangle.
#[derive(Debug)]
pub struct Schedule {
    turns: Vec<Turn>,
    rows: usize,
    /// Number of column blocks; none where a tile's column block is also a row block (upper triangle).
    columns: Option<usize>,
}

impl Schedule {
    /// The tiles (a, b) with a <= b of a symmetric matrix of `blocks` x `blocks` tiles.
    pub fn triangle(blocks: usize) -> Self {
        // a + b = round (mod blocks): each block meets exactly one partner a round, itself included.
        let pairs = (0..blocks)
            .flat_map(|round| (0..blocks).map(move |a| (a, (round + blocks - a) % blocks)).filter(|(a, b)| a <= b));
        Self::new(pairs, blocks, None)
    }

    /// All tiles of `rows` x `columns`.
    pub fn rectangle(rows: usize, columns: usize) -> Self {
        let longer = rows.max(columns);
        let pairs = (0..longer).flat_map(|round| {
            (0..rows.min(columns)).map(move |i| {
                let other = (i + round) % longer;
                if rows <= columns {
                    (i, other)
                } else {
                    (other, i)
                }
            })
        });
        Self::new(pairs, rows, Some(columns))
    }

    fn new(pairs: impl Iterator<Item = (usize, usize)>, rows: usize, columns: Option<usize>) -> Self {
        let mut row_counts = vec![0u32; rows];
        let mut column_counts = vec![0u32; columns.unwrap_or(0)];
        let turns = pairs
            .map(|(row, column)| {
                let before_row = row_counts[row];
                row_counts[row] += 1;
                let before_column = if columns.is_some() {
                    column_counts[column] += 1;
                    column_counts[column] - 1
                } else if column == row {
                    before_row
                } else {
                    row_counts[column] += 1;
                    row_counts[column] - 1
                };
                Turn { row: row as u32, column: column as u32, before_row, before_column }
            })
            .collect();
        Self { turns, rows, columns }
    }

    /// Calls `each(state, row block, column block)` for every tile, on up to `threads` threads, each with a state
    /// of its own. While it runs, no other call has one of its blocks.
    pub fn run<S>(&self, threads: usize, state: impl Fn() -> S + Sync, each: impl Fn(&mut S, usize, usize) + Sync) {
        let counters = |count| (0..count).map(|_| AtomicU32::new(0)).collect::<Vec<_>>();
        let row_done = counters(self.rows);
        let column_done = self.columns.map(counters);
        let next = AtomicUsize::new(0);
        let failed = AtomicBool::new(false);
        threads::run(threads.min(self.turns.len()), &|| {
            let guard = FailOnPanic(&failed);
            let mut own = None;
            while let Some(turn) = self.turns.get(next.fetch_add(1, Ordering::Relaxed)) {
                let row = &row_done[turn.row as usize];
                let column = &column_done.as_ref().unwrap_or(&row_done)[turn.column as usize];
                if !(wait_for(row, turn.before_row, &failed) && wait_for(column, turn.before_column, &failed)) {
                    break;
                }
                each(own.get_or_insert_with(&state), turn.row as usize, turn.column as usize);
                row.store(turn.before_row + 1, Ordering::Release);
                column.store(turn.before_column + 1, Ordering::Release);
            }
            std::mem::forget(guard);
        });
    }
}

/// Waits until `done` blocks are done; false if another thread gave up. Tiles are taken in order, so
/// what is waited for is being worked on, usually finished long ago.
fn wait_for(counter: &AtomicU32, done: u32, failed: &AtomicBool) -> bool {
    let mut spins = 0u32;
    while counter.load(Ordering::Acquire) != done {
        if failed.load(Ordering::Relaxed) {
            return false;
        }
        spins += 1;
        if spins < 200 {
            std::hint::spin_loop();
        } else {
            // More threads than cores: let the one that is waited for run.
            std::thread::yield_now();
        }
    }
    true
}

/// Dropped while a thread panics: lets the others stop waiting for it.
struct FailOnPanic<'a>(&'a AtomicBool);

impl Drop for FailOnPanic<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::sync::Mutex;

    #[test]
    fn triangle_has_each_pair_once() {
        for blocks in 1..9 {
            let turns = Schedule::triangle(blocks).turns;
            let pairs: HashSet<_> = turns.iter().map(|t| (t.row, t.column)).collect();
            assert_eq!(pairs.len(), turns.len());
            assert_eq!(turns.len(), blocks * (blocks + 1) / 2);
            assert!(turns.iter().all(|t| t.row <= t.column));
        }
    }

    #[test]
    fn rectangle_has_each_tile_once() {
        for (rows, columns) in [(1, 1), (1, 7), (7, 1), (3, 5), (5, 3), (4, 4)] {
            let turns = Schedule::rectangle(rows, columns).turns;
            let pairs: HashSet<_> = turns.iter().map(|t| (t.row, t.column)).collect();
            assert_eq!(pairs.len(), rows * columns);
            assert_eq!(turns.len(), rows * columns);
        }
    }

    #[test]
    fn a_block_is_never_shared_and_sums_in_one_order() {
        for schedule in [Schedule::triangle(7), Schedule::rectangle(7, 4)] {
            let order = |threads| {
                let lists: Vec<Mutex<Vec<(usize, usize)>>> = (0..7).map(|_| Mutex::default()).collect();
                schedule.run(
                    threads,
                    || (),
                    |(), a, b| {
                        for block in HashSet::from([a, b]) {
                            let mut list = lists[block].try_lock().unwrap_or_else(|_| std::process::abort());
                            if schedule.columns.is_none() || block == a {
                                list.push((a, b));
                            }
                        }
                    },
                );
                lists.into_iter().map(|l| l.into_inner().unwrap_or_default()).collect::<Vec<_>>()
            };
            if schedule.columns.is_none() {
                assert_eq!(order(1), order(4));
            }
        }
    }

    #[test]
    fn a_panic_ends_all_threads() {
        let schedule = Schedule::triangle(6);
        let run = || schedule.run(3, || (), |(), a, b| assert!((a, b) != (1, 2)));
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err());
    }
}
