// The gradient: derivatives by similarities, tile by tile, times the rows of the other side; then back to the rows as
// they came.

// Dimensions that a block adds up: one accumulator of 8 dimensions takes 4 registers.
#define LARGEST_CHUNK (ROW_BYTES > LONG_ROW ? LONG_ROW_CHUNK : MAX_CHUNK)
#define CHUNK (DIMS < LARGEST_CHUNK ? DIMS : LARGEST_CHUNK)
#define CHUNKS ((DIMS + CHUNK - 1) / CHUNK)

struct Accumulator {
    float c[CHUNK / 8][4];
};

// Rounded once, where it meets the rows. Derivatives of 16-bit rows come divided by the lengths of these.
DEVICE float within_range(float x) {
#if OPERAND == F16
    // Keeps NaN.
    return x > 65504.0f ? 65504.0f : x < -65504.0f ? -65504.0f : x;
#else
    return x;
#endif
}

DEVICE u32 pack(float low, float high) {
#if OPERAND == F16
    return pack_f16(within_range(low), within_range(high));
#else
    return pack_bf16(low, high);
#endif
}

// sum += m rows: 16 rows of derivatives by the columns of a tile, times these, dimensions `chunk` on.
DEVICE void accumulate(Accumulator& sum, const Products& m, const u8* stage, int chunk) {
    const int lane = lane_of_thread();
#if ELEMENT == 2
    const u8* at = stage + (lane % 8 + lane / 8 % 2 * 8) * PITCH + (chunk + lane / 16 * 8) * ELEMENT;
    UNROLL for (int k = 0; k < BLOCKS; k += 2) {
        const u32 a[4] = {pack(m.c[k][0], m.c[k][1]), pack(m.c[k][2], m.c[k][3]), pack(m.c[k + 1][0], m.c[k + 1][1]),
                          pack(m.c[k + 1][2], m.c[k + 1][3])};
        UNROLL for (int d = 0; d < CHUNK; d += 16) {
            if (DIMS % CHUNK != 0 && chunk + d >= DIMS) continue;
            u32 b[4];
            load_matrices_transposed(b, at + k * 8 * PITCH + d * ELEMENT);
            multiply(sum.c[d / 8], a, b[0], b[1]);
            multiply(sum.c[d / 8 + 1], a, b[2], b[3]);
        }
    }
#else
    // The inner index runs over the columns in the order in which the lanes have them.
    const u8* at = stage + lane % 4 * 2 * PITCH + (chunk + lane / 4) * ELEMENT;
    UNROLL for (int k = 0; k < BLOCKS; k++) {
        u32 a[4] = {bits_of(m.c[k][0]), bits_of(m.c[k][2]), bits_of(m.c[k][1]), bits_of(m.c[k][3])};
#if OPERAND == TF32
        UNROLL for (int i = 0; i < 4; i++) a[i] = round_to_tf32(float_of(a[i]));
#endif
        UNROLL for (int d = 0; d < CHUNK; d += 8) {
            if (DIMS % CHUNK != 0 && chunk + d >= DIMS) continue;
            const u8* from = at + k * 8 * PITCH + d * ELEMENT;
            multiply(sum.c[d / 8], a, word(from), word(from + PITCH));
        }
    }
#endif
}

// To the partial sums of a split.
DEVICE void write_partial(const Launch& l, const Side& rows, const OwnRows& own, const Accumulator& sum, int chunk) {
    UNROLL for (int half = 0; half < 2; half++) {
        if (own.index[half] >= rows.count) continue;
        float* out = l.partial + ((i64)blockIdx.y * l.partial_rows + own.index[half]) * l.partial_dims;
        UNROLL for (int d = 0; d < CHUNK / 8; d++) {
            UNROLL for (int e = 0; e < 2; e++) {
                int dim = chunk + d * 8 + lane_of_thread() % 4 * 2 + e;
                if (dim < l.partial_dims) out[dim] = sum.c[d][half * 2 + e];
            }
        }
    }
}

