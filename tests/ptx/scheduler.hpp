// Runs a launch: blocks, warps and diverged lanes in random order.
#pragma once

#include <array>
#include <random>

#include "global_memory.hpp"
#include "products.hpp"
#include "program.hpp"

namespace ptx {

struct Schedule {
    std::mt19937_64 random;
    bool random_lanes = false;  // which of a diverged warp's lanes go on; else those that are furthest behind
    u32 resident_blocks = 2;    // that take turns
    Rounding rounding;
    u32 launch_rows = 0;  // at most, of launches that keep similarities of each row; 0: as many as memory has room for
};

struct Grid {
    std::array<u32, 3> blocks;
    u32 threads;
    u32 shared_bytes;
};

// `arguments` are pointers to the kernel's arguments. Throws a Fault for what the program does wrong.
void run(const Program& program, GlobalMemory& global, const Grid& grid, void* const* arguments, Schedule& schedule);

}  // namespace ptx
