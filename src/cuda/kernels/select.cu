// Finds the k-th largest similarity of each row, exactly, and the adaptive threshold, which is their mean.
//
// For few columns, `select` keeps the similarities of a row in shared memory and searches them digit by digit. For many
// columns there are four kernels. `sample` does the same for a sample of the columns, which gives a bracket for the
// quantile of each row. `survivors` counts the similarities above the bracket and keeps those in it. `pick` searches
// these. It lists the rows whose quantile is not in the bracket, or whose survivors were too many to keep.
// `select_failed` searches these rows among all columns, and computes the similarities again for each digit.

#define SELECT_RESIDENT (ROW_BYTES <= (IS_SPLIT ? SHORT_ROW : LONG_ROW) ? 2 : 1)

// The 16 rows of a block. All warps have the same rows, and each has its own columns.
struct Sixteen {
    int index[2];  // of the thread's two rows, -1 for none
    float inverse[2];
    Rows<1> left;
};

// `row_at(i)` is the index of row i, -1 for none.
template <class RowAt> DEVICE void load_sixteen(const Parameters& p, Sixteen& rows, RowAt row_at) {
    UNROLL for (int half = 0; half < 2; half++) {
        rows.index[half] = row_at(lane_of_thread() / 4 + half * 8);
        rows.inverse[half] = rows.index[half] < 0 ? 0.0f : p.anchors.cards[rows.index[half]].inverse_length;
    }
    load_rows(rows.left.a[0], p.anchors.rows + (i64)(rows.index[0] < 0 ? 0 : rows.index[0]) * ROW_BYTES,
              p.anchors.rows + (i64)(rows.index[1] < 0 ? 0 : rows.index[1]) * ROW_BYTES);
}

// Calls `visit(row, at, similarity)` for each of the rows and each column `column(at)` that it is compared with.
template <class Column, class Visit>
DEVICE void each_similarity(const Parameters& p, const Sixteen& rows, int columns, Column column, Visit visit) {
    const int lane = lane_of_thread();
    for (int block = warp_of_thread() * 8; block < columns; block += WARPS * 8) {
        // Past the end, load the last column and do not visit it.
        const int mine = block + lane / 4 < columns ? block + lane / 4 : columns - 1;
        const u8* right = p.keys.rows + (i64)column(mine) * ROW_BYTES + lane % 4 * 4;
        Products<1, 1> s;
        add_steps(s, [&](Products<1, 1>& part, int k) {
            multiply(part.c[0][0], rows.left.a[0][k], word(right + k * STEP), word(right + k * STEP + 16), 0);
        });
        each_pair(s, [&](float c, int row, int, int e) {
            const int at = block + lane % 4 * 2 + e % 2;
            if (at >= columns || rows.index[row] < 0) return;
            const int key = column(at);
            if (!is_compared(p, rows.index[row], key)) return;
            c = similarity(c, rows.inverse[row], p.keys.cards[key].inverse_length);
            visit(lane / 4 + row * 8, at, key == own_key(p, rows.index[row]) ? 1.0f : c);
        });
    }
}

// The rows of a block, at most SELECT_ROWS. No block has rows of both towers.
DEVICE Range rows_of_block(const Parameters& p, const Launch& l) {
    const int blocks = p.tower ? (p.tower + l.rows - 1) / l.rows : gridDim.x, tower = blockIdx.x / blocks;
    const int first = tower * p.tower + ((int)blockIdx.x - tower * blocks) * l.rows;
    const int all = p.tower ? (tower + 1) * p.tower : p.anchors.count;
    return {first, first + l.rows < all ? first + l.rows : all};
}

// The similarities of a block's 16 rows.
template <class Key> struct Strip {
    Key keys[SELECT_ROWS][(STRIP_BYTES + 16) / sizeof(Key)];
    u32 counts[WARPS][DIGITS];
    double sums[WARPS];
    u32 last;
};
static_assert(sizeof(Strip<u32>) <= SELECT_SHARED && sizeof(Strip<u16>) <= SELECT_SHARED, "sizes");

