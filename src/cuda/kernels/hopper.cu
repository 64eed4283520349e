// The common parts of the kernels for sm_90a: tiles that are copied by bulk copies, and products of warpgroups (wgmma).
//
// A block has several warpgroups of 128 threads. The first one, the producer, copies tiles of columns to a ring of
// stages. The others, the consumers, each multiply a strip of 64 rows of their own by the tiles. They are synchronised by:
//   full[stage]   an mbarrier that completes when the copies of a stage have arrived. Consumers wait for it.
//   empty[stage]  an mbarrier that completes when all consumer warps have finished with a stage. The producer waits for
//                 it.
//   own           an mbarrier that completes when the block's own rows have arrived.
// The exponentials of a consumer overlap with the products of the others. The two consumers of the gradient multiply in
// turn, by the named barriers 1 and 2.
//
// A wait on a parity returns when the phase before the current one has this parity. So consumers start with 0, the
// producer with 1 because all stages are empty, and each flips its parity after every round of the ring.
//
// A product may read its factors until it is waited for. Only then are registers and stages free. Every iteration of a
// loop waits for all of its products. If one is in flight across the end of an iteration, ptxas serialises all
// products.
//
// `../hopper.rs` has the sizes: WGMMA_COLUMNS of a tile, and of each kernel the consumers of a block and the stages.

#ifdef WGMMA_COLUMNS

// A strip is the rows of a consumer, in panels like those of a tile.
#define STRIP 64
#define STRIP_PANEL_BYTES (STRIP * 128)

// A descriptor with the dimensions as inner index: 1,024 bytes from 8 rows to the next. The leading offset is not used.
DEVICE u64 rows_at(u32 address) { return descriptor(address, 16, 1024); }
// A descriptor of the same bytes with the rows as inner index: the next 64 dimensions are in the next panel.
DEVICE u64 columns_at(u32 address) { return descriptor(address, PANEL_BYTES, 1024); }
// An offset that can be added to a descriptor.
DEVICE u64 further(u32 bytes) { return bytes >> 4; }

// c = the products of a strip with the rows of a tile, as one group. They add the dimensions in order, 16 at a time, so
// that all of these kernels get the same bits.
DEVICE void multiply_rows(float (&c)[PAIRS], u64 a, u64 b) {
    begin_products();
    multiply_tiles<0>(c, a, b);
    UNROLL for (int k = 1; k < DIMS / 16; k++) {
        const int panel = k / 4, step = k % 4 * 32;
        multiply_tiles<1>(c, a + further(panel * STRIP_PANEL_BYTES + step), b + further(panel * PANEL_BYTES + step));
    }
    commit_products();
}

DEVICE int warpgroup_of_thread() { return (int)from_lane(threadIdx.x / 128, 0); }
// The first row of a thread in its strip. Its other row is 8 further.
DEVICE int row_in_strip() { return threadIdx.x / LANES % 4 * 16 + lane_of_thread() / 4; }

// A stage of the ring, and the parity of its phase.
struct Turn {
    u32 stage, parity;
};

