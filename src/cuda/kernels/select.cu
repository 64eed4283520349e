// Finds the k-th largest similarity of each row, exactly, and the adaptive threshold, which is their mean.
//
// For few columns, `select` keeps the similarities of a row in shared memory and searches them digit by digit. For many
// columns there are four kernels. `sample` does the same for a sample of the columns, which gives a bracket for the
// quantile of each row. `survivors` counts the similarities above the bracket and keeps those in it. `pick` searches
// these. It lists the rows whose quantile is not in the bracket, or whose survivors were too many to keep.
// `select_failed` searches these rows among all columns. It keeps the similarities of few rows, and computes those of
// many again for each digit.

#define SELECT_RESIDENT (ROW_BYTES <= (IS_SPLIT ? SHORT_ROW : LONG_ROW) ? 2 : 1)
// The shared memory of an H100 has room for three blocks of `sample`. Longer rows take more registers.
#define SAMPLE_RESIDENT (__CUDA_ARCH__ == 900 && !IS_SPLIT && ROW_BYTES <= SHORT_ROW ? 3 : SELECT_RESIDENT)

// The 16 rows of a block. All warps have the same rows, and each has its own columns.
struct Sixteen {
    int index[2];  // of the thread's two rows, -1 for none
    int own[2];  // the keys that they are themselves, -1 for none
    float inverse[2];
    const u8* from[2];
};

// `row_at(i)` is the index of row i, -1 for none.
template <class RowAt> DEVICE Sixteen sixteen_rows(const Parameters& p, RowAt row_at) {
    Sixteen rows;
    UNROLL for (int half = 0; half < 2; half++) {
        const int index = row_at(lane_of_thread() / 4 + half * 8);
        rows.index[half] = index;
        rows.own[half] = index < 0 ? -1 : own_key(p, index);
        rows.inverse[half] = index < 0 ? 0.0f : p.anchors.cards[index].inverse_length;
        rows.from[half] = p.anchors.rows + (i64)(index < 0 ? 0 : index) * ROW_BYTES;
    }
    return rows;
}

