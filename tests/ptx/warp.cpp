#include "warp.hpp"

#include <algorithm>

namespace ptx {
namespace {

constexpr u64 HANG = 1'000'000;

// The lanes that go on together, and where they are.
struct Group {
    u32 lanes = 0, counter = 0;
};

Group next_group(Warp& warp, bool random_lanes) {
    if (warp.converged) return {warp.alive, warp.counter};
    const u32 ready = warp.alive & ~warp.blocked;
    if (!ready) return {};
    u32 counter = ~0u;
    if (random_lanes) {
        u32 left = ready;
        for (u64 skip = warp.block.random() % __builtin_popcount(ready); skip > 0; skip--) left &= left - 1;
        counter = warp.counters[__builtin_ctz(left)];
    } else {
        each_lane(ready, [&](int lane) { counter = std::min(counter, warp.counters[lane]); });
    }
    Group group{0, counter};
    each_lane(ready, [&](int lane) { group.lanes |= (u32)(warp.counters[lane] == counter) << lane; });
    return group;
}

void regroup(Warp& warp) {
    if (!warp.alive) return;
    const u32 first = warp.counters[__builtin_ctz(warp.alive)];
    bool same = true;
    each_lane(warp.alive, [&](int lane) { same &= warp.counters[lane] == first; });
    if (!same) return;
    warp.converged = true;
    warp.counter = first;
    warp.blocked = 0;
}

void go_to(Warp& warp, u32 lanes, u32 counter) {
    if (warp.converged) {
        warp.counter = counter;
        return;
    }
    each_lane(lanes, [&](int lane) { warp.counters[lane] = counter; });
    regroup(warp);
}

// Whether all lanes are at a collective that have to be; those that are wait for the others.
bool all_have_come(Warp& warp, const Instruction& one, Group& group, u32 on, bool random_lanes) {
    if (on != group.lanes) fault("the lanes of a collective have different predicates");
    u32 wanted = warp.alive;
    if (one.members >= 0) {
        wanted = warp.value<u32>(one.members, __builtin_ctz(group.lanes));
        each_lane(group.lanes, [&](int lane) {
            if (warp.value<u32>(one.members, lane) != wanted) fault("the lanes of a collective name different members");
        });
        if (wanted & ~warp.alive) fault("a collective names lanes that have ended");
        if (group.lanes & ~wanted) fault("a lane comes to a collective that does not name it");
    } else if (one.kind != Instruction::BARRIER && warp.alive != ALL_LANES) {
        fault("an aligned instruction after lanes have ended");
    }
    u32 here = group.lanes;
    if (!warp.converged) {
        here = 0;
        each_lane(warp.alive, [&](int lane) { here |= (u32)(warp.counters[lane] == group.counter) << lane; });
    }
    if ((here & wanted) != wanted) {
        if (one.aligned && !random_lanes) fault("an aligned instruction that only lanes ", hex(here), " come to");
        warp.blocked |= group.lanes;
        if (!(warp.alive & ~warp.blocked)) fault("not all lanes come to a collective");
        return false;
    }
    if (!warp.converged) warp.blocked &= ~wanted;
    group.lanes = wanted;
    return true;
}

void branch(Warp& warp, const Instruction& one, const Group& group, u32 on) {
    if (on == group.lanes) return go_to(warp, on, (u32)one.target);
    if (!on) return go_to(warp, group.lanes, group.counter + 1);
    if (warp.converged) {
        warp.converged = false;
        warp.blocked = 0;
    }
    each_lane(on, [&](int lane) { warp.counters[lane] = (u32)one.target; });
    each_lane(group.lanes & ~on, [&](int lane) { warp.counters[lane] = group.counter + 1; });
    regroup(warp);
}

void end_lanes(Warp& warp, const Group& group, u32 on) {
    if (!warp.products.pending.empty()) fault("a warp ends with wgmma in flight");
    warp.block.idle_steps = 0;
    warp.alive &= ~on;
    warp.block.live_threads -= __builtin_popcount(on);
    if (!warp.converged) warp.blocked &= warp.alive;
    go_to(warp, group.lanes & ~on, group.counter + 1);
}

void arrive(Warp& warp, const Instruction& one) {
    Block& block = warp.block;
    const u32 number = warp.value<u32>(one.registers[0], 0);
    const u32 count = one.registers.size() > 1 ? warp.value<u32>(one.registers[1], 0) : block.threads;
    if (number > 15) fault("the barrier ", number, " of 16");
    if (!count || count % LANES) fault("a barrier for ", count, " threads");
    if (warp.alive != ALL_LANES) fault("a barrier by a part of a warp");
    NamedBarrier& barrier = block.barriers[number];
    if (barrier.arrived && barrier.expected != count) fault("a barrier for ", barrier.expected, " and ", count, " threads");
    barrier.expected = count;
    barrier.arrived += LANES;
    warp.release(barrier.collected);
    warp.at_barrier = !one.arrives_only;
    if (warp.at_barrier) barrier.waiting.push_back(&warp);
    block.idle_steps = 0;
    if (barrier.arrived > barrier.expected) fault("more threads than ", count, " at a barrier");
    if (barrier.arrived < barrier.expected) return;
    for (Warp* waiting : barrier.waiting) {
        waiting->at_barrier = false;
        waiting->epoch++;
        waiting->clock.join(barrier.collected);
    }
    barrier = {};
}

bool execute(Warp& warp, const Instruction& one, Group group, u32 on, bool random_lanes) {
    if (one.aligned || one.members >= 0) {
        if (!on) return go_to(warp, group.lanes, group.counter + 1), true;
        if (!all_have_come(warp, one, group, on, random_lanes)) return true;
        on = group.lanes;
    }
    if (++warp.block.idle_steps > HANG) fault("nothing happens any more: a hang");
    warp.products.steps++;
    if (one.kind == Instruction::BRANCH) return branch(warp, one, group, on), true;
    if (one.kind == Instruction::EXIT) return end_lanes(warp, group, on), true;
    if (one.kind == Instruction::BARRIER) {
        go_to(warp, group.lanes, group.counter + 1);
        arrive(warp, one);
        return !warp.at_barrier;
    }
    check_product_registers(warp, one);
    warp.waits = false;
    if (on) one.execute(warp, one, on);
    if (warp.waits) return false;
    go_to(warp, group.lanes, group.counter + 1);
    return true;
}

}  // namespace

bool step(Warp& warp, bool random_lanes) {
    const Group group = next_group(warp, random_lanes);
    const Program& program = warp.block.program;
    if (group.counter >= program.instructions.size()) fault("the kernel runs past its end");
    const Instruction& one = program.instructions[group.counter];
    u32 on = group.lanes;
    if (one.guard >= 0) {
        const u64* guard = warp.lanes(one.guard);
        u32 holds = 0;
        for (int lane = 0; lane < LANES; lane++) holds |= (u32)(guard[lane] != 0) << lane;
        on &= one.guard_negated ? ~holds : holds;
    }
    try {
        return execute(warp, one, group, on, random_lanes);
    } catch (const Fault& what) {
        const auto& [x, y, z] = warp.block.id;
        fault(what.what(), " [", program.name, ", line ", one.line, ": ", one.text, "; block ", x, " ", y, " ", z, ", warp ",
              warp.index, ", lanes ", hex(on), "]");
    }
}

}  // namespace ptx
