// Each anchor's loss and coefficients: `formula.rs`, line by line, in double precision; and the totals over all anchors.

// The similarity of two rows, in double precision. By a warp, which all has it.
DEVICE double similarity_of(const Side& left, int row, const Side& right, int key) {
    const u8* a = left.rows + (i64)row * ROW_BYTES;
    const u8* b = right.rows + (i64)key * ROW_BYTES;
    double sum = 0.0;
    for (int dim = lane_of_thread(); dim < DIMS; dim += LANES) sum += (double)operand(a, dim) * (double)operand(b, dim);
    return warp_sum(sum) * left.cards[row].inverse_length * right.cards[key].inverse_length;
}

// With its positive `k`. NaN where the index is no key's.
DEVICE double positive_similarity(const Parameters& p, int anchor, int k) {
    if (p.pairing == APART) return similarity_of(p.anchors, anchor, p.apart, anchor);
    const int key = excluded_key(p, anchor, k);
    return key < 0 ? (double)not_a_number() : similarity_of(p.anchors, anchor, p.keys, key);
}

// Similarities with positives given apart, before anything is compared with them. A warp for each anchor.
KERNEL(THREADS, 2) positives(const Parameters p, const Launch l) {
    const int anchor = blockIdx.x * WARPS + warp_of_thread();
    if (anchor >= p.anchors.count) return;
    const double found = positive_similarity(p, anchor, 0);
    if (lane_of_thread() == 0) p.positive_similarities[anchor] = (float)found;
}

struct AnchorSums {
    double global_shift, hierarchical_shift;
    double global, weighted, weights, hierarchical, similarities, negatives;
};

// In the order of the splits.
DEVICE AnchorSums anchor_sums(const Parameters& p, int anchor) {
    double all[SUMS] = {};
    for (int split = 0; split < p.splits; split++) {
        const float* part = p.sums + ((i64)split * p.anchors.padded + anchor) * SUMS;
        UNROLL for (int i = 0; i < SUMS; i++) all[i] += part[i];
    }
    int negatives = p.keys.count;
    for (int k = 0; k < p.excluded; k++) negatives -= excluded_key(p, anchor, k) >= 0;
    const Split* split = p.anchors.splits ? p.anchors.splits + anchor : 0;
    return {split ? split->global_shift : 1.0, split ? split->hierarchical_shift : 1.0, all[0], all[1], all[2], all[3], all[4], (double)negatives};
}

struct Anchor {
    double loss, global, weighted, weights;
    double temperature;  // derivative of the terms that do not use similarities
    int at_floor;
    bool defined;
};

// The part of one positive. Returns the derivative by its similarity.
DEVICE double add_importance(const Parameters& p, const AnchorSums& sums, double similarity, Anchor& anchor) {
    const double share = 1.0 / p.positives, count = sums.hierarchical, temperature = p.header->temperature;
    const double global = sums.global_shift / temperature + log(sums.global);
    const double local = count == 0.0 ? -(double)infinity()
                                      : sums.hierarchical_shift / temperature + log(count * sums.weighted / sums.weights);
    const double logit = similarity / temperature;
    // All terms relative to the largest.
    const double top = fmax(logit, fmax(global, local));
    const double positive = exp(logit - top);
    const double floor = count * exp(-1.0 / temperature - top);
    const double debiased = (exp(local - top) - p.tau_plus * count * positive) / (1.0 - p.tau_plus);
    const bool at_floor = count > 0.0 && debiased <= floor;
    const double reweighted = count == 0.0 ? 0.0 : at_floor ? floor : debiased;
    const double denominator = positive + exp(global - top) + reweighted;
    double scale = share / (temperature * denominator);
    anchor.loss += share * (top + log(denominator) - logit);
    if (sums.global > 0.0) anchor.global += scale * exp(sums.global_shift / temperature - top);
    double derivative = scale * positive - share / temperature;
    if (at_floor) {
        anchor.at_floor += 1;
        anchor.temperature += scale * floor / temperature;
    } else if (count > 0.0) {
        scale /= 1.0 - p.tau_plus;
        const double local_scale = scale * count * exp(sums.hierarchical_shift / temperature - top) / sums.weights;
        anchor.weighted += local_scale * (1.0 + p.beta);
        anchor.weights += local_scale * p.beta * sums.weighted / sums.weights;
        derivative -= scale * p.tau_plus * count * positive;
    }
    return derivative;
}

// Of 32 anchors from `first` on each its own lane's, with its positive `k`. By a warp: all lanes work on each.
DEVICE double own_positive_similarity(const Parameters& p, int first, int k) {
    double own = 0.0;
    const int count = p.anchors.count - first < LANES ? p.anchors.count - first : LANES;
    _Pragma("unroll 4") for (int lane = 0; lane < count; lane++) {
        const double found = positive_similarity(p, first + lane, k);
        if (lane == lane_of_thread()) own = found;
    }
    return own;
}

