// Warps, blocks and the order of what they do.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <random>
#include <vector>

#include "global_memory.hpp"
#include "hopper.hpp"
#include "products.hpp"
#include "program.hpp"
#include "shared_memory.hpp"
#include "values.hpp"

namespace ptx {

struct Block;

// cp.async: 16 bytes on their way.
struct AsyncCopy {
    int lane;
    u32 group;  // the lane's copies are counted in groups
    size_t to;
    std::array<u8, 16> data;
};

struct Warp {
    Block& block;
    int index;
    std::vector<u64> registers;  // [register][lane]

    // Where the lanes are: all at `counter` while they are converged, each at its own counter otherwise.
    bool converged = true;
    u32 counter = 0;
    std::array<u32, LANES> counters{};
    u32 alive = ALL_LANES;
    u32 blocked = 0;  // lanes at a collective that others have not come to
    bool at_barrier = false;
    bool waits = false;  // an instruction could not go on, and is to be tried again

    Clock clock{};
    u32 epoch = 1;  // lanes see what others wrote in earlier epochs: it grows at bar.warp.sync and at barriers
    std::vector<AsyncCopy> copies;
    std::array<u32, LANES> groups{};
    WarpgroupPart products;

    Warp(Block& block, int index, const Program& program);
    u64* lanes(int at) { return &registers[(size_t)at * LANES]; }
    template <class T> T value(int at, int lane) { return number<T>(lanes(at)[lane]); }
    u32 thread(int lane) const { return index * LANES + lane; }
    // Ends an epoch of time: what the warp does next comes after what `to` now knows.
    void release(Clock& to) {
        to.join(clock);
        clock[index]++;
    }
};

// bar.sync and bar.arrive: one of the sixteen of a block.
struct NamedBarrier {
    u32 arrived = 0, expected = 0;
    std::vector<Warp*> waiting;
    Clock collected{};
};

struct Block {
    const Program& program;
    GlobalMemory& global;
    std::array<u32, 3> id, grid;
    u32 threads, number;  // in the grid
    u32 live_threads;
    std::vector<u8> parameters;
    SharedMemory shared;
    std::map<u32, NamedBarrier> barriers;
    AsyncUnits async;
    std::mt19937_64& random;
    const Rounding& rounding;
    u64 idle_steps = 0;  // since something happened that others may wait for
    std::vector<std::unique_ptr<Warp>> warps;

    Thread thread(const Warp& warp, int lane) const { return {number, warp.thread(lane)}; }
};

}  // namespace ptx
