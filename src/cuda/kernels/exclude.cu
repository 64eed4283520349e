// Which pairs of a tile are no negatives.

// Whether any pair of a tile may be none, from what the whole block knows.
template <class S> DEVICE bool may_exclude(const Parameters& p, const Side& columns, int row, int column, bool rows_are_keys) {
    if (column + S::columns > columns.count) return true;
    if (p.pairing == APART) return false;
    if (p.pairing == INDEXED) return true;
    // The anchors' places among the keys differ by a multiple of the rows of a view. Up to 2^29 rows: 32 bits do.
    const int most = column - row + (S::columns - 1) + (rows_are_keys ? p.offset : -p.offset);
    int above = most % p.view_rows;
    if (above < 0) above += p.view_rows;
    return above <= TILE_ROWS + S::columns - 2;
}

// Bits for the pairs of a thread that are no negatives: of two rows 16 each, a bit for each of the columns.
template <int rows> struct Mask {
    u32 pairs[rows / 2];
};

template <int rows> DEVICE bool is_set(const Mask<rows>& mask, int row, int n, int e) {
    return mask.pairs[row / 2] >> (row % 2 * 16 + n * 2 + e % 2) & 1;
}

// Of the lane that has the column.
template <class S> DEVICE u32 bit_of_column(int column) {
    return (u32)column < S::columns && column / 2 % 4 == lane_of_thread() % 4 ? 1u << (column / 8 * 2 + column % 2) : 0;
}

// The place of the first number of an ascending list that is not below `least`.
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

// Of a row and the columns from `column` on: where the anchors name their keys.
template <class S> DEVICE u32 indexed_bits(const Parameters& p, int row, int column, bool rows_are_keys) {
    if (row >= (rows_are_keys ? p.keys : p.anchors).count) return 0;
    const PairList pairs = rows_are_keys ? pairs_of_key(p, row) : excluded_keys_of(p, row);
    const u32 each = rows_are_keys ? p.excluded : 1;  // numbers for a column
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
    u32 outside = 0;
    if (column + S::columns > columns.count) {
        UNROLL for (int n = 0; n < S::blocks; n++) {
            UNROLL for (int e = 0; e < 2; e++) {
                if (column + n * 8 + lane_of_thread() % 4 * 2 + e >= columns.count) outside |= 1u << (n * 2 + e);
            }
        }
    }
    Mask<S::rows> mask;
    UNROLL for (int row = 0; row < S::rows; row++) {
        u32 bits = outside;
        if (p.pairing == VIEWS) bits |= views_bits<S>(p, own.index[row], column, rows_are_keys);
        if (p.pairing == INDEXED) bits |= indexed_bits<S>(p, own.index[row], column, rows_are_keys);
        mask.pairs[row / 2] = row % 2 ? mask.pairs[row / 2] | bits << 16 : bits;
    }
    return mask;
}

// Calls `visit(similarity, row, n, e)` for each pair of a tile that is no negative.
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

// Pairs that are no negatives get minus infinity.
template <class S>
DEVICE void keep_negatives(const Parameters& p, const Side& columns, const OwnRows<S::rows>& own, int first, int column,
                           bool rows_are_keys, Products<S::groups, S::blocks>& s) {
    each_excluded<S>(p, columns, own, first, column, rows_are_keys, s, [&](float& c, int) { c = -infinity(); });
}

// Whole rows, as quantiles and ranges are taken over: the anchor itself is exactly 1, what is no key is NaN.
template <class S>
DEVICE void keep_rows(const Parameters& p, const OwnRows<S::rows>& own, int column, Products<S::groups, S::blocks>& s) {
    const int keys = p.keys.count;
    const int lane_column = column + lane_of_thread() % 4 * 2;
    if (column + S::columns > keys) {
        each_pair(s, [&](float& c, int, int n, int e) { c = lane_column + n * 8 + e % 2 < keys ? c : not_a_number(); });
    }
    if (p.pairing != VIEWS) return;
    UNROLL for (int own_row = 0; own_row < S::rows; own_row++) {
        const int key = own.index[own_row] < p.anchors.count ? own_key(p, own.index[own_row]) - column : -1;
        const u32 bit = bit_of_column<S>(key);
        if (!bit) continue;
        each_pair(s, [&](float& c, int row, int n, int e) {
            if (row == own_row && bit >> (n * 2 + e % 2) & 1) c = 1.0f;
        });
    }
}

// Whether a negative is hierarchical for the side (row or column) whose split `own` is.
DEVICE bool is_hierarchical(const Parameters& p, float c, const Split& own, const Split& other) {
    return p.threshold == LABELS ? own.label == other.label && c > -infinity() : c > own.threshold;
}

// What similarities are multiplied by before the power of 2.
struct Exponents {
    float exponent, concentration;
};

DEVICE Exponents exponents(const Parameters& p) { return {p.header->exponent, p.header->concentration}; }

// 2^(factor * min(difference, 0)): where the difference exceeds 0, the similarity is one of the other set. Keeps NaN.
DEVICE float below(float difference, float factor) {
    return exp2_approximate(difference > 0.0f ? 0.0f : difference * factor);
}
