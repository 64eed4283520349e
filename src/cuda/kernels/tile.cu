// Computes similarities, tile by tile. A warp keeps its rows in registers. Tiles of columns go through two stages in
// shared memory: one is copied while the other is used. A similarity has the same bits in every kernel, and for both
// orders of its two rows: all products add the dimensions in one order, and the sums of split rows are symmetric.

#define STEP 32  // bytes of a row per product
#define STEPS (DIMS * ELEMENT / STEP)
#define ROW_BYTES (DIMS * ELEMENT)
#define PITCH (ROW_BYTES + 16)  // bytes from row to row in shared memory: eight rows are in different banks
#define TILE_ROWS (WARP_ROWS * WARPS)

// The shape of a tile: a block has 128 rows, a warp `groups_` times 16 of them, and a tile has `columns_` columns.
template <int groups_, int columns_> struct Shape {
    // An enumeration, because static members would need memory.
    enum : int {
        groups = groups_,
        columns = columns_,
        rows = 2 * groups,  // rows of a thread
        blocks = columns / 8,  // blocks of 8 columns, as one product has
        threads = THREADS / groups,
        // The offsets of the parts of a stage, and its size in bytes.
        cards_at = columns * PITCH,
        splits_at = cards_at + columns * CARD_BYTES,
        stage = splits_at + columns * SPLIT_BYTES,
    };
};

// The gradient needs its registers for its sums. In the other passes two groups of rows share the loaded columns. The
// rows take 4 * STEPS registers per group, the products 4 per block of a group.
#define IS_SPLIT (OPERAND == SPLIT_TF32)
#define GRADIENT_COLUMNS (IS_SPLIT || ROW_BYTES > LONG_ROW ? FEW_COLUMNS : COLUMNS)
typedef Shape<1, (GRADIENT_COLUMNS)> GradientShape;
#define PASS_GROUPS (ROW_BYTES <= (IS_SPLIT ? SHORT_ROW : LONG_ROW) ? 2 : 1)
typedef Shape<PASS_GROUPS, FEW_COLUMNS> PassShape;
#define PASS_THREADS (THREADS / PASS_GROUPS)
#define PASS_RESIDENT (PASS_GROUPS == 1 ? 1 : IS_SPLIT || ROW_BYTES > SHORT_ROW ? 2 : SHORT_ROW_RESIDENT)

// Rows as left factors, in the fragment layout of the PTX ISA: for each step, the registers of this lane.
template <int groups> struct Rows {
    u32 a[groups][STEPS][4];
};

DEVICE u32 word(const u8* address) { return *(const u32*)address; }

// Loads the fragments of two rows, which are 8 apart. Four lanes share a row.
DEVICE void load_rows(u32 (&a)[STEPS][4], const u8* first, const u8* second) {
    const int at = lane_of_thread() % 4 * 4;
    UNROLL for (int k = 0; k < STEPS; k++) {
        a[k][0] = word(first + k * STEP + at);
        a[k][1] = word(second + k * STEP + at);
        a[k][2] = word(first + k * STEP + at + 16);
        a[k][3] = word(second + k * STEP + at + 16);
    }
}

#if OPERAND == SPLIT_TF32
// Splits a float into two tf32 numbers. Their sum is the float, to 2^-23 relative, because the tensor cores ignore the
// low bits of the second number.
struct Halves {
    u32 high, low;
};
DEVICE Halves halves(u32 x, u32 zero) {
    const u32 high = high_half(x, zero);
    return {high, bits_of(float_of(x) - float_of(high))};
}
// Tensor cores may truncate sums instead of rounding them. So each sum of FRESH steps starts at 0, and the ordinary
// units add these sums.
#define FRESH 4
#else
#define FRESH STEPS
#endif

// c += a b, for one step of the inner dimension. `zero` is that of `high_half`.
DEVICE void multiply(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1, u32 zero) {
#if OPERAND == BF16
    multiply_bf16(c, a, b0, b1);
#elif OPERAND == F16
    multiply_f16(c, a, b0, b1);
#elif OPERAND == TF32
    multiply_tf32(c, a, b0, b1);
#else
    const Halves a0 = halves(a[0], zero), a1 = halves(a[1], zero), a2 = halves(a[2], zero), a3 = halves(a[3], zero);
    const Halves d0 = halves(b0, zero), d1 = halves(b1, zero);
    // One product adds high * low and low * high of the same dimensions, so that the sum is symmetric in its factors.
    const u32 first[4] = {a0.high, a1.high, a0.low, a1.low};
    const u32 second[4] = {a2.high, a3.high, a2.low, a3.low};
    const u32 high[4] = {a0.high, a1.high, a2.high, a3.high};
    multiply_tf32(c, first, d0.low, d0.high);
    multiply_tf32(c, second, d1.low, d1.high);
    multiply_tf32(c, high, d0.high, d1.high);
#endif
}

