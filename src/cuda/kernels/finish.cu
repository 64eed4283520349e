// From partial sums to gradients by the rows as they came.

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
        const PairList pairs = pairs_of_key(p, key);
        for (int at = 0; at < pairs.count; at++) {
            const u32 anchor = pairs.list[at] / p.excluded, k = pairs.list[at] % p.excluded;
            if (k < (u32)p.positives) add_row(g, p.positive_slopes[(i64)anchor * p.positives + k], p.anchors, (int)anchor);
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
