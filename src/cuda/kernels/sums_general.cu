// The sums for any thresholds, exponents and shifts, and the kernels that find thresholds and shifts.

// The smallest and the largest similarity of each row.
KERNEL(PASS_THREADS, PASS_RESIDENT) ranges(const Parameters p, const Launch l) {
    begin();
    SHARED_MEMORY(stages);
    const int first = blockIdx.x * TILE_ROWS;
    float low[PASS_ROWS], high[PASS_ROWS];
    UNROLL for (int row = 0; row < PASS_ROWS; row++) low[row] = infinity(), high[row] = -infinity();
    PassRows own;
    sweep<PassShape>(p, stages, p.anchors, p.keys, first, own, [&](PassProducts& s, int column, const u8*) {
        keep_rows<PassShape>(p, own, column, s);
        each_pair(s, [&](float c, int row, int, int) {
            low[row] = fminf(low[row], c);
            high[row] = fmaxf(high[row], c);
        });
    });
    UNROLL for (int row = 0; row < PASS_ROWS; row++) {
        UNROLL for (int lanes = 1; lanes < 4; lanes *= 2) {
            low[row] = fminf(low[row], exchange(low[row], lanes));
            high[row] = fmaxf(high[row], exchange(high[row], lanes));
        }
        if (lane_of_thread() % 4 != 0 || own.index[row] >= p.anchors.count) continue;
        atomic_min(&p.ranges[2 * own.index[row]], ordered(low[row]));
        atomic_max(&p.ranges[2 * own.index[row] + 1], ordered(high[row]));
    }
}

// The similarity of each anchor with its most similar positive among the keys. A key that repeats the positive is as
// similar as the positive. One warp per 8 anchors.
KERNEL(THREADS, 1) closest_positives(const Parameters p, const Launch l) {
    begin();
    const int first = (blockIdx.x * WARPS + warp_of_thread()) * 8;
    if (first >= p.anchors.count) return;
    const EightAnchors eight = load_eight(p, first);
    float closest = -infinity();
    for (int k = 0; k < p.positives; k++) {
        const int key = excluded_key(p, eight.own, k);
        // In place of a positive that is no key, any will do: the loss is NaN.
        closest = fmaxf(closest, diagonal_similarity(eight, p.keys, key < 0 ? 0 : key));
    }
    if (is_on_diagonal()) p.ranges[2 * eight.own + 1] = ordered(closest);
}

// Sets the threshold of each anchor for the general kernels: that of its range or of its positives, or that of all. One
// thread per anchor.
KERNEL(THREADS, 2) settle_thresholds(const Parameters p, const Launch l) {
    begin();
    const int row = blockIdx.x * THREADS + threadIdx.x;
    if (row >= p.anchors.count) return;
    float threshold = p.header->limit;
    if (p.threshold == MINMAX) {
        const double low = from_ordered(p.ranges[2 * row]), high = from_ordered(p.ranges[2 * row + 1]);
        threshold = (float)(low + p.threshold_value * (high - low));
    } else if (p.threshold == MARGIN || p.threshold == RELATIVE_MARGIN) {
        const double closest = p.pairing == APART ? apart_of(p, row)[0] : from_ordered(p.ranges[2 * row + 1]);
        threshold = limit_of(closest + p.threshold_value * (p.threshold == MARGIN ? 1.0 : fabs(closest)));
    }
    p.anchors.splits[row].threshold = threshold;
    // `maxima` starts from these.
    p.ranges[2 * row] = p.ranges[2 * row + 1] = 0;
}

