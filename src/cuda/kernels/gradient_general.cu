// The gradient for any thresholds, exponents and shifts.

KERNEL(THREADS, 1) gradient_general(const Parameters p, const Launch l) {
    begin();
    SHARED_MEMORY(stages);
    const bool by_rows = p.square || l.side == 0, by_columns = p.square || l.side == 1;
    // Read in the sweep rather than before it, which would need more registers.
    const Split* splits = (l.side == 1 ? p.keys : p.anchors).splits;
    const Exponents by = exponents(p);
    OwnRows<2> own;
    add_gradient(p, l, stages, own, [&](float c, int row, int n, int e, const u8* stage) {
        const Split& mine = splits[own.index[row]];
        const Split& other = split_of_column<GradientShape>(stage, n, e);
        float sum = 0.0f;
        if (by_rows) sum += slope(by, c, is_hierarchical(p, c, mine, other), own.card[row], mine);
        if (by_columns) sum += slope(by, c, is_hierarchical(p, c, other, mine), card_of_column<GradientShape>(stage, n, e), other);
        return c == -infinity() ? 0.0f : sum;
    });
}
