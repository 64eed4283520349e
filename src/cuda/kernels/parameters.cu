// The arguments of the kernels. `../parameters.rs` has the same structures, and a test there compares the layouts.

#define BF16 0
#define F16 1
#define TF32 2
#define SPLIT_TF32 3

// Sizes that the host uses too. `../sizes.rs` reads these lines, so each value must be a plain number.
#define THREADS 256
#define LANES 32
#define WARP_ROWS 16
#define MAX_VIEWS 16
#define SELECT_ROWS 16
#define STRIP_BYTES 4096  // of similarities of one of these rows, in shared memory
#define DIGITS 256
#define SUMS 5  // over the negatives of an anchor: those of `formula.rs`, and the sum of the similarities
// Sums over all anchors: loss, hierarchical negatives, positive and negative similarities, pairs at the floor, defined
// losses, negatives, and the derivative by the temperature of the terms without similarities. Last, the largest weight.
#define TOTALS 9
// Bytes of the structures below, and of the shared memory of the kernels without tiles.
#define HEADER_BYTES 128
#define CARD_BYTES 16
#define SPLIT_BYTES 32
#define SELECT_SHARED 74112
#define SELECT_FAILED_SHARED 16656
#define ANCHORS_SHARED 584
#define FINISH_SHARED 72
#define INDEX_SHARED 1024
#define GATHER_SHARED 1328
// Sizes of tiles, by the bytes of a row: the columns of a tile, and how many blocks of a pass without a gradient fit on
// a multiprocessor with their registers.
#define SHORT_ROW 256
#define SHORT_ROW_RESIDENT 3
#define LONG_ROW 512
#define COLUMNS 64
#define FEW_COLUMNS 32
#define LONG_ROW_CHUNK 64
#define MAX_CHUNK 128

#define WARPS (THREADS / LANES)

// Bytes of an element of a row.
#if OPERAND == BF16 || OPERAND == F16
#define ELEMENT 2
#else
#define ELEMENT 4
#endif

enum Pairing { VIEWS, INDEXED, APART };
enum Threshold { ADAPTIVE, COSINE, MINMAX, LABELS, MARGIN, RELATIVE_MARGIN };
enum Formulation { IMPORTANCE, OFFICIAL, DECOUPLED, SUPERVISED, ELIMINATION };
enum Scalar { SCALAR_BF16, SCALAR_F16, SCALAR_F32, SCALAR_F64 };

// A strided matrix of the caller. The strides are in elements.
struct Matrix {
    const void* pointer;
    i64 row_stride;
    i64 dim_stride;
};

// Numbers that every kernel reads along with a row, 16 bytes.
struct Card {
    float inverse_length;  // of the row in the scratch memory
    // Coefficients of `formula.rs`. 0 for rows that are not anchors.
    float global;
    float weighted;
    float weights;
};

// Numbers that only the general kernels read, 32 bytes.
struct Split {
    i64 label;
    float threshold;
    float global_shift;
    float hierarchical_shift;
    u32 unused[3];
};

// The rows of an input in the scratch memory, padded with rows of zeros to a whole number of tiles.
struct Side {
    u8* rows;  // [padded][DIMS] operands
    Card* cards;
    Split* splits;  // null if no kernel reads them
    double* lengths;  // of the input's rows
    int count;
    int padded;
};

// A copy of the rows of a side in the layout that the kernels for sm_90a read (`hopper.cu`).
struct Tiles {
    u8* rows;  // [padded][DIMS] operands, swizzled
    float* notes;  // for each tile, several numbers for each row
};

// Results of one evaluation that later launches read.
struct Header {
    double epsilon;
    double factor;  // of the gradients: 1 / number of anchors with a loss if the loss is a mean, else 1
    float limit;  // negatives above this are hierarchical: epsilon, or infinity
    float gradient_scale;  // a power of two: factor of the derivatives before they are rounded to float16
    u32 failed;  // number of rows whose quantile is not among the survivors
    u32 done[5];  // number of blocks that have ended, for each kernel that ends with a sum over its blocks
    u32 precise_shifts;  // whether each anchor has its own shifts; else all shifts are 1
    double temperature;  // NaN if it is not a positive number
    double temperature_slope;  // derivative of the loss by the temperature, of the terms that do not use similarities
    double similarities;  // sum over all anchors and all keys, by `total_similarity`
    float exponent;  // log2(e) / temperature
    float concentration;  // beta log2(e) / temperature
    // The bracket of the threshold: the threshold is most likely not below `floor` and not above `ceiling`.
    float floor;
    float ceiling;
    u32 pending;  // number of similarities whose set is not known before the threshold
    u32 rerun;  // whether the kernel `sums` computes the sums although `joint` is set
};
static_assert(sizeof(Card) == CARD_BYTES && sizeof(Split) == SPLIT_BYTES && sizeof(Header) <= HEADER_BYTES, "sizes");

