// Finds the pairs of a tile that are not pairs of an anchor and a negative.

// Whether a tile may have such pairs. All threads of the block get the same answer.
template <class S> DEVICE bool may_exclude(const Parameters& p, const Side& columns, int row, int column, bool rows_are_keys) {
    if (column + S::columns > columns.count) return true;
    if (p.tower && (row < p.tower ? column < p.tower : column + S::columns > p.tower)) return true;
    if (p.tower && row + TILE_ROWS > p.tower && column + S::columns > p.tower) return true;
    if (p.pairing != VIEWS) return are_named(p);
    // The keys of a sample are a multiple of `view_rows` apart. 32 bits suffice for up to 2^29 rows.
    const int most = column - row + (S::columns - 1) + (rows_are_keys ? p.offset : -p.offset);
    int above = most % p.view_rows;
    if (above < 0) above += p.view_rows;
    return above <= TILE_ROWS + S::columns - 2;
}

// A bit for each pair of the thread that is not one of an anchor and a negative: 16 bits per row, one per column.
template <int rows> struct Mask {
    u32 pairs[rows / 2];
};

template <int rows> DEVICE bool is_set(const Mask<rows>& mask, int row, int n, int e) {
    return mask.pairs[row / 2] >> (row % 2 * 16 + n * 2 + e % 2) & 1;
}

// The bit of a column in the lane that has it, 0 in other lanes.
template <class S> DEVICE u32 bit_of_column(int column) {
    return (u32)column < S::columns && column / 2 % 4 == lane_of_thread() % 4 ? 1u << (column / 8 * 2 + column % 2) : 0;
}

// The bits of the columns from column `at` of the tile on.
template <class S> DEVICE u32 bits_from(int at) {
    u32 bits = 0;
    UNROLL for (int n = 0; n < S::blocks; n++) {
        UNROLL for (int e = 0; e < 2; e++) {
            if (n * 8 + lane_of_thread() % 4 * 2 + e >= at) bits |= 1u << (n * 2 + e);
        }
    }
    return bits;
}

// The bits of the columns of the row's own tower. `second`: the bits of the columns of the second tower.
template <class S> DEVICE u32 own_tower_bits(const Parameters& p, int row, u32 second) {
    constexpr u32 all = (1u << (2 * S::blocks)) - 1;
    return row < p.tower ? all & ~second : second;
}

// The position of the first number in an ascending list that is at least `least`.
DEVICE int first_not_below(const u32* list, int count, u32 least) {
    int from = 0;
    while (count > 0) {
        const int half = count / 2;
        if (list[from + half] < least) {
            from += half + 1;
            count -= half + 1;
        } else {
            count = half;
        }
    }
    return from;
}

// The columns of a row that are excluded by name, in the tile that starts with `column`.
template <class S> DEVICE u32 named_bits(const Parameters& p, int row, int column, bool rows_are_keys) {
    if (row >= (rows_are_keys ? p.keys : p.anchors).count) return 0;
    const PairList pairs = rows_are_keys ? pairs_of_key(p, row) : excluded_keys_of(p, row);
    const u32 each = rows_are_keys ? p.excluded : 1;  // list entries per column
    u32 bits = 0;
    for (int at = first_not_below(pairs.list, pairs.count, column * each); at < pairs.count; at++) {
        if (pairs.list[at] >= (column + S::columns) * each) break;
        bits |= bit_of_column<S>((int)(pairs.list[at] / each) - column);
    }
    return bits;
}

template <class S> DEVICE u32 views_bits(const Parameters& p, int row, int column, bool rows_are_keys) {
    const int anchor = rows_are_keys ? row - p.offset : row;
    if (anchor < 0 || anchor >= p.anchors.count) return 0;
    u32 bits = 0;
    for (int k = 0; k < p.excluded; k++) {
        bits |= bit_of_column<S>(excluded_key(p, anchor, k) - (rows_are_keys ? p.offset : 0) - column);
    }
    return bits;
}

template <class S>
DEVICE Mask<S::rows> excluded_pairs(const Parameters& p, const Side& columns, const OwnRows<S::rows>& own, int column, bool rows_are_keys) {
    const u32 outside = column + S::columns > columns.count ? bits_from<S>(columns.count - column) : 0;
    const u32 second = p.tower ? bits_from<S>(p.tower - column) : 0;
    Mask<S::rows> mask;
    UNROLL for (int row = 0; row < S::rows; row++) {
        u32 bits = outside;
        if (p.tower) bits |= own_tower_bits<S>(p, own.index[row], second);
        if (p.pairing == VIEWS) bits |= views_bits<S>(p, own.index[row], column, rows_are_keys);
        if (are_named(p)) bits |= named_bits<S>(p, own.index[row], column, rows_are_keys);
        mask.pairs[row / 2] = row % 2 ? mask.pairs[row / 2] | bits << 16 : bits;
    }
    return mask;
}

