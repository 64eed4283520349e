// The gradient in the usual case, that of the kernel `sums`. The coefficients of rows that are not anchors are 0.
KERNEL(THREADS, 1) gradient(const Parameters p, const Launch l) {
    begin();
    SHARED_MEMORY(stages);
    const float limit = p.header->limit, exponent = p.header->exponent;
    OwnRows<2> own;
    add_gradient(p, l, stages, own, [&](float c, int row, int n, int e, const u8* stage) {
        const Card& mine = own.card[row];
        const Card& other = card_of_column<GradientShape>(stage, n, e);
        const float exponential = exp2_approximate(c * exponent - exponent);
        float factor = mine.global + other.global;
        if (c > limit) factor = exponential * (mine.weighted + other.weighted) - (mine.weights + other.weights);
        return exponential * factor;
    });
}