// `derivative(c, row, n, e, stage)` of each negative, times the rows of the other side.
template <class Derivative>
DEVICE void add_gradient(const Parameters& p, const Launch& l, u8* stages, OwnRows& own, Derivative derivative) {
    const bool of_keys = l.side == 1;
    const Side& rows = of_keys ? p.keys : p.anchors;
    const Side& columns = of_keys ? p.anchors : p.keys;
    const int first = blockIdx.x * TILE_ROWS, chunk = blockIdx.z * CHUNK;
#if OPERAND == F16
    const float scale = p.header->gradient_scale;
#endif
    Accumulator sum;
    UNROLL for (int d = 0; d < CHUNK / 8; d++) UNROLL for (int e = 0; e < 4; e++) sum.c[d][e] = 0.0f;
    sweep(stages, rows, columns, first, blockIdx.y, gridDim.y, own, [&](Products& s, int column, const u8* stage) {
        keep_negatives(p, columns, own, first, column, of_keys, s);
        each_pair(s, [&](float& c, int row, int n, int e) {
            c = derivative(c, row, n, e, stage);
#if ELEMENT == 2
            c *= card_of_column(stage, n, e).inverse_length;
#endif
#if OPERAND == F16
            c *= scale;
#endif
        });
        accumulate(sum, s, stage, chunk);
    });
    write_partial(l, rows, own, sum, chunk);
}

// The case of the kernel `sums`. Coefficients of the rows that are no anchors are 0.
KERNEL(THREADS, 1) gradient(const Parameters p, const Launch l) {
    SHARED_MEMORY(stages);
    const float limit = p.header->limit;
    OwnRows own;
    add_gradient(p, l, stages, own, [&](float c, int row, int n, int e, const u8* stage) {
        const Card& mine = own.card[row];
        const Card& other = card_of_column(stage, n, e);
        const float exponential = exp2_approximate(c * p.exponent - p.exponent);
        float factor = mine.global + other.global;
        if (c > limit) factor = exponential * (mine.weighted + other.weighted) - (mine.weights + other.weights);
        return exponential * factor;
    });
}

// One side's derivative, in general. Without branches: two thirds of the machine code.
DEVICE float slope(const Parameters& p, float c, bool hierarchical, const Card& card, const Split& split) {
    const float difference = c - (hierarchical ? split.hierarchical_shift : split.global_shift);
    const float plain = below(difference, p.exponent);
    const float weight = below(difference, hierarchical ? p.concentration : 0.0f);
    return weight * ((hierarchical ? card.weighted : card.global) * plain - (hierarchical ? card.weights : 0.0f));
}

KERNEL(THREADS, 1) gradient_general(const Parameters p, const Launch l) {
    SHARED_MEMORY(stages);
    const bool by_rows = p.square || l.side == 0, by_columns = p.square || l.side == 1;
    // Read where they are used: registers are short here.
    const Split* splits = (l.side == 1 ? p.keys : p.anchors).splits;
    OwnRows own;
    add_gradient(p, l, stages, own, [&](float c, int row, int n, int e, const u8* stage) {
        const Split& mine = splits[own.index[row]];
        const Split& other = split_of_column(stage, n, e);
        float sum = 0.0f;
        if (by_rows) sum += slope(p, c, is_hierarchical(p, c, mine, other), own.card[row], mine);
        if (by_columns) sum += slope(p, c, is_hierarchical(p, c, other, mine), card_of_column(stage, n, e), other);
        return c == -infinity() ? 0.0f : sum;
    });
}

// Adds `slope` times a unit row to this lane's dimensions of a gradient.
DEVICE void add_row(float (&g)[DIMS / LANES], double slope, const Side& side, int row) {
    const float factor = (float)(slope * side.cards[row].inverse_length);
    const u8* from = side.rows + (i64)row * ROW_BYTES;
    UNROLL for (int k = 0; k < DIMS / LANES; k++) g[k] += factor * operand(from, lane_of_thread() + k * LANES);
}

