// What the lanes of a warp do together, and where they go.
#include "decoder.hpp"
#include "machine.hpp"

namespace ptx {
namespace {

// The lane that a lane reads, as the ISA has it for shfl.sync; `valid` where it is in the lane's segment.
int source_lane(const std::string& how, int lane, u32 by, u32 clamp_and_mask, bool& valid) {
    const int clamp = clamp_and_mask & 31, mask = clamp_and_mask >> 8 & 31, b = by & 31;
    const int lowest = lane & mask, limit = lowest | (clamp & ~mask);
    int from = lane ^ b;
    if (how == "up") from = lane - b;
    if (how == "down") from = lane + b;
    if (how == "idx") from = lowest | (b & ~mask);
    valid = how == "up" ? from >= limit : from <= limit;
    return valid ? from : lane;
}

// shfl.sync.how.b32 d{|p}, a, b, c, members
void decode_shfl(Decoding& d) {
    d.expect({"sync"});
    const std::string how = d.one_of({"up", "down", "bfly", "idx"});
    d.expect({"b32"});
    d.end(5);
    const size_t results = d.operand(0).names.size();
    if (results == 1) d.use(0, B32);
    else if (results == 2) d.use_pair(0, B32, PREDICATE);
    else d.unknown("the results");
    d.use(1, B32), d.use(2, B32), d.use(3, B32);
    d.out.results = results;
    d.out.members = d.use(4, B32);
    d.out.execute = [how, results](Warp& warp, const Instruction& one, u32 lanes) {
        std::array<u64, LANES> found{};
        u32 valid = 0;
        each_lane(lanes, [&](int lane) {
            bool ok;
            const u32 by = warp.value<u32>(one.registers[results + 1], lane);
            const int from = source_lane(how, lane, by, warp.value<u32>(one.registers[results + 2], lane), ok);
            if (!(lanes >> from & 1)) fault("shfl from lane ", from, ", which does not take part");
            found[lane] = warp.value<u32>(one.registers[results], from);
            valid |= (u32)ok << lane;
        });
        each_lane(lanes, [&](int lane) {
            warp.lanes(one.registers[0])[lane] = found[lane];
            if (results == 2) warp.lanes(one.registers[1])[lane] = valid >> lane & 1;
        });
    };
}

void decode_vote(Decoding& d) {
    d.expect({"sync"});
    const std::string how = d.one_of({"any", "all", "ballot"});
    d.expect({how == "ballot" ? "b32" : "pred"});
    d.end(3);
    d.use(0, how == "ballot" ? B32 : PREDICATE), d.use(1, PREDICATE);
    d.out.members = d.use(2, B32);
    d.out.execute = [how](Warp& warp, const Instruction& one, u32 lanes) {
        u32 votes = 0;
        each_lane(lanes, [&](int lane) { votes |= (u32)(warp.lanes(one.registers[1])[lane] & 1) << lane; });
        const u64 result = how == "any" ? votes != 0 : how == "all" ? votes == lanes : votes;
        each_lane(lanes, [&](int lane) { warp.lanes(one.registers[0])[lane] = result; });
    };
}

void decode_redux(Decoding& d) {
    d.expect({"sync"});
    const std::string how = d.one_of({"add", "min", "max"});
    const Type type = d.type();
    if (type != Type{'u', 4} && (type != Type{'s', 4} || how != "add")) d.unknown("the type");
    d.end(3);
    d.use(0, type), d.use(1, type);
    d.out.members = d.use(2, B32);
    d.out.execute = [how](Warp& warp, const Instruction& one, u32 lanes) {
        u32 result = how == "min" ? ~0u : 0;
        each_lane(lanes, [&](int lane) {
            const u32 x = warp.value<u32>(one.registers[1], lane);
            result = how == "add" ? result + x : how == "min" ? std::min(result, x) : std::max(result, x);
        });
        each_lane(lanes, [&](int lane) { warp.lanes(one.registers[0])[lane] = result; });
    };
}

// Four 8x8 matrices of 16 bits; lane l gives the address of row l % 8 of matrix l / 8, and gets of each matrix two
// neighbours of row l / 4 (of column l / 4 where transposed).
void decode_ldmatrix(Decoding& d) {
    d.expect({"sync", "aligned", "m8n8", "x4"});
    const bool transposed = d.skip("trans");
    d.expect({"shared", "b16"});
    d.end(2);
    d.use_vector(0, B32, 4);
    const i64 offset = d.use_address(1, B32);
    d.out.results = 4;
    d.out.aligned = true;
    d.out.execute = [=](Warp& warp, const Instruction& one, u32) {
        u16 matrix[4][8][8];
        for (int lane = 0; lane < LANES; lane++) {
            const u64 at = warp.lanes(one.registers[4])[lane] + offset;
            warp.block.shared.read(warp, lane, at, 16, matrix[lane / 8][lane % 8]);
        }
        for (int lane = 0; lane < LANES; lane++) {
            const int row = lane / 4, column = lane % 4 * 2;
            for (int k = 0; k < 4; k++) {
                const u32 low = transposed ? matrix[k][column][row] : matrix[k][row][column];
                const u32 high = transposed ? matrix[k][column + 1][row] : matrix[k][row][column + 1];
                warp.lanes(one.registers[k])[lane] = low | high << 16;
            }
        }
    };
}

// bar.warp.sync members; bar.sync and bar.arrive barrier{, threads}. What these do is the scheduler's.
void decode_bar(Decoding& d) {
    d.out.results = 0;
    if (d.skip("warp")) {
        d.expect({"sync"});
        d.end(1);
        d.out.members = d.use(0, B32);
        d.out.execute = [](Warp& warp, const Instruction&, u32) { warp.epoch++; };
        return;
    }
    d.out.arrives_only = d.one_of({"sync", "arrive"}) == "arrive";
    d.out.kind = Instruction::BARRIER;
    d.out.aligned = true;
    const bool counted = d.statement.operands.size() > 1;
    if (d.out.arrives_only && !counted) d.unknown("an arrival without a number of threads");
    d.end(counted ? 2 : 1);
    d.use(0, B32);
    if (counted) d.use(1, B32);
}

void decode_membar(Decoding& d) {
    d.expect({"gl"});
    d.end(0);
    d.out.results = 0;
    d.out.execute = [](Warp& warp, const Instruction&, u32 lanes) {
        each_lane(lanes, [&](int lane) { warp.block.global.fence(warp.block.thread(warp, lane)); });
    };
}

void decode_bra(Decoding& d) {
    d.skip("uni");
    d.end(1);
    d.out.kind = Instruction::BRANCH;
}

void decode_ret(Decoding& d) {
    d.end(0);
    d.out.kind = Instruction::EXIT;
}

}  // namespace

const std::map<std::string, Decoder>& warp_decoders() {
    static const std::map<std::string, Decoder> all = {
        {"shfl", decode_shfl}, {"vote", decode_vote}, {"redux", decode_redux}, {"ldmatrix", decode_ldmatrix}, {"mma", decode_mma},
        {"bar", decode_bar},   {"membar", decode_membar}, {"bra", decode_bra},       {"ret", decode_ret},
        {"exit", decode_ret},
    };
    return all;
}

}  // namespace ptx
