// Bits and predicates: logic, shifts, comparisons.
#include <algorithm>
#include <cmath>

#include "elementwise.hpp"

namespace ptx {
namespace {

// Bitwise, or of predicates.
template <class F> void decode_logic(Decoding& d, F f) {
    const Type type = d.type();
    if (type.kind != 'b' && type != PREDICATE) d.unknown("the type");
    use_all(d, {type, type, type});
    d.out.execute = each<u64, u64>([f](u64 a, u64 b) { return f(a, b); });
}
void decode_and(Decoding& d) {
    decode_logic(d, [](u64 a, u64 b) { return a & b; });
}
void decode_or(Decoding& d) {
    decode_logic(d, [](u64 a, u64 b) { return a | b; });
}
void decode_xor(Decoding& d) {
    decode_logic(d, [](u64 a, u64 b) { return a ^ b; });
}
void decode_not(Decoding& d) {
    const Type type = d.type();
    if (type.kind != 'b' && type != PREDICATE) d.unknown("the type");
    use_all(d, {type, type});
    const u64 all = type == PREDICATE ? 1 : low_bytes(~0ull, type.bytes);
    d.out.execute = each<u64, u64>([all](u64 a) { return ~a & all; });
}

// Shifts by the width or more leave nothing, or the sign.
void decode_shift(Decoding& d) {
    const bool left = d.statement.words[0] == "shl";
    const Type type = d.type();
    if (type.is_float() || type == PREDICATE) d.unknown("the type");
    use_all(d, {type, type, U32});
    const u32 width = type.bytes * 8;
    d.out.execute = [=](Warp& warp, const Instruction& one, u32 lanes) {
        each_lane(lanes, [&](int lane) {
            const u64 x = warp.lanes(one.registers[1])[lane];
            const u32 by = std::min(warp.value<u32>(one.registers[2], lane), width);
            const i64 wide = (i64)extended(type, x, 8);
            u64 y = 0;
            if (left) y = by == width ? 0 : x << by;
            else if (type.is_signed()) y = (u64)(wide >> std::min(by, width - 1));
            else y = by == width ? 0 : (u64)wide >> by;
            warp.lanes(one.registers[0])[lane] = low_bytes(y, type.bytes);
        });
    };
}

// d = b with the lowest `length` bits of a at `position`.
void decode_bfi(Decoding& d) {
    const Type type = d.type();
    if (type != B32 && type != B64) d.unknown("the type");
    use_all(d, {type, type, type, U32, U32});
    const u32 width = type.bytes * 8;
    d.out.execute = [width](Warp& warp, const Instruction& one, u32 lanes) {
        each_lane(lanes, [&](int lane) {
            const u64 field = warp.lanes(one.registers[1])[lane];
            const u32 position = warp.value<u8>(one.registers[3], lane), length = warp.value<u8>(one.registers[4], lane);
            u64 y = warp.lanes(one.registers[2])[lane];
            for (u32 k = 0; k < length && position + k < width; k++) {
                const u64 bit = 1ull << (position + k);
                y = field >> k & 1 ? y | bit : y & ~bit;
            }
            warp.lanes(one.registers[0])[lane] = y;
        });
    };
}

// Four of the bytes of a and b, which four digits choose. The highest bit of a digit wants the byte's sign in its place.
void decode_prmt(Decoding& d) {
    d.expect({"b32"});
    use_all(d, {B32, B32, B32, B32});
    d.out.execute = each<u32, u32>([](u32 a, u32 b, u32 digits) {
        u32 out = 0;
        for (int k = 0; k < 4; k++) {
            const u32 digit = digits >> 4 * k & 15, byte = ((u64)b << 32 | a) >> digit % 8 * 8 & 255;
            out |= (digit < 8 ? byte : byte >> 7 ? 255 : 0) << 8 * k;
        }
        return out;
    });
}

void decode_count(Decoding& d) {
    const bool leading = d.statement.words[0] == "clz";
    const Type type = d.type();
    if (type != B32 && type != B64) d.unknown("the type");
    use_all(d, {U32, type});
    const int unused = 64 - type.bytes * 8;
    d.out.execute = each<u64, u32>([=](u64 x) {
        if (!leading) return __builtin_popcountll(x);
        return x ? __builtin_clzll(x) - unused : 64 - unused;
    });
}

// A comparison; of floats the ordered ones are false where a NaN is among them, those with a "u" behind them true.
template <class T> Execute comparison(Decoding& d, const std::string& how) {
    const auto that = [](auto f) { return each<T, bool>(f); };
    std::string name = how;
    bool or_unordered = false;
    if constexpr (std::is_floating_point_v<T>) {
        const auto unordered = [](T a, T b) { return std::isnan(a) || std::isnan(b); };
        if (how == "nan") return that([=](T a, T b) { return unordered(a, b); });
        if (how == "num") return that([=](T a, T b) { return !unordered(a, b); });
        or_unordered = how.size() == 3 && how[2] == 'u';
        name = how.substr(0, 2);
        if (name == "ne" && !or_unordered) return that([=](T a, T b) { return a != b && !unordered(a, b); });
        if (or_unordered) {
            if (name == "lt") return that([](T a, T b) { return !(a >= b); });
            if (name == "le") return that([](T a, T b) { return !(a > b); });
            if (name == "gt") return that([](T a, T b) { return !(a <= b); });
            if (name == "ge") return that([](T a, T b) { return !(a < b); });
            if (name == "eq") return that([=](T a, T b) { return a == b || unordered(a, b); });
        }
    }
    const bool is_unsigned = std::is_unsigned_v<T>;
    if (name == "eq") return that([](T a, T b) { return a == b; });
    if (name == "ne") return that([](T a, T b) { return a != b; });
    if (name == "lt" || (is_unsigned && name == "lo")) return that([](T a, T b) { return a < b; });
    if (name == "le" || (is_unsigned && name == "ls")) return that([](T a, T b) { return a <= b; });
    if (name == "gt" || (is_unsigned && name == "hi")) return that([](T a, T b) { return a > b; });
    if (name == "ge" || (is_unsigned && name == "hs")) return that([](T a, T b) { return a >= b; });
    d.unknown("." + how);
}

void decode_setp(Decoding& d) {
    const std::string how = d.word();
    const Type type = d.type();
    use_all(d, {PREDICATE, type, type});
    with_type(d, type, [&](auto t) { d.out.execute = comparison<decltype(t)>(d, how); });
}

}  // namespace

const std::map<std::string, Decoder>& logic_decoders() {
    static const std::map<std::string, Decoder> all = {
        {"and", decode_and},   {"or", decode_or},   {"xor", decode_xor},    {"not", decode_not},   {"shl", decode_shift},
        {"shr", decode_shift}, {"bfi", decode_bfi}, {"popc", decode_count}, {"clz", decode_count}, {"setp", decode_setp},
        {"prmt", decode_prmt},
    };
    return all;
}

}  // namespace ptx
