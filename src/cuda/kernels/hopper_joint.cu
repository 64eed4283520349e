// The kernel `sift` of `joint.cu`, for sm_90a.
//
// It lists about one similarity in fifty. A thread stages those in slots of its own in shared memory, one after the
// other, which takes two predicated instructions. When a row of the warp has used half of its slots, the warp reserves
// places in the lists and writes the staged ones.

#ifdef WGMMA_COLUMNS

using SiftMemory = BlockMemory<WGMMA_STRIP_CONSUMERS, WGMMA_SIFT_STAGES, 1>;

#define SLOTS (WGMMA_COLUMNS / 8)  // of each of a thread's two rows
#define SLOT_BYTES (LANES * 4)  // from a slot of a thread to its next one
#define TOGETHER 4  // slots that are read before the first of them is written to the list

// Marks the pairs of a strip that are not pairs of an anchor and a negative, like `mark_excluded`.
DEVICE void mark_excluded_pairs(const Parameters& p, int row, int column, const float (&low)[2],
                                float (&similarities)[2], float (&c)[PAIRS]) {
    u32 bits[2];
    if (!find_excluded(p, p.keys, row, column, false, bits)) return;
    UNROLL for (int i = 0; i < PAIRS; i++) {
        if (!is_excluded(bits, i)) continue;
        const int half = i / 2 % 2;
        similarities[half] -= c[i];
        c[i] = marked(p, row + half * 8, column + column_of_bit(i / 4 * 2 + i % 2), low[half], c[i]);
    }
}

// Stages or adds a similarity, like `sift_pair`. `next`: the address of the next free slot.
DEVICE void stage_pair(u32& next, float& global, float c, float exponential, float low) {
    asm volatile("{\n.reg .pred in;\nsetp.ge.f32 in, %2, %4;\n@in st.shared.f32 [%0], %2;\n@in add.u32 %0, %0, %5;\n"
                 "@!in add.f32 %1, %1, %3;\n}"
                 : "+r"(next), "+f"(global)
                 : "f"(c), "f"(exponential), "f"(low), "n"(SLOT_BYTES)
                 : "memory");
}

// The staged similarities of the thread's rows `row` and `row` + 8.
struct Staged {
    u32 first;  // slot of the thread
    u32 next[2];

    DEVICE explicit Staged(const SiftMemory& memory) {
        const int warp = threadIdx.x / LANES - 4;
        // In a register. Otherwise it would be computed again in each loop.
        first = anew(memory.address + SiftMemory::END_AT + warp * 2 * SLOTS * SLOT_BYTES + lane_of_thread() * 4);
        clear();
    }
    DEVICE u32 slots(int half) const { return first + half * SLOTS * SLOT_BYTES; }
    // Starts again with the first slots.
    DEVICE void clear() {
        UNROLL for (int half = 0; half < 2; half++) next[half] = slots(half);
    }
    DEVICE u32 count(int half) const { return (next[half] - slots(half)) / SLOT_BYTES; }

    // Whether a row of the warp may have no slots for SLOTS / 2 more.
    DEVICE bool are_full() const { return any(count(0) > SLOTS / 2 || count(1) > SLOTS / 2); }
    DEVICE void write(const Parameters& p, const Launch& l, int row) {
        const Fields<2> listed = {count(0) | count(1) << 16};
        const Places<2> places = reserve(p, listed, [&](int half) { return row + half * 8; });
        UNROLL for (int half = 0; half < 2; half++) {
            const u32 place = places.of(half), count = has_room(p, place, listed.of(half)) ? listed.of(half) : 0;
            float* to = list_of(p, l, row + half * 8) + place;
            ROLLED for (u32 at = 0; any(at < count); at += TOGETHER) {
                float c[TOGETHER];
                UNROLL for (u32 i = 0; i < TOGETHER; i++) {
                    if (at + i < count) c[i] = load_one_shared(slots(half) + (at + i) * SLOT_BYTES);
                }
                UNROLL for (u32 i = 0; i < TOGETHER; i++) {
                    if (at + i < count) to[at + i] = c[i];
                }
            }
        }
        clear();
    }
};

KERNEL(SiftMemory::BLOCK_THREADS, 1) sift_wgmma(const Parameters p, const Launch l) {
    begin();
    SHARED_MEMORY(shared);
    const StripBlock<SiftMemory> block(p, shared, l.first_row);
    if (block.is_producer()) return block.bring_strips(p);
    take_registers<WGMMA_STRIP_CONSUMERS>();
    const float exponent = p.header->exponent;
    const int row = block.row();
    float low[2], global[2] = {}, similarities[2] = {};
    UNROLL for (int half = 0; half < 2; half++) {
        low[half] = row + half * 8 < p.anchors.count ? list_start(p, row + half * 8) : infinity();
    }
    Staged staged(block.memory);
    Exclusions exclusions;
    sweep_strip(p, block, [&](float (&c)[PAIRS], int column) {
        float tile[2] = {};
        if (!p.row_sums) each_of_strip(c, [&](float& s, int half, int) { similarities[half] += s; });
        if (exclusions.may_be_in(p, p.keys, block.start(), column, false)) {
            mark_excluded_pairs(p, row, column, low, similarities, c);
        }
        // Of SLOTS pairs, each row has a half.
        UNROLL for (int first = 0; first < PAIRS; first += SLOTS) {
            UNROLL for (int i = first; i < first + SLOTS; i++) {
                const int half = i / 2 % 2;
                stage_pair(staged.next[half], tile[half], c[i], exp2_approximate(c[i] * exponent - exponent), low[half]);
            }
            if (staged.are_full()) staged.write(p, l, row);
        }
        UNROLL for (int half = 0; half < 2; half++) global[half] += tile[half];
    });
    staged.write(p, l, row);
    UNROLL for (int half = 0; half < 2; half++) {
        write_parts(p, l, row + half * 8 - l.first_row, global[half], similarities[half]);
    }
}

#endif
