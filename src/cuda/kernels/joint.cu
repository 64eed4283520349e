// One pass over the similarities for the quantiles and the sums, in place of `survivors` and `sums`.
//
// `sample` brackets the quantile of each row, and the threshold. `sift` adds the negatives below both brackets to the
// global ones, and lists the other similarities of the row. They are few, as the quantile is high. `gather` finds the
// quantile in the list, and sums the negatives of the list that are below or above the bracket of the threshold. The
// others are pending until `settle` knows the threshold. If the threshold is not in its bracket, or a list is too long,
// `rerun` is set, and the kernel `sums` computes all sums again. Otherwise it returns at once.
//
// The order of a list depends on timing, its sums do not: their terms are integers.

#define FIXED_POINT 2147483520.0f  // the factor of the terms: the largest below 2^31, so that two fit into 32 bits
#define LARGEST 1.5f  // no similarity reaches it, and no marked one is less
#define CANDIDATES 64  // for a quantile: among so many, each is compared with the others

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
    begin();
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
        if (!p.row_sums) each_pair(s, [&](float c, int row, int, int) { similarities[row] += c; });
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

// The sums over the negatives of a list: of the exponentials of those up to `floor`, which are global, of those above
// `ceiling`, which are hierarchical, and of the squares of the latter. Each relative to the largest one.
struct Listed {
    u64 global, weights, weighted;
    u32 hierarchical, unused;

    // By all lanes of a warp. The sums are below 2^54.
    DEVICE void add_lanes() {
        const auto add = [](u64& x) { x = ((u64)warp_sum((u32)(x >> 27)) << 27) + warp_sum((u32)x & 0x7ffffff); };
        add(global), add(weights), add(weighted);
        hierarchical = warp_sum(hierarchical);
    }
};

// A listed number as a similarity of the row, and as one with a negative. The exponential of minus infinity is 0.
DEVICE float without_mark(float c) { return c > LARGEST ? c * (1.0f / MARK) : c; }
DEVICE float negative(float c) { return c > LARGEST ? -infinity() : c; }

// Where the sets of a list's negatives end, and what their terms are relative to: the largest global negative, and the
// largest of all. Negatives that are listed are positive. 0 if there are none.
struct Sets {
    float floor, ceiling;
    float top_global, top;

    DEVICE void add_top(float c) {
        top_global = fmaxf(top_global, c <= floor ? c : 0.0f);
        top = fmaxf(top, c);
    }
    DEVICE bool is_pending(float c) const { return !(c <= floor) && !(c > ceiling); }
    DEVICE void add_terms(Listed& sums, float2 two, float exponent) const {
        u32 global = 0, weights = 0, weighted = 0;
        UNROLL for (int i = 0; i < 2; i++) {
            const float c = negative(i ? two.y : two.x);
            const bool below = c <= floor;
            const float e = exp2_approximate((c - (below ? top_global : top)) * exponent);
            const u32 term = rounded(e * FIXED_POINT);
            if (below) global += term;
            if (c > ceiling) {
                weights += term;
                weighted += rounded(e * FIXED_POINT * e);
                sums.hierarchical++;
            }
        }
        sums.global += global;
        sums.weights += weights;
        sums.weighted += weighted;
    }
};

// Calls `visit` for each two numbers of a list, whose number is even.
template <class Visit> DEVICE void each_two(const float* list, u32 count, u32 thread, u32 threads, Visit visit) {
    ROLLED for (u32 i = 2 * thread; i < count; i += 2 * threads) visit(*(const float2*)(list + i));
}

// Adds what is listed to the sums of a row: the first lane the global ones to `before[0]`, the second one the others.
DEVICE void add_listed(const Parameters& p, float* sums, const Listed& listed, const Sets& sets,
                       const double (&before)[3]) {
    const int lane = lane_of_thread();
    if (lane > 1) return;
    const double unit = 1.0 / FIXED_POINT, top = lane ? sets.top : sets.top_global;
    const double largest = exp((top - 1.0) / p.header->temperature);
    if (lane == 0) {
        sums[0] = (float)(before[0] + unit * listed.global * largest);
        return;
    }
    sums[1] = (float)(before[0] + unit * listed.weighted * largest * largest);
    sums[2] = (float)(before[1] + unit * listed.weights * largest);
    sums[3] = (float)(before[2] + listed.hierarchical);
}

// What the threads of a row share.
struct Gathering {
    u32 counts[DIGITS];  // of the digits; then the candidates for the quantile
    u32 top_global, top;  // the bits of floats
    u32 pending;  // number of pending similarities
    u32 listed;  // number of candidates that have been listed
    u32 start, fits;  // place of the first pending similarity, and whether there is room for all
    u32 digit, rank, candidates;  // found: a digit, the quantile's rank among the numbers with it, and their number
    Listed sums[WARPS];