// The products of groups of 16 rows with blocks of 8 columns. Of block n, lane l has rows l / 4 (elements 0, 1) and
// l / 4 + 8 (elements 2, 3), columns 8 n + l % 4 * 2 and the next.
template <int groups, int blocks> struct Products {
    float c[groups][blocks][4];
};

// Adds all steps of the products. `step(sums, k)` adds step k.
template <int groups, int blocks, class Step> DEVICE void add_steps(Products<groups, blocks>& s, Step step) {
    UNROLL for (int first = 0; first < STEPS; first += FRESH) {
        Products<groups, blocks> part = {};
        UNROLL for (int k = first; k < first + FRESH; k++) {
            // Keeps the compiler from loading the next steps early, which would need more registers.
            if (FRESH < STEPS && k % 2 == 0 && k > 0) sync_warp();
            step(part, k);
        }
        UNROLL for (int g = 0; g < groups; g++) UNROLL for (int n = 0; n < blocks; n++) UNROLL for (int e = 0; e < 4; e++) {
            s.c[g][n][e] = first == 0 ? part.c[g][n][e] : s.c[g][n][e] + part.c[g][n][e];
        }
    }
}

template <int groups, int blocks>
DEVICE void multiply_rows(Products<groups, blocks>& s, const Rows<groups>& rows, const u8* stage) {
    const int lane = lane_of_thread();
    const u8* at = stage + (lane % 8 + lane / 16 * 8) * PITCH + lane / 8 % 2 * 16;
    // 0, because addresses in shared memory are small.
    const u32 zero = shared_address(stage) >> 31;
    add_steps(s, [&](Products<groups, blocks>& part, int k) {
        UNROLL for (int n = 0; n < blocks; n += 2) {
            u32 b[4];
            load_matrices(b, at + n * 8 * PITCH + k * STEP);
            UNROLL for (int g = 0; g < groups; g++) {
                multiply(part.c[g][n], rows.a[g][k], b[0], b[1], zero);
                multiply(part.c[g][n + 1], rows.a[g][k], b[2], b[3], zero);
            }
        }
    });
}

// The similarity of two rows from their product. float32 rows have length 1.
DEVICE float similarity(float c, float inverse_row, float inverse_column) {
#if ELEMENT == 2
    return product(c, product(inverse_row, inverse_column));
#else
    return c;
#endif
}

// 8 anchors of a warp. Four lanes share an anchor.
struct EightAnchors {
    Rows<1> rows;  // each twice
    int own;  // the lane's anchor. Past the end, the last one of all, so that such lanes find what another one finds
    float inverse_length;
};

DEVICE EightAnchors load_eight(const Parameters& p, int first) {
    const int anchor = first + lane_of_thread() / 4;
    EightAnchors eight;
    eight.own = anchor < p.anchors.count ? anchor : p.anchors.count - 1;
    const u8* from = p.anchors.rows + (i64)eight.own * ROW_BYTES;
    load_rows(eight.rows.a[0], from, from);
    eight.inverse_length = p.anchors.cards[eight.own].inverse_length;
    return eight;
}

// The similarity of each of 8 anchors with one other row, with the bits that a tile has for the same two rows. Of the
// products of 8 rows with 8 others, those on the diagonal are used. A lane passes the other row of its anchor, and gets
// the similarity if it is on the diagonal.
DEVICE float diagonal_similarity(const EightAnchors& eight, const Side& side, int other) {
    const int lane = lane_of_thread();
    const u8* right = side.rows + (i64)other * ROW_BYTES + lane % 4 * 4;
    Products<1, 1> s;
    add_steps(s, [&](Products<1, 1>& part, int step) {
        multiply(part.c[0][0], eight.rows.a[0][step], word(right + step * STEP), word(right + step * STEP + 16), 0);
    });
    return similarity(lane / 4 % 2 ? s.c[0][0][1] : s.c[0][0][0], eight.inverse_length, side.cards[other].inverse_length);
}
DEVICE bool is_on_diagonal() { return lane_of_thread() % 4 == lane_of_thread() / 8; }

// The rows of a thread, two of each group.
template <int rows> struct OwnRows {
    int index[rows];
    Card card[rows];
};

// The index of the thread's row number `row`, in the block that starts at row `first`.
template <class S> DEVICE int own_row(int first, int row) {
    return first + (warp_of_thread() * S::groups + row / 2) * 16 + lane_of_thread() / 4 + row % 2 * 8;
}

