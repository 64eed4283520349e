// Turns the partial sums into gradients for the input's rows.

DEVICE void write_four(float* to, int at, int count, const float (&x)[4]) {
    if (count % 4 == 0) {
        if (at < count) *(float4*)(to + at) = float4{x[0], x[1], x[2], x[3]};
    } else {
        UNROLL for (int i = 0; i < 4; i++) if (at + i < count) to[at + i] = x[i];
    }
}

// Adds the partial sums of four dimensions of a row, in order. Those of four splits are read at a time, 16 bytes each
// if every row starts at a multiple of that.
DEVICE void add_partial(float (&g)[4], const Launch& l, int row, int dim, int dims) {
    const float* from = l.partial + (i64)row * dims + dim;
    const i64 step = l.partial_rows * dims;
    if (dims % 4 == 0) {
        if (dim >= dims) return;
        for (int first = 0; first < l.splits; first += 4) {
            float4 part[4];
            UNROLL for (int i = 0; i < 4; i++) {
                part[i] = first + i < l.splits ? *(const float4*)(from + (first + i) * step) : float4{0.0f, 0.0f, 0.0f, 0.0f};
            }
            UNROLL for (int i = 0; i < 4; i++) {
                g[0] += part[i].x, g[1] += part[i].y, g[2] += part[i].z, g[3] += part[i].w;
            }
        }
    } else {
        for (int split = 0; split < l.splits; split++, from += step) {
            UNROLL for (int i = 0; i < 4; i++) if (dim + i < dims) g[i] += from[i];
        }
    }
}

// Adds `slope` times a unit row to a gradient.
DEVICE void add_row(float (&g)[FOURS][4], double slope, const Side& side, int row) {
    const float factor = (float)(slope * side.cards[row].inverse_length);
    const u8* from = side.rows + (i64)row * ROW_BYTES;
    UNROLL for (int k = 0; k < FOURS; k++) {
        float x[4];
        four_elements(x, from, first_of_four(k));
        UNROLL for (int i = 0; i < 4; i++) g[k][i] += factor * x[i];
    }
}

// The derivative by the similarity with a row apart: number `i` of an anchor.
DEVICE float slope_apart(const Parameters& p, int anchor, int i) {
    if (i < first_own(p)) return p.positive_slopes[anchor];
    const float c = apart_of(p, anchor)[i];
    const Split split = split_of(p, anchor);
    return slope(exponents(p), c, c > split.threshold, p.anchors.cards[anchor], split);
}

// Adds the terms of an anchor's positives to its gradient.
DEVICE void add_positives(const Parameters& p, float (&g)[FOURS][4], int anchor) {
    for (int k = 0; p.pairing != APART && k < p.positives; k++) {
        const int key = excluded_key(p, anchor, k);
        if (key >= 0) add_row(g, p.positive_slopes[(i64)anchor * p.positives + k], p.keys, key);
    }
}

// The same for a row that is an anchor and a key: the anchors whose positive it is are its own positives.
DEVICE void add_views(const Parameters& p, float (&g)[FOURS][4], int row) {
    for (int k = 0; k < p.positives; k++) {
        const int other = excluded_key(p, row, k);
        const double slope = p.positive_slopes[(i64)row * p.positives + k];
        add_row(g, slope + p.positive_slopes[(i64)other * p.positives + p.positives - 1 - k], p.anchors, other);
    }
}

// Adds the terms of an anchor's own negatives, and of its positive if that is not among the keys.
DEVICE void add_apart(const Parameters& p, float (&g)[FOURS][4], int anchor) {
    // Each lane finds the derivative by another row apart.
    for (int first = 0; first < p.rows_apart; first += LANES) {
        const int own = first + lane_of_thread(), count = p.rows_apart - first < LANES ? p.rows_apart - first : LANES;
        const float slope = own < p.rows_apart ? slope_apart(p, anchor, own) : 0.0f;
        _Pragma("unroll 4") for (int i = 0; i < count; i++) {
            add_row(g, from_lane(slope, i), p.apart, anchor * p.rows_apart + first + i);
        }
    }
}

