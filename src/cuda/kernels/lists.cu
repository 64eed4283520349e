// The lists of similarities that one pass for the quantiles and the sums makes (`joint.cu`, `hopper_joint.cu`).

// A key of the row that is not a negative is listed times this power of two, so that it exceeds all cosines.
#define MARK 1048576.0f
// The least lower end of a list. A marked number below would not exceed all cosines.
#define LEAST_END 0.0009765625f

// The lower end of a row's list. Infinity if the row has none.
DEVICE float list_start(const Parameters& p, int row) {
    const float end = fminf(p.lows[row], p.header->floor);
    return end >= LEAST_END ? end : infinity();
}

// What the row of an anchor has in place of the similarity with a key that is not a negative. Minus infinity if it is
// not listed, as is the padding: its similarities are 0.
DEVICE float marked(const Parameters& p, int anchor, int key, float low, float c) {
    const float member = key == own_key(p, anchor) ? 1.0f : c;
    return member >= low ? member * MARK : -infinity();
}

// Numbers of the thread's rows, in fields of 32 / `rows` bits of one number.
template <int rows> struct Fields {
    u32 all;

    DEVICE static u32 one(int row) { return 1u << 32 / rows * row; }
    DEVICE u32 of(int row) const { return all >> 32 / rows * row & (u32)((1ull << 32 / rows) - 1); }
};

// Places in the lists of the thread's rows, relative to the starts of the lists.
template <int rows> struct Places {
    u32 start;  // for the four lanes of the row that the lane has reserved places for
    Fields<rows> before;  // what lower lanes list

    // The lane's first place in the list of a row. By all lanes.
    DEVICE u32 of(int row) const { return from_lane(start, (lane_of_thread() & ~3) + row) + before.of(row); }
};

// Reserves places for `listed` similarities of each row. `index_of(i)` is the index of row i. Each of the four lanes of
// the rows reserves places for at most one of them.
template <int rows, class IndexOf>
DEVICE Places<rows> reserve(const Parameters& p, Fields<rows> listed, IndexOf index_of) {
    static_assert(rows <= 4, "four lanes");
    const int lane = lane_of_thread(), mine = lane % 4;
    const Fields<rows> up_to = {prefix_sum<4>(listed.all)}, all = {from_lane(up_to.all, lane | 3)};
    Places<rows> places = {0, {up_to.all - listed.all}};
    if (mine < rows && all.of(mine) > 0) places.start = atomic_add(p.inside + index_of(mine), all.of(mine));
    return places;
}

// Whether the list of a row has room for `count` numbers from a place on. Of a list that is too long, nothing is read.
DEVICE bool has_room(const Parameters& p, u32 place, u32 count) { return place + count <= (u32)p.capacity; }

DEVICE float* list_of(const Parameters& p, const Launch& l, int row) {
    return p.survivors + (i64)(row - l.first_row) * p.capacity;
}

// Writes the sums of row number `at` of the launch to those of this part of the columns. By the four lanes of the row.
DEVICE void write_parts(const Parameters& p, const Launch& l, int at, float global, float similarities) {
    float sums[2] = {global, similarities};
    UNROLL for (int i = 0; i < 2; i++) {
        UNROLL for (int lanes = 1; lanes < 4; lanes *= 2) sums[i] += exchange(sums[i], lanes);
    }
    if (lane_of_thread() % 4 != 0 || at >= l.rows) return;
    float* out = p.parts + ((i64)blockIdx.y * l.rows + at) * 2;
    out[0] = sums[0];
    out[1] = sums[1];
}
