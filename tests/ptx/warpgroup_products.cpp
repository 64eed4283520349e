// wgmma: products of four warps, from shared memory, that run on by themselves.
#include <algorithm>

#include "decoder.hpp"
#include "machine.hpp"

namespace ptx {
namespace {

constexpr int K = 16;

// A matrix descriptor of the 128-byte swizzle: bits 0-13 the start, 16-29 the leading and 32-45 the stride offset (all
// in 16 bytes), 49-51 the base offset, 62-63 the mode.
struct SharedMatrix {
    u32 start, leading, stride;
    bool k_major;

    SharedMatrix(u64 descriptor, bool k_major) : k_major(k_major) {
        const auto field = [&](int at, int bits) { return (u32)(descriptor >> at & ((1ull << bits) - 1)); };
        if (field(62, 2) != 1) fault("a descriptor ", hex(descriptor), " of another mode than the 128-byte swizzle");
        if (field(14, 2) || field(30, 2) || field(46, 3) || field(52, 10)) fault("reserved bits in ", hex(descriptor));
        if (field(49, 3)) fault("a base offset in ", hex(descriptor));
        start = field(0, 14) << 4, leading = field(16, 14) << 4, stride = field(32, 14) << 4;
        if (start >> 7 & 7) fault("a matrix starts inside of the swizzle's 1,024 bytes: ", hex(descriptor));
        if ((start & 127) > (k_major ? 96u : 0u)) fault("a matrix leaves the swizzle's 128 bytes: ", hex(descriptor));
    }
    // The address of a 16-bit element: row of the left factor or column of the right one, and dimension.
    u32 at(u32 row, u32 k) const {
        const u32 plain = k_major ? start + row / 8 * stride + row % 8 * 128 + k * 2
                                  : start + row / 64 * leading + row % 64 * 2 + k / 8 * stride + k % 8 * 128;
        return plain ^ (plain >> 7 & 7) << 4;
    }
};

// What the decoder found.
struct Shape {
    int columns;
    bool left_is_shared, left_transposed, right_transposed;
    float (*number)(u16);  // of the factors' 16 bits

