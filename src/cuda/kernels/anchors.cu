// The loss and the coefficients of each anchor, in double precision, like `formula.rs`; and the totals over all
// anchors.

// Adds the products of the elements in 4 bytes of two rows. In single precision, those of 16-bit numbers are exact.
DEVICE void add_products(double& sum, u32 a, u32 b) {
    float x[ELEMENTS_OF_WORD], y[ELEMENTS_OF_WORD];
    elements_of(x, a);
    elements_of(y, b);
    UNROLL for (int i = 0; i < ELEMENTS_OF_WORD; i++) sum += ELEMENT == 2 ? (double)(x[i] * y[i]) : (double)x[i] * y[i];
}

// The similarities of four pairs of rows, in double precision. Eight lanes have one pair, and all of them get its
// similarity.
DEVICE double similarity_of(const Side& left, int row, const Side& right, int key) {
    const int first = lane_of_thread() % 8 * 16;
    const u8* a = left.rows + (i64)row * ROW_BYTES + first;
    const u8* b = right.rows + (i64)key * ROW_BYTES + first;
    const double inverse = (double)left.cards[row].inverse_length * right.cards[key].inverse_length;
    double sum = 0.0;
    _Pragma("unroll 4") for (int at = 0; at < ROW_BYTES; at += 8 * 16) {
        if (first + at >= ROW_BYTES) continue;
        const uint4 x = *(const uint4*)(a + at), y = *(const uint4*)(b + at);
        add_products(sum, x.x, y.x);
        add_products(sum, x.y, y.y);
        add_products(sum, x.z, y.z);
        add_products(sum, x.w, y.w);
    }
    UNROLL for (int lanes = 4; lanes > 0; lanes /= 2) sum += exchange(sum, lanes);
    return sum * inverse;
}

// The similarity of an anchor with its positive `k`, as `similarity_of`. NaN if the index is not a row of the keys.
DEVICE double positive_similarity(const Parameters& p, int anchor, int k) {
    const bool is_apart = p.pairing == APART;
    const int key = is_apart ? anchor * p.rows_apart : excluded_key(p, anchor, k);
    const double found = similarity_of(p.anchors, anchor, is_apart ? p.apart : p.keys, key < 0 ? 0 : key);
    return key < 0 ? (double)not_a_number() : found;
}

// The similarities of each anchor with its rows apart. For MINMAX, these are in the range of the anchor. One warp per 8
// anchors. The second dimension of the grid divides the rows of an anchor.
KERNEL(THREADS, 1) apart_similarities(const Parameters p, const Launch l) {
    begin();
    const int first = (blockIdx.x * WARPS + warp_of_thread()) * 8;
    if (first >= p.anchors.count) return;
    const EightAnchors eight = load_eight(p, first);
    float low = infinity(), high = -infinity();
    for (int i = blockIdx.y; i < p.rows_apart; i += gridDim.y) {
        const i64 at = (i64)eight.own * p.rows_apart + i;
        const float c = diagonal_similarity(eight, p.apart, (int)at);
        if (is_on_diagonal()) p.apart_similarities[at] = c;
        low = fminf(low, c);
        high = fmaxf(high, c);
    }
    if (p.threshold != MINMAX || !is_on_diagonal()) return;
    atomic_min(&p.ranges[2 * eight.own], ordered(low));
    atomic_max(&p.ranges[2 * eight.own + 1], ordered(high));
}

// For SUPERVISED, `weights` is the sum of the similarities of the hierarchical negatives.
struct AnchorSums {
    double global_shift, hierarchical_shift;
    double global, weighted, weights, hierarchical, similarities, negatives;
};

// The number of keys that are not negatives of an anchor. A key that is named twice counts once.
DEVICE int count_excluded(const Parameters& p, int anchor) {
    if (!are_named(p)) return p.excluded;
    const PairList keys = excluded_keys_of(p, anchor);
    int count = 0;
    for (int at = 0; at < keys.count && keys.list[at] != ~0u; at++) {
        count += at == 0 || keys.list[at] != keys.list[at - 1];
    }
    return count;
}