// The positives' part of an anchor's gradient.
DEVICE void add_positives(const Parameters& p, float (&g)[DIMS / LANES], int anchor) {
    for (int k = 0; k < p.positives; k++) {
        const double slope = p.positive_slopes[(i64)anchor * p.positives + k];
        if (p.pairing == APART) {
            add_row(g, slope, p.apart, anchor);
        } else {
            const int key = excluded_key(p, anchor, k);
            if (key >= 0) add_row(g, slope, p.keys, key);
        }
    }
}

// The part of a key's gradient that comes from the anchors whose positive it is, in the order of these.
DEVICE void add_as_positive(const Parameters& p, float (&g)[DIMS / LANES], int key) {
    if (p.pairing == VIEWS) {
        const int place = key - p.offset;
        if (place < 0 || place >= p.anchors.count) return;
        for (int k = 0; k < p.positives; k++) {
            // The anchor whose positive `positives - 1 - k` this is.
            const int anchor = excluded_key(p, place, k) - p.offset;
            add_row(g, p.positive_slopes[(i64)anchor * p.positives + p.positives - 1 - k], p.anchors, anchor);
        }
    } else if (p.pairing == INDEXED) {
        const i64 pairs = (i64)p.anchors.count * p.positives;
        for (i64 start = 0; start < pairs; start += LANES) {
            const i64 mine = start + lane_of_thread();
            u32 found = ballot(mine < pairs && p.positive_index[mine < pairs ? mine : 0] == key);
            for (int other = 0; found >> other; other++) {
                if (found >> other & 1) add_row(g, p.positive_slopes[start + other], p.anchors, (int)((start + other) / p.positives));
                if (other == LANES - 1) break;
            }
        }
    }
}

// A warp for each row: partial sums together, the positives' part, and the projection (g - (g.u) u) / |z|, at most the
// largest finite number.
KERNEL(THREADS, 2) finish(const Parameters p, const Launch l) {
    const int row = blockIdx.x * WARPS + warp_of_thread(), lane = lane_of_thread();
    const Side& side = l.side == 0 ? p.anchors : l.side == 1 ? p.keys : p.apart;
    if (row >= side.count) return;
    float g[DIMS / LANES];
    const float scale = OPERAND == F16 ? 1.0f / p.header->gradient_scale : 1.0f;
    UNROLL for (int k = 0; k < DIMS / LANES; k++) {
        const int dim = lane + k * LANES;
        g[k] = 0.0f;
        if (dim >= l.partial_dims) continue;
        for (int split = 0; split < l.splits; split++) {
            g[k] += l.partial[((i64)split * l.partial_rows + row) * l.partial_dims + dim];
        }
        g[k] *= scale;
    }
    if (l.side == 0) add_positives(p, g, row);
    if (l.side == 1 || (l.side == 0 && p.square)) add_as_positive(p, g, row);
    if (l.side == 2) add_row(g, p.positive_slopes[row], p.anchors, row);
    const u8* from = side.rows + (i64)row * ROW_BYTES;
    const double inverse = side.cards[row].inverse_length;
    double along = 0.0;
    UNROLL for (int k = 0; k < DIMS / LANES; k++) along += g[k] * (operand(from, lane + k * LANES) * inverse);
    along = warp_sum(along);
    const double factor = p.header->factor, length = side.lengths[row], largest = 3.402823466e38;
    UNROLL for (int k = 0; k < DIMS / LANES; k++) {
        const int dim = lane + k * LANES;
        if (dim >= p.dims) continue;
        const double across = factor * (g[k] - along * (operand(from, dim) * inverse)) / length;
        l.gradient[(i64)row * p.dims + dim] = (float)(across > largest ? largest : across < -largest ? -largest : across);
    }
}
