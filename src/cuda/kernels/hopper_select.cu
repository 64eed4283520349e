// The kernels of `select.cu` that determine the threshold, for sm_90a. They must use the products of sums and gradient.
// Other products may round differently, so that a similarity could be above the threshold here and not there. This
// matters if many similarities are equal, as in a collapsed representation: the mean of the quantiles is then one of
// them.
//
// `sample` may use other products, because `survivors_wgmma` counts the similarities above the bracket and in it.

#ifdef WGMMA_COLUMNS

// Sets the similarities to those of whole rows, like `keep_rows`, for the rows `row` and `row` + 8.
DEVICE void keep_row_pairs(const Parameters& p, int row, int column, float (&c)[PAIRS]) {
    const int keys = p.keys.count;
    if (column + WGMMA_COLUMNS > keys) {
        each_of_strip(c, [&](float& s, int, int at) { s = column + at < keys ? s : not_a_number(); });
    }
    if (p.pairing != VIEWS) return;
    UNROLL for (int half = 0; half < 2; half++) {
        const u32 bit = bit_of_column<StripShape>(own_key(p, row + half * 8) - column);
        if (!bit) continue;
        UNROLL for (int i = 0; i < PAIRS; i++) {
            if (i / 2 % 2 == half && bit >> (i / 4 * 2 + i % 2) & 1) c[i] = 1.0f;
        }
    }
}

// The two rows of a thread in a strip.
struct Brackets {
    float low[2], high[2];
    u32 above[2];
};

DEVICE Brackets brackets_of(const Parameters& p, const Launch& l, int row) {
    Brackets own;
    UNROLL for (int half = 0; half < 2; half++) {
        const int anchor = row + half * 8;
        const bool is_anchor = anchor < p.anchors.count;
        own.low[half] = !is_anchor ? infinity() : l.mode & LOW ? p.lows[anchor] : -infinity();
        own.high[half] = is_anchor && l.mode & HIGH ? p.highs[anchor] : infinity();
        own.above[half] = 0;
    }
    return own;
}

// With predicates, which take half the instructions of adding 0 or 1.
DEVICE void count_pair(u32& above, u32& not_below, float c, float low, float high) {
    asm("{\n.reg .pred over, within;\nsetp.gt.f32 over, %2, %4;\nsetp.ge.f32 within, %2, %3;\n"
        "@over add.u32 %0, %0, 1;\n@within add.u32 %1, %1, 1;\n}"
        : "+r"(above), "+r"(not_below)
        : "f"(c), "f"(low), "f"(high));
}

// Keeps the similarities of row `half` that are in the bracket. Its four lanes reserve places for all of them at once.
DEVICE void keep_inside(const Parameters& p, const Launch& l, int anchor, int half, u32 inside, const Brackets& own,
                        float (&c)[PAIRS]) {
    const int lane = lane_of_thread();
    const u32 up_to = prefix_sum<4>(inside);
    u32 start = 0;
    if (lane % 4 == 3 && up_to > 0) start = atomic_add(&p.inside[anchor], up_to);
    start = from_lane(start, lane | 3) + up_to - inside;
    if (inside == 0) return;
    float* kept = p.survivors + (i64)(anchor - l.first_row) * p.capacity;
    UNROLL for (int i = 0; i < PAIRS; i++) {
        if (i / 2 % 2 != half || !(c[i] >= own.low[half] && c[i] <= own.high[half])) continue;
        if (start < (u32)p.capacity) kept[start] = c[i];
        start++;
    }
}

// The kernel `survivors` for sm_90a.
KERNEL(StripMemory::BLOCK_THREADS, 1) survivors_wgmma(const Parameters p, const Launch l) {
    begin();
    SHARED_MEMORY(shared);
    const StripBlock<StripMemory> block(p, shared, l.first_row);
    if (block.is_producer()) return block.bring_strips(p);
    take_registers<WGMMA_STRIP_CONSUMERS>();
    const int row = block.row();
    Brackets own = brackets_of(p, l, row);
    sweep_strip(p, block, [&](float (&c)[PAIRS], int column) {
        keep_row_pairs(p, row, column, c);
        u32 above[2] = {0, 0}, not_below[2] = {0, 0};
        each_of_strip(c, [&](float& s, int half, int) {
            count_pair(above[half], not_below[half], s, own.low[half], own.high[half]);
        });
        UNROLL for (int half = 0; half < 2; half++) {
            own.above[half] += above[half];
            // Rows that are not anchors have none in the bracket.
            const u32 inside = not_below[half] - above[half];
            if (any(inside != 0)) keep_inside(p, l, row + half * 8, half, inside, own, c);
        }
    });
    UNROLL for (int half = 0; half < 2; half++) {
        u32 above = own.above[half];
        UNROLL for (int lanes = 1; lanes < 4; lanes *= 2) above += exchange(above, lanes);
        if (lane_of_thread() % 4 == 0 && above > 0) atomic_add(&p.above[row + half * 8], above);
    }
}

// The kernel `select_failed` for sm_90a, with a strip per block. One warpgroup copies tiles and one multiplies. All
// threads load the rows and search the digits.
using SelectMemory = BlockMemory<1, WGMMA_SELECT_STAGES, 1>;

struct StripSelection {
    u32 counts[STRIP * HISTOGRAM];
    u32 prefix[STRIP];
    u32 rank[STRIP];
    double sums[WARPS];
    u32 last;
};
static_assert(sizeof(StripSelection) <= WGMMA_SELECTION_BYTES, "sizes");

