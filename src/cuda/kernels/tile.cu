// The one way to similarities: a warp's 16 rows stay in registers, tiles of columns come through shared memory, one
// while the other is worked on. Every kernel gets the same bits of a similarity, whichever of its two rows comes first:
// products go through the dimensions in one order, and those of split rows are added up symmetrically.

#define STEP 32  // bytes of a row that one product takes
#define STEPS (DIMS * ELEMENT / STEP)
#define ROW_BYTES (DIMS * ELEMENT)
#define PITCH (ROW_BYTES + 16)  // of rows in shared memory: eight of them are in different banks
#define TILE_ROWS (WARP_ROWS * WARPS)
#define TILE_COLUMNS (ROW_BYTES > LONG_ROW ? LONG_ROW_COLUMNS : COLUMNS)
#define BLOCKS (TILE_COLUMNS / 8)  // of 8 columns, what one product gives
// Blocks on a multiprocessor that the registers are planned for. Rows take 4 STEPS of them, products 4 BLOCKS; with 128
// dimensions of 16 bits that makes 16 warps on a multiprocessor, in the gradient 8.
#define RESIDENT (ROW_BYTES <= SHORT_ROW ? SHORT_ROW_RESIDENT : 1)

// Where a stage of a tile's columns has its parts.
#define CARDS_AT (TILE_COLUMNS * PITCH)
#define SPLITS_AT (CARDS_AT + TILE_COLUMNS * (int)sizeof(Card))
#define STAGE (SPLITS_AT + TILE_COLUMNS * (int)sizeof(Split))

// 16 rows as left factors: of each step, what the PTX ISA's fragment layout gives this lane.
struct Rows {
    u32 a[STEPS][4];
};

DEVICE u32 word(const u8* address) { return *(const u32*)address; }

// `first` and `second`: the operand rows that lanes 4 l .. 4 l + 3 have, and 8 further.
DEVICE void load_rows(Rows& rows, const u8* first, const u8* second) {
    const int at = lane_of_thread() % 4 * 4;
    UNROLL for (int k = 0; k < STEPS; k++) {
        rows.a[k][0] = word(first + k * STEP + at);
        rows.a[k][1] = word(second + k * STEP + at);
        rows.a[k][2] = word(first + k * STEP + at + 16);
        rows.a[k][3] = word(second + k * STEP + at + 16);
    }
}

#if OPERAND == SPLIT_TF32
// A float is the sum of two tf32 numbers, to 2^-23 of it.
struct Halves {
    u32 high, low;
};
DEVICE Halves halves(u32 x) {
    u32 high = round_to_tf32(float_of(x));
    return {high, round_to_tf32(float_of(x) - float_of(high))};
}
#endif

// c += a b, one step of the inner dimension.
DEVICE void multiply(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
#if OPERAND == BF16
    multiply_bf16(c, a, b0, b1);
#elif OPERAND == F16
    multiply_f16(c, a, b0, b1);
#elif OPERAND == TF32
    multiply_tf32(c, a, b0, b1);
#else
    const Halves a0 = halves(a[0]), a1 = halves(a[1]), a2 = halves(a[2]), a3 = halves(a[3]);
    const Halves d0 = halves(b0), d1 = halves(b1);
    // high * low and low * high of the same dimensions in one product: the same sum with the factors exchanged.
    const u32 first[4] = {a0.high, a1.high, a0.low, a1.low};
    const u32 second[4] = {a2.high, a3.high, a2.low, a3.low};
    const u32 high[4] = {a0.high, a1.high, a2.high, a3.high};
    multiply_tf32(c, first, d0.low, d0.high);
    multiply_tf32(c, second, d1.low, d1.high);
    multiply_tf32(c, high, d0.high, d1.high);
#endif
}

// A warp's 16 rows against a tile. Lane l has, of block n: rows l / 4 (0, 1) and l / 4 + 8 (2, 3), columns
// 8 n + l % 4 * 2 and the next.
struct Products {
    float c[BLOCKS][4];
};

DEVICE void multiply_rows(Products& s, const Rows& rows, const u8* stage) {
    const int lane = lane_of_thread();
    const u8* at = stage + (lane % 8 + lane / 16 * 8) * PITCH + lane / 8 % 2 * 16;
    UNROLL for (int n = 0; n < BLOCKS; n++) UNROLL for (int e = 0; e < 4; e++) s.c[n][e] = 0.0f;
    UNROLL for (int k = 0; k < STEPS; k++) {
        UNROLL for (int n = 0; n < BLOCKS; n += 2) {
            u32 b[4];
            load_matrices(b, at + n * 8 * PITCH + k * STEP);
            multiply(s.c[n], rows.a[k], b[0], b[1]);
            multiply(s.c[n + 1], rows.a[k], b[2], b[3]);
        }
    }
}

