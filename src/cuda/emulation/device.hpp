// `../kernels/device.cu`, name by name, on the engine's threads. Fragment layouts: PTX ISA, "Matrix multiply-accumulate
// operation using mma instruction" and "ldmatrix".
#pragma once

#include <cmath>
#include <cstring>

#include "engine.hpp"

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

#define DEVICE static inline
#define KERNEL(threads, resident) static void
#define SHARED_MEMORY(name) u8* name = emulation::shared_memory()
#define UNROLL
#define threadIdx (emulation::self().index)
#define blockIdx (emulation::self().block_index)
#define gridDim (emulation::self().grid_size)

template <class To, class From> static inline To same_bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "as many bits");
    To to;
    memcpy(&to, &from, sizeof(to));
    return to;
}

DEVICE void sync_threads() { emulation::barrier(); }
DEVICE void sync_warp() {
    emulation::collective("sync_warp", {}, [](emulation::Warp&) {});
}
// The atomics here order what is around them.
DEVICE void fence() {}

DEVICE float float_of(u32 bits) { return same_bits<float>(bits); }
DEVICE u32 bits_of(float x) { return same_bits<u32>(x); }
DEVICE double double_of(u64 bits) { return same_bits<double>(bits); }
DEVICE u64 bits_of(double x) { return same_bits<u64>(x); }
DEVICE float product(float a, float b) { return a * b; }

DEVICE float exp2_approximate(float x) {
    float y = exp2f(x);
    return y < 1.17549435e-38f ? 0.0f : y;
}

template <class T> static inline T exchange_any(T x, int lanes) {
    emulation::Deposit deposit;
    memcpy(&deposit.word, &x, sizeof(x));
    deposit.a[0] = (u32)lanes;
    const auto& result = emulation::collective("exchange", deposit, [](emulation::Warp& warp) {
        for (int lane = 0; lane < emulation::LANES; lane++) {
            warp.results[lane].word = warp.deposits[lane ^ warp.deposits[lane].a[0]].word;
        }
    });
    T y;
    memcpy(&y, &result.word, sizeof(y));
    return y;
}
DEVICE float exchange(float x, int lanes) { return exchange_any(x, lanes); }
DEVICE double exchange(double x, int lanes) { return exchange_any(x, lanes); }
DEVICE u32 exchange(u32 x, int lanes) { return exchange_any(x, lanes); }
DEVICE u32 from_lane(u32 x, int lane) {
    emulation::Deposit deposit;
    deposit.word = x;
    deposit.a[0] = (u32)lane % emulation::LANES;
    return (u32)emulation::collective("from_lane", deposit, [](emulation::Warp& warp) {
        for (int lane = 0; lane < emulation::LANES; lane++) {
            warp.results[lane].word = warp.deposits[warp.deposits[lane].a[0]].word;
        }
    }).word;
}
DEVICE u32 ballot(bool x) {
    emulation::Deposit deposit;
    deposit.word = x;
    return (u32)emulation::collective("ballot", deposit, [](emulation::Warp& warp) {
        u64 all = 0;
        for (int lane = 0; lane < emulation::LANES; lane++) all |= warp.deposits[lane].word << lane;
        for (auto& result : warp.results) result.word = all;
    }).word;
}
DEVICE bool any(bool x) { return ballot(x) != 0; }

