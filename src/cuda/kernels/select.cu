// The k-th largest similarity of each row, exactly, and the adaptive threshold, their mean.
//
// `select` finds it by four digits of 8 bits, computing the similarities anew for each: for few columns, and for the
// few rows that the other way fails on. The other way, for many columns: `select` on a sample of them brackets the
// quantile of each row, `survivors` counts what is above the bracket and keeps what is inside, `pick` searches these and
// notes the rows whose bracket missed, or whose survivors were too many to keep.

#define HISTOGRAM (DIGITS + 1)  // rows of counts are in different banks

enum SelectMode { ALL_ROWS, SAMPLE_LOW, SAMPLE_HIGH, FAILED_ROWS };

// The digit in which the `rank`-th largest lies, and its rank among the numbers that have that digit. By a warp.
DEVICE void find_digit(const u32* counts, u32 rank, u32& digit, u32& rest) {
    const int lane = lane_of_thread();
    // Lane l has the digits 255 - 8 l down to 248 - 8 l.
    u32 own = 0;
    for (int i = 0; i < 8; i++) own += counts[DIGITS - 1 - (lane * 8 + i)];
    u32 up_to = own;
    for (int distance = 1; distance < LANES; distance *= 2) {
        u32 lower = from_lane(up_to, lane >= distance ? lane - distance : lane);
        if (lane >= distance) up_to += lower;
    }
    const u32 found = ballot(up_to >= rank);
    int owner = 0;
    while (owner < LANES - 1 && !(found >> owner & 1)) owner++;
    u32 before = up_to - own, at = 0;
    if (lane == owner) {
        while (at < 7 && before + counts[DIGITS - 1 - (lane * 8 + at)] < rank) before += counts[DIGITS - 1 - (lane * 8 + at++)];
    }
    digit = from_lane(DIGITS - 1 - (lane * 8 + at), owner);
    rest = rank - from_lane(before, owner);
}

// The mean of all quantiles, as the threshold. By the last block.
DEVICE void average_quantiles(const Parameters& p, double* shared) {
    double sum = 0.0;
    for (int row = threadIdx.x; row < p.anchors.count; row += THREADS) sum += p.quantiles[row];
    sum = warp_sum(sum);
    if (lane_of_thread() == 0) shared[warp_of_thread()] = sum;
    sync_threads();
    if (threadIdx.x != 0) return;
    sum = 0.0;
    for (int warp = 0; warp < WARPS; warp++) sum += shared[warp];
    p.header->epsilon = sum / p.anchors.count;
    p.header->limit = limit_of(p.header->epsilon);
}

struct Selection {
    u32 counts[SELECT_ROWS * HISTOGRAM];
    u32 prefix[SELECT_ROWS];
    u32 rank[SELECT_ROWS];
    double sums[WARPS];
    u32 last;
};
static_assert(sizeof(Selection) <= SELECT_SHARED, "sizes");

DEVICE void count_digit(Selection& shared, int row, float c, int pass) {
    const u32 key = ordered(c);
    if (pass > 0 && key >> (32 - 8 * pass) != shared.prefix[row]) return;
    atomic_add(&shared.counts[row * HISTOGRAM + (key >> (24 - 8 * pass) & (DIGITS - 1))], 1);
}