// The similarity of two rows from their product. Lengths are 1 where rows were scaled.
DEVICE float similarity(float c, float inverse_row, float inverse_column) {
#if ELEMENT == 2
    return product(c, product(inverse_row, inverse_column));
#else
    return c;
#endif
}

// What a thread knows of its two rows.
struct OwnRows {
    int index[2];
    Card card[2];
};

// Starts copying the columns from `column` on to a stage.
DEVICE void fetch(u8* stage, const Side& columns, int column) {
    const u8* from = columns.rows + (i64)column * ROW_BYTES;
    for (int chunk = threadIdx.x; chunk < TILE_COLUMNS * (ROW_BYTES / 16); chunk += THREADS) {
        int row = chunk / (ROW_BYTES / 16), part = chunk % (ROW_BYTES / 16);
        copy_async(stage + row * PITCH + part * 16, from + row * ROW_BYTES + part * 16);
    }
    if (threadIdx.x < TILE_COLUMNS) {
        copy_async(stage + CARDS_AT + threadIdx.x * sizeof(Card), columns.cards + column + threadIdx.x);
    }
    if (columns.splits && threadIdx.x < 2 * TILE_COLUMNS) {
        copy_async(stage + SPLITS_AT + threadIdx.x * 16, (const u8*)(columns.splits + column) + threadIdx.x * 16);
    }
}

DEVICE i64 multiple_not_above(i64 x, i64 of) { return (x >= 0 ? x / of : -((-x + of - 1) / of)) * of; }

// Whether any pair of a tile may be no negative, from what the whole block knows.
DEVICE bool may_exclude(const Parameters& p, const Side& columns, int row, int column, bool rows_are_keys) {
    if (column + TILE_COLUMNS > columns.count) return true;
    if (p.pairing == APART) return false;
    if (p.pairing == INDEXED) return true;
    // The anchors' places among the keys differ by a multiple of the rows of a view.
    i64 least = (i64)column - row - (TILE_ROWS - 1), most = (i64)column - row + (TILE_COLUMNS - 1);
    i64 shift = rows_are_keys ? p.offset : -(i64)p.offset;
    return multiple_not_above(most + shift, p.view_rows) >= least + shift;
}

DEVICE u32 bit_of_column(int column) {
    // Of the lane that has it: a bit for each of its columns.
    return (u32)column < TILE_COLUMNS && column / 2 % 4 == lane_of_thread() % 4 ? 1u << (column / 8 * 2 + column % 2) : 0;
}

// One bit for each of the thread's pairs that is no negative: columns of the first row, then of the second.
DEVICE u32 excluded_pairs(const Parameters& p, const Side& columns, const OwnRows& own, int column, bool rows_are_keys) {
    u32 bits[2] = {0, 0};
    UNROLL for (int half = 0; half < 2; half++) {
        const int row = own.index[half];
        if (!rows_are_keys) {
            if (row >= p.anchors.count) continue;
            for (int k = 0; k < p.excluded; k++) {
                int key = excluded_key(p, row, k);
                if (key >= 0) bits[half] |= bit_of_column(key - column);
            }
        } else if (p.pairing == VIEWS) {
            const int anchor = row - p.offset;
            if (anchor < 0 || anchor >= p.anchors.count) continue;
            for (int k = 0; k < p.excluded; k++) bits[half] |= bit_of_column(excluded_key(p, anchor, k) - p.offset - column);
        } else {
            const int first = lane_of_thread() % 4 * 2;
            for (int n = 0; n < BLOCKS; n++) {
                for (int e = 0; e < 2; e++) {
                    int anchor = column + n * 8 + first + e;
                    if (anchor >= p.anchors.count) continue;
                    for (int k = 0; k < p.excluded; k++) {
                        if (excluded_key(p, anchor, k) == row) bits[half] |= 1u << (n * 2 + e);
                    }
                }
            }
        }
    }
    if (column + TILE_COLUMNS > columns.count) {
        UNROLL for (int n = 0; n < BLOCKS; n++) {
            UNROLL for (int e = 0; e < 2; e++) {
                if (column + n * 8 + lane_of_thread() % 4 * 2 + e >= columns.count) {
                    bits[0] |= 1u << (n * 2 + e);
                    bits[1] |= 1u << (n * 2 + e);
                }
            }
        }
    }
    return bits[0] | bits[1] << 16;
}

DEVICE bool is_set(u32 bits, int n, int e) { return bits >> (e / 2 * 16 + n * 2 + e % 2) & 1; }

