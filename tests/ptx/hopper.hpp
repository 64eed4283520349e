// What sm_90a brings: mbarriers, bulk copies, warpgroup products, registers that warps hand on.
#pragma once

#include <array>
#include <map>
#include <random>
#include <utility>
#include <vector>

#include "program.hpp"
#include "shared_memory.hpp"
#include "values.hpp"

namespace ptx {

struct Block;
struct Warp;

struct Mbarrier {
    u32 count = 0, pending = 0;  // arrivals of a phase, and those still to come
    u32 phases = 0;              // that are complete
    i64 bytes = 0;               // expected and not there
    int clock = 0;               // its place in the clocks
    int initialised_by = 0;      // a warp
    bool fenced = false;         // the initialisation, for the async proxy
    Clock collected{}, released{};
};

// A bulk copy on its way: its bytes land piece by piece, in any order among copies.
struct BulkCopy {
    size_t to;
    u32 mbarrier;
    std::vector<u8> data;
};

// Of a block.
struct AsyncUnits {
    std::map<u32, Mbarrier> mbarriers;  // by address
    std::vector<BulkCopy> copies;
    int clocks = 0;
    i64 free_registers = 0;  // that setmaxnreg gave back
    // What the n-th product of a warpgroup is: its four warps issue the same.
    std::map<std::pair<int, u32>, std::vector<u64>> issued;
};

// A product of one warp's 16 rows that is not waited for.
struct AsyncProduct {
    const Instruction* instruction;
    u32 group;
    u64 left, right;  // descriptors
    bool accumulates;
    std::vector<u32> fragment;   // the left factor from registers, [register][lane]
    std::vector<size_t> places;  // of 16 bytes each, that it reads
};

// Of a warp.
struct WarpgroupPart {
    std::vector<AsyncProduct> pending;
    u32 groups = 0, issued = 0;
    u64 steps = 1, fence_step = 0;   // instructions until now, and until the last wgmma.fence
    u32 registers = 0;               // of each thread
    std::vector<u64> touched;        // the step at which an ordinary instruction last had a register
    std::vector<u16> accumulating, feeding;  // uses of a register by products in flight
    std::array<std::vector<u32>, LANES> proxy_fences;  // the times of a lane's fence.proxy.async
};

// A fault where an ordinary instruction touches registers that products have in flight.
void check_product_registers(Warp& warp, const Instruction& one);
// Lets a piece of one of the block's bulk copies land.
void land_bulk_copy(Block& block);

}  // namespace ptx