    // Makes the first numbers 0, the counts or as many as are told, four at a time.
    DEVICE void clear(u32 numbers) {
        for (u32 i = 4 * threadIdx.x; i < numbers; i += 4 * blockDim.x) *(uint4*)(counts + i) = {};
    }
};
static_assert(sizeof(Gathering) <= GATHER_SHARED && CANDIDATES <= DIGITS, "sizes");

// Numbers from the bits `base` up to LARGEST as integers in their order. Smaller and larger ones are like these. NaN is
// above or below all.
DEVICE u32 key_of(float c, int base) {
    const int bits = (int)bits_of(c), most = (int)bits_of(LARGEST), least = bits > base ? bits : base;
    return (u32)((least < most ? least : most) - base);
}

// Calls `visit` for the keys of a row's similarities with its rows apart.
template <class Visit> DEVICE void each_apart(const Parameters& p, int row, int base, Visit visit) {
    ROLLED for (int i = threadIdx.x; i < p.rows_apart; i += blockDim.x) visit(key_of(apart_of(p, row)[i], base));
}

// The quantile of a row and its sums, but for the pending similarities. One block per row, of few warps.
KERNEL(THREADS, 5) gather(const Parameters p, const Launch l) {
    begin();
    SHARED_MEMORY(memory);
    Gathering& shared = *(Gathering*)memory;
    const int lane = lane_of_thread(), warp = warp_of_thread(), warps = blockDim.x / LANES;
    const u32 thread = threadIdx.x, threads = blockDim.x;
    const int at = blockIdx.x, row = l.first_row + at;
    float* list = list_of(p, l, row);
    // The sums of the parts: of the global negatives in the first lane, of the similarities in the second one.
    double part = 0.0;
    if (warp == 0) {
        ROLLED for (int i = lane; i < 2 * l.splits; i += LANES) part += p.parts[((i64)(i / 2) * l.rows + at) * 2 + i % 2];
        UNROLL for (int lanes = 16; lanes > 1; lanes /= 2) part += exchange(part, lanes);
    }
    const float low = list_start(p, row);
    const u32 inside = p.inside[row];
    const bool is_whole = low < infinity() && inside <= (u32)p.capacity;
    if (!is_whole) {
        if (thread == 0) {
            p.failed[atomic_add(&p.header->failed, 1)] = row;
            atomic_max(&p.header->rerun, 1);
        }
        return;
    }
    const u32 count = inside + inside % 2;
    shared.clear(DIGITS + 4);
    if (thread == 0 && count > inside) list[inside] = -infinity();
    sync_threads();

    // The largest numbers, how many are pending, and how often each first digit occurs.
    const int base = (int)bits_of(low) - 1;
    u32 shift = highest_set_bit(key_of(LARGEST, base)) - 7;
    Sets sets = {p.header->floor, p.header->ceiling, 0.0f, 0.0f};
    u32 pending = 0;
    each_two(list, count, thread, threads, [&](float2 two) {
        UNROLL for (int i = 0; i < 2; i++) {
            const float c = i ? two.y : two.x;
            atomic_add(&shared.counts[key_of(without_mark(c), base) >> shift], 1);
            sets.add_top(negative(c));
            pending += sets.is_pending(negative(c));
        }
    });
    each_apart(p, row, base, [&](u32 key) { atomic_add(&shared.counts[key >> shift], 1); });
    const u32 up_to = prefix_sum<LANES>(pending);
    u32 place = 0;
    if (lane == LANES - 1) place = atomic_add(&shared.pending, up_to);
    place = from_lane(place, LANES - 1) + up_to - pending;
    const u32 top_global = warp_max(bits_of(sets.top_global)), top = warp_max(bits_of(sets.top));
    if (lane == 0) {
        atomic_max(&shared.top_global, top_global);
        atomic_max(&shared.top, top);
    }
    sync_threads();
    sets.top_global = float_of(shared.top_global);
    sets.top = float_of(shared.top);

    // The candidates for the quantile: the keys from `first` on that are less than `width` larger. Few, or all equal.
    const u32 all = shared.pending + shared.pending % 2;
    u32 start = 0, first = 0, width = 0, rank = l.rank;
    if (thread == 0 && all > 0) start = atomic_add(&p.header->pending, all);
    const bool is_found = inside + p.rows_apart >= rank;
    while (is_found) {
        if (warp == 0) {
            u32 digit, rest;
            find_digit(shared.counts, rank, digit, rest);
            if (lane == 0) {
                shared.digit = digit;
                shared.rank = rest;
                shared.candidates = shared.counts[digit];
            }
        }
        sync_threads();
        first += shared.digit << shift;
        width = 1u << shift;
        rank = shared.rank;
        if (shared.candidates <= CANDIDATES || shift == 0) break;
        shared.clear(DIGITS);
        sync_threads();
        shift = shift > 8 ? shift - 8 : 0;
        const auto count_digit = [&](u32 key) {
            if (key - first < width) atomic_add(&shared.counts[key - first >> shift], 1);
        };
        each_two(list, count, thread, threads, [&](float2 two) {
            count_digit(key_of(without_mark(two.x), base));
            count_digit(key_of(without_mark(two.y), base));
        });
        each_apart(p, row, base, count_digit);
        sync_warp();
        sync_threads();
    }

    // The sums. The candidates are listed in place of the counts, the pending similarities where they have room.
    if (thread == 0) {
        const bool fits = start + all <= (u32)p.pending_capacity && start + all >= start;
        shared.start = start;
        shared.fits = fits;
        if (fits && all > shared.pending) p.pending[start + shared.pending] = -infinity();
        p.pending_at[2 * row] = start;
        p.pending_at[2 * row + 1] = fits ? all : 0;
        if (!fits) atomic_max(&p.header->rerun, 1);
    }
    sync_threads();
    place += shared.start;
    if (!shared.fits) sets.floor = infinity();
    if (shift == 0) width = 0;
    const auto list_candidate = [&](u32 key) {
        if (key - first < width) shared.counts[atomic_count(&shared.listed, DIGITS - 1)] = key - first;
    };
    Listed sums = {};
    const float exponent = p.header->exponent;
    each_two(list, count, thread, threads, [&](float2 two) {
        sets.add_terms(sums, two, exponent);
        UNROLL for (int i = 0; i < 2; i++) {
            const float c = i ? two.y : two.x;
            if (sets.is_pending(negative(c))) p.pending[place++] = c;
            list_candidate(bits_of(without_mark(c)) - base);
        }
    });
    each_apart(p, row, base, list_candidate);
    sums.add_lanes();
    if (lane == 0) shared.sums[warp] = sums;
    sync_threads();
    // The quantile is the largest candidate than which no fewer than its rank are not less.
    if (warp == warps - 1) {
        const u32 candidates = shared.listed;
        u32 found = 0;
        ROLLED for (u32 i = lane; i < candidates; i += LANES) {
            const u32 mine = shared.counts[i];
            u32 not_less = 0;
            _Pragma("unroll 4") for (u32 other = 0; other < candidates; other++) not_less += shared.counts[other] >= mine;
            if (not_less >= rank && mine > found) found = mine;
        }
        const float quantile = float_of(base + first + warp_max(found));
        // What is found below the list is not the quantile, because the keys are missing.
        if (lane == 0) {
            if (is_found && quantile >= low && quantile < LARGEST) p.quantiles[row] = quantile;
            else p.failed[atomic_add(&p.header->failed, 1)] = row;
        }
    }
    if (warp > 0) return;
    ROLLED for (int other = 1; other < warps; other++) {
        sums.global += shared.sums[other].global;
        sums.weights += shared.sums[other].weights;
        sums.weighted += shared.sums[other].weighted;
        sums.hierarchical += shared.sums[other].hierarchical;
    }
    float* to_sums = p.sums + (i64)row * SUMS;
    if (lane == 1) to_sums[4] = (float)part;
    const double before[3] = {lane == 0 ? part : 0.0};
    add_listed(p, to_sums, sums, sets, before);
}

