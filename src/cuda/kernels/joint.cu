// One pass over the similarities for the quantiles and the sums, in place of `survivors` and `sums`.
//
// `sample` brackets the quantile of each row, and the threshold. `sift` adds the negatives below both brackets to the
// global ones, and lists the other similarities of the row. They are few, as the quantile is high. `gather` finds the
// quantile in the list, and sums the negatives of the list that are below or above the bracket of the threshold. The
// others are pending until `settle` knows the threshold. If the threshold is not in its bracket, or a list is too long,
// `rerun` is set, and the kernel `sums` computes all sums again. Otherwise it returns at once.
//
// The order of a list depends on timing, its sums do not: their terms are integers.

#define FIXED_POINT 274877906944.0f  // 2^38, the factor of the terms

// Marks the pairs of a tile that are not pairs of an anchor and a negative. Those below the list become minus infinity.
DEVICE void mark_excluded(const Parameters& p, const PassRows& own, int first, int column, const float (&low)[PASS_ROWS],
                          float (&similarities)[PASS_ROWS], PassProducts& s) {
    if (!may_exclude<PassShape>(p, p.keys, first, column, false)) return;
    const Mask<PASS_ROWS> mask = excluded_pairs<PassShape>(p, p.keys, own, column, false);
    u32 some = 0;
    UNROLL for (int pair = 0; pair < PASS_ROWS / 2; pair++) some |= mask.pairs[pair];
    if (!any(some != 0)) return;
    each_pair(s, [&](float& c, int row, int n, int e) {
        if (!is_set(mask, row, n, e)) return;
        similarities[row] -= c;
        const int key = column + n * 8 + lane_of_thread() % 4 * 2 + e % 2;
        c = marked(p, own.index[row], key, low[row], c);
    });
}

// Lists or adds a similarity. With predicates, which take fewer instructions than branches. `one` is 1 in the field of the
// row.
DEVICE void sift_pair(u32& listed, float& global, float c, float exponential, float low, u32 one) {
    asm("{\n.reg .pred in;\nsetp.ge.f32 in, %2, %4;\n@in add.u32 %0, %0, %5;\n@!in add.f32 %1, %1, %3;\n}"
        : "+r"(listed), "+f"(global)
        : "f"(c), "f"(exponential), "f"(low), "r"(one));
}
// Appends a similarity if it is listed.
DEVICE void append(float*& to, float c, float low) {
    asm volatile("{\n.reg .pred in;\nsetp.ge.f32 in, %1, %2;\n@in st.global.f32 [%0], %1;\n@in add.u64 %0, %0, 4;\n}"
                 : "+l"(to)
                 : "f"(c), "f"(low)
                 : "memory");
}

// Lists the similarities of a tile from the lower ends on. `listed`: their numbers in the rows of the thread.
DEVICE void list_similarities(const Parameters& p, const Launch& l, int first, Fields<PASS_ROWS> listed,
                              const float (&low)[PASS_ROWS], PassProducts& s) {
    if (!any(listed.all > 0)) return;
    const auto index_of = [&](int row) { return own_row<PassShape>(first, row); };
    const Places<PASS_ROWS> places = reserve(p, listed, index_of);
    UNROLL for (int row = 0; row < PASS_ROWS; row++) {
        const u32 count = listed.of(row), place = places.of(row);
        if (count == 0 || !has_room(p, place, count)) continue;
        float* to = list_of(p, l, index_of(row)) + place;
        each_pair(s, [&](float c, int of, int, int) {
            if (of == row) append(to, c, low[row]);
        });
    }
}

