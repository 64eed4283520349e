// Sums over the negatives of each anchor, and what they are scaled by.

// One row's sums over the columns that a thread has. Order: that of `Sums` in `formula.rs`, then the similarities.
struct Sums {
    float global, weighted, weights, hierarchical, similarities;
};

DEVICE void add_similarities(Sums (&sums)[2], Products& s) {
    each_pair(s, [&](float c, int row, int, int) { sums[row].similarities += c; });
}

// Takes back what `add_similarities` added for pairs that are no negatives, and makes them minus infinity.
DEVICE void drop_excluded(const Parameters& p, const OwnRows& own, int first, int column, Sums (&sums)[2], Products& s) {
    if (!may_exclude(p, p.keys, first, column, false)) return;
    const u32 bits = excluded_pairs(p, p.keys, own, column, false);
    if (!any(bits != 0)) return;
    each_pair(s, [&](float& c, int row, int n, int e) {
        if (!is_set(bits, n, e)) return;
        sums[row].similarities -= c;
        c = -infinity();
    });
}

DEVICE void write_sums(const Parameters& p, const OwnRows& own, const Sums (&sums)[2]) {
    UNROLL for (int half = 0; half < 2; half++) {
        float all[SUMS] = {sums[half].global, sums[half].weighted, sums[half].weights, sums[half].hierarchical,
                           sums[half].similarities};
        float* out = p.sums + ((i64)blockIdx.y * p.anchors.padded + own.index[half]) * SUMS;
        UNROLL for (int i = 0; i < SUMS; i++) {
            UNROLL for (int lanes = 1; lanes < 4; lanes *= 2) all[i] += exchange(all[i], lanes);
            if (lane_of_thread() % 4 == 0) out[i] = all[i];
        }
    }
}

// The usual case: one threshold for all, shifts of 1, and weights exp(s) (beta = 1, or unused): one exponential each.
KERNEL(THREADS, RESIDENT) sums(const Parameters p, const Launch l) {
    SHARED_MEMORY(stages);
    const int first = blockIdx.x * TILE_ROWS;
    const float limit = p.header->limit;
    Sums all[2] = {};
    OwnRows own;
    sweep(stages, p.anchors, p.keys, first, blockIdx.y, gridDim.y, own, [&](Products& s, int column, const u8*) {
        add_similarities(all, s);
        drop_excluded(p, own, first, column, all, s);
        Sums tile[2] = {};
        each_pair(s, [&](float c, int row, int, int) {
            const float e = exp2_approximate(c * p.exponent - p.exponent);
            if (c > limit) {
                tile[row].weighted += e * e;
                tile[row].weights += e;
                tile[row].hierarchical += 1.0f;
            } else {
                tile[row].global += e;
            }
        });
        UNROLL for (int row = 0; row < 2; row++) {
            all[row].global += tile[row].global;
            all[row].weighted += tile[row].weighted;
            all[row].weights += tile[row].weights;
            all[row].hierarchical += tile[row].hierarchical;
        }
    });
    write_sums(p, own, all);
}

// Any threshold, beta and shift.
KERNEL(THREADS, 1) sums_general(const Parameters p, const Launch l) {
    SHARED_MEMORY(stages);
    const int first = blockIdx.x * TILE_ROWS;
    Sums all[2] = {};
    OwnRows own;
    Split split[2];
    UNROLL for (int half = 0; half < 2; half++) {
        split[half] = p.anchors.splits[first + warp_of_thread() * 16 + lane_of_thread() / 4 + half * 8];
    }
    sweep(stages, p.anchors, p.keys, first, blockIdx.y, gridDim.y, own, [&](Products& s, int column, const u8* stage) {
        add_similarities(all, s);
        drop_excluded(p, own, first, column, all, s);
        Sums tile[2] = {};
        each_pair(s, [&](float c, int row, int n, int e) {
            const Split& mine = split[row];
            const bool hierarchical = is_hierarchical(p, c, mine, split_of_column(stage, n, e));
            const float difference = c - (hierarchical ? mine.hierarchical_shift : mine.global_shift);
            const float plain = below(difference, p.exponent);
            if (hierarchical) {
                const float weight = below(difference, p.concentration);
                tile[row].weighted += weight * plain;
                tile[row].weights += weight;
                tile[row].hierarchical += 1.0f;
            } else {
                tile[row].global += plain;
            }
        });
        UNROLL for (int row = 0; row < 2; row++) {
            all[row].global += tile[row].global;
            all[row].weighted += tile[row].weighted;
            all[row].weights += tile[row].weights;
            all[row].hierarchical += tile[row].hierarchical;
        }
    });
    write_sums(p, own, all);
}

// The largest global and the largest hierarchical similarity of each anchor.
KERNEL(THREADS, 1) maxima(const Parameters p, const Launch l) {
    SHARED_MEMORY(stages);
    const int first = blockIdx.x * TILE_ROWS;
    float largest[2][2] = {{-infinity(), -infinity()}, {-infinity(), -infinity()}};
    OwnRows own;
    Split split[2];
    UNROLL for (int half = 0; half < 2; half++) {
        split[half] = p.anchors.splits[first + warp_of_thread() * 16 + lane_of_thread() / 4 + half * 8];
    }
    sweep(stages, p.anchors, p.keys, first, blockIdx.y, gridDim.y, own, [&](Products& s, int column, const u8* stage) {
        keep_negatives(p, p.keys, own, first, column, false, s);
        each_pair(s, [&](float c, int row, int n, int e) {
            const bool hierarchical = is_hierarchical(p, c, split[row], split_of_column(stage, n, e));
            largest[row][0] = fmaxf(largest[row][0], hierarchical ? -infinity() : c);
            largest[row][1] = fmaxf(largest[row][1], hierarchical ? c : -infinity());
        });
    });
    UNROLL for (int half = 0; half < 2; half++) {
        UNROLL for (int set = 0; set < 2; set++) {
            float found = largest[half][set];
            UNROLL for (int lanes = 1; lanes < 4; lanes *= 2) found = fmaxf(found, exchange(found, lanes));
            if (lane_of_thread() % 4 == 0 && own.index[half] < p.anchors.count) {
                atomic_max(&p.ranges[2 * own.index[half] + set], ordered(found));
            }
        }
    }
}

// From maxima to shifts, a thread for each anchor. An empty set has no terms, and any shift does.
KERNEL(THREADS, 2) settle_shifts(const Parameters p, const Launch l) {
    const int row = blockIdx.x * THREADS + threadIdx.x;
    if (row >= p.anchors.count) return;
    const float global = from_ordered(p.ranges[2 * row]), hierarchical = from_ordered(p.ranges[2 * row + 1]);
    p.anchors.splits[row].global_shift = global > -infinity() ? global : 1.0f;
    p.anchors.splits[row].hierarchical_shift = hierarchical > -infinity() ? hierarchical : 1.0f;
}
