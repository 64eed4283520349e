// Converts the rows of the inputs to operands of the tensor cores.
//
// 16-bit rows are multiplied by a power of two, which is exact, so that the products of rows of any scale are finite.
// The similarities are divided by their lengths later. float32 rows are normalised. A row of zeros, or one that is not
// finite, gets the length NaN, and so the loss is NaN. An error would have to wait for the device.

DEVICE float element(const Parameters& p, const void* row, i64 at) {
#if OPERAND == BF16
    return bf16_to_float(((const u16*)row)[at]);
#elif OPERAND == F16
    return f16_to_float(((const u16*)row)[at]);
#else
    return ((const float*)row)[at];
#endif
}

DEVICE void store_operand(u8* row, int dim, float x) {
#if OPERAND == BF16
    ((u16*)row)[dim] = (u16)pack_bf16(x, 0.0f);
#elif OPERAND == F16
    ((u16*)row)[dim] = (u16)pack_f16(x, 0.0f);
#elif OPERAND == TF32
    ((u32*)row)[dim] = round_to_tf32(x);
#else
    ((float*)row)[dim] = x;
#endif
}

DEVICE double power_of_two(int exponent) { return double_of((u64)(exponent + 1023) << 52); }

#ifdef WGMMA_COLUMNS
DEVICE void store_in_tile(const Tiles& tiles, int row, int dim, float x) {
    u8* tile = tiles.rows + (i64)(row / WGMMA_COLUMNS) * TILE_BYTES;
    store_operand(tile + place_of_chunk<PANEL_BYTES>(row % WGMMA_COLUMNS, dim / 8), dim % 8, x);
}

// Writes the note that is known before the coefficients.
DEVICE void note_length(const Tiles& tiles, int row, float inverse_length) {
    const int tile = row / WGMMA_COLUMNS, column = row % WGMMA_COLUMNS;
    tiles.notes[(i64)tile * NOTES * WGMMA_COLUMNS + place_of_length(column)] = inverse_length;
}
#endif

// `tiles`: of the side. Without rows if it has none.
DEVICE void prepare_row(const Parameters& p, const Side& side, const Tiles& tiles, const Matrix& matrix, int row,
                        int matrix_row) {
    const int lane = lane_of_thread();
    float x[DIMS / LANES];
    float largest = 0.0f;
    bool finite = true;
    const u8* start = 0;
    if (row < side.count) start = (const u8*)matrix.pointer + matrix_row * matrix.row_stride * ELEMENT;
    UNROLL for (int k = 0; k < DIMS / LANES; k++) {
        int dim = lane + k * LANES;
        x[k] = row < side.count && dim < p.dims ? element(p, start, dim * matrix.dim_stride) : 0.0f;
        finite &= fabsf(x[k]) <= 3.402823466e38f;
        largest = fmaxf(largest, fabsf(x[k]));
    }
    UNROLL for (int lanes = 16; lanes > 0; lanes /= 2) largest = fmaxf(largest, exchange(largest, lanes));
    const bool sound = !any(!finite) && largest > 0.0f;
    const int exponent = sound ? (int)(bits_of((double)largest) >> 52) - 1023 : 0;
    const double scale = power_of_two(-exponent);
    double squares = 0.0;
    UNROLL for (int k = 0; k < DIMS / LANES; k++) squares += (x[k] * scale) * (x[k] * scale);
    const double length = sound ? sqrt(warp_sum(squares)) : (double)not_a_number();
    UNROLL for (int k = 0; k < DIMS / LANES; k++) {
        double scaled = x[k] * scale;
#if ELEMENT == 4
        if (row < side.count) scaled /= length;
#endif
        store_operand(side.rows + (i64)row * DIMS * ELEMENT, lane + k * LANES, (float)scaled);
#ifdef WGMMA_COLUMNS
        if (tiles.rows) store_in_tile(tiles, row, lane + k * LANES, (float)scaled);
#endif
    }
    if (lane != 0) return;
    Card card = {0.0f, 0.0f, 0.0f, 0.0f};
    if (row < side.count) {
        card.inverse_length = ELEMENT == 4 ? 1.0f : (float)(1.0 / length);
        side.lengths[row] = length * power_of_two(exponent);
    }
    side.cards[row] = card;
#ifdef WGMMA_COLUMNS
    if (tiles.rows) note_length(tiles, row, card.inverse_length);
#endif
}

