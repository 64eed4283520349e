//! The order in which tiles are computed.
//!
//! A tile (a, b) adds to the sums of row block a and of column block b. Blocks form groups. One thread computes the
//! tiles of a pair of groups, one after the other, while their blocks are in its cache. The pairs are ordered in
//! rounds. In a round no group occurs twice. A pair waits until the earlier pairs of its two groups are done. So
//! threads share one set of accumulators without locks, any free thread can take the next pair, and every block sums
//! its tiles in a fixed order. The results have the same bits in every run.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use super::team;

/// Largest number of blocks in a group. More would not fit the second-level cache.
const MAX_GROUP: usize = 4;
/// Smallest number of groups for each thread, so that no thread waits for long.
const GROUPS_EACH: usize = 8;

/// A pair of groups, and the number of earlier pairs of each of its groups.
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
    /// Number of row blocks.
    rows: usize,
    /// Number of column blocks. None for an upper triangle, where the column blocks are the row blocks.
    columns: Option<usize>,
    /// Number of blocks in a group. The last group may have fewer.
    group: usize,
    /// Row blocks from this one on have no tiles.
    row_end: usize,
    /// Column blocks before this one have no tiles.
    column_start: usize,
}

impl Schedule {
    /// The tiles (a, b) with a <= b of a symmetric matrix of `blocks` x `blocks` tiles, for the given number of
    /// threads.
    pub fn triangle(blocks: usize, threads: usize) -> Self {
        let group = group_size(blocks, threads);
        let groups = blocks.div_ceil(group);
        // a + b = round (mod groups): in each round, each group has exactly one partner, which may be itself.
        let pairs = (0..groups)
            .flat_map(|round| (0..groups).map(move |a| (a, (round + groups - a) % groups)).filter(|(a, b)| a <= b));
        Self { turns: turns(pairs, groups, None), rows: blocks, columns: None, group, row_end: blocks, column_start: 0 }
    }

    /// All tiles of a matrix of `rows` x `columns` tiles, for the given number of threads.
    pub fn rectangle(rows: usize, columns: usize, threads: usize) -> Self {
        let group = group_size(rows.min(columns), threads);
        let (row_groups, column_groups) = (rows.div_ceil(group), columns.div_ceil(group));
        let longer = row_groups.max(column_groups);
        let pairs = (0..longer).flat_map(|round| {
            (0..row_groups.min(column_groups)).map(move |i| {
                let other = (i + round) % longer;
                if row_groups <= column_groups {
                    (i, other)
                } else {
                    (other, i)
                }
            })
        });
        let turns = turns(pairs, row_groups, Some(column_groups));
        Self { turns, rows, columns: Some(columns), group, row_end: rows, column_start: 0 }
    }

    /// Restricts a triangle to the tiles of row blocks before `row_end` and of column blocks from `column_start` on.
    pub fn between(self, row_end: usize, column_start: usize) -> Self {
        let groups = self.rows.div_ceil(self.group);
        let (rows, first) = (row_end.div_ceil(self.group), column_start / self.group);
        let pairs = self.turns.iter().map(|turn| (turn.row as usize, turn.column as usize));
        let turns = turns(pairs.filter(|&(row, column)| row < rows && column >= first), groups, None);
        Self { turns, row_end, column_start, ..self }
    }

    /// Number of tiles.
    pub fn tiles(&self) -> usize {
        self.before(self.row_end)
    }

    /// The place of the tile (a, b) among all tiles, row by row.
    pub fn place(&self, a: usize, b: usize) -> usize {
        self.before(a) + b - self.first_column(a)
    }

    /// Like [`place`](Self::place), None if there is no such tile.
    pub fn find(&self, a: usize, b: usize) -> Option<usize> {
        (a < self.row_end && b >= self.first_column(a)).then(|| self.place(a, b))
    }