KERNEL(PASS_THREADS, PASS_RESIDENT) sift(const Parameters p, const Launch l) {
    SHARED_MEMORY(stages);
    const int first = l.first_row + blockIdx.x * TILE_ROWS;
    const float exponent = p.header->exponent;
    float low[PASS_ROWS], global[PASS_ROWS] = {}, similarities[PASS_ROWS] = {};
    PassRows own;
    UNROLL for (int row = 0; row < PASS_ROWS; row++) {
        const int index = own_row<PassShape>(first, row);
        low[row] = index < p.anchors.count ? list_start(p, index) : infinity();
    }
    sweep<PassShape>(p, stages, p.anchors, p.keys, first, own, [&](PassProducts& s, int column, const u8*) {
        each_pair(s, [&](float c, int row, int, int) { similarities[row] += c; });
        mark_excluded(p, own, first, column, low, similarities, s);
        float tile[PASS_ROWS] = {};
        Fields<PASS_ROWS> listed = {};
        each_pair(s, [&](float c, int row, int, int) {
            const float exponential = exp2_approximate(c * exponent - exponent);
            sift_pair(listed.all, tile[row], c, exponential, low[row], listed.one(row));
        });
        UNROLL for (int row = 0; row < PASS_ROWS; row++) global[row] += tile[row];
        list_similarities(p, l, first, listed, low, s);
    });
    UNROLL for (int row = 0; row < PASS_ROWS; row++) {
        write_parts(p, l, own.index[row] - l.first_row, global[row], similarities[row]);
    }
}

// The sum of exp((c - 1) / t) for c up to `floor`, the same for c above `ceiling`, the sum of the squares of the
// latter, and their number.
struct Listed {
    double global, weights, weighted;
    u32 hierarchical;
};

// The sums over some similarities, by one warp. Every lane gets the result. The terms are relative to the largest one.
DEVICE Listed sum_list(const Parameters& p, const float* list, u32 count, float floor, float ceiling) {
    const int lane = lane_of_thread();
    float top_global = -infinity(), top = -infinity();
    for (u32 i = lane; i < count; i += LANES) {
        const float c = list[i];
        if (c > 1.5f) continue;  // marked
        if (c <= floor) top_global = fmaxf(top_global, c);
        else if (c > ceiling) top = fmaxf(top, c);
    }
    UNROLL for (int lanes = 16; lanes > 0; lanes /= 2) {
        top_global = fmaxf(top_global, exchange(top_global, lanes));
        top = fmaxf(top, exchange(top, lanes));
    }
    const float exponent = p.header->exponent;
    u64 global = 0, weights = 0, weighted = 0;
    u32 hierarchical = 0;
    for (u32 i = lane; i < count; i += LANES) {
        const float c = list[i];
        const bool below = c <= floor;
        if (c > 1.5f || (!below && !(c > ceiling))) continue;
        const float e = exp2_approximate((c - (below ? top_global : top)) * exponent);
        if (below) {
            global += (u64)(e * FIXED_POINT);
        } else {
            weights += (u64)(e * FIXED_POINT);
            weighted += (u64)(e * e * FIXED_POINT);
            hierarchical++;
        }
    }
    UNROLL for (int lanes = 16; lanes > 0; lanes /= 2) {
        global += exchange(global, lanes);
        weights += exchange(weights, lanes);
        weighted += exchange(weighted, lanes);
        hierarchical += exchange(hierarchical, lanes);
    }
    Listed sums = {0.0, 0.0, 0.0, hierarchical};
    const double unit = 1.0 / FIXED_POINT, temperature = p.header->temperature;
    if (top_global > -infinity()) sums.global = unit * global * exp((top_global - 1.0) / temperature);
    if (hierarchical > 0) {
        const double largest = exp((top - 1.0) / temperature);
        sums.weights = unit * weights * largest;
        sums.weighted = unit * weighted * largest * largest;
    }
    return sums;
}

// Adds to the sums of a row. By one thread.
DEVICE void add_sums(float* sums, const Listed& listed) {
    sums[0] = (float)(sums[0] + listed.global);
    sums[1] = (float)(sums[1] + listed.weighted);
    sums[2] = (float)(sums[2] + listed.weights);
    sums[3] += (float)listed.hierarchical;
}

