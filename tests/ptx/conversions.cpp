// Moves, choices and conversions between types.
#include <cmath>

#include "decoder.hpp"
#include "machine.hpp"

namespace ptx {
namespace {

Execute copy() {
    return [](Warp& warp, const Instruction& one, u32 lanes) {
        const u64* from = warp.lanes(one.registers[1]);
        u64* to = warp.lanes(one.registers[0]);
        each_lane(lanes, [&](int lane) { to[lane] = from[lane]; });
    };
}

// mov {a, b}, d and mov d, {a, b}: the parts of a register, the low one first.
void decode_parts(Decoding& d, Type type) {
    const bool unpacks = d.operand(0).names.size() > 1;
    const size_t parts = d.operand(unpacks ? 0 : 1).names.size();
    const int bytes = type.bytes / (int)parts;
    if (type.kind != 'b' || (parts != 2 && parts != 4) || bytes < 2) d.unknown("the parts of a register");
    const Type part{'b', bytes};
    d.end(2);
    unpacks ? d.use_vector(0, part, parts) : (void)d.use(0, type);
    unpacks ? (void)d.use(1, type) : d.use_vector(1, part, parts);
    d.out.results = unpacks ? parts : 1;
    d.out.execute = [=](Warp& warp, const Instruction& one, u32 lanes) {
        each_lane(lanes, [&](int lane) {
            const auto at = [&](size_t k) -> u64& { return warp.lanes(one.registers[k])[lane]; };
            if (unpacks) {
                const u64 whole = at(parts);
                for (size_t k = 0; k < parts; k++) at(k) = low_bytes(whole >> (bytes * 8 * k), bytes);
            } else {
                u64 whole = 0;
                for (size_t k = 0; k < parts; k++) whole |= low_bytes(at(k + 1), bytes) << (bytes * 8 * k);
                at(0) = whole;
            }
        });
    };
}

void decode_mov(Decoding& d) {
    const Type type = d.type();
    if (d.operand(0).names.size() > 1 || d.operand(1).names.size() > 1) return decode_parts(d, type);
    d.end(2);
    d.use(0, type), d.use(1, type);
    d.out.execute = copy();
}

// Global addresses are generic ones.
void decode_cvta(Decoding& d) {
    d.skip("to");
    d.expect({"global", "u64"});
    d.end(2);
    d.use(0, B64), d.use(1, B64);
    d.out.execute = copy();
}

void decode_selp(Decoding& d) {
    const Type type = d.type();
    d.end(4);
    d.use(0, type), d.use(1, type), d.use(2, type), d.use(3, PREDICATE);
    d.out.execute = [](Warp& warp, const Instruction& one, u32 lanes) {
        const u64 *a = warp.lanes(one.registers[1]), *b = warp.lanes(one.registers[2]), *p = warp.lanes(one.registers[3]);
        u64* to = warp.lanes(one.registers[0]);
        each_lane(lanes, [&](int lane) { to[lane] = p[lane] ? a[lane] : b[lane]; });
    };
}

// Two floats to two of 16 bits; the first one becomes the upper half.
void decode_pairs(Decoding& d, bool bf16) {
    d.expect({"f32"});
    d.end(3);
    d.use(0, B32), d.use(1, F32), d.use(2, F32);
    d.out.execute = [bf16](Warp& warp, const Instruction& one, u32 lanes) {
        each_lane(lanes, [&](int lane) {
            const auto half = [&](int k) {
                const float x = warp.value<float>(one.registers[k], lane);
                return (u32)(bf16 ? to_bf16(x) : to_f16(x));
            };
            warp.lanes(one.registers[0])[lane] = half(1) << 16 | half(2);
        });
    };
}

// To 11 bits, ties away from zero.
void decode_to_tf32(Decoding& d) {
    d.expect({"f32"});
    d.end(2);
    d.use(0, B32), d.use(1, F32);
    d.out.execute = [](Warp& warp, const Instruction& one, u32 lanes) {
        each_lane(lanes, [&](int lane) {
            const u32 x = warp.value<u32>(one.registers[1], lane), size = x & 0x7fffffff;
            const u32 rounded = (x + 0x1000) & ~0x1fffu;
            warp.lanes(one.registers[0])[lane] = size > 0x7f800000 ? 0x7fffffff : size == 0x7f800000 ? x : rounded;
        });
    };
}

void decode_from_f16(Decoding& d) {
    d.end(2);
    d.use(0, F32), d.use(1, B16);
    d.out.execute = [](Warp& warp, const Instruction& one, u32 lanes) {
        each_lane(lanes, [&](int lane) {
            warp.lanes(one.registers[0])[lane] = bits_of(from_f16(warp.value<u16>(one.registers[1], lane)));
        });
    };
}

u64 float_bits(Type type, double x) { return type.bytes == 4 ? bits_of((float)x) : bits_of(x); }
double as_double(Type type, u64 bits) { return type.bytes == 4 ? (double)number<float>(bits) : number<double>(bits); }

// Integers of 64 bits to floats, rounded once.
u64 float_of_integer(Type to, bool is_signed, u64 x) {
    if (to.bytes == 4) return bits_of(is_signed ? (float)(i64)x : (float)x);
    return bits_of(is_signed ? (double)(i64)x : (double)x);
}

// Out of range the nearest there is, of NaN 0.
u64 integer_of_float(Type to, double x) {
    const int bits = to.bytes * 8 - to.is_signed();
    const double top = std::ldexp(1.0, bits), bottom = to.is_signed() ? -top : 0.0;
    if (std::isnan(x)) return 0;
    if (x >= top) return bits == 64 ? ~0ull : (1ull << bits) - 1;
    if (x <= bottom) return to.is_signed() ? ~0ull << bits : 0;
    return to.is_signed() ? (u64)(i64)x : (u64)x;
}

double rounded(const std::string& how, double x) {
    if (how == "rzi") return std::trunc(x);
    if (how == "rni") return std::nearbyint(x);
    if (how == "rmi") return std::floor(x);
    return std::ceil(x);
}

void decode_cvt(Decoding& d) {
    std::string rounding;
    for (const char* each : {"rn", "rna", "rni", "rzi", "rmi", "rpi"}) {
        if (rounding.empty() && d.skip(each)) rounding = each;
    }
    const bool to_pairs = rounding == "rn";
    if (to_pairs && d.skip("bf16x2")) return decode_pairs(d, true);
    if (to_pairs && d.skip("f16x2")) return decode_pairs(d, false);
    if (rounding == "rna") return d.expect({"tf32"}), decode_to_tf32(d);
    const Type to = d.type(), from = d.type();
    if (rounding.empty() && to == F32 && from == Type{'f', 2}) return decode_from_f16(d);
    const bool loses = to.is_float() && (!from.is_float() || from.bytes > to.bytes);
    const bool to_integer = rounding.size() == 3;
    if (to.bytes < (to.is_float() ? 4 : 1) || from.bytes < (from.is_float() ? 4 : 1)) d.unknown("the type");
    if ((rounding == "rn") != loses || (from.is_float() && !to.is_float()) > to_integer) d.unknown("the rounding");
    if (to_integer && !from.is_float()) d.unknown("the rounding");
    d.end(2);
    // Integers may come from and go to wider registers.
    const int result = d.use(0, to), width = d.registers().width(result);
    d.use(1, from);
    d.out.execute = [=](Warp& warp, const Instruction& one, u32 lanes) {
        each_lane(lanes, [&](int lane) {
            const u64 bits = warp.lanes(one.registers[1])[lane];
            u64 y;
            if (!from.is_float()) {
                const u64 x = extended(from, bits, 8);
                y = to.is_float() ? float_of_integer(to, from.is_signed(), x) : extended(to, x, width);
            } else {
                const double x = as_double(from, bits), whole = to_integer ? rounded(rounding, x) : x;
                y = to.is_float() ? float_bits(to, whole) : extended(to, integer_of_float(to, whole), width);
            }
            warp.lanes(one.registers[0])[lane] = y;
        });
    };
}

}  // namespace

const std::map<std::string, Decoder>& conversion_decoders() {
    static const std::map<std::string, Decoder> all = {
        {"mov", decode_mov}, {"cvta", decode_cvta}, {"selp", decode_selp}, {"cvt", decode_cvt}};
    return all;
}

}  // namespace ptx
