// The gradient: the derivatives by the similarities of a tile, times the rows of the other side.

// The number of dimensions that a block adds. The sum of 8 dimensions takes 4 registers.
#define LARGEST_CHUNK (ROW_BYTES > LONG_ROW ? LONG_ROW_CHUNK : MAX_CHUNK)
#define CHUNK (DIMS < LARGEST_CHUNK ? DIMS : LARGEST_CHUNK)
#define CHUNKS ((DIMS + CHUNK - 1) / CHUNK)

#define PART (CHUNK % 64 == 0 ? CHUNK / 2 : CHUNK)  // of 32-bit rows: dimensions that are added at a time

struct Accumulator {
    float c[CHUNK / 8][4];
};

// Derivatives of float16 rows saturate.
DEVICE float within_range(float x) {
#if OPERAND == F16
    // Keeps NaN.
    return x > 65504.0f ? 65504.0f : x < -65504.0f ? -65504.0f : x;
#else
    return x;
#endif
}

DEVICE u32 pack(float low, float high) {
#if OPERAND == F16
    return pack_f16(within_range(low), within_range(high));
#else
    return pack_bf16(low, high);
#endif
}

typedef Products<1, GradientShape::blocks> Derivatives;

// sum += m * columns: the derivatives of 16 rows by the columns of a tile, times these columns, from dimension `chunk`
// on.
DEVICE void accumulate(Accumulator& sum, const Derivatives& products, const u8* stage, int chunk) {
    const float(&m)[GradientShape::blocks][4] = products.c[0];
    const int lane = lane_of_thread();
#if ELEMENT == 2
    const u8* at = stage + (lane % 8 + lane / 8 % 2 * 8) * PITCH + (chunk + lane / 16 * 8) * ELEMENT;
    UNROLL for (int k = 0; k < GradientShape::blocks; k += 2) {
        const u32 a[4] = {pack(m[k][0], m[k][1]), pack(m[k][2], m[k][3]), pack(m[k + 1][0], m[k + 1][1]),
                          pack(m[k + 1][2], m[k + 1][3])};
        UNROLL for (int d = 0; d < CHUNK; d += 16) {
            if (DIMS % CHUNK != 0 && chunk + d >= DIMS) continue;
            u32 b[4];
            load_matrices_transposed(b, at + k * 8 * PITCH + d * ELEMENT);
            multiply(sum.c[d / 8], a, b[0], b[1], 0);
            multiply(sum.c[d / 8 + 1], a, b[2], b[3], 0);
        }
    }
#else
    // The inner index runs over the columns in the order in which the lanes hold them.
    const u8* at = stage + lane % 4 * 2 * PITCH + (chunk + lane / 4) * ELEMENT;
    // The sums of each tile start at 0, as those of similarities do (FRESH in `tile.cu`).
    UNROLL for (int first = 0; first < CHUNK; first += PART) {
        float part[PART / 8][4] = {};
        UNROLL for (int k = 0; k < GradientShape::blocks; k++) {
            u32 a[4] = {bits_of(m[k][0]), bits_of(m[k][2]), bits_of(m[k][1]), bits_of(m[k][3])};
#if OPERAND == TF32
            UNROLL for (int i = 0; i < 4; i++) a[i] = round_to_tf32(float_of(a[i]));
#endif
            UNROLL for (int d = 0; d < PART; d += 8) {
                if (DIMS % CHUNK != 0 && chunk + first + d >= DIMS) continue;
                const u8* from = at + k * 8 * PITCH + (first + d) * ELEMENT;
                multiply(part[d / 8], a, word(from), word(from + PITCH), 0);
            }
        }
        UNROLL for (int d = 0; d < PART / 8; d++) UNROLL for (int e = 0; e < 4; e++) sum.c[first / 8 + d][e] += part[d][e];
    }
#endif
}

// Writes the sums to the partial sums of this split.
DEVICE void write_partial(const Launch& l, const Side& rows, const OwnRows<2>& own, const Accumulator& sum, int chunk) {
    UNROLL for (int half = 0; half < 2; half++) {
        if (own.index[half] >= rows.count) continue;
        float* out = l.partial + ((i64)blockIdx.y * l.partial_rows + own.index[half]) * l.partial_dims;
        UNROLL for (int d = 0; d < CHUNK / 8; d++) {
            UNROLL for (int e = 0; e < 2; e++) {
                int dim = chunk + d * 8 + lane_of_thread() % 4 * 2 + e;
                if (dim < l.partial_dims) out[dim] = sum.c[d][half * 2 + e];
            }
        }
    }
}

// Adds the gradient of a block of rows. `derivative(c, row, n, e, stage)` is the derivative by one similarity.
template <class Derivative>
DEVICE void add_gradient(const Parameters& p, const Launch& l, u8* stages, OwnRows<2>& own, Derivative derivative) {
    const bool of_keys = l.side == 1;
    const Side& rows = of_keys ? p.keys : p.anchors;
    const Side& columns = of_keys ? p.anchors : p.keys;
    const int first = blockIdx.x * TILE_ROWS, chunk = blockIdx.z * CHUNK;
#if OPERAND == F16
    const float scale = p.header->gradient_scale;
#endif
    Accumulator sum;
    UNROLL for (int d = 0; d < CHUNK / 8; d++) UNROLL for (int e = 0; e < 4; e++) sum.c[d][e] = 0.0f;
    sweep<GradientShape>(p, stages, rows, columns, first, own, [&](Derivatives& s, int column, const u8* stage) {
        keep_negatives<GradientShape>(p, columns, own, first, column, of_keys, s);
        each_pair(s, [&](float& c, int row, int n, int e) {
            c = derivative(c, row, n, e, stage);
#if ELEMENT == 2
            c *= card_of_column<GradientShape>(stage, n, e).inverse_length;
#endif
#if OPERAND == F16
            c *= scale;
#endif
        });
        accumulate(sum, s, stage, chunk);
    });
    write_partial(l, rows, own, sum, chunk);
}