// The sums for any threshold, beta and shifts.
KERNEL(PASS_THREADS, 1) sums_general(const Parameters p, const Launch l) {
    begin();
    SHARED_MEMORY(stages);
    const int first = blockIdx.x * TILE_ROWS;
    const Exponents by = exponents(p);
    Sums all[PASS_ROWS] = {};
    PassRows own;
    sweep<PassShape>(p, stages, p.anchors, p.keys, first, own, [&](PassProducts& s, int column, const u8* stage) {
        add_similarities(p, own, first, column, all, s);
        Sums tile[PASS_ROWS] = {};
        each_pair(s, [&](float c, int row, int n, int e) {
            // Read here rather than before the sweep, which would need more registers.
            const Split& mine = p.anchors.splits[own.index[row]];
            const bool hierarchical = is_hierarchical(p, c, mine, split_of_column<PassShape>(stage, n, e));
            const float difference = c - (hierarchical ? mine.hierarchical_shift : mine.global_shift);
            const float plain = below(difference, by.exponent);
            if (hierarchical) {
                const float weight = below(difference, by.concentration);
                tile[row].weighted += weight * plain;
                tile[row].weights += p.formulation == SUPERVISED ? c : weight;
                tile[row].hierarchical += 1.0f;
            } else {
                tile[row].global += plain;
            }
        });
        add_tile(all, tile);
    });
    write_sums(p, own, all);
}

// The largest similarities of the global and of the hierarchical negatives of each anchor, its own negatives among them.
KERNEL(PASS_THREADS, 1) maxima(const Parameters p, const Launch l) {
    begin();
    SHARED_MEMORY(stages);
    if (!p.header->precise_shifts) return;
    const int first = blockIdx.x * TILE_ROWS;
    float largest[PASS_ROWS][2];
    UNROLL for (int row = 0; row < PASS_ROWS; row++) largest[row][0] = largest[row][1] = -infinity();
    const auto add = [&](float c, int row, bool hierarchical) {
        largest[row][0] = fmaxf(largest[row][0], hierarchical ? -infinity() : c);
        largest[row][1] = fmaxf(largest[row][1], hierarchical ? c : -infinity());
    };
    PassRows own;
    Split split[PASS_ROWS];
    UNROLL for (int row = 0; row < PASS_ROWS; row++) split[row] = p.anchors.splits[own_row<PassShape>(first, row)];
    sweep<PassShape>(p, stages, p.anchors, p.keys, first, own, [&](PassProducts& s, int column, const u8* stage) {
        keep_negatives<PassShape>(p, p.keys, own, first, column, false, s);
        each_pair(s, [&](float c, int row, int n, int e) {
            add(c, row, is_hierarchical(p, c, split[row], split_of_column<PassShape>(stage, n, e)));
        });
    });
    UNROLL for (int row = 0; row < PASS_ROWS; row++) {
        // Each part of the columns has a share of the own negatives, and each of the four lanes a share of that.
        const int end = own.index[row] < p.anchors.count ? p.rows_apart : 0;
        for (int i = first_own(p) + blockIdx.y * 4 + lane_of_thread() % 4; i < end; i += gridDim.y * 4) {
            const float c = apart_of(p, own.index[row])[i];
            add(c, row, c > split[row].threshold);
        }
        UNROLL for (int set = 0; set < 2; set++) {
            float found = largest[row][set];
            UNROLL for (int lanes = 1; lanes < 4; lanes *= 2) found = fmaxf(found, exchange(found, lanes));
            if (lane_of_thread() % 4 == 0 && own.index[row] < p.anchors.count) {
                atomic_max(&p.ranges[2 * own.index[row] + set], ordered(found));
            }
        }
    }
}

// Sets the shifts to the maxima. One thread per anchor. An empty set has no terms, so that any shift works.
KERNEL(THREADS, 2) settle_shifts(const Parameters p, const Launch l) {
    begin();
    const int row = blockIdx.x * THREADS + threadIdx.x;
    if (row >= p.anchors.count || !p.header->precise_shifts) return;
    const float global = from_ordered(p.ranges[2 * row]), hierarchical = from_ordered(p.ranges[2 * row + 1]);
    p.anchors.splits[row].global_shift = global > -infinity() ? global : 1.0f;
    p.anchors.splits[row].hierarchical_shift = hierarchical > -infinity() ? hierarchical : 1.0f;
}