    size_t accumulators() const { return columns / 2; }
    SharedMatrix left(u64 descriptor) const { return {descriptor, !left_transposed}; }
    SharedMatrix right(u64 descriptor) const { return {descriptor, !right_transposed}; }
};

u64 same_in_all_lanes(Warp& warp, int at) {
    const u64* lanes = warp.lanes(at);
    for (int lane = 1; lane < LANES; lane++) {
        if (lanes[lane] != lanes[0]) fault("a descriptor or scale of wgmma differs between lanes");
    }
    return lanes[0];
}

// What an ordinary store wrote has to be fenced by its thread before the reader came after that thread.
void check_proxy(Warp& warp, size_t place) {
    SharedMemory& shared = warp.block.shared;
    shared.check_readable(warp, place, "wgmma");
    const Cell& cell = shared.cell(place);
    if (cell.by_async_proxy) return;
    const auto& fences = warp.block.warps[cell.writer / LANES]->products.proxy_fences[cell.writer % LANES];
    const auto after = std::upper_bound(fences.begin(), fences.end(), cell.write_time);
    if (after != fences.end() && *after <= warp.clock[cell.writer / LANES]) return;
    fault("wgmma reads shared+", place, ", stored by thread ", cell.writer, " without fence.proxy.async after it");
}

void touch(Warp& warp, const SharedMatrix& matrix, u32 from, u32 to, AsyncProduct& product) {
    // 16 bytes have 8 neighbours, of one row or of one dimension.
    const u32 rows = matrix.k_major ? 1 : 8, dims = matrix.k_major ? 8 : 1;
    for (u32 row = from; row < to; row += rows) {
        for (u32 k = 0; k < K; k += dims) {
            const size_t place = warp.block.shared.place(matrix.at(row, k), 16, "wgmma");
            for (size_t cell = place; cell < place + 16; cell += CELL) check_proxy(warp, cell);
            product.places.push_back(place);
        }
    }
}

// Order and proxy of what a product reads are checked when it is issued; it is computed when it is waited for.
void issue(Warp& warp, const Instruction& one, const Shape& shape) {
    WarpgroupPart& part = warp.products;
    Block& block = warp.block;
    if (block.warps.size() % 4) fault("wgmma in a block of ", block.warps.size(), " warps");
    if (!part.fence_step) fault("wgmma before any wgmma.fence");
    for (int at : one.products) {
        if (part.touched[at] > part.fence_step) fault("a register of wgmma was touched since the last wgmma.fence");
    }
    AsyncProduct product{.instruction = &one, .group = part.groups};
    size_t next = shape.accumulators();
    if (shape.left_is_shared) {
        product.left = same_in_all_lanes(warp, one.registers[next++]);
        const u32 first = warp.index % 4 * 16;
        touch(warp, shape.left(product.left), first, first + 16, product);
    } else {
        for (int k = 0; k < 4; k++) {
            const int at = one.registers[next++];
            if (part.accumulating[at]) fault("the left factor of wgmma is an accumulator in flight");
            for (int lane = 0; lane < LANES; lane++) product.fragment.push_back(warp.value<u32>(at, lane));
            part.feeding[at]++;
        }
    }
    product.right = same_in_all_lanes(warp, one.registers[next++]);
    product.accumulates = same_in_all_lanes(warp, one.registers[next]) != 0;
    touch(warp, shape.right(product.right), 0, shape.columns, product);
    for (size_t place : product.places) block.shared.products(place)++;
    for (size_t k = 0; k < shape.accumulators(); k++) part.accumulating[one.registers[k]]++;

    const std::vector<u64> what = {(u64)&one, product.left, product.right, product.accumulates};
    const auto [first, is_first] = block.async.issued.try_emplace({warp.index / 4, part.issued++}, what);
    if (!is_first && first->second != what) fault("the warps of a warpgroup issue different products");
    part.pending.push_back(std::move(product));
    block.idle_steps = 0;
}

void retire(Warp& warp, const AsyncProduct& product, const Shape& shape) {
    SharedMemory& shared = warp.block.shared;
    WarpgroupPart& part = warp.products;
    const auto element = [&](u32 at) {
        u16 x;
        memcpy(&x, shared.data(shared.place(at, 2, "wgmma")), 2);
        return shape.number(x);
    };
    float a[16][K];
    for (int row = 0; row < 16 && shape.left_is_shared; row++) {
        const SharedMatrix left = shape.left(product.left);
        for (int k = 0; k < K; k++) a[row][k] = element(left.at(warp.index % 4 * 16 + row, k));
    }
    for (size_t at = 0; at < product.fragment.size(); at++) {
        const int r = (int)at / LANES, lane = (int)at % LANES;
        for (int half = 0; half < 2; half++) {
            const u16 x = (u16)(product.fragment[at] >> 16 * half);
            a[lane / 4 + r % 2 * 8][lane % 4 * 2 + half + r / 2 * 8] = shape.number(x);
        }
    }
    const SharedMatrix right = shape.right(product.right);
    for (int first = 0; first < shape.columns; first += PRODUCT_COLUMNS) {
        // The four accumulators of these columns, of which each lane has two neighbours of two rows.
        const int* accumulators = &product.instruction->registers[first / 2];
        const auto of_lane = [&](auto f) {
            for (int k = 0; k < 4; k++) {
                for (int lane = 0; lane < LANES; lane++) f(k, lane, lane / 4 + k / 2 * 8, lane % 4 * 2 + k % 2);
            }
        };
        float b[PRODUCT_COLUMNS][K], c[16][PRODUCT_COLUMNS];
        for (int column = 0; column < PRODUCT_COLUMNS; column++) {
            for (int k = 0; k < K; k++) b[column][k] = element(right.at(first + column, k));
        }
        of_lane([&](int k, int lane, int row, int column) {
            c[row][column] = product.accumulates ? warp.value<float>(accumulators[k], lane) : 0.0f;
        });
        add_product<K>(warp.block.rounding, K, a, b, c);
        of_lane([&](int k, int lane, int row, int column) {
            warp.lanes(accumulators[k])[lane] = bits_of(c[row][column]);
        });
        for (int k = 0; k < 4; k++) part.accumulating[accumulators[k]]--;
    }
    for (int k = 0; k < 4 && !shape.left_is_shared; k++) {
        part.feeding[product.instruction->registers[shape.accumulators() + k]]--;
    }
    for (size_t place : product.places) {
        shared.products(place)--;
        for (size_t k = place; k < place + 16; k += CELL) shared.read_time(k, warp.index) = warp.clock[warp.index];
    }
}

// wgmma.mma_async.sync.aligned.m64nNk16.f32.type.type {accumulators}, left, right, scale, 1, 1{, transposed}, transposed
void decode_product(Decoding& d) {
    d.expect({"sync", "aligned"});
    const std::string size = d.word();
    d.expect({"f32"});
    const std::string type = d.one_of({"bf16", "f16"});
    d.expect({type.c_str()});
    Shape shape{};
    shape.number = type == "bf16" ? [](u16 x) { return (float)from_bf16(x); } : [](u16 x) { return (float)from_f16(x); };
    int used = 0;
    if (sscanf(size.c_str(), "m64n%dk16%n", &shape.columns, &used) != 1 || used != (int)size.size()) d.unknown(size);
    if (shape.columns % 8 || shape.columns < 8 || shape.columns > 256) d.unknown(size);
    d.use_vector(0, F32, shape.accumulators());
    shape.left_is_shared = d.operand(1).names.size() == 1;
    shape.left_is_shared ? (void)d.use(1, B64) : d.use_vector(1, B32, 4);
    d.use(2, B64), d.use(3, PREDICATE);
    d.end(shape.left_is_shared ? 8 : 7);
    if (d.literal(4) != 1 || d.literal(5) != 1) d.unknown("a factor of -1");
    if (shape.left_is_shared) shape.left_transposed = d.literal(6) == 1;
    shape.right_transposed = d.literal(shape.left_is_shared ? 7 : 6) == 1;
    const auto& registers = d.out.registers;
    const size_t own = shape.accumulators() + (shape.left_is_shared ? 0 : 4);
    d.out.products.assign(registers.begin(), registers.begin() + (i64)own);
    d.out.retire = [shape](Warp& warp, const AsyncProduct& product) { retire(warp, product, shape); };
    d.out.execute = [shape](Warp& warp, const Instruction& one, u32) { issue(warp, one, shape); };
}

}  // namespace

void decode_wgmma(Decoding& d) {
    d.out.results = 0;
    d.out.aligned = true;
    const std::string what = d.one_of({"mma_async", "fence", "commit_group", "wait_group"});
    if (what == "mma_async") return decode_product(d);
    d.expect({"sync", "aligned"});
    d.end(what == "wait_group" ? 1 : 0);
    if (what == "fence") {
        d.out.execute = [](Warp& warp, const Instruction&, u32) { warp.products.fence_step = warp.products.steps; };
    } else if (what == "commit_group") {
        d.out.execute = [](Warp& warp, const Instruction&, u32) { warp.products.groups++; };
    } else {
        const u32 most = (u32)d.literal(0);
        d.out.execute = [most](Warp& warp, const Instruction&, u32) {
            std::erase_if(warp.products.pending, [&](const AsyncProduct& product) {
                const bool waits = product.group + most < warp.products.groups;
                if (waits) product.instruction->retire(warp, product);
                return waits;
            });
        };
    }
}

void check_product_registers(Warp& warp, const Instruction& one) {
    WarpgroupPart& part = warp.products;
    for (int at : one.writes_products) {
        if (part.accumulating[at] || part.feeding[at]) fault("a register that wgmma has in flight is written");
        part.touched[at] = part.steps;
    }
    for (int at : one.reads_products) {
        if (part.accumulating[at]) fault("an accumulator that wgmma has in flight is read");
        if (!part.feeding[at]) part.touched[at] = part.steps;
    }
}

}  // namespace ptx
