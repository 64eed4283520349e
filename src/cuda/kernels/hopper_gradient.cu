// The kernel `gradient` for sm_90a.
//
// A block has two or three consumers and a part of the columns. A consumer takes half a tile at a time, so that its
// registers suffice. For each half, it
//   1. starts two products: the similarities with this half, and the derivatives of the previous half times its rows;
//   2. waits for the similarities, and computes the derivatives, while the other product runs;
//   3. waits for the other product, which frees the registers for the new derivatives, and rounds these to 16 bits. The
//      accumulators of 16 columns have the layout of a left factor.

#ifdef WGMMA_COLUMNS

using GradientMemory = BlockMemory<WGMMA_GRADIENT_CONSUMERS, WGMMA_GRADIENT_STAGES, COEFFICIENTS>;

#define HALF_COLUMNS (WGMMA_COLUMNS / 2)
#define HALF_PAIRS (HALF_COLUMNS / 2)

// Writes the notes that are coefficients, times the inverse length and, for float16, the scale of the derivatives. One
// thread per row, first the anchors, then the keys.
KERNEL(THREADS, 2) note_coefficients(const Parameters p, const Launch l) {
    int row = blockIdx.x * THREADS + threadIdx.x;
    const bool of_keys = row >= p.anchors.padded;
    if (of_keys) row -= p.anchors.padded;
    const Side& side = of_keys ? p.keys : p.anchors;
    if ((of_keys && p.square) || row >= side.padded) return;
    const Card card = side.cards[row];
    const float factor = card.inverse_length * (OPERAND == F16 ? p.header->gradient_scale : 1.0f);
    float* notes = (of_keys ? p.key_tiles : p.anchor_tiles).notes + (i64)(row / WGMMA_COLUMNS) * NOTES * WGMMA_COLUMNS;
    *(float4*)(notes + WGMMA_COLUMNS + row % WGMMA_COLUMNS * COEFFICIENTS) =
        {card.inverse_length, card.global * factor, card.weighted * factor, card.weights * factor};
}

// The two rows of a thread. The coefficients include the scale of the derivatives.
struct StripRows {
    float inverse[2], global[2], weighted[2], weights[2];
};

DEVICE StripRows strip_rows(const Parameters& p, const Side& rows, int first) {
    const float scale = OPERAND == F16 ? p.header->gradient_scale : 1.0f;
    StripRows own;
    UNROLL for (int half = 0; half < 2; half++) {
        const Card card = rows.cards[first + row_in_strip() + half * 8];
        own.inverse[half] = card.inverse_length;
        own.global[half] = card.global * scale;
        own.weighted[half] = card.weighted * scale;
        own.weights[half] = card.weights * scale;
    }
    return own;
}

// Replaces a product by the derivative of the kernel `gradient`, times the inverse length of the column. `column`: its
// inverse length and coefficients.
DEVICE void derive(float& c, const StripRows& own, int half, float exponent, float limit, float4 column) {
    c = similarity(c, own.inverse[half], column.x);
    const float exponential = exp2_approximate(c * exponent - exponent);
    const float outside = own.global[half] * column.x + column.y;
    const float steeper = own.weighted[half] * column.x + column.z;
    const float inside = exponential * steeper - (own.weights[half] * column.x + column.w);
    c = exponential * (c > limit ? inside : outside);
}

// `notes`: those of the first column.
DEVICE void derive_half(float (&c)[HALF_PAIRS], const StripRows& own, float exponent, float limit, u32 notes) {
    UNROLL for (int i = 0; i < HALF_PAIRS; i += 4) {
        UNROLL for (int e = 0; e < 2; e++) {
            const float4 column = load_shared(notes + (i / 4 * 8 + lane_of_thread() % 4 * 2 + e) * COEFFICIENTS * 4);
            derive(c[i + e], own, 0, exponent, limit, column);
            derive(c[i + 2 + e], own, 1, exponent, limit, column);
        }
    }
}

// Sets the derivatives of pairs that are not pairs of an anchor and a negative to 0.
DEVICE void drop_excluded_derivatives(const Parameters& p, const Side& columns, int row, int column, bool rows_are_keys,
                                      float (&c)[HALF_PAIRS]) {
    u32 bits[2];
    if (!find_excluded<HALF_COLUMNS>(p, columns, row, column, rows_are_keys, bits)) return;
    UNROLL for (int i = 0; i < HALF_PAIRS; i++) c[i] = is_excluded(bits, i) ? 0.0f : c[i];
}

