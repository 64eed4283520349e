// The kernel `gradient` for sm_90a.
//
// A block has two consumers and a part of the columns. For tile j, a consumer
//   1. waits for tile j and for its turn, and starts two products: the similarities with tile j, and the derivatives of
//      tile j - 1 times tile j - 1;
//   2. passes the turn on when the similarities are done;
//   3. computes most of the derivatives, while its other product and then the products of the other consumer run;
//   4. waits for its other product, which frees stage j - 1 and the registers for the new derivatives, computes the
//      others, and rounds all to 16 bits. The accumulators of 16 columns have the layout of a left factor.
// More consumers with half a tile each, and products that are started a half tile ahead, were both slower on an H200.

#ifdef WGMMA_COLUMNS

// Pairs of a strip and a tile that a thread derives while the products of the tile before are still running. With all of
// them, registers would spill.
#define PAIRS_MEANWHILE (PAIRS * 5 / 8)

using GradientMemory = BlockMemory<WGMMA_GRADIENT_CONSUMERS, WGMMA_GRADIENT_STAGES, COEFFICIENTS>;

// Writes the notes that are coefficients, times the inverse length and, for float16, the scale of the derivatives. One
// thread per row, first the anchors, then the keys.
KERNEL(THREADS, 2) note_coefficients(const Parameters p, const Launch l) {
    begin();
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
// inverse length and coefficients. With a predicate, which takes an instruction less than to choose one of two numbers.
DEVICE void derive(float& c, const StripRows& own, int half, float exponent, float limit, float4 column) {
    c = similarity(c, own.inverse[half], column.x);
    const float exponential = exp2_approximate(c * exponent - exponent);
    const float steeper = own.weighted[half] * column.x + column.z;
    const float weights = own.weights[half] * column.x + column.w;
    float slope = own.global[half] * column.x + column.y;
    asm("{\n.reg .pred above;\nsetp.gt.f32 above, %1, %2;\n@above fma.rn.f32 %0, %3, %4, %5;\n}"
        : "+f"(slope)
        : "f"(c), "f"(limit), "f"(exponential), "f"(steeper), "f"(-weights));
    c = exponential * slope;
}

template <int from, int to>
DEVICE void derive_pairs(float (&c)[PAIRS], const StripRows& own, float exponent, float limit, u32 notes) {
    UNROLL for (int i = from; i < to; i += 4) {
        UNROLL for (int e = 0; e < 2; e++) {
            const float4 column = load_shared(notes + (i / 4 * 8 + lane_of_thread() % 4 * 2 + e) * COEFFICIENTS * 4);
            derive(c[i + e], own, 0, exponent, limit, column);
            derive(c[i + 2 + e], own, 1, exponent, limit, column);
        }
    }
}

// Sets the derivatives of pairs that are not pairs of an anchor and a negative to 0.
DEVICE void drop_excluded_derivatives(const Parameters& p, const Side& columns, int row, int column, bool rows_are_keys,
                                      float (&c)[PAIRS]) {
    u32 bits[2];
    if (!find_excluded(p, columns, row, column, rows_are_keys, bits)) return;
    UNROLL for (int i = 0; i < PAIRS; i++) c[i] = is_excluded(bits, i) ? 0.0f : c[i];
}

DEVICE void round_strip(u32 (&rounded)[PAIRS / 2], const float (&c)[PAIRS]) {
    UNROLL for (int i = 0; i < PAIRS / 2; i++) rounded[i] = pack(c[2 * i], c[2 * i + 1]);
}

// sum += the derivatives times the rows of a tile, as one group.
DEVICE void multiply_derivatives(float (&sum)[DIMS / 2], const u32 (&derivatives)[PAIRS / 2], u64 tile) {
    begin_products();
    UNROLL for (int k = 0; k < WGMMA_COLUMNS / 16; k++) {
        add_product(sum, derivatives + 4 * k, tile + further(k * 16 * 128));
    }
    commit_products();
}

// Writes the sums to the partial sums of this part of the columns, two at a time where all rows start at multiples of 8
// bytes.
DEVICE void write_strip(const Launch& l, const Side& rows, int first, const float (&sum)[DIMS / 2]) {
    const bool by_two = l.partial_dims % 2 == 0;
    UNROLL for (int half = 0; half < 2; half++) {
        const int row = anew(first) + row_in_strip() + half * 8;
        if (row >= rows.count) continue;
        float* out = l.partial + ((i64)blockIdx.y * l.partial_rows + row) * l.partial_dims;
        UNROLL for (int i = half * 2; i < DIMS / 2; i += 4) {
            const int dim = i / 4 * 8 + lane_of_thread() % 4 * 2;
            if (by_two && dim < l.partial_dims) *(float2*)(out + dim) = {sum[i], sum[i + 1]};
            if (!by_two && dim < l.partial_dims) out[dim] = sum[i];
            if (!by_two && dim + 1 < l.partial_dims) out[dim + 1] = sum[i + 1];
        }
    }
}

KERNEL(GradientMemory::BLOCK_THREADS, 1) gradient_wgmma(const Parameters p, const Launch l) {
    begin();
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
        memory.bring_rows(of_keys ? p.key_tiles : p.anchor_tiles, first);
        memory.bring_tiles(column_tiles, part.from, part.to, turn);
        return;
    }
    take_registers<WGMMA_GRADIENT_CONSUMERS>();
    const int consumer = warpgroup - 1, strip = first + consumer * STRIP;
    const StripRows own = strip_rows(p, rows, strip);
    const float exponent = p.header->exponent, limit = p.header->limit;
    const u64 left = rows_at(memory.strip(consumer));
    float sum[DIMS / 2], c[PAIRS];
    u32 derivatives[PAIRS / 2];
    UNROLL for (int i = 0; i < DIMS / 2; i++) sum[i] = 0.0f;
    Turn turn = {0, 0};
    Exclusions exclusions;
    barrier_wait(memory.own(), 0);
    if (consumer == 1) hand_turn_on(1);
    // Called when registers are free: after the previous derivatives have been multiplied.
    const auto finish_derivatives = [&](int tile) {
        const int column = tile * WGMMA_COLUMNS;
        if (exclusions.may_be_in(p, columns, strip, column, of_keys)) {
            drop_excluded_derivatives(p, columns, strip + row_in_strip(), column, of_keys, c);
        }
        round_strip(derivatives, c);
    };
    // For the first tile there are no derivatives yet. No part is empty.
    memory.wait_for(turn);
    wait_for_turn(consumer);
    multiply_rows(c, left, rows_at(memory.tile(0)));
    wait_for_products<0>(c);
    hand_turn_on(consumer);
    derive_pairs<0, PAIRS>(c, own, exponent, limit, memory.notes_of(turn.stage));
    finish_derivatives(part.from);
    for (int tile = part.from + 1; tile < part.to; tile++) {
        const u32 last = turn.stage;
        memory.next(turn);
        memory.wait_for(turn);
        wait_for_turn(consumer);
        multiply_rows(c, left, rows_at(memory.tile(turn.stage)));
        multiply_derivatives(sum, derivatives, columns_at(memory.tile(last)));
        wait_for_products<1>(c);
        hand_turn_on(consumer);
        derive_pairs<0, PAIRS_MEANWHILE>(c, own, exponent, limit, memory.notes_of(turn.stage));
        wait_for_products<0>(sum);
        memory.release(last);
        derive_pairs<PAIRS_MEANWHILE, PAIRS>(c, own, exponent, limit, memory.notes_of(turn.stage));
        finish_derivatives(tile);
    }
    wait_for_turn(consumer);
    multiply_derivatives(sum, derivatives, columns_at(memory.tile(turn.stage)));
    if (consumer == 0) hand_turn_on(0);
    wait_for_products<0>(sum);
    write_strip(l, rows, strip, sum);
}

#endif
