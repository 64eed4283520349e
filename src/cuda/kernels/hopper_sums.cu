// The kernel `sums` for sm_90a.
//
// A block has four consumers and a part of the columns. Four warps of a scheduler hide each other's latencies, which two
// warps with two strips each do not.

#ifdef WGMMA_COLUMNS

using StripMemory = BlockMemory<WGMMA_STRIP_CONSUMERS, WGMMA_STRIP_STAGES, 1>;

// A block of such a kernel.
template <class Memory> struct StripBlock {
    Memory memory;
    int first;  // row
    Part part;  // of the columns
    int consumer;  // that of the thread. -1 for the producer

    DEVICE StripBlock(const Parameters& p, u8* shared, int first_row)
        : memory(shared), first(first_row + blockIdx.x * Memory::ROWS), part(part_of(p.keys, blockIdx.y, gridDim.y)),
          consumer(warpgroup_of_thread() - 1) {}

    DEVICE bool is_producer() const { return consumer < 0; }
    // The part of the producer.
    DEVICE void bring_strips(const Parameters& p) const {
        give_registers();
        if (threadIdx.x > 0) return;
        Turn turn = {0, 1};
        memory.bring_rows(p.anchor_tiles, first);
        memory.bring_tiles(p.key_tiles, part.from, part.to, turn);
    }

    // The first row of the consumer, and of the thread.
    DEVICE int start() const { return first + consumer * STRIP; }
    DEVICE int row() const { return start() + row_in_strip(); }
};

// The part of the consumers, after `take_registers`. Calls `visit(similarities, first column)`.
template <class Memory, class Visit>
DEVICE void sweep_strip(const Parameters& p, const StripBlock<Memory>& block, Visit visit) {
    const Memory& memory = block.memory;
    float inverse[2], c[PAIRS];
    UNROLL for (int half = 0; half < 2; half++) inverse[half] = p.anchors.cards[block.row() + half * 8].inverse_length;
    const u64 left = rows_at(memory.strip(block.consumer)), right = rows_at(memory.tile(0));
    Turn turn = {0, 0};
    barrier_wait(memory.own(), 0);
    for (int tile = block.part.from; tile < block.part.to; tile++) {
        memory.wait_for(turn);
        multiply_rows(c, left, right + further(turn.stage * TILE_BYTES));
        wait_for_products<0>(c);
        scale_strip(c, inverse, memory.notes_of(turn.stage));
        memory.release(turn.stage);
        visit(c, tile * WGMMA_COLUMNS);
        memory.next(turn);
    }
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

KERNEL(StripMemory::BLOCK_THREADS, 1) sums_wgmma(const Parameters p, const Launch l) {
    begin();
    SHARED_MEMORY(shared);
    if (p.joint && !p.header->rerun) return;
    const StripBlock<StripMemory> block(p, shared, 0);
    if (block.is_producer()) return block.bring_strips(p);
    take_registers<WGMMA_STRIP_CONSUMERS>();
    const float exponent = p.header->exponent, limit = p.header->limit;
    Sums all[2] = {};
    Exclusions exclusions;
    sweep_strip(p, block, [&](float (&c)[PAIRS], int column) {
        Sums tile[2] = {};
        each_of_strip(c, [&](float& s, int half, int) { tile[half].similarities += s; });
        if (exclusions.may_be_in(p, p.keys, block.start(), column, false)) {
            drop_excluded_pairs(p, block.row(), column, tile, c);
        }
        each_of_strip(c, [&](float& s, int half, int) {
            add_pair(tile[half], s, exp2_approximate(s * exponent - exponent), limit);
        });
        UNROLL for (int half = 0; half < 2; half++) {
            Sums& sums = all[half];
            sums.global += tile[half].global;
            sums.weighted += tile[half].weighted;
            sums.weights += tile[half].weights;
            sums.hierarchical += tile[half].hierarchical;
            sums.similarities += tile[half].similarities;
        }
    });
    UNROLL for (int half = 0; half < 2; half++) write_row_sums(p, block.row() + half * 8, all[half]);
}

#endif
