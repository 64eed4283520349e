// The sum of the similarities of all anchors with all keys, for the statistics: the product of the sums of their unit rows.
// With it, one pass for the quantiles and the sums need not add similarities, except those of pairs that do not count. For
// few pairs, adding them takes less time than this kernel.

struct TotalMemory {
    double sums[WARPS][DIMS];
    double all[2][DIMS];  // of each side
    double products[WARPS];
    u32 last;
};
static_assert(sizeof(TotalMemory) == ((WARPS + 2) * DIMS + WARPS + 1) * 8, "sizes");

// Writes the sum of vectors to `to`: of those from number `first` on, by `step`. `add(sum, number, dim)` adds four
// dimensions of one. By one block, in a fixed order.
template <class Add> DEVICE void sum_vectors(TotalMemory& shared, int first, int count, int step, double* to, Add add) {
    double sums[FOURS][4] = {};
    _Pragma("unroll 4") for (int number = first + warp_of_thread(); number < count; number += step) {
        UNROLL for (int k = 0; k < FOURS; k++) {
            if (first_of_four(k) < DIMS) add(sums[k], number, first_of_four(k));
        }
    }
    UNROLL for (int k = 0; k < FOURS; k++) {
        if (first_of_four(k) >= DIMS) continue;
        UNROLL for (int i = 0; i < 4; i++) shared.sums[warp_of_thread()][first_of_four(k) + i] = sums[k][i];
    }
    sync_threads();
    for (int dim = threadIdx.x; dim < DIMS; dim += THREADS) {
        double sum = 0.0;
        UNROLL for (int warp = 0; warp < WARPS; warp++) sum += shared.sums[warp][dim];
        to[dim] = sum;
    }
    sync_threads();
}

KERNEL(THREADS, 2) total_similarity(const Parameters p, const Launch l) {
    begin();
    SHARED_MEMORY(memory);
    TotalMemory& shared = *(TotalMemory*)memory;
    const int sides = p.square ? 1 : 2, blocks = l.splits;
    for (int side = 0; side < sides; side++) {
        const Side& rows = side ? p.keys : p.anchors;
        double* const to = p.row_sums + ((i64)side * blocks + blockIdx.x) * DIMS;
        sum_vectors(shared, blockIdx.x * WARPS, rows.count, blocks * WARPS, to, [&](double (&sum)[4], int row, int dim) {
            const double inverse = rows.cards[row].inverse_length;
            float x[4];
            four_elements(x, rows.rows + (i64)row * ROW_BYTES, dim);
            UNROLL for (int i = 0; i < 4; i++) sum[i] += inverse * x[i];
        });
    }
    if (!is_last_block(&p.header->done[4], blocks, &shared.last)) return;
    for (int side = 0; side < sides; side++) {
        const double* const from = p.row_sums + (i64)side * blocks * DIMS;
        sum_vectors(shared, 0, blocks, WARPS, shared.all[side], [&](double (&sum)[4], int block, int dim) {
            const double2* const two = (const double2*)(from + (i64)block * DIMS + dim);
            sum[0] += two[0].x, sum[1] += two[0].y, sum[2] += two[1].x, sum[3] += two[1].y;
        });
    }
    double product = 0.0;
    for (int dim = threadIdx.x; dim < DIMS; dim += THREADS) product += shared.all[0][dim] * shared.all[sides - 1][dim];
    product = sum_of_warps(warp_sum(product), shared.products);
    if (threadIdx.x == 0) p.header->similarities = product;
}