// 16 rows for each block: all warps have them, each has its own columns.
KERNEL(THREADS, RESIDENT) select(const Parameters p, const Launch l) {
    SHARED_MEMORY(memory);
    Selection& shared = *(Selection*)memory;
    const int lane = lane_of_thread(), warp = warp_of_thread();
    const bool sampled = l.mode == SAMPLE_LOW || l.mode == SAMPLE_HIGH;
    const int count = l.mode == FAILED_ROWS ? (int)p.header->failed : p.anchors.count - l.first_row;
    for (int first = blockIdx.x * SELECT_ROWS; first < count; first += gridDim.x * SELECT_ROWS) {
        int index[2];
        float inverse[2];
        for (int half = 0; half < 2; half++) {
            int at = first + lane / 4 + half * 8;
            index[half] = at >= count ? -1 : l.mode == FAILED_ROWS ? (int)p.failed[at] : l.first_row + at;
            inverse[half] = index[half] < 0 ? 0.0f : p.anchors.cards[index[half]].inverse_length;
        }
        Rows left;
        load_rows(left, p.anchors.rows + (i64)(index[0] < 0 ? 0 : index[0]) * ROW_BYTES,
                  p.anchors.rows + (i64)(index[1] < 0 ? 0 : index[1]) * ROW_BYTES);
        if (threadIdx.x < SELECT_ROWS) {
            shared.prefix[threadIdx.x] = 0;
            shared.rank[threadIdx.x] = l.rank;
        }
        for (int pass = 0; pass < 4; pass++) {
            for (int i = threadIdx.x; i < SELECT_ROWS * HISTOGRAM; i += THREADS) shared.counts[i] = 0;
            sync_threads();
            for (int block = warp * 8; block < l.columns; block += WARPS * 8) {
                // Columns past the end are the last one, and not counted.
                const int sample = block + lane / 4 < l.columns ? block + lane / 4 : l.columns - 1;
                const u8* right = p.keys.rows + (i64)sample * l.stride * ROW_BYTES + lane % 4 * 4;
                float c[4] = {0.0f, 0.0f, 0.0f, 0.0f};
                UNROLL for (int k = 0; k < STEPS; k++) multiply(c, left.a[k], word(right + k * STEP), word(right + k * STEP + 16));
                UNROLL for (int e = 0; e < 4; e++) {
                    const int at = block + lane % 4 * 2 + e % 2, row = lane / 4 + e / 2 * 8;
                    if (at >= l.columns || index[e / 2] < 0) continue;
                    const int key = at * l.stride;
                    float own = similarity(c[e], inverse[e / 2], p.keys.cards[key].inverse_length);
                    if (key == own_key(p, index[e / 2])) own = 1.0f;
                    count_digit(shared, row, own, pass);
                }
            }
            if (p.pairing == APART && !sampled && warp == 0 && lane % 4 == 0) {
                UNROLL for (int half = 0; half < 2; half++) {
                    if (index[half] >= 0) count_digit(shared, lane / 4 + half * 8, p.positive_similarities[index[half]], pass);
                }
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
        float* out = l.mode == SAMPLE_LOW ? p.lows : l.mode == SAMPLE_HIGH ? p.highs : p.quantiles;
        if (warp == 0 && lane % 4 == 0) {
            UNROLL for (int half = 0; half < 2; half++) {
                if (index[half] >= 0) out[index[half]] = from_ordered(shared.prefix[lane / 4 + half * 8]);
            }
        }
        sync_threads();
    }
    if (!sampled && is_last_block(&p.header->done[0], gridDim.x, &shared.last)) average_quantiles(p, shared.sums);
}

// Counts each row's similarities above its bracket, and keeps those in it.
KERNEL(THREADS, RESIDENT) survivors(const Parameters p, const Launch l) {
    SHARED_MEMORY(stages);
    const int lane = lane_of_thread();
    const int first = l.first_row + blockIdx.x * TILE_ROWS;
    float low[2], high[2];
    u32 above[2] = {0, 0};
    OwnRows own;
    UNROLL for (int half = 0; half < 2; half++) {
        const int row = first + warp_of_thread() * 16 + lane / 4 + half * 8;
        low[half] = row < p.anchors.count && l.mode & 1 ? p.lows[row] : row < p.anchors.count ? -infinity() : infinity();
        high[half] = row < p.anchors.count && l.mode & 2 ? p.highs[row] : infinity();
    }
    sweep(stages, p.anchors, p.keys, first, blockIdx.y, gridDim.y, own, [&](Products& s, int column, const u8*) {
        keep_rows(p, own, column, s);
        UNROLL for (int half = 0; half < 2; half++) {
            u32 inside = 0;
            each_pair(s, [&](float c, int row, int, int) {
                if (row != half) return;
                above[half] += c > high[half];
                inside += c >= low[half] && c <= high[half];
            });
            // The four lanes of a row reserve their places together.
            u32 up_to = inside;
            UNROLL for (int distance = 1; distance < 4; distance *= 2) {
                u32 lower = from_lane(up_to, lane % 4 >= distance ? lane - distance : lane);
                if (lane % 4 >= distance) up_to += lower;
            }
            u32 start = 0;
            const bool reserves = lane % 4 == 3 && up_to > 0 && own.index[half] < p.anchors.count;
            if (reserves) start = atomic_add(&p.inside[own.index[half]], up_to);
            start = from_lane(start, lane | 3) + up_to - inside;
            if (inside == 0 || own.index[half] >= p.anchors.count) continue;
            float* kept = p.survivors + (i64)(own.index[half] - l.first_row) * p.capacity;
            each_pair(s, [&](float c, int row, int, int) {
                if (row != half || !(c >= low[half] && c <= high[half])) return;
                if (start < (u32)p.capacity) kept[start] = c;
                start++;
            });
        }
    });
    UNROLL for (int half = 0; half < 2; half++) {
        UNROLL for (int lanes = 1; lanes < 4; lanes *= 2) above[half] += exchange(above[half], lanes);
        if (lane % 4 == 0 && own.index[half] < p.anchors.count && above[half] > 0) atomic_add(&p.above[own.index[half]], above[half]);
    }
}

// Searches the survivors, a warp for each row.
KERNEL(THREADS, 2) pick(const Parameters p, const Launch l) {
    SHARED_MEMORY(memory);
    u32* counts = (u32*)memory + warp_of_thread() * DIGITS;
    const int lane = lane_of_thread();
    const int at = blockIdx.x * WARPS + warp_of_thread();
    const int row = l.first_row + at;
    if (at >= l.rows) return;
    const float* kept = p.survivors + (i64)at * p.capacity;
    const u32 inside = p.inside[row];
    u32 above = p.above[row];
    // The positive given apart is of the row as well.
    bool extra = false;
    float positive = 0.0f;
    if (p.pairing == APART) {
        positive = p.positive_similarities[row];
        const bool is_above = l.mode & 2 && positive > p.highs[row];
        above += is_above;
        extra = !is_above && !(l.mode & 1 && positive < p.lows[row]);
    }
    const u32 rank = l.rank;
    if (inside > (u32)p.capacity || above >= rank || above + inside + extra < rank) {
        if (lane == 0) p.failed[atomic_add(&p.header->failed, 1)] = row;
        return;
    }
    u32 prefix = 0, rest = rank - above;
    for (int pass = 0; pass < 4; pass++) {
        for (int i = lane; i < DIGITS; i += LANES) counts[i] = 0;
        sync_warp();
        for (u32 i = lane; i < inside + extra; i += LANES) {
            const u32 key = ordered(i < inside ? kept[i] : positive);
            if (pass > 0 && key >> (32 - 8 * pass) != prefix) continue;
            atomic_add(&counts[key >> (24 - 8 * pass) & (DIGITS - 1)], 1);
        }
        sync_warp();
        u32 digit;
        find_digit(counts, rest, digit, rest);
        prefix = prefix << 8 | digit;
        sync_warp();
    }
    if (lane == 0) p.quantiles[row] = from_ordered(prefix);
}

// The quantiles of rows as a result of their own.
KERNEL(THREADS, 2) copy_quantiles(const Parameters p, const Launch l) {
    const int row = blockIdx.x * THREADS + threadIdx.x;
    if (row < p.anchors.count) l.output[row] = p.quantiles[row];
}

// The smallest and the largest similarity of each row.
KERNEL(THREADS, RESIDENT) ranges(const Parameters p, const Launch l) {
    SHARED_MEMORY(stages);
    const int first = blockIdx.x * TILE_ROWS;
    float low[2] = {infinity(), infinity()}, high[2] = {-infinity(), -infinity()};
    OwnRows own;
    sweep(stages, p.anchors, p.keys, first, blockIdx.y, gridDim.y, own, [&](Products& s, int column, const u8*) {
        keep_rows(p, own, column, s);
        each_pair(s, [&](float c, int row, int, int) {
            low[row] = fminf(low[row], c);
            high[row] = fmaxf(high[row], c);
        });
    });
    UNROLL for (int half = 0; half < 2; half++) {
        UNROLL for (int lanes = 1; lanes < 4; lanes *= 2) {
            low[half] = fminf(low[half], exchange(low[half], lanes));
            high[half] = fmaxf(high[half], exchange(high[half], lanes));
        }
        if (lane_of_thread() % 4 != 0 || own.index[half] >= p.anchors.count) continue;
        atomic_min(&p.ranges[2 * own.index[half]], ordered(low[half]));
        atomic_max(&p.ranges[2 * own.index[half] + 1], ordered(high[half]));
    }
}

// Each anchor's threshold for the general kernels: of its range, or that of all. A thread for each.
KERNEL(THREADS, 2) settle_thresholds(const Parameters p, const Launch l) {
    const int row = blockIdx.x * THREADS + threadIdx.x;
    if (row >= p.anchors.count) return;
    float threshold = p.header->limit;
    if (p.threshold == MINMAX) {
        double low = from_ordered(p.ranges[2 * row]), high = from_ordered(p.ranges[2 * row + 1]);
        if (p.pairing == APART) {
            low = fmin(low, (double)p.positive_similarities[row]);
            high = fmax(high, (double)p.positive_similarities[row]);
        }
        threshold = (float)(low + p.threshold_value * (high - low));
    }
    p.anchors.splits[row].threshold = threshold;
    // For the maxima, which come next.
    p.ranges[2 * row] = p.ranges[2 * row + 1] = 0;
}