DEVICE void prepare_split(const Parameters& p, const Side& side, const i64* labels, int row) {
    if (!side.splits) return;
    Split split;
    split.label = labels && row < side.count ? labels[row] : 0;
    split.threshold = infinity();
    split.global_shift = split.hierarchical_shift = 1.0f;
    split.unused[0] = split.unused[1] = split.unused[2] = 0;
    side.splits[row] = split;
}

// Reads an operand that is a number in device memory.
DEVICE double given_number(const void* at, int scalar) {
    switch (scalar) {
        case SCALAR_BF16: return bf16_to_float(*(const u16*)at);
        case SCALAR_F16: return f16_to_float(*(const u16*)at);
        case SCALAR_F32: return *(const float*)at;
        default: return *(const double*)at;
    }
}

// The threshold, unless it is found from the similarities.
DEVICE double given_epsilon(const Parameters& p) {
    if (p.epsilon) return given_number(p.epsilon, p.epsilon_scalar);
    return p.threshold == LABELS ? (double)not_a_number() : p.threshold_value;
}

DEVICE void set_temperature(const Parameters& p, Header& header) {
    const double log2_e = 1.4426950408889634;
    double temperature = p.given_temperature ? given_number(p.given_temperature, p.temperature_scalar) : p.temperature;
    if (!(temperature > 0.0 && temperature < (double)infinity())) temperature = not_a_number();
    header.temperature = temperature;
    header.temperature_slope = 0.0;
    header.exponent = (float)(log2_e / temperature);
    header.concentration = (float)(p.beta * log2_e / temperature);
    header.precise_shifts = !(temperature > p.least_temperature);
}

// One warp per row, including the padding: the anchors, the keys if they are other rows, and the rows apart.
KERNEL(THREADS, 2) rows(const Parameters p, const Inputs inputs) {
    begin();
    const int lane = lane_of_thread();
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        Header header;
        header.epsilon = given_epsilon(p);
        header.limit = limit_of(header.epsilon);
        header.factor = 1.0;
        header.gradient_scale = 1.0f;
        header.failed = 0;
        for (int i = 0; i < 5; i++) header.done[i] = 0;
        header.floor = -infinity();
        header.ceiling = infinity();
        header.pending = header.rerun = 0;
        header.similarities = 0.0;
        set_temperature(p, header);
        *p.header = header;
    }
    int row = blockIdx.x * WARPS + warp_of_thread();
    if (row < p.anchors.padded) {
        int view = row < p.anchors.count ? row / p.view_rows : 0;
        prepare_row(p, p.anchors, p.anchor_tiles, inputs.views[view], row, row - view * p.view_rows);
        if (lane != 0) return;
        prepare_split(p, p.anchors, p.anchor_labels, row);
        if (row >= p.anchors.count) return;
        if (p.above) p.above[row] = p.inside[row] = 0;
        if (p.key_ends && p.square) p.key_ends[row] = 0;
        if (p.ranges) {
            p.ranges[2 * row] = ~0u;
            p.ranges[2 * row + 1] = 0;
        }
        return;
    }
    row -= p.anchors.padded;
    if (!p.square) {
        if (row < p.keys.padded) {
            prepare_row(p, p.keys, p.key_tiles, inputs.keys, row, row);
            if (lane != 0) return;
            prepare_split(p, p.keys, p.key_labels, row);
            if (p.key_ends && row < p.keys.count) p.key_ends[row] = 0;
            return;
        }
        row -= p.keys.padded;
    }
    if (row < p.apart.padded) prepare_row(p, p.apart, Tiles{}, inputs.positives, row, row);
}

// Copies the quantiles to the output of `row_quantiles`.
KERNEL(THREADS, 2) copy_quantiles(const Parameters p, const Launch l) {
    begin();
    const int row = blockIdx.x * THREADS + threadIdx.x;
    if (row < p.anchors.count) l.output[row] = p.quantiles[row];
}
