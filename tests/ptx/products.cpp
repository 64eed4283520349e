#include "products.hpp"

#include <algorithm>
#include <cmath>

#include "decoder.hpp"
#include "machine.hpp"

namespace ptx {
namespace {

// The terms of one block and the accumulator.
float truncated_sum(const Rounding& rounding, float c, const float* a, const float* b, int count) {
    double terms[LANES + 1] = {c};
    for (int k = 0; k < count; k++) terms[k + 1] = (double)a[k] * b[k];  // exact: of 24 bits and fewer
    double sum = 0, largest = 0;
    for (int k = 0; k <= count; k++) sum += terms[k], largest = std::max(largest, std::fabs(terms[k]));
    if (!std::isfinite(sum) || largest == 0) return (float)sum;
    const int unit = std::ilogb(largest) + 1 - 24 - rounding.extra_bits;
    const double units = std::ldexp(1.0, -unit);
    sum = 0;
    for (int k = 0; k <= count; k++) sum += std::trunc(terms[k] * units);
    // Toward zero, to 24 bits.
    const int excess = sum == 0 ? 0 : std::max(std::ilogb(sum) + 1 - 24, 0);
    return (float)std::ldexp(std::trunc(std::ldexp(sum, -excess)), excess + unit);
}

// An m16n8 product: `K` dimensions, of which a 32-bit register holds `PER`; `unpack(register, which)` is one of them.
template <int K, int PER, class Unpack> Execute product(int block, Unpack unpack) {
    return [=](Warp& warp, const Instruction& one, u32) {
        float a[16][K], b[PRODUCT_COLUMNS][K], c[16][PRODUCT_COLUMNS];
        for (int lane = 0; lane < LANES; lane++) {
            const int row = lane / 4, first = lane % 4 * PER;
            for (int r = 0; r < 4; r++) {
                const u32 x = warp.value<u32>(one.registers[4 + r], lane);
                for (int k = 0; k < PER; k++) a[row + r % 2 * 8][first + k + r / 2 * (K / 2)] = unpack(x, k);
            }
            for (int r = 0; r < 2; r++) {
                const u32 x = warp.value<u32>(one.registers[8 + r], lane);
                for (int k = 0; k < PER; k++) b[row][first + k + r * (K / 2)] = unpack(x, k);
            }
            for (int e = 0; e < 4; e++) {
                c[row + e / 2 * 8][lane % 4 * 2 + e % 2] = warp.value<float>(one.registers[10 + e], lane);
            }
        }
        // All of it before any register is written: results and accumulators may be the same registers.
        add_product<K>(warp.block.rounding, block, a, b, c);
        for (int lane = 0; lane < LANES; lane++) {
            for (int e = 0; e < 4; e++) {
                warp.lanes(one.registers[e])[lane] = bits_of(c[lane / 4 + e / 2 * 8][lane % 4 * 2 + e % 2]);
            }
        }
    };
}

}  // namespace

template <int K>
void add_product(const Rounding& rounding, int block, const float (&a)[16][K], const float (&b)[PRODUCT_COLUMNS][K],
                 float (&c)[16][PRODUCT_COLUMNS]) {
    if (rounding.truncates) {
        block = std::min(K, block * rounding.blocks);
        for (int row = 0; row < 16; row++) {
            for (int n = 0; n < PRODUCT_COLUMNS; n++) {
                for (int at = 0; at < K; at += block) {
                    c[row][n] = truncated_sum(rounding, c[row][n], a[row] + at, b[n] + at, std::min(block, K - at));
                }
            }
        }
        return;
    }
    double columns[K][PRODUCT_COLUMNS];
    for (int n = 0; n < PRODUCT_COLUMNS; n++) {
        for (int k = 0; k < K; k++) columns[k][n] = b[n][k];
    }
    for (int row = 0; row < 16; row++) {
        double sums[PRODUCT_COLUMNS] = {};
        for (int k = 0; k < K; k++) {
            const double factor = a[row][k];
            for (int n = 0; n < PRODUCT_COLUMNS; n++) sums[n] += factor * columns[k][n];
        }
        for (int n = 0; n < PRODUCT_COLUMNS; n++) c[row][n] = (float)(c[row][n] + sums[n]);
    }
}
template void add_product<8>(const Rounding&, int, const float (&)[16][8], const float (&)[PRODUCT_COLUMNS][8],
                             float (&)[16][PRODUCT_COLUMNS]);
template void add_product<16>(const Rounding&, int, const float (&)[16][16], const float (&)[PRODUCT_COLUMNS][16],
                              float (&)[16][PRODUCT_COLUMNS]);

// mma.sync.aligned.shape.row.col.f32.type.type.f32 d, a, b, c
void decode_mma(Decoding& d) {
    d.expect({"sync", "aligned"});
    const std::string shape = d.one_of({"m16n8k16", "m16n8k8"});
    d.expect({"row", "col", "f32"});
    const std::string type = shape == "m16n8k8" ? d.one_of({"tf32"}) : d.one_of({"bf16", "f16"});
    d.expect({type.c_str(), "f32"});
    d.end(4);
    d.use_vector(0, F32, 4), d.use_vector(1, B32, 4), d.use_vector(2, B32, 2), d.use_vector(3, F32, 4);
    d.out.results = 4;
    d.out.aligned = true;
    const auto half = [](u32 x, int k) { return (u16)(x >> 16 * k); };
    if (type == "bf16") d.out.execute = product<16, 2>(8, [=](u32 x, int k) { return from_bf16(half(x, k)); });
    else if (type == "f16") d.out.execute = product<16, 2>(8, [=](u32 x, int k) { return from_f16(half(x, k)); });
    // Of tf32 numbers the low 13 bits are not looked at.
    else d.out.execute = product<8, 1>(4, [](u32 x, int) { return number<float>(x & 0xffffe000u); });
}

}  // namespace ptx