// sum += the derivatives times the rows of half a tile, as one group.
DEVICE void multiply_derivatives(float (&sum)[DIMS / 2], const u32 (&derivatives)[HALF_PAIRS / 2], u32 half_tile) {
    begin_products();
    UNROLL for (int k = 0; k < HALF_COLUMNS / 16; k++) {
        add_product(sum, derivatives + 4 * k, columns_at(half_tile) + further(k * 16 * 128));
    }
    commit_products();
}

// Writes the sums to the partial sums of this part of the columns.
DEVICE void write_strip(const Launch& l, const Side& rows, int first, const float (&sum)[DIMS / 2]) {
    UNROLL for (int half = 0; half < 2; half++) {
        const int row = anew(first) + row_in_strip() + half * 8;
        if (row >= rows.count) continue;
        float* out = l.partial + ((i64)blockIdx.y * l.partial_rows + row) * l.partial_dims;
        UNROLL for (int i = 0; i < DIMS / 2; i++) {
            const int dim = i / 4 * 8 + lane_of_thread() % 4 * 2 + i % 2;
            if (i / 2 % 2 == half && dim < l.partial_dims) out[dim] = sum[i];
        }
    }
}

KERNEL(GradientMemory::BLOCK_THREADS, 1) gradient_wgmma(const Parameters p, const Launch l) {
    SHARED_MEMORY(shared);
    const GradientMemory memory(shared);
    const bool of_keys = l.side == 1;
    const Side& rows = of_keys ? p.keys : p.anchors;
    const Side& columns = of_keys ? p.anchors : p.keys;
    const Tiles& column_tiles = of_keys ? p.anchor_tiles : p.key_tiles;
    const int first = blockIdx.x * GradientMemory::ROWS;
    const Part part = part_of(columns, blockIdx.y, gridDim.y);
    const int warpgroup = warpgroup_of_thread();
    if (warpgroup == 0) {
        give_registers();
        if (threadIdx.x > 0) return;
        Turn turn = {0, 1};
        memory.bring_rows(rows, of_keys ? p.key_tiles : p.anchor_tiles, first);
        memory.bring_tiles(column_tiles, part.from, part.to, turn);
        return;
    }
    take_registers<WGMMA_GRADIENT_CONSUMERS>();
    const int consumer = warpgroup - 1, strip = strip_inside(rows, first + consumer * STRIP);
    const StripRows own = strip_rows(p, rows, strip);
    const float exponent = p.header->exponent, limit = p.header->limit;
    const u64 left = rows_at(memory.strip(consumer));
    const auto half_tile = [&](u32 stage, int half) { return memory.tile(stage) + half * HALF_COLUMNS * 128; };
    float sum[DIMS / 2], c[HALF_PAIRS];
    u32 derivatives[HALF_PAIRS / 2];
    // There are no derivatives before the first half. No part is empty.
    UNROLL for (int i = 0; i < DIMS / 2; i++) sum[i] = 0.0f;
    UNROLL for (int i = 0; i < HALF_PAIRS / 2; i++) derivatives[i] = 0;
    Turn turn = {0, 0};
    u32 last = 0;
    barrier_wait(memory.own(), 0);
    for (int tile = part.from; tile < part.to; tile++) {
        memory.wait_for(turn);
        UNROLL for (int half = 0; half < 2; half++) {
            multiply_rows(c, left, rows_at(half_tile(turn.stage, half)));
            multiply_derivatives(sum, derivatives, half_tile(half == 0 ? last : turn.stage, 1 - half));
            wait_for_products<1>(c);
            derive_half(c, own, exponent, limit, memory.notes_of(turn.stage) + half * HALF_COLUMNS * COEFFICIENTS * 4);
            wait_for_products<0>(sum);
            if (half == 0 && tile > part.from) memory.release(last);
            const int column = tile * WGMMA_COLUMNS + half * HALF_COLUMNS;
            if (strip_may_exclude<HALF_COLUMNS>(p, columns, strip, column, of_keys)) {
                drop_excluded_derivatives(p, columns, strip + row_in_strip(), column, of_keys, c);
            }
            UNROLL for (int i = 0; i < HALF_PAIRS / 2; i++) derivatives[i] = pack(c[2 * i], c[2 * i + 1]);
        }
        last = turn.stage;
        memory.next(turn);
    }
    multiply_derivatives(sum, derivatives, half_tile(last, 1));
    wait_for_products<0>(sum);
    write_strip(l, rows, first + consumer * STRIP, sum);
}

#endif