// Adds the terms of the anchors whose positive this key is, in the order of the anchors.
DEVICE void add_as_positive(const Parameters& p, float (&g)[FOURS][4], int key) {
    if (p.pairing == VIEWS) {
        const int place = key - p.offset;
        if (place < 0 || place >= p.anchors.count) return;
        for (int k = 0; k < p.positives; k++) {
            // This key is positive number `positives - 1 - k` of the anchor.
            const int anchor = excluded_key(p, place, k) - p.offset;
            add_row(g, p.positive_slopes[(i64)anchor * p.positives + p.positives - 1 - k], p.anchors, anchor);
        }
    } else if (p.pairing == INDEXED) {
        const PairList pairs = pairs_of_key(p, key);
        for (int at = 0; at < pairs.count; at++) {
            const u32 anchor = pairs.list[at] / p.excluded, k = pairs.list[at] % p.excluded;
            if (k < (u32)p.positives) add_row(g, p.positive_slopes[(i64)anchor * p.positives + k], p.anchors, (int)anchor);
        }
    }
}

// Writes the gradient of one row: g is the sum of the partial sums and of the terms of positives and own negatives, u
// the unit row, and the gradient is (g - (g.u) u) / |z|. It saturates at the largest finite number. By one warp.
// Returns g.u.
DEVICE double finish_row(const Parameters& p, const Launch& l, const Side& side, int row) {
    const double inverse = side.cards[row].inverse_length, length = side.lengths[row], all = p.header->factor;
    float g[FOURS][4] = {}, own[FOURS][4];
    UNROLL for (int k = 0; k < FOURS; k++) {
        four_elements(own[k], side.rows + (i64)row * ROW_BYTES, first_of_four(k));
        add_partial(g[k], l, row, first_of_four(k), p.dims);
    }
    if (OPERAND == F16) {
        const float scale = 1.0f / p.header->gradient_scale;
        UNROLL for (int k = 0; k < FOURS; k++) UNROLL for (int i = 0; i < 4; i++) g[k][i] *= scale;
    }
    const bool is_anchor = l.side == 0, is_both = is_anchor && p.square;
    if (is_both && p.pairing == VIEWS) {
        add_views(p, g, row);
    } else {
        if (is_anchor) add_positives(p, g, row);
        if (l.side == 1 || is_both) add_as_positive(p, g, row);
    }
    if (is_anchor) add_apart(p, g, row);
    if (l.side == 2) add_row(g, slope_apart(p, row / p.rows_apart, row % p.rows_apart), p.anchors, row / p.rows_apart);
    double along = 0.0;
    UNROLL for (int k = 0; k < FOURS; k++) UNROLL for (int i = 0; i < 4; i++) along += g[k][i] * (own[k][i] * inverse);
    along = warp_sum(along);
    const double factor = all / length, largest = 3.402823466e38;
    UNROLL for (int k = 0; k < FOURS; k++) {
        float found[4];
        UNROLL for (int i = 0; i < 4; i++) {
            const double across = factor * (g[k][i] - along * (own[k][i] * inverse));
            found[i] = (float)(across > largest ? largest : across < -largest ? -largest : across);
        }
        write_four(l.gradient + (i64)row * p.dims, first_of_four(k), p.dims, found);
    }
    return along;
}

struct FinishMemory {
    double sums[WARPS];
    u32 last;
};
static_assert(sizeof(FinishMemory) <= FINISH_SHARED, "sizes");

// The last block writes the derivative by the temperature, from the sum of g.u (`along`) over the anchors. Except for
// the terms of `temperature_slope`, the loss depends on similarities and temperature only through their ratio. In a
// square problem, the gradients of the anchors count each pair twice.
DEVICE void add_radial(const Parameters& p, FinishMemory& shared, double along) {
    along = sum_of_warps(along, shared.sums);
    if (threadIdx.x == 0) p.radials[blockIdx.x] = along;
    if (!is_last_block(&p.header->done[2], gridDim.x, &shared.last)) return;
    double sum = 0.0;
    for (u32 block = threadIdx.x; block < gridDim.x; block += THREADS) sum += p.radials[block];
    sum = sum_of_warps(warp_sum(sum), shared.sums);
    if (threadIdx.x != 0) return;
    const double pairs = p.square ? 0.5 * sum : sum;
    *p.temperature_gradient = (float)(p.header->factor * (p.header->temperature_slope - pairs / p.header->temperature));
}

// One warp per row of a side.
KERNEL(THREADS, FOURS > 1 ? 2 : 4) finish(const Parameters p, const Launch l) {
    begin();
    SHARED_MEMORY(memory);
    const int row = blockIdx.x * WARPS + warp_of_thread();
    const Side& side = l.side == 0 ? p.anchors : l.side == 1 ? p.keys : p.apart;
    const double along = row < side.count ? finish_row(p, l, side, row) : 0.0;
    if (l.side == 0 && p.temperature_gradient) add_radial(p, *(FinishMemory*)memory, along);
}