    /// The column block of the first tile of a row block.
    fn first_column(&self, a: usize) -> usize {
        if self.columns.is_none() {
            a.max(self.column_start)
        } else {
            0
        }
    }

    /// Number of tiles in the row blocks before `row`.
    fn before(&self, row: usize) -> usize {
        let all = row * (self.columns.unwrap_or(self.rows) - self.column_start);
        match (self.columns, row.checked_sub(self.column_start + 1)) {
            // From `column_start` on, each row of a triangle is shorter by one than the row before.
            (None, Some(rows)) => all - rows * (rows + 1) / 2,
            _ => all,
        }
    }

    /// Calls `each(state, row block, column block)` once for every tile, on up to `threads` threads with one state
    /// each. While a call runs, no other call has its row block or its column block.
    pub fn run<S>(&self, threads: usize, state: impl Fn() -> S + Sync, each: impl Fn(&mut S, usize, usize) + Sync) {
        let counters = |blocks: usize| (0..blocks.div_ceil(self.group)).map(|_| AtomicU32::new(0)).collect::<Vec<_>>();
        let row_done = counters(self.rows);
        let column_done = self.columns.map(counters);
        let next = AtomicUsize::new(0);
        let failed = AtomicBool::new(false);
        team::run(threads.min(self.turns.len()), &|| {
            let guard = FailOnPanic(&failed);
            let mut own = None;
            while let Some(turn) = self.turns.get(next.fetch_add(1, Ordering::Relaxed)) {
                let row = &row_done[turn.row as usize];
                let column = &column_done.as_ref().unwrap_or(&row_done)[turn.column as usize];
                if !(wait_for(row, turn.before_row, &failed) && wait_for(column, turn.before_column, &failed)) {
                    break;
                }
                let own = own.get_or_insert_with(&state);
                for (a, b) in self.tiles_of(turn) {
                    each(own, a, b);
                }
                row.store(turn.before_row + 1, Ordering::Release);
                column.store(turn.before_column + 1, Ordering::Release);
            }
            std::mem::forget(guard);
        });
    }

    /// The tiles of a pair of groups.
    fn tiles_of(&self, turn: &Turn) -> impl Iterator<Item = (usize, usize)> + '_ {
        let blocks = |group: u32, count: usize| {
            let start = group as usize * self.group;
            start..count.min(start + self.group)
        };
        let columns = blocks(turn.column, self.columns.unwrap_or(self.rows));
        let triangle = self.columns.is_none();
        blocks(turn.row, self.rows)
            .flat_map(move |a| columns.clone().map(move |b| (a, b)))
            .filter(move |&(a, b)| (!triangle || a <= b) && a < self.row_end && b >= self.column_start)
    }
}

/// The number of blocks in a group. It leaves enough groups for every thread.
fn group_size(blocks: usize, threads: usize) -> usize {
    (blocks / (GROUPS_EACH * threads)).clamp(1, MAX_GROUP)
}

/// The pairs of groups, with the number of earlier pairs of each group.
fn turns(pairs: impl Iterator<Item = (usize, usize)>, rows: usize, columns: Option<usize>) -> Vec<Turn> {
    let mut row_counts = vec![0u32; rows];
    let mut column_counts = vec![0u32; columns.unwrap_or(0)];
    pairs
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
        .collect()
}

/// Waits until `done` pairs of a group are done. Returns false if another thread has panicked. Threads take the pairs
/// in order, so an earlier pair is done already or in progress.
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
            // There may be more threads than cores. Let another thread run.
            std::thread::yield_now();
        }
    }
    true
}