KERNEL(THREADS, SELECT_RESIDENT) select(const Parameters p, const Launch l) {
    SHARED_MEMORY(memory);
    Strip<u32>& shared = *(Strip<u32>*)memory;
    const int lane = lane_of_thread(), warp = warp_of_thread();
    const Range block = rows_of_block(p, l), keys = compared_keys(p, block.first);
    const int first = block.first, end = block.end, each = (l.rows + WARPS - 1) / WARPS;
    Sixteen rows;
    load_sixteen(p, rows, [&](int row) { return first + row < end ? first + row : -1; });
    each_similarity(p, rows, l.columns, [&](int at) { return keys.first + at; },
                    [&](int row, int at, float c) { shared.keys[row][at] = ordered(c); });
    sync_threads();
    for (int row = warp * each; row < (warp + 1) * each && first + row < end; row++) {
        const u32 key = find_key(shared.counts[warp], l.columns + p.rows_apart, l.rank, 4, [&](u32 i) {
            return i < (u32)l.columns ? shared.keys[row][i] : ordered(apart_of(p, first + row)[i - l.columns]);
        });
        if (lane == 0) p.quantiles[first + row] = from_ordered(key);
    }
    if (is_last_block(&p.header->done[0], gridDim.x, &shared.last)) average_quantiles(p, shared.sums);
}

// Column `at` of a sample: a hashed place in its part of the columns. With a fixed distance, the sample would contain
// only some of the classes if the rows are ordered by class.
DEVICE int sampled_column(int at, int columns, int keys) {
    u32 hash = at;
    hash = (hash ^ hash >> 16) * 0x85ebca6bu;
    hash = (hash ^ hash >> 13) * 0xc2b2ae35u;
    hash ^= hash >> 16;
    // The start of the part and the place in it, as fractions of 2^32.
    const u32 part = 0x80000000u / (u32)columns * 2;
    return (int)multiply_high(at * part + hash % part, keys);
}

// Similarities as 16-bit integers, since a bracket need not be exact. Its ends are moved outwards by the rounding
// error.
DEVICE u16 sample_key(float c) { return (u16)(u32)(fmaxf(c + 1.0f, 0.0f) * 32767.0f); }
DEVICE float bracket_end(u32 key, float further) { return ((float)key + further) * (1.0f / 32767.0f) - 1.0f; }

// Sets the bracket of the threshold to the means of its ends in all rows. By the last block.
DEVICE void bracket_threshold(const Parameters& p, const Launch& l, double* shared) {
    const double floor = mean_of_rows(p, p.quantiles, shared);
    const double ceiling = l.ceiling_rank ? mean_of_rows(p, p.highs, shared) : (double)infinity();
    if (threadIdx.x != 0) return;
    p.header->floor = (float)floor;
    p.header->ceiling = (float)ceiling;
}

KERNEL(THREADS, SELECT_RESIDENT) sample(const Parameters p, const Launch l) {
    SHARED_MEMORY(memory);
    Strip<u16>& shared = *(Strip<u16>*)memory;
    const int lane = lane_of_thread(), warp = warp_of_thread();
    const Range block = rows_of_block(p, l), keys = compared_keys(p, block.first);
    const int first = block.first, end = block.end, each = (l.rows + WARPS - 1) / WARPS;
    Sixteen rows;
    load_sixteen(p, rows, [&](int row) { return first + row < end ? first + row : -1; });
    const auto column = [&](int at) { return keys.first + sampled_column(at, l.columns, keys.end - keys.first); };
    each_similarity(p, rows, l.columns, column,
                    [&](int row, int at, float c) { shared.keys[row][at] = sample_key(c); });
    sync_threads();
    for (int row = warp * each; row < (warp + 1) * each && first + row < end; row++) {
        const auto key_at = [&](u32 i) { return (u32)shared.keys[row][i]; };
        // Until the quantile is known, its place has an end of the bracket of the threshold, as `highs` has.
        for (int i = 0; i < 4; i++) {
            const u32 rank = i == 0 ? l.rank : i == 1 ? l.high_rank : i == 2 ? l.floor_rank : l.ceiling_rank;
            if (rank == 0) continue;
            const float end = bracket_end(find_key(shared.counts[warp], l.columns, rank, 2, key_at), i % 2 ? 2.0f : -1.0f);
            if (lane == 0) (i == 0 ? p.lows : i == 2 ? p.quantiles : p.highs)[first + row] = end;
        }
    }
    if (p.joint && is_last_block(&p.header->done[3], gridDim.x, &shared.last)) bracket_threshold(p, l, shared.sums);
}

