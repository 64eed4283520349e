// CUDA's blocks, warps and threads on a CPU.
//
// A CUDA thread is a fiber: it runs until a collective or a barrier, then the next one does. Order is fixed, so a run
// can be repeated; warps take turns at barriers only, forwards and backwards by turns, so that a missing barrier shows.
// With EMULATE_WITH_THREADS a CUDA thread is a thread of the system, for ThreadSanitizer.
//
// Stricter than the machine where it can be: shared memory starts as NaN and ends at a page that nobody may touch;
// asynchronous copies leave NaN when they begin, and what is copied when their group is waited for; warp collectives want
// all 32 lanes, at the same one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace emulation {

constexpr int LANES = 32;

struct Dimensions {
    unsigned x = 0, y = 0, z = 0;
};

struct Copy {
    void* to;
    const void* from;
};

// What a lane brings to a collective, and what it takes away.
struct Deposit {
    const void* address = nullptr;
    uint64_t word = 0;
    uint32_t a[4] = {}, b[2] = {};
    float c[4] = {};
};
struct Result {
    uint64_t word = 0;
    uint32_t r[4] = {};
    float c[4] = {};
};

struct Warp {
    Deposit deposits[LANES];
    Result results[LANES];
};

// The thread that runs.
struct Thread {
    Dimensions index, block_index, block_size, grid_size;
    int lane = 0;
    Warp* warp = nullptr;
    std::vector<Copy> copies;         // not yet in a group
    std::vector<std::vector<Copy>> groups;  // not yet waited for
};

Thread& self();

// What all lanes of a warp do together: `kind` tells them apart, `compute` runs once, when all have come.
const Result& collective(const char* kind, const Deposit& deposit, void (*compute)(Warp&));
void barrier();
uint8_t* shared_memory();
// Complains, and ends the launch, unless `bytes` from `address` on are in shared memory and on a multiple of them.
void expect_shared(const void* address, size_t bytes);
[[noreturn]] void fail(const char* what);

// Runs all blocks, one after the other. Returns 0, or 2 where one failed.
int launch(const unsigned* grid, unsigned threads, unsigned shared_bytes, void (*body)(void*), void* argument);

}  // namespace emulation
