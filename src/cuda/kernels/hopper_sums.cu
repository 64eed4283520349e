// The kernel `sums` for sm_90a.
//
// A block has WGMMA_STRIP_ROWS = 256 rows and a part of the columns. Each consumer has two strips of 64 rows. For each
// tile, a consumer waits for the tile and for its turn, starts the products of both strips, and passes the turn on when
// the first one is done. So the exponentials of its first strip overlap with the products of its second strip, and
// those of its second strip with the products of the other consumer.

#ifdef WGMMA_COLUMNS

using StripMemory = BlockMemory<WGMMA_STRIP_ROWS, WGMMA_STRIP_STAGES, 1>;

// A block of such a kernel.
template <class Memory> struct StripBlock {
    Memory memory;
    int first;  // row
    Part part;  // of the columns
    int consumer;  // 0 or 1, that of the thread. -1 for the producer

    DEVICE StripBlock(const Parameters& p, u8* shared, int first_row)
        : memory(shared, 8), first(first_row + blockIdx.x * WGMMA_STRIP_ROWS),
          part(part_of(p.keys, blockIdx.y, gridDim.y)), consumer(warpgroup_of_thread() - 1) {}

    DEVICE bool is_producer() const { return consumer < 0; }
    // The part of the producer.
    DEVICE void bring_strips(const Parameters& p) const {
        give_registers();
        if (threadIdx.x > 0) return;
        Turn turn = {0, 1};
        memory.bring_rows(p.anchor_tiles, first);
        memory.bring_tiles(p.key_tiles, part.from, part.to, turn);
    }

    // The first row of strip 0 or 1 of the consumer, and the first row that a thread has of it.
    DEVICE int start_of(int strip) const { return first + (consumer * 2 + strip) * 64; }
    DEVICE int row_of(int strip) const { return start_of(strip) + row_in_strip(); }
};

// The part of the consumers, after `take_registers`. Calls `visit(similarities, strip (0 or 1), first column)`.
template <class Memory, class Visit>
DEVICE void sweep_strips(const Parameters& p, const StripBlock<Memory>& block, Visit visit) {
    const Memory& memory = block.memory;
    const int consumer = block.consumer;
    float inverse[2][2];
    UNROLL for (int strip = 0; strip < 2; strip++) {
        UNROLL for (int half = 0; half < 2; half++) {
            inverse[strip][half] = p.anchors.cards[block.row_of(strip) + half * 8].inverse_length;
        }
    }
    float c0[PAIRS], c1[PAIRS];
    const u64 left0 = rows_at(memory.address + strip_at(consumer * 2));
    const u64 left1 = rows_at(memory.address + strip_at(consumer * 2 + 1));
    const u64 right = rows_at(memory.tile(0));
    Turn turn = {0, 0};
    barrier_wait(memory.own(), 0);
    if (consumer == 1) hand_turn_on(1);
    for (int tile = block.part.from; tile < block.part.to; tile++) {
        memory.wait_for(turn);
        wait_for_turn(consumer);
        multiply_rows(c0, left0, right + further(turn.stage * TILE_BYTES));
        multiply_rows(c1, left1, right + further(turn.stage * TILE_BYTES));
        wait_for_products<1>(c0);
        hand_turn_on(consumer);
        scale_strip(c0, inverse[0], memory.notes_of(turn.stage));
        visit(c0, 0, tile * WGMMA_COLUMNS);
        wait_for_products<0>(c1);
        scale_strip(c1, inverse[1], memory.notes_of(turn.stage));
        memory.release(turn.stage);
        visit(c1, 1, tile * WGMMA_COLUMNS);
        memory.next(turn);
    }
    // Takes the last turn that the other consumer passed on.
    if (consumer == 0) wait_for_turn(0);
}

// Subtracts the similarities of pairs that are not pairs of an anchor and a negative, and sets them to minus infinity.
DEVICE void drop_excluded_pairs(const Parameters& p, int row, int column, Sums (&sums)[2], float (&c)[PAIRS]) {
    u32 bits[2];
    if (!find_excluded(p, p.keys, row, column, false, bits)) return;
    UNROLL for (int i = 0; i < PAIRS; i++) {
        if (!is_excluded(bits, i)) continue;
        sums[i / 2 % 2].similarities -= c[i];
        c[i] = -infinity();
    }
}

// With predicates, which take fewer instructions than a branch.
DEVICE void add_pair(Sums& sums, float c, float exponential, float limit) {
    asm("{\n.reg .pred above;\nsetp.gt.f32 above, %4, %5;\n"
        "@above fma.rn.f32 %1, %6, %6, %1;\n@above add.f32 %2, %2, %6;\n@above add.f32 %3, %3, 0f3f800000;\n"
        "@!above add.f32 %0, %0, %6;\n}"
        : "+f"(sums.global), "+f"(sums.weighted), "+f"(sums.weights), "+f"(sums.hierarchical)
        : "f"(c), "f"(limit), "f"(exponential));
}

KERNEL(WGMMA_THREADS, 1) sums_wgmma(const Parameters p, const Launch l) {
    SHARED_MEMORY(shared);
    if (p.joint && !p.header->rerun) return;
    const StripBlock<StripMemory> block(p, shared, 0);
    if (block.is_producer()) return block.bring_strips(p);
    take_registers();
    const float exponent = p.header->exponent, limit = p.header->limit;
    Sums all[2][2] = {};
    sweep_strips(p, block, [&](float (&c)[PAIRS], int strip, int column) {
        Sums tile[2] = {};
        each_of_strip(c, [&](float& s, int half, int) { tile[half].similarities += s; });
        const int start = block.start_of(strip);
        if (strip_may_exclude(p, p.keys, start, column, false)) {
            drop_excluded_pairs(p, start + row_in_strip(), column, tile, c);
        }
        each_of_strip(c, [&](float& s, int half, int) {
            add_pair(tile[half], s, exp2_approximate(s * exponent - exponent), limit);
        });
        UNROLL for (int half = 0; half < 2; half++) {
            Sums& sums = all[strip][half];
            sums.global += tile[half].global;
            sums.weighted += tile[half].weighted;
            sums.weights += tile[half].weights;
            sums.hierarchical += tile[half].hierarchical;
            sums.similarities += tile[half].similarities;
        }
    });
    UNROLL for (int strip = 0; strip < 2; strip++) {
        const int row = block.row_of(strip);
        UNROLL for (int half = 0; half < 2; half++) write_row_sums(p, row + half * 8, all[strip][half]);
    }
}

#endif