// Calls `visit(similarity, row)` for each pair of a tile that is not one of an anchor and a negative.
template <class S, class Visit>
DEVICE void each_excluded(const Parameters& p, const Side& columns, const OwnRows<S::rows>& own, int first, int column,
                          bool rows_are_keys, Products<S::groups, S::blocks>& s, Visit visit) {
    if (!may_exclude<S>(p, columns, first, column, rows_are_keys)) return;
    const Mask<S::rows> mask = excluded_pairs<S>(p, columns, own, column, rows_are_keys);
    u32 some = 0;
    UNROLL for (int pair = 0; pair < S::groups; pair++) some |= mask.pairs[pair];
    if (!any(some != 0)) return;
    each_pair(s, [&](float& c, int row, int n, int e) {
        if (is_set(mask, row, n, e)) visit(c, row);
    });
}

// Sets the similarities of pairs that are not pairs of an anchor and a negative to minus infinity.
template <class S>
DEVICE void keep_negatives(const Parameters& p, const Side& columns, const OwnRows<S::rows>& own, int first, int column,
                           bool rows_are_keys, Products<S::groups, S::blocks>& s) {
    each_excluded<S>(p, columns, own, first, column, rows_are_keys, s, [&](float& c, int) { c = -infinity(); });
}

// Sets the similarities to those of whole rows, for quantiles and ranges: 1 for the anchor itself, NaN for padding and
// for the anchor's own tower.
template <class S>
DEVICE void keep_rows(const Parameters& p, const OwnRows<S::rows>& own, int column, Products<S::groups, S::blocks>& s) {
    const int keys = p.keys.count;
    const int lane_column = column + lane_of_thread() % 4 * 2;
    if (column + S::columns > keys) {
        each_pair(s, [&](float& c, int, int n, int e) { c = lane_column + n * 8 + e % 2 < keys ? c : not_a_number(); });
    }
    if (p.pairing != VIEWS) return;
    if (p.tower) {
        const u32 second = bits_from<S>(p.tower - column);
        UNROLL for (int own_row = 0; own_row < S::rows; own_row++) {
            const u32 bits = own_tower_bits<S>(p, own.index[own_row], second);
            if (!bits) continue;
            each_pair(s, [&](float& c, int row, int n, int e) {
                if (row == own_row && bits >> (n * 2 + e % 2) & 1) c = not_a_number();
            });
        }
        return;
    }
    UNROLL for (int own_row = 0; own_row < S::rows; own_row++) {
        const u32 bit = bit_of_column<S>(own_key(p, own.index[own_row]) - column);
        if (!bit) continue;
        each_pair(s, [&](float& c, int row, int n, int e) {
            if (row == own_row && bit >> (n * 2 + e % 2) & 1) c = 1.0f;
        });
    }
}

// Whether a negative is hierarchical for the anchor (row or column) with the split `own`.
DEVICE bool is_hierarchical(const Parameters& p, float c, const Split& own, const Split& other) {
    return p.threshold == LABELS ? own.label == other.label && c > -infinity() : c > own.threshold;
}

// Factors of the similarities in the powers of 2.
struct Exponents {
    float exponent, concentration;
};

DEVICE Exponents exponents(const Parameters& p) { return {p.header->exponent, p.header->concentration}; }

// 2^(factor * min(difference, 0)). If the difference exceeds 0, the pair is in the other set, and the result is not
// used. Keeps NaN.
DEVICE float below(float difference, float factor) {
    return exp2_approximate(difference > 0.0f ? 0.0f : difference * factor);
}

// The derivative of an anchor's loss by the similarity with a negative. Without branches, which takes a third less
// machine code.
DEVICE float slope(const Exponents& by, float c, bool hierarchical, const Card& card, const Split& split) {
    const float difference = c - (hierarchical ? split.hierarchical_shift : split.global_shift);
    const float plain = below(difference, by.exponent);
    const float weight = below(difference, hierarchical ? by.concentration : 0.0f);
    return weight * ((hierarchical ? card.weighted : card.global) * plain - (hierarchical ? card.weights : 0.0f));
}