struct Selection {
    u32 counts[SELECT_ROWS * HISTOGRAM];
    u32 prefix[SELECT_ROWS];
    u32 rank[SELECT_ROWS];
    double sums[WARPS];
    u32 last;
};
static_assert(sizeof(Selection) <= SELECT_FAILED_SHARED, "sizes");

DEVICE void count_digit(Selection& shared, int row, float c, int pass) {
    const u32 key = ordered(c);
    if (pass > 0 && key >> (32 - 8 * pass) != shared.prefix[row]) return;
    atomic_add(&shared.counts[row * HISTOGRAM + (key >> (24 - 8 * pass) & (DIGITS - 1))], 1);
}

// The quantiles of the rows that `pick` listed, and the mean of all quantiles.
KERNEL(THREADS, IS_SPLIT ? 1 : SELECT_RESIDENT) select_failed(const Parameters p, const Launch l) {
    SHARED_MEMORY(memory);
    Selection& shared = *(Selection*)memory;
    const int lane = lane_of_thread(), warp = warp_of_thread();
    const int count = (int)p.header->failed;
    for (int first = blockIdx.x * SELECT_ROWS; first < count; first += gridDim.x * SELECT_ROWS) {
        Sixteen rows;
        load_sixteen(p, rows, [&](int row) { return first + row < count ? (int)p.failed[first + row] : -1; });
        if (threadIdx.x < SELECT_ROWS) {
            shared.prefix[threadIdx.x] = 0;
            shared.rank[threadIdx.x] = l.rank;
        }
        for (int pass = 0; pass < 4; pass++) {
            for (int i = threadIdx.x; i < SELECT_ROWS * HISTOGRAM; i += THREADS) shared.counts[i] = 0;
            sync_threads();
            each_similarity(p, rows, p.keys.count, [](int at) { return at; },
                            [&](int row, int, float c) { count_digit(shared, row, c, pass); });
            for (int i = threadIdx.x; i < SELECT_ROWS * p.rows_apart; i += THREADS) {
                const int row = i % SELECT_ROWS;
                if (first + row >= count) continue;
                count_digit(shared, row, apart_of(p, p.failed[first + row])[i / SELECT_ROWS], pass);
            }
            sync_threads();
            for (int row = warp * 2; row < warp * 2 + 2; row++) {
                u32 digit, rest;
                find_digit(shared.counts + row * HISTOGRAM, shared.rank[row], digit, rest);
                sync_warp();
                if (lane == 0) {
                    shared.prefix[row] = shared.prefix[row] << 8 | digit;
                    shared.rank[row] = rest;
                }
            }
            sync_threads();
        }
        if (warp == 0 && lane % 4 == 0) {
            UNROLL for (int half = 0; half < 2; half++) {
                if (rows.index[half] >= 0) p.quantiles[rows.index[half]] = from_ordered(shared.prefix[lane / 4 + half * 8]);
            }
        }
        sync_threads();
    }
    if (is_last_block(&p.header->done[0], gridDim.x, &shared.last)) average_quantiles(p, shared.sums);
}

