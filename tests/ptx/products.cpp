#include "products.hpp"

#include <algorithm>
#include <climits>
#include <cmath>

#include "decoder.hpp"
#include "machine.hpp"

namespace ptx {
namespace {

// The terms of one block and the accumulator.
float truncated_sum(const Rounding& rounding, float c, const float* a, const float* b, int count) {
    double terms[LANES + 1];
    int used = 0, top = INT_MIN;
    terms[used++] = c;
    for (int k = 0; k < count; k++) terms[used++] = (double)a[k] * b[k];  // exact: of 24 bits and fewer
    bool finite = true;
    for (int k = 0; k < used; k++) {
        finite &= std::isfinite(terms[k]);
        if (finite && terms[k] != 0) top = std::max(top, std::ilogb(terms[k]) + 1);
    }
    double sum = 0;
    if (!finite || top == INT_MIN) {
        for (int k = 0; k < used; k++) sum += terms[k];
        return (float)sum;
    }
    const int unit = top - 24 - rounding.extra_bits;
    for (int k = 0; k < used; k++) sum += std::trunc(std::ldexp(terms[k], -unit));
    // Toward zero, to 24 bits.
    const int excess = sum == 0 ? 0 : std::max(std::ilogb(sum) + 1 - 24, 0);
    return (float)std::ldexp(std::trunc(std::ldexp(sum, -excess)), excess + unit);
}

// An m16n8 product: `K` dimensions, of which a 32-bit register holds `PER`; `unpack(register, which)` is one of them.
template <int K, int PER, class Unpack> Execute product(int block, Unpack unpack) {
    return [=](Warp& warp, const Instruction& one, u32) {
        float a[16][K], b[8][K], c[LANES][4];
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
        }
        // All of it before any register is written: results and accumulators may be the same registers.
        for (int lane = 0; lane < LANES; lane++) {
            for (int e = 0; e < 4; e++) {
                const float before = warp.value<float>(one.registers[10 + e], lane);
                const float *row = a[lane / 4 + e / 2 * 8], *column = b[lane % 4 * 2 + e % 2];
                c[lane][e] = dot(warp.block.rounding, before, row, column, K, block);
            }
        }
        for (int lane = 0; lane < LANES; lane++) {
            for (int e = 0; e < 4; e++) warp.lanes(one.registers[e])[lane] = bits_of(c[lane][e]);
        }
    };
}

}  // namespace

float dot(const Rounding& rounding, float c, const float* a, const float* b, int count, int block) {
    if (!rounding.truncates) {
        double sum = 0;
        for (int k = 0; k < count; k++) sum += (double)a[k] * b[k];
        return (float)(c + sum);
    }
    block = std::min(count, block * rounding.blocks);
    for (int at = 0; at < count; at += block) c = truncated_sum(rounding, c, a + at, b + at, std::min(block, count - at));
    return c;
}

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