// The sums over the own negatives of each anchor, like those of another split. One warp per anchor.
KERNEL(THREADS, 2) own_sums(const Parameters p, const Launch l) {
    begin();
    const int anchor = blockIdx.x * WARPS + warp_of_thread();
    if (anchor >= p.anchors.count) return;
    const Exponents by = exponents(p);
    const Split split = split_of(p, anchor);
    double all[SUMS] = {};
    for (int i = first_own(p) + lane_of_thread(); i < p.rows_apart; i += LANES) {
        const float c = apart_of(p, anchor)[i];
        const bool hierarchical = c > split.threshold;
        const float difference = c - (hierarchical ? split.hierarchical_shift : split.global_shift);
        const float plain = below(difference, by.exponent);
        if (hierarchical) {
            const float weight = below(difference, by.concentration);
            all[1] += weight * plain;
            all[2] += weight;
            all[3] += 1.0;
        } else {
            all[0] += plain;
        }
        all[4] += c;
    }
    UNROLL for (int i = 0; i < SUMS; i++) {
        const double sum = warp_sum(all[i]);
        if (lane_of_thread() == 0) p.own_sums[(i64)anchor * SUMS + i] = (float)sum;
    }
}

DEVICE void add_part(double (&all)[SUMS], const float* part) {
    UNROLL for (int i = 0; i < SUMS; i++) all[i] += part[i];
}

// Adds the sums of the splits, in order, and those of the own negatives.
DEVICE AnchorSums anchor_sums(const Parameters& p, int anchor) {
    double all[SUMS] = {};
    const int splits = p.joint && !p.header->rerun ? 1 : p.splits;
    for (int split = 0; split < splits; split++) add_part(all, p.sums + ((i64)split * p.anchors.padded + anchor) * SUMS);
    if (p.own_sums) add_part(all, p.own_sums + (i64)anchor * SUMS);
    const Range keys = compared_keys(p, anchor);
    const int negatives = keys.end - keys.first - count_excluded(p, anchor) + p.rows_apart - first_own(p);
    const Split split = split_of(p, anchor);
    return {split.global_shift, split.hierarchical_shift, all[0], all[1], all[2], all[3], all[4], (double)negatives};
}

struct Anchor {
    double loss, global, weighted, weights;
    double temperature;  // derivative of the terms that do not use similarities
    int at_floor;
    bool defined;
};

// Adds the terms of one positive. Returns the derivative by its similarity.
DEVICE double add_importance(const Parameters& p, const AnchorSums& sums, double similarity, Anchor& anchor) {
    const double share = 1.0 / p.positives, count = sums.hierarchical, temperature = p.header->temperature;
    const double steepness = 1.0 / temperature, unbiased = 1.0 / (1.0 - p.tau_plus);
    const double logit = similarity * steepness;
    const double global = sums.global > 0.0 ? sums.global_shift * steepness : -(double)infinity();
    const double local = count > 0.0 ? sums.hierarchical_shift * steepness : -(double)infinity();
    // All exponentials are relative to the largest one. The sums contain those relative to the shifts.
    const double top = fmax(logit, fmax(global, local));
    const double positive = exp(logit - top), global_scale = exp(global - top), per_weight = 1.0 / sums.weights;
    const double mean = sums.weighted * per_weight, exponential = count * exp(local - top);
    const double floor = count * exp(-steepness - top);
    const double debiased = (exponential * mean - p.tau_plus * count * positive) * unbiased;
    const bool at_floor = count > 0.0 && debiased <= floor;
    const double reweighted = count == 0.0 ? 0.0 : at_floor ? floor : debiased;
    const double denominator = positive + global_scale * sums.global + reweighted;
    double scale = share * steepness / denominator;
    anchor.loss += share * (top + log(denominator) - logit);
    if (sums.global > 0.0) anchor.global += scale * global_scale;
    double derivative = scale * positive - share * steepness;
    if (at_floor) {
        anchor.at_floor += 1;
        anchor.temperature += scale * floor / temperature;
    } else if (count > 0.0) {
        scale *= unbiased;
        const double local_scale = scale * exponential * per_weight;
        anchor.weighted += local_scale * (1.0 + p.beta);
        anchor.weights += local_scale * p.beta * mean;
        derivative -= scale * p.tau_plus * count * positive;
    }
    return derivative;
}