#define PASS_ROWS PassShape::rows
typedef OwnRows<PASS_ROWS> PassRows;
typedef Products<PassShape::groups, PassShape::blocks> PassProducts;

// Calls `visit(similarity, row, block, element)` for each pair of a tile. `row` is a number of `OwnRows`.
template <int groups, int blocks, class Visit> DEVICE void each_pair(Products<groups, blocks>& s, Visit visit) {
    UNROLL for (int g = 0; g < groups; g++) {
        UNROLL for (int n = 0; n < blocks; n++) UNROLL for (int e = 0; e < 4; e++) visit(s.c[g][n][e], g * 2 + e / 2, n, e);
    }
}

// The addresses of the next pieces that a thread copies.
struct Source {
    const u8* rows;
    const u8* card;
    const u8* split;  // null if no kernel reads the splits
};

// Starts the copies of a tile to a stage, and advances to the next tile.
template <class S> DEVICE void fetch(u8* stage, Source& from) {
    constexpr int pieces = ROW_BYTES / 16, all = S::columns * pieces;
    UNROLL for (int first = 0; first < all; first += S::threads) {
        const int piece = first + threadIdx.x;
        if (all % S::threads != 0 && piece >= all) break;
        copy_async(stage + piece / pieces * PITCH + piece % pieces * 16, from.rows + first * 16);
    }
    if (threadIdx.x < S::columns) copy_async(stage + S::cards_at + threadIdx.x * sizeof(Card), from.card);
    if (from.split && threadIdx.x < 2 * S::columns) copy_async(stage + S::splits_at + threadIdx.x * 16, from.split);
    from.rows += S::columns * ROW_BYTES;
    from.card += S::columns * sizeof(Card);
    if (from.split) from.split += S::columns * sizeof(Split);
}

template <class S> DEVICE const Card& card_of_column(const u8* stage, int n, int e) {
    return ((const Card*)(stage + S::cards_at))[n * 8 + lane_of_thread() % 4 * 2 + e % 2];
}
template <class S> DEVICE const Split& split_of_column(const u8* stage, int n, int e) {
    return ((const Split*)(stage + S::splits_at))[n * 8 + lane_of_thread() % 4 * 2 + e % 2];
}

// The columns that the rows of a block are compared with. A block with rows of both towers visits both.
DEVICE Range columns_of_block(const Parameters& p, const Side& columns, int first) {
    if (!p.tower || (first < p.tower && first + TILE_ROWS > p.tower)) return {0, columns.count};
    return compared_keys(p, first);
}

// Compares the 128 rows from `first` on with this block's part of the columns: the second dimension of the grid divides
// them. Calls `visit(similarities, first column, stage)` for each tile.
template <class S, class Visit>
DEVICE void sweep(const Parameters& p, u8* stages, const Side& rows, const Side& columns, int first, OwnRows<S::rows>& own, Visit visit) {
    const Range all = columns_of_block(p, columns, first);
    const int start = all.first / S::columns, tiles = (all.end + S::columns - 1) / S::columns - start;
    const int from = start + (int)((i64)tiles * blockIdx.y / gridDim.y);
    const int to = start + (int)((i64)tiles * (blockIdx.y + 1) / gridDim.y);
    const i64 column = (i64)from * S::columns;
    Source source = {columns.rows + column * ROW_BYTES + threadIdx.x * 16, (const u8*)(columns.cards + column + threadIdx.x),
                     columns.splits ? (const u8*)(columns.splits + column) + threadIdx.x * 16 : 0};
    if (from < to) fetch<S>(stages + from % 2 * S::stage, source);
    commit_copies();
    Rows<S::groups> left;
    UNROLL for (int row = 0; row < S::rows; row++) {
        own.index[row] = own_row<S>(first, row);
        own.card[row] = rows.cards[own.index[row]];
    }
    UNROLL for (int g = 0; g < S::groups; g++) {
        load_rows(left.a[g], rows.rows + (i64)own.index[g * 2] * ROW_BYTES, rows.rows + (i64)own.index[g * 2 + 1] * ROW_BYTES);
    }
    for (int tile = from; tile < to; tile++) {
        // After this, all copies of this tile have arrived, and no warp uses the previous tile any more.
        wait_for_copies<0>();
        sync_threads();
        const u8* stage = stages + tile % 2 * S::stage;
        if (tile + 1 < to) fetch<S>(stages + (tile + 1) % 2 * S::stage, source);
        commit_copies();
        Products<S::groups, S::blocks> s;
        multiply_rows(s, left, stage);
        each_pair(s, [&](float& c, int row, int n, int e) {
            c = similarity(c, own.card[row].inverse_length, card_of_column<S>(stage, n, e).inverse_length);
        });
        visit(s, tile * S::columns, stage);
    }
}