// The shared memory of a block: the rows of its consumers, the ring with `notes` numbers for each column, and the
// mbarriers.
template <int consumers, int stages, int notes> struct BlockMemory {
    enum : u32 {
        BLOCK_THREADS = 128 + consumers * 128,
        ROWS = consumers * STRIP,
        OWN_BYTES = ROWS * ROW_BYTES,
        NOTE_BYTES = notes * WGMMA_COLUMNS * 4,
        FIRST_NOTE = notes == COEFFICIENTS ? WGMMA_COLUMNS : 0,
        NOTES_AT = OWN_BYTES + stages * TILE_BYTES,
        BARRIERS_AT = NOTES_AT + stages * NOTE_BYTES,
        END_AT = BARRIERS_AT + (2 * stages + 2) * 8
    };
    u32 address;  // in shared memory, a multiple of 1,024

    DEVICE u32 full(u32 stage) const { return address + BARRIERS_AT + stage * 8; }
    DEVICE u32 empty(u32 stage) const { return address + BARRIERS_AT + (stages + stage) * 8; }
    DEVICE u32 own() const { return address + BARRIERS_AT + 2 * stages * 8; }
    DEVICE u32 strip(int consumer) const { return address + consumer * STRIP * ROW_BYTES; }
    DEVICE u32 tile(u32 stage) const { return address + OWN_BYTES + stage * TILE_BYTES; }
    DEVICE u32 notes_of(u32 stage) const { return address + NOTES_AT + stage * NOTE_BYTES; }

    // Starts at the first multiple of 1,024. Called by all threads.
    DEVICE explicit BlockMemory(u8* memory) {
        address = (shared_address(memory) + 1023) & ~1023u;
        if (threadIdx.x == 0) {
            for (int stage = 0; stage < stages; stage++) {
                barrier_init(full(stage), 1);
                barrier_init(empty(stage), consumers * 4);
            }
            barrier_init(own(), 1);
            publish_barriers();
        }
        sync_threads();
    }

    DEVICE void next(Turn& turn) const {
        if (++turn.stage < stages) return;
        turn.stage = 0;
        turn.parity ^= 1;
    }

    // For the producer, by one thread: copies the block's own rows.
    DEVICE void bring_rows(const Tiles& from, int first) const {
        barrier_expect(own(), OWN_BYTES);
        for (int consumer = 0; consumer < consumers; consumer++) {
            const int row = first + consumer * STRIP;
            const u8* tile = from.rows + (i64)(row / WGMMA_COLUMNS) * TILE_BYTES + row % WGMMA_COLUMNS * 128;
            for (int panel = 0; panel < DIMS / 64; panel++) {
                copy_bulk(strip(consumer) + panel * STRIP_PANEL_BYTES, tile + panel * PANEL_BYTES, STRIP_PANEL_BYTES, own());
            }
        }
    }
    // Copies the tiles `from` to `to` with their notes, each as soon as its stage is empty.
    DEVICE void bring_tiles(const Tiles& columns, int from, int to, Turn& turn) const {
        for (int tile_index = from; tile_index < to; tile_index++) {
            barrier_wait(empty(turn.stage), turn.parity);
            barrier_expect(full(turn.stage), TILE_BYTES + NOTE_BYTES);
            copy_bulk(tile(turn.stage), columns.rows + (i64)tile_index * TILE_BYTES, TILE_BYTES, full(turn.stage));
            copy_bulk(notes_of(turn.stage), columns.notes + (i64)tile_index * NOTES * WGMMA_COLUMNS + FIRST_NOTE,
                      NOTE_BYTES, full(turn.stage));
            next(turn);
        }
    }

    // For the consumers.
    DEVICE void wait_for(const Turn& turn) const { barrier_wait(full(turn.stage), turn.parity); }
    // By each warp that has finished with a stage.
    DEVICE void release(u32 stage) const {
        sync_warp();
        if (lane_of_thread() == 0) barrier_arrive(empty(stage));
    }
};

// The tiles that belong to a part of the columns.
struct Part {
    int from, to;
};
DEVICE Part part_of(const Side& columns, int part, int parts) {
    const int tiles = (columns.count + WGMMA_COLUMNS - 1) / WGMMA_COLUMNS;
    return {(int)((i64)tiles * part / parts), (int)((i64)tiles * (part + 1) / parts)};
}

// The products of a strip that a thread has.

// Calls `f(product, row (0 or 1), column in the tile)`.
template <class F> DEVICE void each_of_strip(float (&c)[PAIRS], F f) {
    const int first = lane_of_thread() % 4 * 2;
    UNROLL for (int i = 0; i < PAIRS; i++) f(c[i], i / 2 % 2, i / 4 * 8 + first + i % 2);
}