// An anchor for each lane of a warp, from `first` on: its totals. Writes its coefficients and slopes.
DEVICE void evaluate_anchors(const Parameters& p, int first, double (&totals)[TOTALS]) {
    const int index = first + lane_of_thread();
    const bool there = index < p.anchors.count;
    AnchorSums sums = {};
    if (there) sums = anchor_sums(p, index);
    const double weight = p.anchor_weights && there ? p.anchor_weights[index] : 1.0;
    const bool importance = p.formulation == IMPORTANCE;
    const double temperature = p.header->temperature;
    Anchor anchor = {0.0, 0.0, 0.0, 0.0, 0.0, 0, importance || !(sums.global <= 0.0)};
    if (!importance && anchor.defined) {
        const double constant = p.formulation == OFFICIAL ? sums.negatives * exp(-1.0 / temperature) : 0.0;
        anchor.loss = sums.global_shift / temperature + log(sums.global) + constant;
        anchor.global = 1.0 / (temperature * sums.global);
        anchor.temperature = constant / (temperature * temperature);
    }
    double positive = 0.0;
    for (int k = 0; k < p.positives; k++) {
        const double similarity = own_positive_similarity(p, first, k);
        if (!there) continue;
        positive += similarity;
        double slope = 0.0;
        if (importance) {
            slope = add_importance(p, sums, similarity, anchor);
        } else if (anchor.defined) {
            slope = -1.0 / (p.positives * temperature);
            anchor.loss += slope * similarity;
        }
        p.positive_similarities[(i64)index * p.positives + k] = (float)similarity;
        p.positive_slopes[(i64)index * p.positives + k] = (float)(slope * weight);
    }
    if (!there) return;
    totals[0] = anchor.loss * weight;
    totals[1] = sums.hierarchical;
    totals[2] = positive;
    totals[3] = sums.similarities;
    totals[4] = anchor.at_floor;
    totals[5] = anchor.defined;
    totals[6] = sums.negatives;
    totals[7] = anchor.temperature * weight;
    totals[8] = fabs(weight);
    Card& card = p.anchors.cards[index];
    card.global = (float)(anchor.global * weight);
    card.weighted = (float)(anchor.weighted * weight);
    card.weights = (float)(anchor.weights * weight);
    if (!p.one_loss) p.loss[index] = (float)anchor.loss;
}

DEVICE void add_totals(double (&totals)[TOTALS], const double* other) {
    UNROLL for (int i = 0; i < TOTALS - 1; i++) totals[i] += other[i];
    totals[TOTALS - 1] = fmax(totals[TOTALS - 1], other[TOTALS - 1]);
}

DEVICE void write_results(const Parameters& p, const double (&totals)[TOTALS]) {
    const double anchors = p.anchors.count;
    p.header->factor = p.mean ? 1.0 / fmax(totals[5], 1.0) : 1.0;
    p.header->temperature_slope = totals[7];
    if (p.one_loss) *p.loss = (float)(totals[0] * p.header->factor);
    // Derivatives by similarities are about weight (1 + beta) / ((1 - tau_plus) temperature) at most. Most are far
    // smaller: the largest are put where float16 has room above and 20 binary orders below.
    const double steepness = p.formulation == IMPORTANCE ? (1.0 + p.beta) / (1.0 - p.tau_plus) : 1.0;
    const double largest = totals[8] * steepness / p.header->temperature;
    if (largest > 0.0 && largest < 1e30) p.header->gradient_scale = (float)power_of_two(5 - ((int)(bits_of(largest) >> 52) - 1023));
    p.statistics[0] = (float)p.header->epsilon;
    p.statistics[1] = (float)(totals[1] / anchors);
    p.statistics[2] = (float)(totals[2] / (anchors * p.positives));
    // NaN without negatives, whatever the sums' rounding left.
    p.statistics[3] = (float)((totals[6] > 0.0 ? totals[3] : 0.0) / totals[6]);
    p.statistics[4] = (float)(totals[4] / (anchors * p.positives));
    p.statistics[5] = (float)(anchors - totals[5]);
}

struct AnchorsMemory {
    double totals[WARPS][TOTALS];
    u32 last;
};
static_assert(sizeof(AnchorsMemory) <= ANCHORS_SHARED, "sizes");

// The totals of all lanes, in a fixed order.
DEVICE void add_lanes(double (&totals)[TOTALS]) {
    for (int lanes = 16; lanes > 0; lanes /= 2) {
        double other[TOTALS];
        UNROLL for (int i = 0; i < TOTALS; i++) other[i] = exchange(totals[i], lanes);
        add_totals(totals, other);
    }
}

// A thread for each anchor.
KERNEL(THREADS, 1) anchors(const Parameters p, const Launch l) {
    SHARED_MEMORY(memory);
    AnchorsMemory& shared = *(AnchorsMemory*)memory;
    const int warp = warp_of_thread(), lane = lane_of_thread();
    double totals[TOTALS] = {};
    const int first = (blockIdx.x * WARPS + warp) * LANES;
    if (first < p.anchors.count) evaluate_anchors(p, first, totals);
    add_lanes(totals);
    if (lane == 0) UNROLL for (int i = 0; i < TOTALS; i++) shared.totals[warp][i] = totals[i];
    sync_threads();
    if (threadIdx.x == 0) {
        for (int other = 1; other < WARPS; other++) add_totals(totals, shared.totals[other]);
        UNROLL for (int i = 0; i < TOTALS; i++) p.totals[(i64)blockIdx.x * TOTALS + i] = totals[i];
    }
    if (!is_last_block(&p.header->done[1], gridDim.x, &shared.last)) return;
    UNROLL for (int i = 0; i < TOTALS; i++) totals[i] = 0.0;
    for (u32 block = threadIdx.x; block < gridDim.x; block += THREADS) add_totals(totals, p.totals + (i64)block * TOTALS);
    add_lanes(totals);
    if (lane == 0) UNROLL for (int i = 0; i < TOTALS; i++) shared.totals[warp][i] = totals[i];
    sync_threads();
    if (threadIdx.x != 0) return;
    for (int other = 1; other < WARPS; other++) add_totals(totals, shared.totals[other]);
    write_results(p, totals);
}