// The matrices of the caller. `rows` copies them, and takes this in place of a `Launch`.
struct Inputs {
    Matrix views[MAX_VIEWS];
    Matrix keys;
    Matrix positives;
};

struct Parameters {
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
    Side keys;  // if the problem is square, `anchors`
    Side apart;
    float* quantiles;  // [anchors]
    float* lows;  // [anchors] lower ends of the brackets of the quantiles
    float* highs;  // [anchors] upper ends
    u32* above;  // [anchors] number of similarities above the bracket
    u32* inside;  // [anchors] number of similarities in the bracket
    float* survivors;  // [rows of a launch][capacity] the similarities in the bracket; then those of `kept_of`
    u32* failed;  // [anchors] the rows whose quantile is not among the survivors
    u32* excluded_keys;  // [anchors][excluded] ascending, if anchors name keys; ~0 for none
    u32* key_ends;  // [keys] end of each key's pairs in `key_pairs`
    u32* key_pairs;  // for each key its excluded pairs as anchor * excluded + place, ascending
    u32* ranges;  // [anchors][2] smallest and largest similarity (MARGIN: of the positives); later, of global and hierarchical negatives the largest
    float* sums;  // [splits][padded anchors][SUMS]
    // [splits of a launch][rows of a launch][2] sums over the global negatives, and of similarities: over all negatives
    // or, if `row_sums` is not null, minus those over other pairs
    float* parts;
    double* row_sums;  // [sides][splits of `total_similarity`][DIMS], null where it is not launched
    float* pending;  // [pending_capacity] similarities in the bracket of the threshold, row by row
    u32* pending_at;  // [anchors][2] start and number of a row's similarities in `pending`
    float* positive_similarities;  // [anchors][positives]
    float* positive_slopes;  // [anchors][positives]
    double* totals;  // [blocks][TOTALS]
    double* radials;  // [blocks of `finish`] sums of gradient times row, for the derivative by the temperature

    double threshold_value;
    double beta;
    double tau_plus;
    double temperature;
    double least_temperature;  // exponentials fit in single precision above this, with shifts of 1
    int dims;  // of the inputs, without padding
    int square;
    int view_rows;
    int tower;  // rows of a tower, if anchors are compared only with the other tower; else 0
    int pairing;
    int positives;  // of each anchor
    int excluded;  // keys of each anchor that are not negatives, at most
    int offset;  // row of the keys at which the anchors start
    int threshold;
    int formulation;
    int mean;  // whether the loss is the mean over the anchors
    int one_loss;  // whether the loss is one number
    int epsilon_scalar;
    int temperature_scalar;
    int capacity;  // of `survivors`, for each row
    int splits;  // parts of the columns that have their own sums
    int joint;  // whether one pass finds quantiles and sums
    int pending_capacity;
    Tiles anchor_tiles;  // null, except for the kernels for sm_90a
    Tiles key_tiles;  // if the problem is square, `anchor_tiles`
    float* apart_similarities;  // [anchors][rows_apart], null if no kernel reads them
    float* own_sums;  // [anchors][SUMS] over the own negatives, null if there are none
    int rows_apart;  // of each anchor that are not among the keys: its positive (APART), then its own negatives
};

// The arguments that differ between launches of a kernel.
struct Launch {
    // `gradient`, `finish`
    float* partial;  // [splits][rows][dims] sums of derivative times row
    i64 partial_rows;
    i64 partial_dims;
    float* gradient;  // [count][dims]
    float* output;  // for `copy_quantiles`, [anchors]
    int side;  // of which the gradient is: 0 anchors, 1 keys, 2 rows apart
    int splits;  // parts of the columns; for `total_similarity`, of the rows
    int first_row;  // of this launch
    // Number of rows: of this launch or, for `select`, `sample` and `anchors`, of a block. For `select_failed`, of failed
    // rows whose similarities fit into the memory of the survivors, at most.
    int rows;
    int mode;  // the ends that the bracket has, LOW or HIGH or both
    int columns;  // for `select` and `sample`: number of columns
    int rank;
    int high_rank;  // for `sample`: rank of the upper end
    // For `sample`: ranks of the ends of the bracket of the threshold. 0 if there is none, or no upper end.
    int floor_rank;
    int ceiling_rank;
};

DEVICE int lane_of_thread() { return threadIdx.x % LANES; }
DEVICE int warp_of_thread() { return threadIdx.x / LANES; }

