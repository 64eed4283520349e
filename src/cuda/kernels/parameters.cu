// What the kernels are told. `../parameters.rs` has the same structures, and a test there compares the two.

#define BF16 0
#define F16 1
#define TF32 2
#define SPLIT_TF32 3

// Sizes that the launches know too: `../sizes.rs` reads these lines. Plain numbers only.
#define THREADS 256
#define LANES 32
#define WARP_ROWS 16
#define MAX_VIEWS 16
#define SELECT_ROWS 16
#define STRIP_BYTES 4096  // of the similarities of one of these rows that stay in shared memory
#define DIGITS 256
#define SUMS 5  // over the negatives of an anchor: those of `formula.rs`, and the sum of their similarities
// Sums over all anchors: loss, hierarchical negatives, positive and negative similarities, pairs at the floor, defined
// losses, negatives, and the derivative by the temperature of the terms without similarities. Last, the largest weight.
#define TOTALS 9
// Bytes of the structures below, and of the shared memory of the kernels without tiles.
#define HEADER_BYTES 128
#define FAILED_AT 24  // of a `Header`, where its rows that failed are
#define CARD_BYTES 16
#define SPLIT_BYTES 32
#define SELECT_SHARED 74112
#define SELECT_FAILED_SHARED 16656
#define ANCHORS_SHARED 584
#define FINISH_SHARED 72
#define INDEX_SHARED 1024
// Tiles, by the bytes of a row: columns of the gradient's and of the other passes', blocks of the latter on a
// multiprocessor that their registers are planned for.
#define SHORT_ROW 256
#define SHORT_ROW_RESIDENT 3
#define LONG_ROW 512
#define COLUMNS 64
#define FEW_COLUMNS 32
#define LONG_ROW_CHUNK 64
#define MAX_CHUNK 128

#define WARPS (THREADS / LANES)

// Bytes of an element of an operand row.
#if OPERAND == BF16 || OPERAND == F16
#define ELEMENT 2
#else
#define ELEMENT 4
#endif

enum Pairing { VIEWS, INDEXED, APART };
enum Threshold { ADAPTIVE, COSINE, MINMAX, LABELS };
enum Formulation { IMPORTANCE, OFFICIAL, DECOUPLED };
enum Scalar { SCALAR_BF16, SCALAR_F16, SCALAR_F32, SCALAR_F64 };

// A strided matrix of the caller's; strides in elements.
struct Matrix {
    const void* pointer;
    i64 row_stride;
    i64 dim_stride;
};

// What every kernel reads of a row besides its numbers: 16 bytes.
struct Card {
    float inverse_length;  // of the row as the operand holds it
    // Coefficients of `formula.rs`, 0 for rows that are no anchors.
    float global;
    float weighted;
    float weights;
};

// What only the general kernels read of a row: 32 bytes.
struct Split {
    i64 label;
    float threshold;
    float global_shift;
    float hierarchical_shift;
    u32 unused[3];
};

// The rows of an input in the scratch memory, zero rows appended up to a whole number of tiles.
struct Side {
    u8* rows;  // [padded][DIMS] operands
    Card* cards;
    Split* splits;  // null where no kernel reads them
    double* lengths;  // of the rows as they came
    int count;
    int padded;
};

// A side's rows once more, as the kernels for sm_90a read them: `hopper.cu`.
struct Tiles {
    u8* rows;  // [padded][DIMS] operands, swizzled
    float* notes;  // of each tile, several numbers for each row
};

// Written by one thread, read by all of later launches.
struct Header {
    double epsilon;
    double factor;  // of the gradients: 1 / anchors with a loss, for the mean
    float limit;  // what hierarchical similarities exceed: epsilon, or infinity
    float gradient_scale;  // a power of two that derivatives are multiplied by before they are rounded to 16 bits
    u32 failed;  // rows whose quantile was not found among the survivors
    u32 done[4];  // blocks that have ended, of the launches that end with a sum over all blocks
    u32 precise_shifts;  // whether each anchor has its own shifts; else all shifts are 1
    double temperature;  // NaN if it is not a positive number
    double temperature_slope;  // derivative of the loss by the temperature, of the terms that do not use similarities
    float exponent;  // log2(e) / temperature
    float concentration;  // beta log2(e) / temperature
};
static_assert(sizeof(Card) == CARD_BYTES && sizeof(Split) == SPLIT_BYTES && sizeof(Header) <= HEADER_BYTES, "sizes");

struct Parameters {
    Matrix views[MAX_VIEWS];
    Matrix keys_matrix;
    Matrix positives_matrix;
    const i64* positive_index;
    const i64* ignored_index;
    const i64* anchor_labels;
    const i64* key_labels;
    const void* epsilon;
    const void* given_temperature;  // null: the number below
    const float* anchor_weights;
    float* loss;
    float* statistics;
    float* temperature_gradient;  // null: not wanted

