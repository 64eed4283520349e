// What reads and writes memory: ld, st, atom, cp.async.
#include <algorithm>

#include "decoder.hpp"
#include "machine.hpp"

namespace ptx {
namespace {

void read_parameter(const Warp& warp, u64 at, int bytes, void* to) {
    if (at % bytes) fault("misaligned read of ", bytes, " bytes of the parameters");
    for (const ParameterPlace& place : warp.block.program.parameters) {
        if (at < place.offset || at + bytes > place.offset + place.bytes) continue;
        memcpy(to, &warp.block.parameters[at], bytes);
        return;
    }
    fault("read outside of the parameters, at ", (i64)at);
}

// ld.space{.v2,.v4}.type and st.space...: the values' registers, then the address.
struct Access {
    char space;  // its first letter
    Type type;
    size_t count = 1;
    i64 offset = 0;

    Access(Decoding& d, bool load) {
        space = (load ? d.one_of({"param", "global", "shared"}) : d.one_of({"global", "shared"}))[0];
        if (d.skip("v2")) count = 2;
        if (d.skip("v4")) count = 4;
        type = d.type();
        if (type == PREDICATE || (!load && space == 's' && type.bytes < CELL)) d.unknown("the type");
        d.end(2);
        const size_t values = load ? 0 : 1;
        count == 1 ? (void)d.use(values, type) : d.use_vector(values, type, count);
        // Addresses of shared memory may be of 32 bits.
        offset = d.use_address(1 - values, space == 's' ? B32 : B64);
    }
    int bytes() const { return type.bytes * (int)count; }
    u64 address(Warp& warp, const Instruction& one, int lane) const {
        return warp.lanes(one.registers[count])[lane] + offset;
    }
};

u64 bits_at(const u8* from, int bytes) {
    u64 bits = 0;
    switch (bytes) {
        case 1: return *from;
        case 2: memcpy(&bits, from, 2); return bits;
        case 4: memcpy(&bits, from, 4); return bits;
        default: memcpy(&bits, from, 8); return bits;
    }
}

void decode_ld(Decoding& d) {
    const Access access(d, true);
    d.out.results = access.count;
    d.out.execute = [access](Warp& warp, const Instruction& one, u32 lanes) {
        const Type type = access.type;
        const int bytes = access.bytes();
        u64* to[4];
        int widths[4];
        for (size_t k = 0; k < access.count; k++) {
            to[k] = warp.lanes(one.registers[k]), widths[k] = warp.block.program.widths[one.registers[k]];
        }
        each_lane(lanes, [&](int lane) {
            const u64 at = access.address(warp, one, lane);
            u8 data[32];
            if (access.space == 'p') read_parameter(warp, at, bytes, data);
            else if (access.space == 'g') warp.block.global.read(warp.block.thread(warp, lane), at, bytes, data);
            else warp.block.shared.read(warp, lane, at, bytes, data);
            for (size_t k = 0; k < access.count; k++) {
                to[k][lane] = extended(type, bits_at(data + k * type.bytes, type.bytes), widths[k]);
            }
        });
    };
}

void decode_st(Decoding& d) {
    const Access access(d, false);
    d.out.results = 0;
    d.out.execute = [access](Warp& warp, const Instruction& one, u32 lanes) {
        const u64* from[4];
        for (size_t k = 0; k < access.count; k++) from[k] = warp.lanes(one.registers[k]);
        each_lane(lanes, [&](int lane) {
            const u64 at = access.address(warp, one, lane);
            // Whole registers are copied: behind each number the next one replaces what is too much.
            u8 data[32 + 8];
            for (size_t k = 0; k < access.count; k++) memcpy(data + k * access.type.bytes, &from[k][lane], 8);
            if (access.space == 's') warp.block.shared.write(warp, lane, at, access.bytes(), data);
            else warp.block.global.write(warp.block.thread(warp, lane), at, access.bytes(), data);
        });
    };
}

u32 updated(const std::string& how, u32 a, u32 b) {
    if (how == "inc") return a >= b ? 0 : a + 1;
    return how == "add" ? a + b : how == "max" ? std::max(a, b) : std::min(a, b);
}

void decode_atom(Decoding& d) {
    const bool shared = d.one_of({"shared", "global"}) == "shared";
    const std::string how = d.one_of({"add", "inc", "max", "min"});
    d.expect({"u32"});
    d.end(3);
    d.use(0, U32);
    const i64 offset = d.use_address(1, shared ? B32 : B64);
    d.use(2, U32);
    d.out.execute = [=](Warp& warp, const Instruction& one, u32 lanes) {
        each_lane(lanes, [&](int lane) {
            const u64 at = warp.lanes(one.registers[1])[lane] + offset;
            const u32 x = warp.value<u32>(one.registers[2], lane);
            u32 old;
            if (shared) {
                old = warp.block.shared.update(warp, lane, at, [&](u32 old) { return updated(how, old, x); });
            } else {
                warp.block.global.check_atomic(at, 4);
                memcpy(&old, (const void*)at, 4);
                const u32 now = updated(how, old, x);
                memcpy((void*)at, &now, 4);
            }
            warp.lanes(one.registers[0])[lane] = old;
        });
    };
}

// 16 bytes from global to shared memory. They leave at once, as nobody may write their source meanwhile, and land when
// they are waited for; until then what was there is lost.
void decode_copy(Decoding& d) {
    d.expect({"cg", "shared", "global"});
    d.end(3);
    const i64 to = d.use_address(0, B32), from = d.use_address(1, B64);
    if (d.literal(2) != 16) d.unknown("the bytes of a copy");
    d.out.results = 0;
    d.out.execute = [=](Warp& warp, const Instruction& one, u32 lanes) {
        Block& block = warp.block;
        each_lane(lanes, [&](int lane) {
            AsyncCopy copy{.lane = lane, .group = warp.groups[lane]};
            copy.to = block.shared.place(warp.lanes(one.registers[0])[lane] + to, 16, "cp.async");
            const u64 source = warp.lanes(one.registers[1])[lane] + from;
            block.global.read(block.thread(warp, lane), source, 16, copy.data.data());
            block.shared.claim(warp, lane, copy.to, 16, Cell::COPYING);
            memset(block.shared.data(copy.to), 0xff, 16);
            warp.copies.push_back(copy);
        });
    };
}

void land(Warp& warp, const AsyncCopy& copy) {
    SharedMemory& shared = warp.block.shared;
    memcpy(shared.data(copy.to), copy.data.data(), 16);
    for (size_t k = copy.to; k < copy.to + 16; k += CELL) {
        Cell& cell = shared.cell(k);
        cell.state = Cell::WRITTEN;
        cell.write_time = warp.clock[warp.index];
        cell.write_epoch = warp.epoch;
    }
}

// All but the last `pending` groups of each lane have landed.
void decode_wait(Decoding& d, bool all) {
    d.end(all ? 0 : 1);
    const u32 pending = all ? 0 : (u32)d.literal(0);
    d.out.results = 0;
    d.out.execute = [=](Warp& warp, const Instruction&, u32 lanes) {
        std::erase_if(warp.copies, [&](const AsyncCopy& copy) {
            const bool waits = lanes >> copy.lane & 1 && (all || copy.group + pending < warp.groups[copy.lane]);
            if (waits) land(warp, copy);
            return waits;
        });
    };
}

void decode_cp(Decoding& d) {
    if (decode_bulk_copy(d)) return;
    d.expect({"async"});
    if (d.skip("wait_group")) return decode_wait(d, false);
    if (d.skip("wait_all")) return decode_wait(d, true);
    if (!d.skip("commit_group")) return decode_copy(d);
    d.end(0);
    d.out.results = 0;
    d.out.execute = [](Warp& warp, const Instruction&, u32 lanes) {
        each_lane(lanes, [&](int lane) { warp.groups[lane]++; });
    };
}

}  // namespace

const std::map<std::string, Decoder>& access_decoders() {
    static const std::map<std::string, Decoder> all = {
        {"ld", decode_ld}, {"st", decode_st}, {"atom", decode_atom}, {"cp", decode_cp}};
    return all;
}

}  // namespace ptx