// SupCon: the denominator contains all keys, and the hierarchical negatives are positives too. Writes the derivatives
// by the other positives, times `weight`. Their similarities must be in the scratch memory.
DEVICE void add_supervised(const Parameters& p, const AnchorSums& sums, int index, double weight, Anchor& anchor) {
    const float* similarities = p.positive_similarities + (i64)index * p.positives;
    const double count = p.positives + sums.hierarchical, share = 1.0 / count, temperature = p.header->temperature;
    const double global = sums.global_shift / temperature + log(sums.global);
    const double local = sums.hierarchical_shift / temperature + log(sums.weighted);
    double top = fmax(global, local), attraction = sums.weights;
    for (int k = 0; k < p.positives; k++) top = fmax(top, similarities[k] / temperature);
    double denominator = exp(global - top) + exp(local - top);
    for (int k = 0; k < p.positives; k++) {
        denominator += exp(similarities[k] / temperature - top);
        attraction += similarities[k];
    }
    const double scale = 1.0 / (temperature * denominator);
    for (int k = 0; k < p.positives; k++) {
        const double slope = scale * exp(similarities[k] / temperature - top) - share / temperature;
        p.positive_slopes[(i64)index * p.positives + k] = (float)(slope * weight);
    }
    anchor.loss = top + log(denominator) - share * attraction / temperature;
    if (sums.global > 0.0) anchor.global = scale * exp(sums.global_shift / temperature - top);
    if (sums.weighted > 0.0) anchor.weighted = scale * exp(sums.hierarchical_shift / temperature - top);
    anchor.weights = share / temperature;
}

// The similarity with positive `k` of the lane's anchor: lane l has anchor `first` + l, if l < `count`. All lanes work
// on four anchors at a time.
DEVICE double own_positive_similarity(const Parameters& p, int first, int count, int k) {
    const int lane = lane_of_thread();
    double own = 0.0;
    _Pragma("unroll 1") for (int four = 0; four < count; four += 4) {
        const int here = four + lane / 8;
        const double found = from_lane(positive_similarity(p, first + (here < count ? here : 0), k), lane % 4 * 8);
        if (lane / 4 == four / 4) own = found;
    }
    return own;
}