// Copies the similarities of a list that are in the bracket of the threshold, by one warp.
DEVICE void keep_pending(const Parameters& p, int row, const float* list, u32 count, float floor, float ceiling) {
    const int lane = lane_of_thread();
    const auto is_pending = [&](u32 i) { return i < count && list[i] > floor && list[i] <= ceiling && list[i] <= 1.5f; };
    u32 own = 0;
    for (u32 i = lane; i < count; i += LANES) own += is_pending(i);
    const u32 up_to = prefix_sum<LANES>(own), all = from_lane(up_to, LANES - 1);
    u32 start = 0;
    if (lane == 0 && all > 0) start = atomic_add(&p.header->pending, all);
    start = from_lane(start, 0);
    const bool fits = start + all <= (u32)p.pending_capacity && start + all >= start;
    if (lane == 0) {
        p.pending_at[2 * row] = start;
        p.pending_at[2 * row + 1] = fits ? all : 0;
        if (!fits) atomic_max(&p.header->rerun, 1);
    }
    if (!fits) return;
    float* to = p.pending + start + up_to - own;
    for (u32 i = lane; i < count; i += LANES) {
        if (is_pending(i)) *to++ = list[i];
    }
}

// The quantile of a row and its sums, but for the pending similarities. One warp per row.
KERNEL(THREADS, 2) gather(const Parameters p, const Launch l) {
    SHARED_MEMORY(memory);
    u32* counts = (u32*)memory + warp_of_thread() * DIGITS;
    const int lane = lane_of_thread();
    const int at = blockIdx.x * WARPS + warp_of_thread();
    const int row = l.first_row + at;
    if (at >= l.rows) return;
    const float* list = list_of(p, l, row);
    const float low = list_start(p, row), floor = p.header->floor, ceiling = p.header->ceiling;
    const u32 count = p.inside[row], rank = l.rank;
    const bool is_whole = low < infinity() && count <= (u32)p.capacity;
    float found = not_a_number();
    if (is_whole && count + p.rows_apart >= rank) {
        found = from_ordered(find_key(counts, count + p.rows_apart, rank, 4, [&](u32 i) {
            const float c = i < count ? list[i] : apart_of(p, row)[i - count];
            return ordered(c > 1.5f ? c * (1.0f / MARK) : c);
        }));
    }
    // What is found below the list is not the quantile, because the keys are missing.
    if (lane == 0) {
        if (found >= low) p.quantiles[row] = found;
        else p.failed[atomic_add(&p.header->failed, 1)] = row;
    }
    if (!is_whole) {
        if (lane == 0) atomic_max(&p.header->rerun, 1);
        return;
    }
    double global = 0.0, similarities = 0.0;
    for (int split = lane; split < l.splits; split += LANES) {
        global += p.parts[((i64)split * l.rows + at) * 2];
        similarities += p.parts[((i64)split * l.rows + at) * 2 + 1];
    }
    global = warp_sum(global);
    similarities = warp_sum(similarities);
    const Listed listed = sum_list(p, list, count, floor, ceiling);
    keep_pending(p, row, list, count, floor, ceiling);
    if (lane != 0) return;
    float* sums = p.sums + (i64)row * SUMS;
    sums[0] = (float)(global + listed.global);
    sums[1] = (float)listed.weighted;
    sums[2] = (float)listed.weights;
    sums[3] = (float)listed.hierarchical;
    sums[4] = (float)similarities;
}

// Adds the pending similarities to the sums, now that the threshold is known. One warp per row.
KERNEL(THREADS, 2) settle(const Parameters p, const Launch l) {
    const int row = blockIdx.x * WARPS + warp_of_thread();
    if (row >= p.anchors.count || p.header->rerun) return;
    const float limit = p.header->limit;
    const u32 count = p.pending_at[2 * row + 1];
    if (count == 0) return;
    const Listed listed = sum_list(p, p.pending + p.pending_at[2 * row], count, limit, limit);
    if (lane_of_thread() == 0) add_sums(p.sums + (i64)row * SUMS, listed);
}