DEVICE u32 atomic_add(u32* to, u32 x) { return __atomic_fetch_add(to, x, __ATOMIC_ACQ_REL); }
DEVICE u32 atomic_max(u32* to, u32 x) {
    u32 old = __atomic_load_n(to, __ATOMIC_RELAXED);
    while (old < x && !__atomic_compare_exchange_n(to, &old, x, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {}
    return old;
}
DEVICE u32 atomic_min(u32* to, u32 x) {
    u32 old = __atomic_load_n(to, __ATOMIC_RELAXED);
    while (old > x && !__atomic_compare_exchange_n(to, &old, x, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {}
    return old;
}

// Row `i` of matrix `m`, at the address that lane 8 m + i gave.
static inline const u8* matrix_row(const emulation::Warp& warp, int m, int i) {
    return (const u8*)warp.deposits[m * 8 + i].address;
}
DEVICE void load_matrices(u32 (&r)[4], const void* row) {
    emulation::expect_shared(row, 16);
    emulation::Deposit deposit;
    deposit.address = row;
    const auto& result = emulation::collective("load_matrices", deposit, [](emulation::Warp& warp) {
        for (int lane = 0; lane < emulation::LANES; lane++) {
            for (int m = 0; m < 4; m++) memcpy(&warp.results[lane].r[m], matrix_row(warp, m, lane / 4) + lane % 4 * 4, 4);
        }
    });
    memcpy(r, result.r, sizeof(r));
}
DEVICE void load_matrices_transposed(u32 (&r)[4], const void* row) {
    emulation::expect_shared(row, 16);
    emulation::Deposit deposit;
    deposit.address = row;
    const auto& result = emulation::collective("load_matrices_transposed", deposit, [](emulation::Warp& warp) {
        for (int lane = 0; lane < emulation::LANES; lane++) {
            for (int m = 0; m < 4; m++) {
                u16 pair[2];
                for (int i = 0; i < 2; i++) memcpy(&pair[i], matrix_row(warp, m, lane % 4 * 2 + i) + lane / 4 * 2, 2);
                warp.results[lane].r[m] = pair[0] | (u32)pair[1] << 16;
            }
        }
    });
    memcpy(r, result.r, sizeof(r));
}

DEVICE void copy_async(void* shared, const void* global) {
    emulation::expect_shared(shared, 16);
    if ((u64)global % 16 != 0) emulation::fail("misaligned source of an asynchronous copy");
    // What is there is lost from now on.
    memset(shared, 0xff, 16);
    emulation::self().copies.push_back({shared, global});
}
DEVICE void commit_copies() {
    auto& thread = emulation::self();
    thread.groups.push_back(std::move(thread.copies));
    thread.copies.clear();
}
template <int pending> DEVICE void wait_for_copies() {
    auto& groups = emulation::self().groups;
    while (groups.size() > pending) {
        for (const emulation::Copy& copy : groups.front()) memcpy(copy.to, copy.from, 16);
        groups.erase(groups.begin());
    }
}

DEVICE float bf16_to_float(u16 x) { return float_of((u32)x << 16); }
DEVICE float f16_to_float(u16 x) { return (float)same_bits<_Float16>(x); }
DEVICE u16 round_to_bf16(float x) {
    u32 bits = bits_of(x);
    if (x != x) return 0x7fff;
    return (u16)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
DEVICE u32 pack_bf16(float low, float high) { return round_to_bf16(low) | (u32)round_to_bf16(high) << 16; }
DEVICE u32 pack_f16(float low, float high) {
    return same_bits<u16>((_Float16)low) | (u32)same_bits<u16>((_Float16)high) << 16;
}
// Ties away from zero, as `rna`.
DEVICE u32 round_to_tf32(float x) {
    if (!(x - x == 0.0f)) return bits_of(x);
    return (bits_of(x) + 0x1000) & ~0x1fffu;
}

// c += a b, each sum rounded once. Of a, 4 registers by lane: rows l / 4 and l / 4 + 8, then the same for the later half
// of the inner dimension.
template <int depth, class Element> static inline void multiply_warp(emulation::Warp& warp, Element element) {
    float a[16][depth], b[depth][8];
    for (int lane = 0; lane < emulation::LANES; lane++) {
        const emulation::Deposit& deposit = warp.deposits[lane];
        constexpr int each = depth / 8;  // elements of a register
        for (int i = 0; i < each; i++) {
            const int k = lane % 4 * each + i;
            for (int r = 0; r < 4; r++) a[lane / 4 + r % 2 * 8][k + r / 2 * (depth / 2)] = element(deposit.a[r], i);
            for (int r = 0; r < 2; r++) b[k + r * (depth / 2)][lane / 4] = element(deposit.b[r], i);
        }
    }
    double c[16][8] = {};
    for (int i = 0; i < 16; i++) {
        for (int k = 0; k < depth; k++) {
            const double left = a[i][k];
            for (int j = 0; j < 8; j++) c[i][j] += left * b[k][j];
        }
    }
    for (int lane = 0; lane < emulation::LANES; lane++) {
        for (int e = 0; e < 4; e++) {
            warp.results[lane].c[e] = (float)(warp.deposits[lane].c[e] + c[lane / 4 + e / 2 * 8][lane % 4 * 2 + e % 2]);
        }
    }
}
static inline void multiply_any(const char* kind, float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1, void (*compute)(emulation::Warp&)) {
    emulation::Deposit deposit;
    memcpy(deposit.c, c, sizeof(c));
    memcpy(deposit.a, a, sizeof(a));
    deposit.b[0] = b0;
    deposit.b[1] = b1;
    memcpy(c, emulation::collective(kind, deposit, compute).c, sizeof(c));
}
DEVICE void multiply_bf16(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    multiply_any("multiply_bf16", c, a, b0, b1, [](emulation::Warp& warp) {
        multiply_warp<16>(warp, [](u32 pair, int i) { return bf16_to_float((u16)(pair >> 16 * i)); });
    });
}
DEVICE void multiply_f16(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    multiply_any("multiply_f16", c, a, b0, b1, [](emulation::Warp& warp) {
        multiply_warp<16>(warp, [](u32 pair, int i) { return f16_to_float((u16)(pair >> 16 * i)); });
    });
}
DEVICE void multiply_tf32(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    // The machine does not look at the lowest 13 bits.
    multiply_any("multiply_tf32", c, a, b0, b1, [](emulation::Warp& warp) {
        multiply_warp<8>(warp, [](u32 bits, int) { return float_of(bits & ~0x1fffu); });
    });
}
