// mbarriers, cp.async.bulk, fences of the async proxy and setmaxnreg.
#include <algorithm>

#include "decoder.hpp"
#include "machine.hpp"

namespace ptx {
namespace {

Mbarrier& mbarrier_at(Warp& warp, u64 at) {
    const size_t place = warp.block.shared.place(at, 8, "mbarrier");
    const auto found = warp.block.async.mbarriers.find((u32)at);
    if (found == warp.block.async.mbarriers.end()) fault("no mbarrier is at shared+", place);
    const Cell& cell = warp.block.shared.cell(place);
    if (warp.clock[cell.writer / LANES] < cell.write_time) fault("race: an mbarrier is used before its initialisation");
    return found->second;
}

// Ends the phase where all have arrived and all bytes are there.
void settle(Block& block, Mbarrier& mbarrier) {
    constexpr i64 MOST = (1 << 20) - 1;
    if (std::abs(mbarrier.bytes) > MOST) fault("an mbarrier expects ", mbarrier.bytes, " bytes, more than it can count");
    if (mbarrier.pending || mbarrier.bytes) return;
    mbarrier.phases++;
    mbarrier.pending = mbarrier.count;
    mbarrier.released = mbarrier.collected;
    mbarrier.released[mbarrier.clock] = mbarrier.phases;
    mbarrier.collected = {};
    block.idle_steps = 0;
}

void initialise(Warp& warp, int lane, u64 at, u32 count) {
    Block& block = warp.block;
    if (!count || count >= 1u << 20) fault("an mbarrier for ", count, " arrivals");
    block.shared.claim(warp, lane, block.shared.place(at, 8, "mbarrier"), 8, Cell::MBARRIER);
    Mbarrier mbarrier{.count = count, .pending = count, .initialised_by = warp.index};
    mbarrier.clock = (int)block.warps.size() + block.async.clocks++;
    if (mbarrier.clock >= CLOCKS) fault("more mbarriers than this interpreter has clocks for");
    block.async.mbarriers[(u32)at] = mbarrier;
}

void decode_init(Decoding& d) {
    d.skip("shared::cta") || d.skip("shared");
    d.expect({"b64"});
    d.end(2);
    const i64 offset = d.use_address(0, B32);
    d.use(1, B32);
    d.out.execute = [offset](Warp& warp, const Instruction& one, u32 lanes) {
        each_lane(lanes, [&](int lane) {
            initialise(warp, lane, warp.lanes(one.registers[0])[lane] + offset, warp.value<u32>(one.registers[1], lane));
        });
    };
}

// mbarrier.arrive{.expect_tx} _, [at]{, bytes}
void decode_arrive(Decoding& d) {
    const bool expects = d.skip("expect_tx");
    d.skip("shared::cta") || d.skip("shared");
    d.expect({"b64"});
    d.end(expects ? 3 : 2);
    if (d.operand(0).names != std::vector<std::string>{"_"}) d.unknown("the state of an mbarrier");
    const i64 offset = d.use_address(1, B32);
    if (expects) d.use(2, B32);
    d.out.execute = [=](Warp& warp, const Instruction& one, u32 lanes) {
        each_lane(lanes, [&](int lane) {
            Mbarrier& mbarrier = mbarrier_at(warp, warp.lanes(one.registers[0])[lane] + offset);
            if (!mbarrier.pending) fault("an arrival more than an mbarrier counts, while its bytes are on their way");
            if (expects) mbarrier.bytes += warp.value<u32>(one.registers[1], lane);
            mbarrier.pending--;
            warp.release(mbarrier.collected);
            settle(warp.block, mbarrier);
        });
    };
}

// A wait may fail for no reason, as the machine's may.
void decode_try_wait(Decoding& d) {
    d.expect({"parity"});
    d.skip("shared::cta") || d.skip("shared");
    d.expect({"b64"});
    d.end(3);
    d.use(0, PREDICATE);
    const i64 offset = d.use_address(1, B32);
    d.use(2, B32);
    d.out.results = 1;
    d.out.execute = [=](Warp& warp, const Instruction& one, u32 lanes) {
        each_lane(lanes, [&](int lane) {
            const Mbarrier& mbarrier = mbarrier_at(warp, warp.lanes(one.registers[1])[lane] + offset);
            const u32 parity = warp.value<u32>(one.registers[2], lane);
            if (parity > 1) fault("the parity ", parity);
            // Before the first phase ends, the one before it counts as ended.
            const bool ended = (mbarrier.phases & 1) != parity;
            const bool told = ended && (mbarrier.phases == 0 || warp.block.random() % 8);
            if (told) warp.clock.join(mbarrier.released);
            if (told) warp.block.idle_steps = 0;
            warp.lanes(one.registers[0])[lane] = told;
        });
    };
}

void decode_mbarrier(Decoding& d) {
    d.out.results = 0;
    const std::string what = d.one_of({"init", "arrive", "try_wait", "test_wait"});
    if (what == "init") decode_init(d);
    else if (what == "arrive") decode_arrive(d);
    else decode_try_wait(d);
}

void fence_mbarriers(Warp& warp) {
    for (auto& [at, mbarrier] : warp.block.async.mbarriers) mbarrier.fenced |= mbarrier.initialised_by == warp.index;
}

void decode_fence(Decoding& d) {
    d.out.results = 0;
    if (d.skip("mbarrier_init")) {
        d.expect({"release", "cluster"});
        d.end(0);
        d.out.execute = [](Warp& warp, const Instruction&, u32) { fence_mbarriers(warp); };
        return;
    }
    d.expect({"proxy", "async"});
    d.skip("shared::cta");
    d.end(0);
    d.out.execute = [](Warp& warp, const Instruction&, u32 lanes) {
        fence_mbarriers(warp);
        warp.clock[warp.index]++;
        each_lane(lanes, [&](int lane) { warp.products.proxy_fences[lane].push_back(warp.clock[warp.index]); });
    };
}

// A warp that wants more registers waits for others to give theirs back.
void decode_setmaxnreg(Decoding& d) {
    const bool more = d.one_of({"inc", "dec"}) == "inc";
    d.expect({"sync", "aligned", "u32"});
    d.end(1);
    const u32 count = (u32)d.literal(0);
    if (count < 24 || count > 256 || count % 8) d.unknown("the number of registers");
    d.out.results = 0;
    d.out.aligned = true;
    d.out.execute = [=](Warp& warp, const Instruction&, u32) {
        u32& now = warp.products.registers;
        if (more ? count < now : count > now) fault("setmaxnreg from ", now, " to ", count);
        const i64 wanted = ((i64)count - now) * LANES;
        if (wanted > warp.block.async.free_registers) {
            warp.waits = true;
            return;
        }
        warp.block.async.free_registers -= wanted;
        warp.block.idle_steps = 0;
        now = count;
    };
}

void start_bulk_copy(Warp& warp, int lane, u64 to, u64 from, u32 bytes, u32 at) {
    Block& block = warp.block;
    if (to % 16 || from % 16 || bytes % 16 || !bytes) fault("cp.async.bulk wants multiples of 16 bytes");
    if (!mbarrier_at(warp, at).fenced) fault("cp.async.bulk before a fence of its mbarrier's initialisation");
    BulkCopy copy{.to = block.shared.place(to, 16, "bulk copy"), .mbarrier = at};
    copy.data.resize(bytes);
    for (u32 k = 0; k < bytes; k += 16) {
        block.global.read(block.thread(warp, lane), from + k, 16, &copy.data[k]);
        block.shared.claim(warp, lane, block.shared.place(to + k, 16, "bulk copy"), 16, Cell::BULK_COPYING);
    }
    memset(block.shared.data(copy.to), 0xff, bytes);
    block.async.copies.push_back(std::move(copy));
    block.idle_steps = 0;
}

// griddepcontrol.wait and .launch_dependents: launches do not overlap here.
void decode_griddepcontrol(Decoding& d) {
    d.one_of({"wait", "launch_dependents"});
    d.end(0);
    d.out.results = 0;
    d.out.execute = [](Warp&, const Instruction&, u32) {};
}

}  // namespace

// cp.async.bulk.shared.global.mbarrier [to], [from], bytes, [mbarrier]
bool decode_bulk_copy(Decoding& d) {
    const auto& words = d.statement.words;
    if (words.size() < 3 || words[2] != "bulk") return false;
    d.expect({"async", "bulk"});
    d.one_of({"shared::cluster", "shared::cta"});
    d.expect({"global", "mbarrier::complete_tx::bytes"});
    d.end(4);
    const i64 to = d.use_address(0, B32), from = d.use_address(1, B64);
    d.use(2, B32);
    const i64 mbarrier = d.use_address(3, B32);
    d.out.results = 0;
    d.out.execute = [=](Warp& warp, const Instruction& one, u32 lanes) {
        each_lane(lanes, [&](int lane) {
            const auto at = [&](int k) { return warp.lanes(one.registers[k])[lane]; };
            start_bulk_copy(warp, lane, at(0) + to, at(1) + from, (u32)at(2), (u32)(at(3) + mbarrier));
        });
    };
    return true;
}

void land_bulk_copy(Block& block) {
    const size_t chosen = block.random() % block.async.copies.size();
    BulkCopy& copy = block.async.copies[chosen];
    Mbarrier& mbarrier = block.async.mbarriers.at(copy.mbarrier);
    const size_t bytes = std::min<size_t>(copy.data.size(), 4096);
    memcpy(block.shared.data(copy.to), copy.data.data(), bytes);
    for (size_t k = copy.to; k < copy.to + bytes; k += CELL) {
        Cell& cell = block.shared.cell(k);
        cell.state = Cell::WRITTEN;
        cell.by_async_proxy = true;
        cell.writer = Cell::BY_MBARRIER | (u16)mbarrier.clock;
        cell.write_time = mbarrier.phases + 1;
    }
    copy.to += bytes;
    copy.data.erase(copy.data.begin(), copy.data.begin() + (i64)bytes);
    mbarrier.bytes -= (i64)bytes;
    if (copy.data.empty()) block.async.copies.erase(block.async.copies.begin() + (i64)chosen);
    settle(block, mbarrier);
    block.idle_steps = 0;
}

const std::map<std::string, Decoder>& hopper_decoders() {
    static const std::map<std::string, Decoder> all = {
        {"mbarrier", decode_mbarrier}, {"fence", decode_fence}, {"setmaxnreg", decode_setmaxnreg}, {"wgmma", decode_wgmma},
        {"griddepcontrol", decode_griddepcontrol}};
    return all;
}

}  // namespace ptx