// Turns products into similarities, like `similarity`.
DEVICE void scale_strip(float (&c)[PAIRS], const float (&inverse)[2], u32 notes) {
    UNROLL for (int block = 0; block < WGMMA_COLUMNS / 16; block++) {
        const float4 other = load_shared(notes + (block * 16 + lane_of_thread() % 4 * 4) * 4);
        UNROLL for (int half = 0; half < 2; half++) {
            float* pair = c + block * 8 + half * 2;
            pair[0] = similarity(pair[0], inverse[half], other.x);
            pair[1] = similarity(pair[1], inverse[half], other.y);
            pair[4] = similarity(pair[4], inverse[half], other.z);
            pair[5] = similarity(pair[5], inverse[half], other.w);
        }
    }
}

// Finds the tiles in which a strip may have pairs that are not pairs of an anchor and a negative. They are visited in order.
struct Exclusions {
    // The strip has no such pair before this column, from the tile on that it was found for. Few tiles need the search,
    // which takes a division.
    int next = -64;

    DEVICE bool may_be_in(const Parameters& p, const Side& columns, int row, int column, bool rows_are_keys) {
        if (column > next + 63) next = find(p, columns, row, column, rows_are_keys);
        return column + WGMMA_COLUMNS > next;
    }
    // `row`: the first one of the strip.
    DEVICE static int find(const Parameters& p, const Side& columns, int row, int column, bool rows_are_keys) {
        if (p.pairing != VIEWS) return are_named(p) ? column : columns.count;
        // The keys of a sample are a multiple of `view_rows` apart. The first multiple from `least` on is that of a column
        // and the first row of the strip or, up to 63 columns earlier, a later one. There are at most 2^29 rows.
        const int least = column - row - 63 + (rows_are_keys ? p.offset : -p.offset);
        const int above = least % p.view_rows;  // 0, or with the sign of `least`
        const int found = column - 63 + (above > 0 ? p.view_rows - above : -above);
        return found < columns.count ? found : columns.count;
    }
};

// The shape for `bit_of_column` and the functions that use it.
struct StripShape {
    enum : int { columns = WGMMA_COLUMNS };
};

// Bits of the thread's columns, 2 of each 8.
DEVICE int column_of_bit(int bit) { return bit / 2 * 8 + lane_of_thread() % 4 * 2 + bit % 2; }

// The columns of a tile that are not negatives of a row.
DEVICE u32 excluded_columns(const Parameters& p, const Side& columns, int row, int column, bool rows_are_keys) {
    u32 bits = 0;
    if (column + WGMMA_COLUMNS > columns.count) {
        UNROLL for (int bit = 0; bit < PAIRS / 2; bit++) {
            if (column + column_of_bit(bit) >= columns.count) bits |= 1u << bit;
        }
    }
    if (are_named(p)) return bits | named_bits<StripShape>(p, row, column, rows_are_keys);
    if (p.pairing != VIEWS) return bits;
    const int offset = rows_are_keys ? p.offset : 0, anchor = row - offset;
    if (anchor < 0 || anchor >= p.anchors.count) return bits;
    ROLLED for (int k = 0; k < p.excluded; k++) {
        bits |= bit_of_column<StripShape>(excluded_key(p, anchor, k) - offset - column);
    }
    return bits;
}

// Finds the pairs of the thread's two rows that are not pairs of an anchor and a negative. Returns whether the warp has
// any.
DEVICE bool find_excluded(const Parameters& p, const Side& columns, int row, int column, bool rows_are_keys,
                          u32 (&bits)[2]) {
    row = anew(row);
    UNROLL for (int half = 0; half < 2; half++) {
        bits[half] = excluded_columns(p, columns, row + half * 8, column, rows_are_keys);
    }
    return any((bits[0] | bits[1]) != 0);
}
DEVICE bool is_excluded(const u32 (&bits)[2], int pair) { return bits[pair / 2 % 2] >> (pair / 4 * 2 + pair % 2) & 1; }

#endif