// The sum over the lanes of a warp, in a fixed order. Every lane gets the result.
DEVICE double warp_sum(double x) {
    UNROLL for (int lanes = 16; lanes > 0; lanes /= 2) x += exchange(x, lanes);
    return x;
}

// The sum over the warps of a block, in a fixed order, of a number that all lanes of a warp have. Every thread gets it.
DEVICE double sum_of_warps(double x, double* shared) {
    sync_threads();
    if (lane_of_thread() == 0) shared[warp_of_thread()] = x;
    sync_threads();
    double sum = 0.0;
    for (int warp = 0; warp < WARPS; warp++) sum += shared[warp];
    return sum;
}

// The sum over the lanes up to this one, for each `lanes` neighbouring lanes of a warp.
template <int lanes> DEVICE u32 prefix_sum(u32 x) {
    UNROLL for (int distance = 1; distance < lanes; distance *= 2) add_lower<lanes>(x, distance);
    return x;
}

// An integer with the order of the float. NaN is above or below all numbers.
DEVICE u32 ordered(float x) {
    u32 bits = bits_of(x);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
DEVICE float from_ordered(u32 key) { return float_of(key & 0x80000000u ? key & 0x7fffffffu : ~key); }

DEVICE float infinity() { return float_of(0x7f800000u); }
DEVICE float not_a_number() { return float_of(0x7fc00000u); }

// The keys of an anchor that are not negatives, by number `k`: its positives, then itself or, if its list has one place,
// the key that it ignores. -1 for none. Longer lists are left to `named_key`: with them here, the passes would spill.
DEVICE int excluded_key(const Parameters& p, int anchor, int k) {
    if (p.pairing == VIEWS) {
        // The positives, then, shifted by all views, the anchor itself.
        const int place = anchor + (k + 1) * p.view_rows;
        return p.offset + (place < p.anchors.count ? place : place - p.anchors.count);
    }
    i64 key = -1;
    if (k < p.positives) key = p.positive_index[(i64)anchor * p.positives + k];
    else if (p.ignored_index) key = p.ignored_index[anchor];
    return key >= 0 && key < p.keys.count ? (int)key : -1;
}

// A list of ascending numbers.
struct PairList {
    const u32* list;
    int count;
};

// Whether anchors name keys. The next two are for these: the named keys of an anchor, and the pairs of a key.
DEVICE bool are_named(const Parameters& p) { return p.pairing != VIEWS && p.excluded > 0; }
DEVICE PairList excluded_keys_of(const Parameters& p, int anchor) {
    return {p.excluded_keys + (i64)anchor * p.excluded, p.excluded};
}
DEVICE PairList pairs_of_key(const Parameters& p, int key) {
    const u32 start = key > 0 ? p.key_ends[key - 1] : 0;
    return {p.key_pairs + start, (int)(p.key_ends[key] - start)};
}

// Whether two rows are compared. Rows of one tower are not.
DEVICE bool is_compared(const Parameters& p, int row, int key) {
    return !p.tower || (row < p.tower) != (key < p.tower);
}

// Rows or columns from `first` up to `end`.
struct Range {
    int first, end;
};

// The keys that a row is compared with: all of them or, if there are towers, those of the other tower.
DEVICE Range compared_keys(const Parameters& p, int row) {
    if (!p.tower) return {0, p.keys.count};
    return row < p.tower ? Range{p.tower, 2 * p.tower} : Range{0, p.tower};
}

// The similarities of an anchor with its rows apart. They belong to its row of similarities.
DEVICE const float* apart_of(const Parameters& p, int anchor) {
    return p.apart_similarities + (i64)anchor * p.rows_apart;
}

// The number of the first own negative among these rows: the positive may stand before them.
DEVICE int first_own(const Parameters& p) { return p.pairing == APART; }

// The threshold and the shifts of an anchor. For LABELS the threshold is NaN, which no own negative is above: they have
// no label.
DEVICE Split split_of(const Parameters& p, int anchor) {
    return p.anchors.splits ? p.anchors.splits[anchor] : Split{0, p.header->limit, 1.0f, 1.0f};
}

// The key that is the anchor itself. -1 if there is none.
DEVICE int own_key(const Parameters& p, int anchor) { return p.pairing == VIEWS ? p.offset + anchor : -1; }

// No cosine exceeds 1, but a rounded one may.
DEVICE float limit_of(double epsilon) { return epsilon >= 1.0 ? infinity() : (float)epsilon; }

// Whether this block is the last one of its launch to call this. If so, it sees what the other blocks have written.
DEVICE bool is_last_block(u32* done, u32 blocks, u32* shared) {
    fence();
    sync_threads();
    if (threadIdx.x == 0) *shared = atomic_add(done, 1) == blocks - 1;
    sync_threads();
    fence();
    return *shared;
}
