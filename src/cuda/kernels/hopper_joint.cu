// The kernel `sift` of `joint.cu`, for sm_90a.
//
// It lists about one similarity in fifty. A thread has them in registers, which cannot be read by number. So it writes all
// of them to shared memory and reads those that it lists. That takes fewer instructions than to look at each one again.
// The lists of a strip are written after the next strip has been computed. Their places are reserved before it, so that
// no warp waits for them.

#ifdef WGMMA_COLUMNS

using SiftMemory = BlockMemory<WGMMA_STRIP_ROWS, WGMMA_SIFT_STAGES, 1>;

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

// Lists or adds a similarity, like `sift_pair`. `bit`: that of the pair.
DEVICE void sift_pair_of_strip(u32& listed, float& global, float c, float exponential, float low, u32 bit) {
    asm("{\n.reg .pred in;\nsetp.ge.f32 in, %2, %4;\n@in or.b32 %0, %0, %5;\n@!in add.f32 %1, %1, %3;\n}"
        : "+r"(listed), "+f"(global)
        : "f"(c), "f"(exponential), "f"(low), "r"(bit));
}

// The similarities of a thread in shared memory: 16 bytes of each thread of the warp by turns.
struct Copies {
    u32 address;

    DEVICE void store(const float (&c)[PAIRS]) const {
        UNROLL for (int i = 0; i < PAIRS; i += 4) store_shared(address + i / 4 * LANES * 16, c + i);
    }
    // The one of row `half` with a bit of `is_excluded`.
    DEVICE float load(u32 half, u32 bit) const {
        return load_one_shared(address + bit / 2 * LANES * 16 + half * 8 + bit % 2 * 4);
    }
};

// The similarities of a strip that are still to be listed: those of the thread's rows `row` and `row` + 8 that have a bit
// in `listed`.
struct PendingLists {
    u32 listed[2];
    int row;
    Places<2> places;

    DEVICE bool are_empty() const { return !any((listed[0] | listed[1]) != 0); }
    DEVICE Fields<2> counts() const { return {count_bits(listed[0]) | count_bits(listed[1]) << 16}; }

    DEVICE void reserve_places(const Parameters& p) {
        if (!are_empty()) places = reserve(p, counts(), [&](int half) { return row + half * 8; });
    }
    // After `reserve_places`. Before the copies are overwritten.
    DEVICE void write(const Parameters& p, const Launch& l, const Copies& copies) const {
        if (are_empty()) return;
        UNROLL for (int half = 0; half < 2; half++) {
            const u32 place = places.of(half);
            if (!has_room(p, place, counts().of(half))) continue;
            float* to = list_of(p, l, row + half * 8) + place;
            ROLLED for (u32 left = listed[half]; left != 0;) {
                const u32 bit = highest_bit(left);
                left ^= 1u << bit;
                *to++ = copies.load(half, bit);
            }
        }
    }
};

KERNEL(WGMMA_THREADS, 1) sift_wgmma(const Parameters p, const Launch l) {
    SHARED_MEMORY(shared);
    const StripBlock<SiftMemory> block(p, shared, l.first_row);
    if (block.is_producer()) return block.bring_strips(p);
    take_registers();
    const Copies copies = {block.memory.address + SiftMemory::END_AT +
                           (threadIdx.x / LANES - 4) * LANES * PAIRS * 4 + lane_of_thread() * 16};
    const float exponent = p.header->exponent;
    float low[2][2], global[2][2] = {}, similarities[2][2] = {};
    UNROLL for (int strip = 0; strip < 2; strip++) {
        UNROLL for (int half = 0; half < 2; half++) {
            const int row = block.row_of(strip) + half * 8;
            low[strip][half] = row < p.anchors.count ? list_start(p, row) : infinity();
        }
    }
    PendingLists pending = {};
    sweep_strips(p, block, [&](float (&c)[PAIRS], int strip, int column) {
        pending.reserve_places(p);
        const int start = block.start_of(strip);
        float tile[2] = {}, all[2] = {};
        each_of_strip(c, [&](float& s, int half, int) { all[half] += s; });
        if (strip_may_exclude(p, p.keys, start, column, false)) {
            mark_excluded_pairs(p, start + row_in_strip(), column, low[strip], all, c);
        }
        PendingLists lists = {{0, 0}, start + row_in_strip()};
        UNROLL for (int i = 0; i < PAIRS; i++) {
            const int half = i / 2 % 2;
            const float exponential = exp2_approximate(c[i] * exponent - exponent);
            sift_pair_of_strip(lists.listed[half], tile[half], c[i], exponential, low[strip][half],
                               1u << (i / 4 * 2 + i % 2));
        }
        UNROLL for (int half = 0; half < 2; half++) {
            global[strip][half] += tile[half];
            similarities[strip][half] += all[half];
        }
        pending.write(p, l, copies);
        if (!lists.are_empty()) copies.store(c);
        pending = lists;
    });
    pending.reserve_places(p);
    pending.write(p, l, copies);
    UNROLL for (int strip = 0; strip < 2; strip++) {
        UNROLL for (int half = 0; half < 2; half++) {
            const int at = block.row_of(strip) + half * 8 - l.first_row;
            write_parts(p, l, at, global[strip][half], similarities[strip][half]);
        }
    }
}

#endif