// Copies rows from the scratch memory to a strip in shared memory. Past the last row, it repeats the first one.
DEVICE void gather_rows(const Parameters& p, u8* strip, int first, int count) {
    for (int i = threadIdx.x; i < STRIP * ROW_CHUNKS; i += THREADS) {
        const int row = i / ROW_CHUNKS, chunk = i % ROW_CHUNKS;
        const u32 index = p.failed[first + row < count ? first + row : first];
        const u8* from = p.anchors.rows + (i64)index * ROW_BYTES + chunk * 16;
        *(uint4*)(strip + place_of_chunk<STRIP_PANEL_BYTES>(row, chunk)) = *(const uint4*)from;
    }
    publish_stores();
}

DEVICE void count_strip_digit(StripSelection& shared, int row, float c, int pass, u32 prefix) {
    const u32 key = ordered(c);
    if (pass > 0 && key >> (32 - 8 * pass) != prefix) return;
    atomic_add(&shared.counts[row * HISTOGRAM + (key >> (24 - 8 * pass) & (DIGITS - 1))], 1);
}

// Calls `visit(half, key, similarity)` for the thread's two rows and the keys of some tiles, which one warpgroup copies
// and the other one multiplies. `index`: the two rows, -1 for none.
template <class Visit>
DEVICE void each_of_tiles(const Parameters& p, const SelectMemory& memory, const int (&index)[2], Part tiles, Turn& turn,
                          Visit visit) {
    if (warpgroup_of_thread() == 0) {
        if (threadIdx.x == 0) memory.bring_tiles(p.key_tiles, tiles.from, tiles.to, turn);
        return;
    }
    float inverse[2];
    UNROLL for (int half = 0; half < 2; half++) {
        inverse[half] = index[half] < 0 ? 0.0f : p.anchors.cards[index[half]].inverse_length;
    }
    const u64 left = rows_at(memory.address), right = rows_at(memory.tile(0));
    for (int tile = tiles.from; tile < tiles.to; tile++) {
        float c[PAIRS];
        memory.wait_for(turn);
        multiply_rows(c, left, right + further(turn.stage * TILE_BYTES));
        wait_for_products<0>(c);
        scale_strip(c, inverse, memory.notes_of(turn.stage));
        memory.release(turn.stage);
        memory.next(turn);
        each_of_strip(c, [&](float& s, int half, int at) {
            const int key = tile * WGMMA_COLUMNS + at;
            if (index[half] < 0 || key >= p.keys.count) return;
            visit(half, key, key == own_key(p, index[half]) ? 1.0f : s);
        });
    }
}

KERNEL(THREADS, 1) select_wgmma(const Parameters p, const Launch l) {
    begin();
    SHARED_MEMORY(memory_start);
    const SelectMemory memory(memory_start);
    u8* const strip = memory_start + (memory.address - shared_address(memory_start));
    StripSelection& shared = *(StripSelection*)(strip + SelectMemory::END_AT);
    const int count = p.header->failed, warp = warp_of_thread(), own = row_in_strip();
    const bool are_few = count > 0 && count <= l.rows, multiplies = warpgroup_of_thread() == 1;
    Turn turn = {0, multiplies ? 0u : 1u};
    int index[2];
    const auto take_rows = [&](int first) {
        UNROLL for (int half = 0; half < 2; half++) {
            const int at = first + own + half * 8;
            index[half] = at < count ? (int)p.failed[at] : -1;
        }
        gather_rows(p, strip, first, count);
    };
    if (are_few) {
        take_rows(0);
        sync_threads();
        each_of_tiles(p, memory, index, part_of(p.keys, blockIdx.x, gridDim.x), turn, [&](int half, int key, float c) {
            kept_of(p, own + half * 8)[key] = ordered(c);
        });
    }
    for (int first = blockIdx.x * STRIP; !are_few && first < count; first += gridDim.x * STRIP) {
        take_rows(first);
        if (threadIdx.x < STRIP) {
            shared.prefix[threadIdx.x] = 0;
            shared.rank[threadIdx.x] = l.rank;
        }
        for (int pass = 0; pass < 4; pass++) {
            for (int i = threadIdx.x; i < STRIP * HISTOGRAM; i += THREADS) shared.counts[i] = 0;
            sync_threads();
            const u32 prefix[2] = {shared.prefix[own], shared.prefix[own + 8]};
            const auto count_one = [&](int half, float c) {
                count_strip_digit(shared, own + half * 8, c, pass, prefix[half]);
            };
            each_of_tiles(p, memory, index, part_of(p.keys, 0, 1), turn,
                          [&](int half, int, float c) { count_one(half, c); });
            if (multiplies && p.pairing == APART && lane_of_thread() % 4 == 0) {
                UNROLL for (int half = 0; half < 2; half++) {
                    if (index[half] >= 0) count_one(half, p.apart_similarities[index[half]]);
                }
            }
            sync_threads();
            for (int row = warp * (STRIP / WARPS); row < (warp + 1) * (STRIP / WARPS); row++) {
                u32 digit, rest;
                find_digit(shared.counts + row * HISTOGRAM, shared.rank[row], digit, rest);
                sync_warp();
                if (lane_of_thread() == 0) {
                    shared.prefix[row] = shared.prefix[row] << 8 | digit;
                    shared.rank[row] = rest;
                }
            }
            sync_threads();
        }
        if (multiplies && lane_of_thread() % 4 == 0) {
            UNROLL for (int half = 0; half < 2; half++) {
                if (index[half] >= 0) p.quantiles[index[half]] = from_ordered(shared.prefix[own + half * 8]);
            }
        }
        sync_threads();
    }
    if (!is_last_block(&p.header->done[0], gridDim.x, &shared.last)) return;
    if (are_few) search_kept(p, l, count, shared.counts);
    average_quantiles(p, shared.sums);
}

#endif
