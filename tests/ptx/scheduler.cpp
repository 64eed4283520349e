#include "scheduler.hpp"

#include <algorithm>
#include <memory>

#include "warp.hpp"

namespace ptx {
namespace {

constexpr size_t MOST_WARPS = 32;

u64 special_value(const std::string& name, const Block& block, const Warp& warp, int lane) {
    const int axis = name.back() - 'x';
    if (name == "%laneid") return lane;
    if (name == "%tid.x") return warp.thread(lane);
    if (name == "%ntid.x") return block.threads;
    if (name.starts_with("%ctaid")) return block.id[axis];
    if (name.starts_with("%nctaid")) return block.grid[axis];
    return 0;  // %tid.y and %tid.z
}

std::unique_ptr<Block> start_block(const Program& program, GlobalMemory& global, const Grid& grid, u32 number,
                                   void* const* arguments, Schedule& schedule) {
    const auto [x, y, z] = grid.blocks;
    auto block = std::make_unique<Block>(Block{
        .program = program,
        .global = global,
        .id = {number % x, number / x % y, number / x / y},
        .grid = grid.blocks,
        .threads = grid.threads,
        .number = number,
        .live_threads = grid.threads,
        .parameters = std::vector<u8>(program.parameter_bytes),
        .shared = SharedMemory(grid.shared_bytes, grid.threads / LANES),
        .random = schedule.random,
        .rounding = schedule.rounding,
    });
    for (size_t k = 0; k < program.parameters.size(); k++) {
        memcpy(&block->parameters[program.parameters[k].offset], arguments[k], program.parameters[k].bytes);
    }
    for (u32 k = 0; k < grid.threads / LANES; k++) {
        block->warps.push_back(std::make_unique<Warp>(*block, (int)k, program));
    }
    return block;
}

// A block without a warp that can go on: true where it has ended.
bool has_ended(const Block& block) {
    for (const auto& [number, barrier] : block.barriers) {
        if (!barrier.arrived) continue;
        fault(block.live_threads ? "deadlock: " : "the block ends while ", barrier.arrived, " of ", barrier.expected,
              " threads are at barrier ", number);
    }
    if (block.live_threads) fault("deadlock");
    if (!block.async.copies.empty()) fault("the block ends with a bulk copy in flight");
    return true;
}

// Lets one warp of a block take a few steps. False where the block has ended.
bool run_some(Block& block, const Schedule& schedule) {
    std::array<Warp*, MOST_WARPS> ready;
    size_t count = 0;
    for (const auto& warp : block.warps) {
        if (warp->alive && !warp->at_barrier) ready[count++] = warp.get();
    }
    const bool has_copies = !block.async.copies.empty() && block.live_threads;
    if (has_copies && (!count || block.random() % 2)) land_bulk_copy(block);
    if (!count) return has_copies || !has_ended(block);
    Warp& warp = *ready[block.random() % count];
    for (u64 steps = 1 + block.random() % 256; steps > 0 && warp.alive; steps--) {
        if (!step(warp, schedule.random_lanes)) break;
    }
    return true;
}

}  // namespace

Warp::Warp(Block& block, int index, const Program& program)
    : block(block), index(index), registers(program.initial) {
    clock[index] = 1;
    products.touched.resize(program.widths.size());
    products.accumulating.resize(program.widths.size());
    products.feeding.resize(program.widths.size());
    products.registers = 65536 / (program.most_threads ? program.most_threads : 384) / 8 * 8;
    for (const SpecialRegister& special : program.special) {
        for (int lane = 0; lane < LANES; lane++) {
            lanes(special.index)[lane] = special_value(special.name, block, *this, lane);
        }
    }
}

void run(const Program& program, GlobalMemory& global, const Grid& grid, void* const* arguments, Schedule& schedule) {
    if (program.most_threads && grid.threads > program.most_threads) fault("more threads than .maxntid says");
    if (grid.threads % LANES || grid.threads / LANES > MOST_WARPS) fault("a block of ", grid.threads, " threads");
    std::vector<u32> order(grid.blocks[0] * grid.blocks[1] * grid.blocks[2]);
    for (u32 k = 0; k < order.size(); k++) order[k] = k;
    global.start((u32)order.size(), grid.threads);
    std::ranges::shuffle(order, schedule.random);
    std::vector<std::unique_ptr<Block>> live;
    for (size_t next = 0; next < order.size() || !live.empty();) {
        while (next < order.size() && live.size() < schedule.resident_blocks) {
            live.push_back(start_block(program, global, grid, order[next++], arguments, schedule));
        }
        const size_t chosen = schedule.random() % live.size();
        if (!run_some(*live[chosen], schedule)) live.erase(live.begin() + (i64)chosen);
    }
}

}  // namespace ptx
