// Finds the k-th largest of many numbers by radix selection with digits of 8 bits, and the mean of the quantiles.

#define HISTOGRAM (DIGITS + 1)  // so that the counts of different rows are in different banks

// Finds the digit of the `rank`-th largest number, and its rank among the numbers with that digit. By one warp.
DEVICE void find_digit(const u32* counts, u32 rank, u32& digit, u32& rest) {
    const int lane = lane_of_thread();
    // How many numbers have a digit or a larger one. Lane l has the digits 255 - 8 l down to 248 - 8 l.
    u32 up_to[8], own = 0;
    UNROLL for (int i = 0; i < 8; i++) up_to[i] = own += counts[DIGITS - 1 - (lane * 8 + i)];
    const u32 lower = prefix_sum<LANES>(own) - own;  // with the digits of lower lanes
    UNROLL for (int i = 0; i < 8; i++) up_to[i] += lower;
    const int owner = lowest_set_bit(ballot(up_to[7] >= rank));
    u32 before = from_lane(lower, owner);
    digit = DIGITS - 1 - owner * 8;
    UNROLL for (int i = 0; i < 7; i++) {
        const u32 others = from_lane(up_to[i], owner);
        if (others >= rank) continue;
        before = others;
        digit--;
    }
    rest = rank - before;
}

// Sets the counts of a warp to 0. They start at a multiple of 16 bytes.
DEVICE void clear_counts(u32* counts) {
    UNROLL for (int i = 0; i < DIGITS; i += 4 * LANES) *(uint4*)(counts + i + lane_of_thread() * 4) = uint4{0, 0, 0, 0};
    sync_warp();
}

// Calls `visit(key, is_there)` for the keys `key_at(i)`, which a lane loads four at a time. By one warp.
template <class KeyAt, class Visit> DEVICE void each_key(u32 count, KeyAt key_at, Visit visit) {
    for (u32 first = lane_of_thread(); first < count; first += 4 * LANES) {
        u32 keys[4];
        UNROLL for (int i = 0; i < 4; i++) keys[i] = first + i * LANES < count ? key_at(first + i * LANES) : 0;
        UNROLL for (int i = 0; i < 4; i++) visit(keys[i], first + i * LANES < count);
    }
}

// The `rank`-th largest of the `count` keys `key_at(i)`, which have `digits` digits. By one warp, with its own counts.
template <class KeyAt> DEVICE u32 find_key(u32* counts, u32 count, u32 rank, int digits, KeyAt key_at) {
    u32 prefix = 0;
    for (int shift = 8 * (digits - 1); shift >= 0; shift -= 8) {
        clear_counts(counts);
        each_key(count, key_at, [&](u32 key, bool is_there) {
            const u32 leading = key >> shift;
            // One branch in place of two.
            if ((is_there ? leading >> 8 : ~0u) == prefix) atomic_add(&counts[leading & (DIGITS - 1)], 1);
        });
        sync_warp();
        u32 digit;
        find_digit(counts, rank, digit, rank);
        prefix = prefix << 8 | digit;
        const bool is_alone = counts[digit] == 1;
        sync_warp();
        if (!is_alone || shift == 0) continue;
        // No other key starts with these digits.
        u32 found = 0;
        each_key(count, key_at, [&](u32 key, bool is_there) {
            if (is_there && key >> shift == prefix) found = key;
        });
        return from_lane(found, highest_set_bit(ballot(found > 0)));
    }
    return prefix;
}

// The same by one block, for keys of four digits that stand in memory in groups of four. Keys of 0 among them do no
// harm, as none is less.
DEVICE u32 find_key_of_block(u32* counts, const uint4* groups, int count, u32 rank) {
    static_assert(THREADS >= DIGITS, "a count for each thread");
    constexpr int at_once = 8;
    u32 prefix = 0;
    for (int shift = 24; shift >= 0; shift -= 8) {
        if (threadIdx.x < DIGITS) counts[threadIdx.x] = 0;
        sync_threads();
        const auto count_key = [&](u32 key) {
            const u32 leading = key >> shift;
            if (leading >> 8 == prefix) atomic_add(&counts[leading & (DIGITS - 1)], 1);
        };
        for (int first = threadIdx.x; first < count; first += at_once * THREADS) {
            uint4 some[at_once] = {};
            UNROLL for (int i = 0; i < at_once; i++) {
                if (first + i * THREADS < count) some[i] = groups[first + i * THREADS];
            }
            UNROLL for (int i = 0; i < at_once; i++) {
                count_key(some[i].x), count_key(some[i].y), count_key(some[i].z), count_key(some[i].w);
            }
        }
        sync_threads();
        u32 digit;
        find_digit(counts, rank, digit, rank);
        prefix = prefix << 8 | digit;
        sync_threads();
    }
    return prefix;
}

// Where few rows failed, each block compares them with a part of the keys and keeps the similarities, in place of the
// survivors. The last block searches them.

// How many keys a row is compared with, and how many groups of four its similarities take.
DEVICE int keys_of_row(const Parameters& p) { return p.tower ? p.tower : p.keys.count; }
DEVICE int groups_of_row(const Parameters& p) { return (keys_of_row(p) + p.rows_apart + 3) / 4; }

// Place for the similarities of row number `at` of those that failed, as integers in their order.
DEVICE u32* kept_of(const Parameters& p, int at) { return (u32*)p.survivors + (i64)at * groups_of_row(p) * 4; }

// Finds the quantiles of these rows, with their similarities with rows apart, which are in memory already.
DEVICE void search_kept(const Parameters& p, const Launch& l, int failed, u32* counts) {
    const int keys = keys_of_row(p), groups = groups_of_row(p);
    for (int at = 0; at < failed; at++) {
        const int row = p.failed[at];
        u32* kept = kept_of(p, at);
        for (int i = threadIdx.x; i < groups * 4 - keys; i += THREADS) {
            kept[keys + i] = i < p.rows_apart ? ordered(apart_of(p, row)[i]) : 0;
        }
        const u32 key = find_key_of_block(counts, (const uint4*)kept, groups, l.rank);
        if (threadIdx.x == 0) p.quantiles[row] = from_ordered(key);
    }
    sync_threads();
}

// The mean of a number of each row. By one block. Every thread gets the result.
DEVICE double mean_of_rows(const Parameters& p, const float* numbers, double* shared) {
    double sum = 0.0;
    const int whole = p.anchors.count / 4;
    _Pragma("unroll 8") for (int i = threadIdx.x; i < whole; i += THREADS) {
        const float4 four = ((const float4*)numbers)[i];
        sum += ((double)four.x + four.y) + ((double)four.z + four.w);
    }
    const int last = whole * 4 + threadIdx.x;
    if (last < p.anchors.count) sum += numbers[last];
    return sum_of_warps(warp_sum(sum), shared) / p.anchors.count;
}

// Sets the threshold to the mean of all quantiles. By the last block.
DEVICE void average_quantiles(const Parameters& p, double* shared) {
    const double mean = mean_of_rows(p, p.quantiles, shared);
    if (threadIdx.x != 0) return;
    p.header->epsilon = mean;
    p.header->limit = limit_of(mean);
    // NaN is in no bracket.
    if (!(p.header->limit >= p.header->floor && p.header->limit <= p.header->ceiling)) p.header->rerun = 1;
}

// The ends that a bracket has.
enum Bracket { LOW = 1, HIGH = 2 };
