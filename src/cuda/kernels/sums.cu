// The usual case: one threshold for all anchors, shifts of 1, and the weights exp(s) (beta 1, or no weights). It takes
// one exponential per pair.
KERNEL(PASS_THREADS, PASS_RESIDENT) sums(const Parameters p, const Launch l) {
    begin();
    SHARED_MEMORY(stages);
    if (p.joint && !p.header->rerun) return;
    const int first = blockIdx.x * TILE_ROWS;
    const float limit = p.header->limit, exponent = p.header->exponent;
    Sums all[PASS_ROWS] = {};
    PassRows own;
    sweep<PassShape>(p, stages, p.anchors, p.keys, first, own, [&](PassProducts& s, int column, const u8*) {
        add_similarities(p, own, first, column, all, s);
        Sums tile[PASS_ROWS] = {};
        each_pair(s, [&](float c, int row, int, int) {
            const float e = exp2_approximate(c * exponent - exponent);
            if (c > limit) {
                tile[row].weighted += e * e;
                tile[row].weights += e;
                tile[row].hierarchical += 1.0f;
            } else {
                tile[row].global += e;
            }
        });
        add_tile(all, tile);
    });
    write_sums(p, own, all);
}