    Header* header;
    Side anchors;
    Side keys;  // the anchors' where the problem is square
    Side apart;
    float* quantiles;  // [anchors]
    float* lows;  // [anchors] the bracket of each quantile
    float* highs;
    u32* above;  // [anchors] similarities above the bracket
    u32* inside;  // [anchors] similarities in it
    float* survivors;  // [rows of a block][capacity] these
    u32* failed;  // [anchors] the rows that failed
    u32* excluded_keys;  // [anchors][excluded] ascending, where anchors name their keys; ~0 for none
    u32* key_ends;  // [keys] where each key's pairs end in the next
    u32* key_pairs;  // anchor times `excluded` plus place, of all pairs with the key that are no negatives, ascending
    u32* ranges;  // [anchors][2] smallest and largest similarity, or largest global and largest hierarchical one
    float* sums;  // [splits][padded anchors][SUMS]
    float* positive_similarities;  // [anchors][positives]
    float* positive_slopes;  // [anchors][positives]
    double* totals;  // [blocks][TOTALS]
    double* radials;  // [blocks of `finish`] sums of gradient times row, for the derivative by the temperature

    double threshold_value;
    double beta;
    double tau_plus;
    double temperature;
    double least_temperature;  // exponentials fit in single precision above this, with shifts of 1
    int dims;  // without the padding
    int square;
    int view_rows;
    int pairing;
    int positives;  // of each anchor
    int excluded;  // keys of each anchor that are no negatives, at most
    int offset;  // of the anchors among the keys
    int threshold;
    int formulation;
    int mean;  // the loss is a mean
    int one_loss;  // the loss is one number
    int epsilon_scalar;
    int temperature_scalar;
    int capacity;  // of survivors, each row
    int splits;  // of the columns in `sums`
    Tiles anchor_tiles;  // null but on sm_90a
    Tiles key_tiles;  // the anchors' where the problem is square
};

// What differs from launch to launch of one kernel.
struct Launch {
    // `gradient`, `finish`
    float* partial;  // [splits][rows][dims] sums of derivative times row
    i64 partial_rows;
    i64 partial_dims;
    float* gradient;  // [count][dims]
    float* output;  // `copy_quantiles`: a number for each row
    int side;  // whose gradient: 0 anchors, 1 keys, 2 positives given apart
    int splits;
    int first_row;  // of this launch, and how many
    int rows;
    int mode;  // which ends of the bracket there are
    int columns;  // `select`, `sample`: how many
    int rank;
    int high_rank;  // `sample`: the upper end's
};

DEVICE int lane_of_thread() { return threadIdx.x % LANES; }
DEVICE int warp_of_thread() { return threadIdx.x / LANES; }

// Sums over the lanes of a warp, in a fixed order; every lane has the result.
DEVICE double warp_sum(double x) {
    UNROLL for (int lanes = 16; lanes > 0; lanes /= 2) x += exchange(x, lanes);
    return x;
}

// Floats in the order of integers. Only of numbers: NaN is above or below all.
DEVICE u32 ordered(float x) {
    u32 bits = bits_of(x);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
DEVICE float from_ordered(u32 key) { return float_of(key & 0x80000000u ? key & 0x7fffffffu : ~key); }

DEVICE float infinity() { return float_of(0x7f800000u); }
DEVICE float not_a_number() { return float_of(0x7fc00000u); }

// Key `k` of an anchor that is no negative, -1 for none: positives first, then itself or the ignored one.
DEVICE int excluded_key(const Parameters& p, int anchor, int k) {
    if (p.pairing == VIEWS) {
        // Positives, then (the shift of all views) itself.
        const int place = anchor + (k + 1) * p.view_rows;
        return p.offset + (place < p.anchors.count ? place : place - p.anchors.count);
    }
    i64 key = -1;
    if (k < p.positives) key = p.positive_index[(i64)anchor * p.positives + k];
    else if (p.ignored_index) key = p.ignored_index[anchor];
    return key >= 0 && key < p.keys.count ? (int)key : -1;
}

// Ascending numbers.
struct PairList {
    const u32* list;
    int count;
};

// Where anchors name their keys: those of an anchor that are no negatives, and the pairs of a key.
DEVICE PairList excluded_keys_of(const Parameters& p, int anchor) {
    return {p.excluded_keys + (i64)anchor * p.excluded, p.excluded};
}
DEVICE PairList pairs_of_key(const Parameters& p, int key) {
    const u32 start = key > 0 ? p.key_ends[key - 1] : 0;
    return {p.key_pairs + start, (int)(p.key_ends[key] - start)};
}

// The anchor's place among the keys, -1 where it is not known to have one.
DEVICE int own_key(const Parameters& p, int anchor) { return p.pairing == VIEWS ? p.offset + anchor : -1; }

// Nothing is above 1, whatever rounding says.
DEVICE float limit_of(double epsilon) { return epsilon >= 1.0 ? infinity() : (float)epsilon; }

// Whether this block is the last of its launch to come here. Then all that the others wrote before is to be seen.
DEVICE bool is_last_block(u32* done, u32 blocks, u32* shared) {
    fence();
    sync_threads();
    if (threadIdx.x == 0) *shared = atomic_add(done, 1) == blocks - 1;
    sync_threads();
    fence();
    return *shared;
}