// Calls `visit(row, key, similarity)` for each of the rows and each of the keys. A warp has 16 keys at a time.
template <class Visit> DEVICE void each_similarity(const Parameters& p, const Sixteen& rows, Range keys, Visit visit) {
    const int lane = lane_of_thread();
    Rows<1> left;
    load_rows(left.a[0], rows.from[0], rows.from[1]);
    for (int first = keys.first + warp_of_thread() * 16; first < keys.end; first += WARPS * 16) {
        // Past the end, load the last key and do not visit it.
        const auto to_key = [&](int place) { return first + place < keys.end ? first + place : keys.end - 1; };
        const u8* right[2];
        float inverse[2][2];
        UNROLL for (int n = 0; n < 2; n++) {
            right[n] = p.keys.rows + (i64)to_key(n * 8 + lane / 4) * ROW_BYTES + lane % 4 * 4;
            UNROLL for (int e = 0; e < 2; e++) {
                inverse[n][e] = p.keys.cards[to_key(n * 8 + lane % 4 * 2 + e)].inverse_length;
            }
        }
        const u32 zero = bits_of(inverse[0][0]) >> 31;  // as no length is negative
        Products<1, 2> s;
        add_steps(s, [&](Products<1, 2>& part, int k) {
            UNROLL for (int n = 0; n < 2; n++) {
                multiply(part.c[0][n], left.a[0][k], word(right[n] + k * STEP), word(right[n] + k * STEP + 16), zero);
            }
        });
        each_pair(s, [&](float c, int row, int n, int e) {
            const int key = first + n * 8 + lane % 4 * 2 + e % 2;
            if (key >= keys.end || rows.index[row] < 0) return;
            c = similarity(c, rows.inverse[row], inverse[n][e % 2]);
            visit(lane / 4 + row * 8, key, key == rows.own[row] ? 1.0f : c);
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
    begin();
    SHARED_MEMORY(memory);
    Strip<u32>& shared = *(Strip<u32>*)memory;
    const int lane = lane_of_thread(), warp = warp_of_thread();
    const Range block = rows_of_block(p, l), keys = compared_keys(p, block.first);
    const int first = block.first, end = block.end, each = (l.rows + WARPS - 1) / WARPS;
    const Sixteen rows = sixteen_rows(p, [&](int row) { return first + row < end ? first + row : -1; });
    each_similarity(p, rows, keys, [&](int row, int key, float c) { shared.keys[row][key - keys.first] = ordered(c); });
    sync_threads();
    for (int row = warp * each; row < (warp + 1) * each && first + row < end; row++) {
        const auto with_apart = [&](u32 i) {
            return i < (u32)l.columns ? shared.keys[row][i] : ordered(apart_of(p, first + row)[i - l.columns]);
        };
        const auto without = [&](u32 i) { return shared.keys[row][i]; };
        // Without branches, if there are no rows apart.
        u32* const counts = shared.counts[warp];
        const u32 key = p.rows_apart > 0 ? find_key(counts, l.columns + p.rows_apart, l.rank, 4, with_apart)
                                         : find_key(counts, l.columns, l.rank, 4, without);
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
    // The start of the part and the place in it, as fractions of 2^32. There are 2^k columns.
    const u32 part = 1u << 32 - highest_set_bit(columns);
    return (int)multiply_high(at * part + (hash & part - 1), keys);
}

// Similarities as numbers of 15 bits, since a bracket need not be exact. Its ends are moved outwards by more than the
// rounding error. Rounded cosines that exceed 1 fit too, and NaN is one of the least numbers. With the bit above, two keys
// of a word are compared at once.
#define KEY_SCALE 16352.0f
#define KEY_ZERO 16384.0f
#define KEY_BIT 0x8000u
DEVICE u32 sample_key(float c) {
    const float integers = 8388608.0f;  // from here on
    return bits_of(fmaxf(c, -1.0f) * KEY_SCALE + (integers + KEY_BIT + KEY_ZERO)) - bits_of(integers);
}
DEVICE float bracket_end(int key) { return ((float)key - KEY_ZERO) * (1.0f / KEY_SCALE); }

DEVICE void load_words(u32 (&words)[4], const void* from) {
    const uint4 four = *(const uint4*)from;
    words[0] = four.x;
    words[1] = four.y;
    words[2] = four.z;
    words[3] = four.w;
}

// Four lanes share a row. Each loads 16 bytes of it at a time, for two steps. So all rows have their dimensions in
// another order than in the other kernels.
DEVICE void load_steps(u32 (&words)[4], const u8* row, int step) {
    load_words(words, row + step * STEP + lane_of_thread() % 4 * 16);
}

// The number of the warp, of which the compiler knows that all lanes have the same one. Else it would compile each exchange
// of lanes once more, for lanes that have diverged.
DEVICE int same_warp() { return (int)from_lane((u32)warp_of_thread(), 0); }

// Writes the keys of the rows and the sampled columns. A warp has 32 columns at a time.
DEVICE void sample_keys(const Parameters& p, const Launch& l, const Sixteen& rows, Range keys, Strip<u16>& shared) {
    const int lane = lane_of_thread();
    Rows<1> left;
    UNROLL for (int k = 0; k < STEPS; k += 2) {
        UNROLL for (int half = 0; half < 2; half++) {
            u32 words[4];
            load_steps(words, rows.from[half], k);
            UNROLL for (int i = 0; i < 4; i++) left.a[0][k + i / 2][i % 2 * 2 + half] = words[i];
        }
    }
    for (int first = same_warp() * LANES; first < l.columns; first += THREADS) {
        const u32 column = keys.first + sampled_column(first + lane, l.columns, keys.end - keys.first);
        const float inverse = p.keys.cards[column].inverse_length;
        // Split rows take all registers.
        constexpr int blocks = IS_SPLIT ? 2 : 4;
        ROLLED for (int block = 0; block < LANES; block += blocks * 8) {
            const u8* right[blocks];
            u32 zero = 0;
            UNROLL for (int n = 0; n < blocks; n++) {
                const u32 key = from_lane(column, block + n * 8 + lane / 4);
                right[n] = p.keys.rows + (i64)key * ROW_BYTES;
                zero = key >> 31;  // as there are not so many keys
            }
            Products<1, blocks> s;
            u32 words[blocks][4];
            add_steps(s, [&](Products<1, blocks>& part, int k) {
                UNROLL for (int n = 0; n < blocks; n++) {
                    if (k % 2 == 0) load_steps(words[n], right[n], k);
                    multiply(part.c[0][n], left.a[0][k], words[n][k % 2 * 2], words[n][k % 2 * 2 + 1], zero);
                }
            });
            UNROLL for (int n = 0; n < blocks; n++) {
                const int at = block + n * 8 + lane % 4 * 2;
                const float even = from_lane(inverse, at), odd = from_lane(inverse, at + 1);
                UNROLL for (int half = 0; half < 2; half++) {
                    const u32 low = sample_key(similarity(s.c[0][n][half * 2], rows.inverse[half], even));
                    const u32 high = sample_key(similarity(s.c[0][n][half * 2 + 1], rows.inverse[half], odd));
                    *(u32*)&shared.keys[lane / 4 + half * 8][first + at] = low + (high << 16);
                }
            }
        }
    }
}

// Sets the bracket of the threshold to the means of its ends in all rows. By the last block.
DEVICE void bracket_threshold(const Parameters& p, const Launch& l, double* shared) {
    const double floor = mean_of_rows(p, p.quantiles, shared);
    const double ceiling = l.ceiling_rank ? mean_of_rows(p, p.highs, shared) : (double)infinity();
    if (threadIdx.x != 0) return;
    p.header->floor = (float)floor;
    p.header->ceiling = (float)ceiling;
}

// The upper byte of a key in the lower half of a word.
DEVICE u32 leading_digit(u32 key) { return key >> 8 & (DIGITS - 1); }

#define RANKS 4  // of a sample
#define RANK_LANES (LANES / RANKS)
#define PARTS (2 * DIGITS)  // a word of the counts has two
#define LANE_PARTS (PARTS / LANES)
#define KEYS_AT_ONCE (8 * LANES)  // that a warp loads
#define LOADS (STRIP_BYTES / 2 / KEYS_AT_ONCE)
static_assert(LANE_PARTS == 2 * RANK_LANES && LOADS % 4 == 0, "sizes");

// The ranks in a sample of the ends of brackets: of upper ones in odd places. Eight lanes have the same own one.
struct Ranks {
    u32 all[RANKS], largest, own;
};

// Finds the part that has the key of the own rank. By one warp.
DEVICE u32 find_part(const u32* counts, const Ranks& ranks) {
    const u32 lane = lane_of_thread(), mine = lane / RANK_LANES;
    // Lane l has the parts from 511 - 16 l down.
    u32 own = 0;
    UNROLL for (int i = 0; i < LANE_PARTS / 2; i++) own += counts[PARTS / 2 - 1 - (lane * (LANE_PARTS / 2) + i)];
    own = (own & 0xffff) + (own >> 16);
    const u32 up_to = prefix_sum<LANES>(own);
    u32 before = 0;
    UNROLL for (int i = 0; i < RANKS; i++) {
        const u32 lanes = ballot(up_to < ranks.all[i]);
        if (mine == i) before = lanes;
    }
    const u32 owner = set_bits(before);
    // Each of the eight lanes has two of the owner's parts.
    const u32 pair = counts[PARTS / 2 - 1 - (owner * (LANE_PARTS / 2) + lane % RANK_LANES)], second = pair & 0xffff;
    const u32 up_to_second = from_lane(up_to - own, owner) + prefix_sum<RANK_LANES>(second + (pair >> 16));
    sync_warp();
    const u32 first_parts = ballot(up_to_second - second < ranks.own), second_parts = ballot(up_to_second < ranks.own);
    const u32 eight = 0xffu << mine * RANK_LANES;
    return PARTS - 1 - owner * LANE_PARTS - set_bits(first_parts & eight) - set_bits(second_parts & eight);
}

// The leading digits of the four keys of two words.
DEVICE u32 four_digits(u32 first, u32 second) { return chosen_bytes(first, second, 0x7531); }
// Sets the highest bits of those that are not below a bound without KEY_BIT.
DEVICE u32 reaching(u32 digits, u32 bound) { return digits - bound * 0x01010101 & 0x80808080; }

// Calls `visit` for the found keys of a lane. By one warp.
template <class Visit> DEVICE void each_found(const u32 (&found)[LOADS / 4], const u16* own, Visit visit) {
    UNROLL for (int first = 0; first < LOADS; first += 4) {
        u32 left = found[first / 4];
        // As long as one lane has some, so that the lanes stay together.
        while (any(left > 0)) {
            if (left == 0) continue;
            const u32 bit = highest_set_bit(left);
            left ^= 1u << bit;
            visit((u32)own[(first + bit % 4) * KEYS_AT_ONCE + bit / 4 % 2 * 4 + bit / 8]);
        }
    }
    sync_warp();
}

// Finds the end of the own rank in a row of a sample. By one warp, with its own counts.
DEVICE float find_end(u32* counts, const u16* row, int columns, const Ranks& ranks) {
    // Eight keys at a time.
    const u16* const own = row + lane_of_thread() * 8;
    u32 words[LOADS][4] = {};
    UNROLL for (int i = 0; i < LOADS; i++) {
        if (i * KEYS_AT_ONCE < columns) load_words(words[i], own + i * KEYS_AT_ONCE);
    }
    // The row has 256 groups of keys, eight in each lane. A digit that the largest keys of as many groups reach as the
    // largest rank: usually few other keys reach it. If there are fewer groups than that, it is 0, and all keys do.
    u32 most[4];
    UNROLL for (int k = 0; k < 4; k++) {
        most[k] = words[0][k];
        UNROLL for (int i = 1; i < LOADS; i++) most[k] = larger_halves(most[k], words[i][k]);
    }
    const u32 low = four_digits(most[0], most[1]), high = four_digits(most[2], most[3]);
    u32 bound = 0;
    UNROLL for (u32 bit = DIGITS / 4; bit > 0; bit /= 2) {
        const u32 groups = reaching(low, bound | bit) | reaching(high, bound | bit) >> 1;
        if (warp_sum(set_bits(groups)) >= ranks.largest) bound |= bit;
    }
    // Bit 8 b + 4 h + i is for key 4 h + b of the load i of four.
    u32 found[LOADS / 4] = {};
    UNROLL for (int i = 0; i < LOADS; i++) {
        UNROLL for (int half = 0; half < 2; half++) {
            const u32 digits = four_digits(words[i][half * 2], words[i][half * 2 + 1]);
            found[i / 4] |= reaching(digits, bound) >> 7 - (half * 4 + i % 4);
        }
    }
    UNROLL for (int first = 0; first < LOADS; first += 4) {
        const int there = columns / KEYS_AT_ONCE - first;
        if (there < 4) found[first / 4] &= there > 0 ? ((1 << there) - 1) * 0x11111111 : 0;
    }
    clear_counts(counts);
    each_found(found, own, [&](u32 key) { atomic_add(&counts[leading_digit(key)], 1); });
    // A digit's count stands where that of the first of two parts would.
    const u32 digit = find_part(counts, ranks) / 2;
    // All that is wanted has one of these digits. Divide them into parts of 2^`shift` keys. Keys below and above are in
    // the first and the last part.
    const u32 least = ~warp_max(ranks.own > 0 ? ~digit : 0), largest = warp_max(ranks.own > 0 ? digit : 0);
    const u32 start = least * DIGITS, range = (largest - least + 1) * DIGITS;
    const int shift = range > PARTS ? highest_set_bit((range - 1) / PARTS) + 1 : 0;
    clear_counts(counts);
    each_found(found, own, [&](u32 key) {
        const int part = (int)(key - start) >> shift, place = part < 0 ? 0 : part < PARTS ? part : PARTS - 1;
        atomic_add(&counts[place / 2], place % 2 ? 1 << 16 : 1);
    });
    const u32 key = (start & ~KEY_BIT) + (find_part(counts, ranks) << shift);
    return bracket_end(lane_of_thread() / RANK_LANES % 2 ? key + (1 << shift) : key - 1);
}

KERNEL(THREADS, SAMPLE_RESIDENT) sample(const Parameters p, const Launch l) {
    begin();
    SHARED_MEMORY(memory);
    Strip<u16>& shared = *(Strip<u16>*)memory;
    const int lane = lane_of_thread(), warp = same_warp(), mine = lane / RANK_LANES;
    const Range block = rows_of_block(p, l);
    const int first = block.first, end = block.end, each = (l.rows + WARPS - 1) / WARPS;
    const Sixteen rows = sixteen_rows(p, [&](int row) { return first + row < end ? first + row : -1; });
    sample_keys(p, l, rows, compared_keys(p, first), shared);
    sync_threads();
    // Until the quantile is known, its place has an end of the bracket of the threshold, as `highs` has.
    float* const ends = mine == 0 ? p.lows : mine == 2 ? p.quantiles : p.highs;
    Ranks ranks = {{(u32)l.rank, (u32)l.high_rank, (u32)l.floor_rank, (u32)l.ceiling_rank}};
    UNROLL for (int i = 0; i < RANKS; i++) {
        if (ranks.all[i] > ranks.largest) ranks.largest = ranks.all[i];
        if (mine == i) ranks.own = ranks.all[i];
    }
    for (int row = warp * each; row < (warp + 1) * each && first + row < end; row++) {
        const float found = find_end(shared.counts[warp], shared.keys[row], l.columns, ranks);
        if (ranks.own > 0 && lane % RANK_LANES == 0) ends[first + row] = found;
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
    begin();
    SHARED_MEMORY(memory);
    Selection& shared = *(Selection*)memory;
    const int lane = lane_of_thread(), warp = warp_of_thread();
    const int count = (int)p.header->failed;
    const bool are_few = count > 0 && count <= l.rows;
    const auto rows_from = [&](int first) {
        return sixteen_rows(p, [&](int row) { return first + row < count ? (int)p.failed[first + row] : -1; });
    };
    if (are_few) {
        const auto start = [&](int part) { return (int)((i64)p.keys.count * part / gridDim.x); };
        each_similarity(p, rows_from(0), {start(blockIdx.x), start(blockIdx.x + 1)}, [&](int at, int key, float c) {
            const int row = p.failed[at];
            if (is_compared(p, row, key)) kept_of(p, at)[key - compared_keys(p, row).first] = ordered(c);
        });
    }
    for (int first = blockIdx.x * SELECT_ROWS; !are_few && first < count; first += gridDim.x * SELECT_ROWS) {
        const Sixteen rows = rows_from(first);
        if (threadIdx.x < SELECT_ROWS) {
            shared.prefix[threadIdx.x] = 0;
            shared.rank[threadIdx.x] = l.rank;
        }
        for (int pass = 0; pass < 4; pass++) {
            for (int i = threadIdx.x; i < SELECT_ROWS * HISTOGRAM; i += THREADS) shared.counts[i] = 0;
            sync_threads();
            each_similarity(p, rows, {0, p.keys.count}, [&](int row, int key, float c) {
                if (is_compared(p, p.failed[first + row], key)) count_digit(shared, row, c, pass);
            });
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
    if (!is_last_block(&p.header->done[0], gridDim.x, &shared.last)) return;
    if (are_few) search_kept(p, l, count, shared.counts);
    average_quantiles(p, shared.sums);
}

// Counts the similarities of each row above its bracket, and keeps those in the bracket.
KERNEL(PASS_THREADS, PASS_RESIDENT) survivors(const Parameters p, const Launch l) {
    begin();
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
    begin();
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