// Adds the pending similarities to the sums, now that the threshold is known. One warp per row.
KERNEL(THREADS, 6) settle(const Parameters p, const Launch l) {
    begin();
    const int row = blockIdx.x * WARPS + warp_of_thread(), lane = lane_of_thread();
    if (row >= p.anchors.count || p.header->rerun) return;
    const u32 start = p.pending_at[2 * row], count = p.pending_at[2 * row + 1];
    if (count == 0) return;
    const float* list = p.pending + start;
    Sets sets = {p.header->limit, p.header->limit, 0.0f, 0.0f};
    each_two(list, count, lane, LANES, [&](float2 two) {
        sets.add_top(two.x);
        sets.add_top(two.y);
    });
    sets.top_global = float_of(warp_max(bits_of(sets.top_global)));
    sets.top = float_of(warp_max(bits_of(sets.top)));
    Listed sums = {};
    const float exponent = p.header->exponent;
    each_two(list, count, lane, LANES, [&](float2 two) { sets.add_terms(sums, two, exponent); });
    sums.add_lanes();
    float* to = p.sums + (i64)row * SUMS;
    double before[3] = {};
    if (lane == 0) before[0] = to[0];
    if (lane == 1) {
        UNROLL for (int i = 0; i < 3; i++) before[i] = to[1 + i];
    }
    add_listed(p, to, sums, sets, before);
}
