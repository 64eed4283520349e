// Sums over the negatives of each anchor.

// The sums of one row over the columns of a thread, in the order of `Sums` in `formula.rs`, then the sum of
// similarities.
struct Sums {
    float global, weighted, weights, hierarchical, similarities;
};

// Adds the similarities of negatives. Those of other pairs become minus infinity.
DEVICE void add_similarities(const Parameters& p, const PassRows& own, int first, int column, Sums (&sums)[PASS_ROWS], PassProducts& s) {
    each_pair(s, [&](float c, int row, int, int) { sums[row].similarities += c; });
    each_excluded<PassShape>(p, p.keys, own, first, column, false, s, [&](float& c, int row) {
        sums[row].similarities -= c;
        c = -infinity();
    });
}

// Adds the sums of a tile. Summing tile by tile keeps the rounding errors small.
DEVICE void add_tile(Sums (&sums)[PASS_ROWS], const Sums (&tile)[PASS_ROWS]) {
    UNROLL for (int row = 0; row < PASS_ROWS; row++) {
        sums[row].global += tile[row].global;
        sums[row].weighted += tile[row].weighted;
        sums[row].weights += tile[row].weights;
        sums[row].hierarchical += tile[row].hierarchical;
    }
}

// Writes the sums of one row, by the four lanes that have it.
DEVICE void write_row_sums(const Parameters& p, int row, const Sums& sums) {
    float all[SUMS] = {sums.global, sums.weighted, sums.weights, sums.hierarchical, sums.similarities};
    float* out = p.sums + ((i64)blockIdx.y * p.anchors.padded + row) * SUMS;
    UNROLL for (int i = 0; i < SUMS; i++) {
        UNROLL for (int lanes = 1; lanes < 4; lanes *= 2) all[i] += exchange(all[i], lanes);
        if (lane_of_thread() % 4 == 0) out[i] = all[i];
    }
}

DEVICE void write_sums(const Parameters& p, const PassRows& own, const Sums (&sums)[PASS_ROWS]) {
    UNROLL for (int row = 0; row < PASS_ROWS; row++) write_row_sums(p, own.index[row], sums[row]);
}