/// Dropped when a thread panics. It tells the other threads to stop waiting.
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

    fn all_tiles(schedule: &Schedule) -> Vec<(usize, usize)> {
        schedule.turns.iter().flat_map(|turn| schedule.tiles_of(turn)).collect()
    }

    #[test]
    fn triangle_has_each_pair_once() {
        for blocks in 1..40 {
            let tiles = all_tiles(&Schedule::triangle(blocks, 1));
            let distinct: HashSet<_> = tiles.iter().collect();
            assert_eq!(distinct.len(), tiles.len());
            assert_eq!(tiles.len(), blocks * (blocks + 1) / 2);
            assert!(tiles.iter().all(|(a, b)| a <= b));
        }
    }

    #[test]
    fn rectangle_has_each_tile_once() {
        for (rows, columns) in [(1, 1), (1, 7), (7, 1), (3, 5), (5, 3), (4, 4), (33, 50), (50, 33)] {
            let tiles = all_tiles(&Schedule::rectangle(rows, columns, 1));
            let distinct: HashSet<_> = tiles.iter().collect();
            assert_eq!(distinct.len(), rows * columns);
            assert_eq!(tiles.len(), rows * columns);
        }
    }

    #[test]
    fn a_part_of_a_triangle_has_each_of_its_tiles_once() {
        for (blocks, row_end, column_start) in [(1, 1, 0), (2, 1, 1), (9, 5, 4), (80, 40, 40), (41, 21, 20)] {
            let mut tiles = all_tiles(&Schedule::triangle(blocks, 1).between(row_end, column_start));
            let mut expected: Vec<_> =
                (0..row_end).flat_map(|a| (a.max(column_start)..blocks).map(move |b| (a, b))).collect();
            tiles.sort_unstable();
            expected.sort_unstable();
            assert_eq!(tiles, expected);
        }
    }

    #[test]
    fn places_count_the_tiles_row_by_row() {
        let part = |(blocks, row_end, column_start)| Schedule::triangle(blocks, 1).between(row_end, column_start);
        let triangles = [1, 9, 40].map(|blocks| Schedule::triangle(blocks, 1));
        let rectangles = [(3, 5), (5, 3), (33, 50)].map(|(rows, columns)| Schedule::rectangle(rows, columns, 1));
        let parts = [(1, 1, 0), (2, 1, 1), (9, 5, 4), (80, 40, 40), (41, 21, 20)].map(part);
        for schedule in triangles.into_iter().chain(rectangles).chain(parts) {
            let mut tiles = all_tiles(&schedule);
            tiles.sort_unstable();
            assert_eq!(schedule.tiles(), tiles.len());
            let columns = schedule.columns.unwrap_or(schedule.rows);
            for (a, b) in (0..schedule.rows).flat_map(|a| (0..columns).map(move |b| (a, b))) {
                let place = tiles.binary_search(&(a, b)).ok();
                assert_eq!(schedule.find(a, b), place);
                assert!(place.is_none_or(|place| schedule.place(a, b) == place));
            }
        }
    }

    #[test]
    fn a_block_is_never_shared_and_sums_in_one_order() {
        let triangles = [7, 40].map(|blocks| (blocks, Schedule::triangle(blocks, 1)));
        let part = (41, Schedule::triangle(41, 1).between(21, 20));
        for (blocks, schedule) in triangles.into_iter().chain([part]) {
            let order = |threads| {
                let lists: Vec<Mutex<Vec<(usize, usize)>>> = (0..blocks).map(|_| Mutex::default()).collect();
                schedule.run(
                    threads,
                    || (),
                    |(), a, b| {
                        for block in HashSet::from([a, b]) {
                            // A block that another call uses would be locked.
                            lists[block].try_lock().unwrap_or_else(|_| std::process::abort()).push((a, b));
                        }
                    },
                );
                lists.into_iter().map(|list| list.into_inner().unwrap_or_default()).collect::<Vec<_>>()
            };
            assert_eq!(order(1), order(4));
        }
    }

    #[test]
    fn a_panic_ends_all_threads() {
        let schedule = Schedule::triangle(6, 3);
        let run = || schedule.run(3, || (), |(), a, b| assert!((a, b) != (1, 2)));
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err());
    }
}