DEVICE const Card& card_of_column(const u8* stage, int n, int e) {
    return ((const Card*)(stage + CARDS_AT))[n * 8 + lane_of_thread() % 4 * 2 + e % 2];
}
DEVICE const Split& split_of_column(const u8* stage, int n, int e) {
    return ((const Split*)(stage + SPLITS_AT))[n * 8 + lane_of_thread() % 4 * 2 + e % 2];
}

// A block's 128 rows from `first` on, against the columns of part `split` of `splits`: calls
// `visit(similarities, first column, stage)` for each tile.
template <class Visit>
DEVICE void sweep(u8* stages, const Side& rows, const Side& columns, int first, int split, int splits, OwnRows& own, Visit visit) {
    const int tiles = (columns.count + TILE_COLUMNS - 1) / TILE_COLUMNS;
    const int from = (int)((i64)tiles * split / splits), to = (int)((i64)tiles * (split + 1) / splits);
    if (from < to) fetch(stages, columns, from * TILE_COLUMNS);
    commit_copies();
    Rows left;
    UNROLL for (int half = 0; half < 2; half++) {
        own.index[half] = first + warp_of_thread() * 16 + lane_of_thread() / 4 + half * 8;
        own.card[half] = rows.cards[own.index[half]];
    }
    load_rows(left, rows.rows + (i64)own.index[0] * ROW_BYTES, rows.rows + (i64)own.index[1] * ROW_BYTES);
    for (int tile = from; tile < to; tile++) {
        const u8* stage = stages + (tile - from) % 2 * STAGE;
        if (tile + 1 < to) fetch(stages + (tile + 1 - from) % 2 * STAGE, columns, (tile + 1) * TILE_COLUMNS);
        commit_copies();
        wait_for_copies<1>();
        sync_threads();
        Products s;
        multiply_rows(s, left, stage);
        UNROLL for (int n = 0; n < BLOCKS; n++) {
            UNROLL for (int e = 0; e < 4; e++) {
                s.c[n][e] = similarity(s.c[n][e], own.card[e / 2].inverse_length, card_of_column(stage, n, e).inverse_length);
            }
        }
        visit(s, tile * TILE_COLUMNS, stage);
        sync_threads();
    }
}

// Calls `visit(similarity, row (0 or 1), block, element)` for each pair of a tile.
template <class Visit> DEVICE void each_pair(Products& s, Visit visit) {
    UNROLL for (int n = 0; n < BLOCKS; n++) UNROLL for (int e = 0; e < 4; e++) visit(s.c[n][e], e / 2, n, e);
}

// Pairs that are no negatives get minus infinity.
DEVICE void keep_negatives(const Parameters& p, const Side& columns, const OwnRows& own, int first, int column,
                           bool rows_are_keys, Products& s) {
    if (!may_exclude(p, columns, first, column, rows_are_keys)) return;
    const u32 bits = excluded_pairs(p, columns, own, column, rows_are_keys);
    if (!any(bits != 0)) return;
    each_pair(s, [&](float& c, int, int n, int e) { c = is_set(bits, n, e) ? -infinity() : c; });
}

// Whole rows, as quantiles and ranges are taken over: the anchor itself is exactly 1, what is no key is NaN.
DEVICE void keep_rows(const Parameters& p, const OwnRows& own, int column, Products& s) {
    const int keys = p.keys.count;
    const int lane_column = column + lane_of_thread() % 4 * 2;
    if (column + TILE_COLUMNS > keys) {
        each_pair(s, [&](float& c, int, int n, int e) { c = lane_column + n * 8 + e % 2 < keys ? c : not_a_number(); });
    }
    if (p.pairing != VIEWS) return;
    UNROLL for (int half = 0; half < 2; half++) {
        const int key = own.index[half] < p.anchors.count ? own_key(p, own.index[half]) - column : -1;
        const u32 bit = bit_of_column(key);
        if (!bit) continue;
        each_pair(s, [&](float& c, int row, int n, int e) {
            if (row == half && bit >> (n * 2 + e % 2) & 1) c = 1.0f;
        });
    }
}

// Whether a negative is hierarchical for the side (row or column) whose split `own` is.
DEVICE bool is_hierarchical(const Parameters& p, float c, const Split& own, const Split& other) {
    return p.threshold == LABELS ? own.label == other.label && c > -infinity() : c > own.threshold;
}

// 2^(factor * min(difference, 0)): where the difference exceeds 0, the similarity is one of the other set. Keeps NaN.
DEVICE float below(float difference, float factor) {
    return exp2_approximate(difference > 0.0f ? 0.0f : difference * factor);
}