// Evaluates the anchor of each lane: lane l has anchor `first` + l, if l < `count`. Writes its coefficients and the
// derivatives by its positives, and returns its terms of the totals.
DEVICE void evaluate_anchors(const Parameters& p, int first, int count, double (&totals)[TOTALS]) {
    const int index = first + lane_of_thread();
    const bool there = lane_of_thread() < count;
    AnchorSums sums = {};
    if (there) sums = anchor_sums(p, index);
    const double hierarchical = sums.hierarchical;
    // What remains is InfoNCE over the global negatives.
    if (p.formulation == ELIMINATION) sums.hierarchical = 0.0;
    const double weight = p.anchor_weights && there ? p.anchor_weights[index] : 1.0;
    const bool importance = p.formulation == IMPORTANCE || p.formulation == ELIMINATION, supervised = p.formulation == SUPERVISED;
    const double temperature = p.header->temperature;
    Anchor anchor = {};
    anchor.defined = importance || (supervised ? p.positives + sums.hierarchical > 0.0 : !(sums.global <= 0.0));
    if (!importance && !supervised && anchor.defined) {
        const double constant = p.formulation == OFFICIAL ? sums.negatives * exp(-1.0 / temperature) : 0.0;
        anchor.loss = sums.global_shift / temperature + log(sums.global) + constant;
        anchor.global = 1.0 / (temperature * sums.global);
        anchor.temperature = constant / (temperature * temperature);
    }
    double positive = supervised ? sums.weights : 0.0;
    for (int k = 0; k < p.positives; k++) {
        const double similarity = own_positive_similarity(p, first, count, k);
        if (!there) continue;
        positive += similarity;
        double slope = 0.0;
        if (importance) {
            slope = add_importance(p, sums, similarity, anchor);
        } else if (!supervised && anchor.defined) {
            slope = -1.0 / (p.positives * temperature);
            anchor.loss += slope * similarity;
        }
        p.positive_similarities[(i64)index * p.positives + k] = (float)similarity;
        p.positive_slopes[(i64)index * p.positives + k] = (float)(slope * weight);
    }
    if (there && supervised && anchor.defined) add_supervised(p, sums, index, weight, anchor);
    if (!there) return;
    totals[0] = anchor.loss * weight;
    totals[1] = hierarchical;
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

// Total number `i` of two parts.
DEVICE double total(int i, double one, double other) { return i == TOTALS - 1 ? fmax(one, other) : one + other; }

DEVICE void write_results(const Parameters& p, const double* totals) {
    const double anchors = p.anchors.count;
    p.header->factor = p.mean ? 1.0 / fmax(totals[5], 1.0) : 1.0;
    p.header->temperature_slope = totals[7];
    if (p.one_loss) *p.loss = (float)(totals[0] * p.header->factor);
    // The derivatives by similarities are at most about weight (1 + beta) / ((1 - tau_plus) temperature), and most are
    // far smaller. The scale makes this bound about 2^5, so that float16 represents 20 binary orders below it.
    const double steepness = p.formulation == IMPORTANCE ? (1.0 + p.beta) / (1.0 - p.tau_plus) : 1.0;
    const double largest = totals[8] * steepness / p.header->temperature;
    if (largest > 1e-30 && largest < 1e30) p.header->gradient_scale = (float)power_of_two(5 - ((int)(bits_of(largest) >> 52) - 1023));
    p.statistics[0] = (float)p.header->epsilon;
    p.statistics[1] = (float)(totals[1] / anchors);
    // For SUPERVISED, the hierarchical negatives are positives too.
    const double positives = anchors * p.positives;
    p.statistics[2] = (float)(totals[2] / (p.formulation == SUPERVISED ? positives + totals[1] : positives));
    // One pass for the quantiles and the sums may only have what to subtract from the sum over all pairs.
    const double similarities = totals[3] + (p.row_sums && !p.header->rerun ? p.header->similarities : 0.0);
    // NaN without negatives, whatever rounding error the sum has.
    p.statistics[3] = (float)((totals[6] > 0.0 ? similarities : 0.0) / totals[6]);
    p.statistics[4] = (float)(totals[4] / fmax(positives, 1.0));
    p.statistics[5] = (float)(anchors - totals[5]);
}

struct AnchorsMemory {
    double totals[WARPS][TOTALS];
    u32 last;
};
static_assert(sizeof(AnchorsMemory) <= ANCHORS_SHARED, "sizes");

// A lane for each anchor. For few anchors, some lanes have none, because a warp finds the similarities with positives
// four at a time.
KERNEL(THREADS, 1) anchors(const Parameters p, const Launch l) {
    begin();
    SHARED_MEMORY(memory);
    AnchorsMemory& shared = *(AnchorsMemory*)memory;
    const int warp = warp_of_thread(), lane = lane_of_thread();
    double totals[TOTALS] = {};
    const int each = l.rows / WARPS, first = (blockIdx.x * WARPS + warp) * each;
    if (first < p.anchors.count) evaluate_anchors(p, first, p.anchors.count - first < each ? p.anchors.count - first : each, totals);
    // All totals are in a fixed order. Here they are those of the lanes that have anchors.
    for (int lanes = each / 2; lanes > 0; lanes /= 2) {
        UNROLL for (int i = 0; i < TOTALS; i++) totals[i] = total(i, totals[i], exchange(totals[i], lanes));
    }
    if (lane == 0) UNROLL for (int i = 0; i < TOTALS; i++) shared.totals[warp][i] = totals[i];
    sync_threads();
    if (threadIdx.x < TOTALS) {
        double sum = shared.totals[0][threadIdx.x];
        UNROLL for (int other = 1; other < WARPS; other++) sum = total(threadIdx.x, sum, shared.totals[other][threadIdx.x]);
        p.totals[(i64)blockIdx.x * TOTALS + threadIdx.x] = sum;
    }
    if (!is_last_block(&p.header->done[1], gridDim.x, &shared.last)) return;
    for (int i = warp; i < TOTALS; i += WARPS) {
        double sum = 0.0;
        for (u32 block = lane; block < gridDim.x; block += LANES) sum = total(i, sum, p.totals[(i64)block * TOTALS + i]);
        for (int lanes = 16; lanes > 0; lanes /= 2) sum = total(i, sum, exchange(sum, lanes));
        if (lane == 0) shared.totals[0][i] = sum;
    }
    sync_threads();
    if (threadIdx.x == 0) write_results(p, shared.totals[0]);
}