// Counts the similarities of each row above its bracket, and keeps those in the bracket.
KERNEL(PASS_THREADS, PASS_RESIDENT) survivors(const Parameters p, const Launch l) {
    SHARED_MEMORY(stages);
    const int lane = lane_of_thread();
    const int first = l.first_row + blockIdx.x * TILE_ROWS;
    float low[PASS_ROWS], high[PASS_ROWS];
    u32 above[PASS_ROWS] = {};
    PassRows own;
    UNROLL for (int row = 0; row < PASS_ROWS; row++) {
        const int index = own_row<PassShape>(first, row);
        const bool there = index < p.anchors.count;
        low[row] = there && l.mode & LOW ? p.lows[index] : there ? -infinity() : infinity();
        high[row] = there && l.mode & HIGH ? p.highs[index] : infinity();
    }
    sweep<PassShape>(p, stages, p.anchors, p.keys, first, own, [&](PassProducts& s, int column, const u8*) {
        keep_rows<PassShape>(p, own, column, s);
        UNROLL for (int mine = 0; mine < PASS_ROWS; mine++) {
            u32 inside = 0;
            each_pair(s, [&](float c, int row, int, int) {
                if (row != mine) return;
                above[mine] += c > high[mine];
                inside += c >= low[mine] && c <= high[mine];
            });
            // Most tiles have none.
            if (!any(inside > 0)) continue;
            // The four lanes of a row reserve places for all of their similarities at once.
            const u32 up_to = prefix_sum<4>(inside);
            u32 start = 0;
            // Rows that are not anchors have none in the bracket, and none above it.
            if (lane % 4 == 3 && up_to > 0) start = atomic_add(&p.inside[own.index[mine]], up_to);
            start = from_lane(start, lane | 3) + up_to - inside;
            if (inside == 0) continue;
            float* kept = p.survivors + (i64)(own.index[mine] - l.first_row) * p.capacity;
            each_pair(s, [&](float c, int row, int, int) {
                if (row != mine || !(c >= low[mine] && c <= high[mine])) return;
                if (start < (u32)p.capacity) kept[start] = c;
                start++;
            });
        }
    });
    UNROLL for (int row = 0; row < PASS_ROWS; row++) {
        UNROLL for (int lanes = 1; lanes < 4; lanes *= 2) above[row] += exchange(above[row], lanes);
        if (lane % 4 == 0 && above[row] > 0) atomic_add(&p.above[own.index[row]], above[row]);
    }
}

// Finds the quantiles among the survivors. One warp per row.
KERNEL(THREADS, 2) pick(const Parameters p, const Launch l) {
    SHARED_MEMORY(memory);
    u32* counts = (u32*)memory + warp_of_thread() * DIGITS;
    const int lane = lane_of_thread();
    const int at = blockIdx.x * WARPS + warp_of_thread();
    const int row = l.first_row + at;
    if (at >= l.rows) return;
    const float* kept = p.survivors + (i64)at * p.capacity;
    // All rows apart are searched too, also those out of the bracket. What is found there is not the quantile, because
    // the keys are missing.
    const u32 inside = p.inside[row], above = p.above[row], rank = l.rank, count = inside + p.rows_apart;
    float found = not_a_number();
    if (inside <= (u32)p.capacity && above < rank && above + count >= rank) {
        found = from_ordered(find_key(counts, count, rank - above, 4, [&](u32 i) {
            return ordered(i < inside ? kept[i] : apart_of(p, row)[i - inside]);
        }));
    }
    if (lane != 0) return;
    const float low = l.mode & LOW ? p.lows[row] : -infinity(), high = l.mode & HIGH ? p.highs[row] : infinity();
    if (found >= low && found <= high) p.quantiles[row] = found;
    else p.failed[atomic_add(&p.header->failed, 1)] = row;
}
