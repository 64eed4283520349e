// Arithmetic. Integers wrap: the build says -fwrapv.
#include <cmath>

#include "elementwise.hpp"

namespace ptx {
namespace {

// The type of an operation that wants ".rn" or nothing of floats, and nothing of integers.
Type type_rounded(Decoding& d) {
    const bool rounded = d.skip("rn");
    const Type type = d.type();
    if (rounded && !type.is_float()) d.unknown(".rn");
    return type;
}

void decode_add(Decoding& d) {
    const Type type = type_rounded(d);
    decode_binary(d, type, [](auto a, auto b) { return a + b; });
}
void decode_sub(Decoding& d) {
    const Type type = type_rounded(d);
    decode_binary(d, type, [](auto a, auto b) { return a - b; });
}

// ".wide": the whole product of two integers, in twice the bits, and with `added` a third operand of those.
void decode_wide(Decoding& d, Type type, bool added) {
    if (type.is_float() || type.bytes > 4) d.unknown("the type");
    const Type wide{type.kind, type.bytes * 2};
    added ? use_all(d, {wide, type, type, wide}) : use_all(d, {wide, type, type});
    const bool is_signed = type.is_signed();
    d.out.execute = [=](Warp& warp, const Instruction& one, u32 lanes) {
        each_lane(lanes, [&](int lane) {
            const auto factor = [&](int k) { return (i64)extended(type, warp.lanes(one.registers[k])[lane], 8); };
            u64 product = is_signed ? (u64)(factor(1) * factor(2)) : (u64)factor(1) * (u64)factor(2);
            if (added) product += warp.lanes(one.registers[3])[lane];
            warp.lanes(one.registers[0])[lane] = low_bytes(product, wide.bytes);
        });
    };
}

void decode_mul(Decoding& d) {
    if (d.skip("wide")) return decode_wide(d, d.type(), false);
    const bool low = d.skip("lo"), high = !low && d.skip("hi");
    const Type type = type_rounded(d);
    if (type.is_float() == (low || high)) d.unknown("the rounding");
    if (!high) return decode_binary(d, type, [](auto a, auto b) { return a * b; });
    decode_binary(d, type, [](auto a, auto b) {
        if constexpr (std::is_integral_v<decltype(a)>) return (__int128)a * (__int128)b >> (sizeof a * 8);
        else return a;
    });
}

void decode_mad(Decoding& d) {
    if (d.skip("wide")) return decode_wide(d, d.type(), true);
    d.expect({"lo"});
    const Type type = d.type();
    if (type.is_float()) d.unknown("the type");
    use_all(d, {type, type, type, type});
    with_type(d, type, [&](auto t) {
        using T = decltype(t);
        d.out.execute = each<T, T>([](T a, T b, T c) { return a * b + c; });
    });
}

void decode_fma(Decoding& d) {
    d.expect({"rn"});
    const Type type = d.type();
    if (!type.is_float()) d.unknown("the type");
    use_all(d, {type, type, type, type});
    with_type(d, type, [&](auto t) {
        using T = decltype(t);
        d.out.execute = each<T, T>([](T a, T b, T c) { return (T)std::fma(a, b, c); });
    });
}

void decode_div(Decoding& d) {
    const bool rounded = d.skip("rn");
    const Type type = d.type();
    if (rounded != type.is_float()) d.unknown("the rounding");
    decode_binary(d, type, [](auto a, auto b) {
        if constexpr (std::is_integral_v<decltype(a)>) {
            if (b == 0) fault("an integer is divided by 0");
            if (b == (decltype(b))-1 && std::is_signed_v<decltype(b)>) return (decltype(a))(0 - a);
        }
        return (decltype(a))(a / b);
    });
}

void decode_rem(Decoding& d) {
    const Type type = d.type();
    if (type.is_float()) d.unknown("the type");
    decode_binary(d, type, [](auto a, auto b) {
        if constexpr (std::is_integral_v<decltype(a)>) {
            if (b == 0) fault("an integer is divided by 0");
            if (b == (decltype(b))-1 && std::is_signed_v<decltype(b)>) return (decltype(a))0;
            return (decltype(a))(a % b);
        }
        return a;
    });
}

// Of a number and a NaN the number; -0 is less than 0.
template <class T> T least(T a, T b) {
    if constexpr (std::is_floating_point_v<T>) {
        if (std::isnan(a) || std::isnan(b)) return std::isnan(a) ? b : a;
        if (a == b) return std::signbit(a) ? a : b;
    }
    return a < b ? a : b;
}
template <class T> T greatest(T a, T b) {
    if constexpr (std::is_floating_point_v<T>) {
        if (std::isnan(a) || std::isnan(b)) return std::isnan(a) ? b : a;
        if (a == b) return std::signbit(a) ? b : a;
    }
    return a > b ? a : b;
}

void decode_min(Decoding& d) { decode_binary(d, d.type(), [](auto a, auto b) { return least(a, b); }); }
void decode_max(Decoding& d) {
    if (!d.skip("u16x2")) return decode_binary(d, d.type(), [](auto a, auto b) { return greatest(a, b); });
    use_all(d, {B32, B32, B32});
    d.out.execute = each<u32, u32>([](u32 a, u32 b) {
        return greatest(a >> 16, b >> 16) << 16 | greatest((u16)a, (u16)b);
    });
}

void decode_neg(Decoding& d) { decode_unary(d, d.type(), [](auto a) { return -a; }); }
void decode_abs(Decoding& d) {
    decode_unary(d, d.type(), [](auto a) {
        if constexpr (std::is_floating_point_v<decltype(a)>) return std::fabs(a);
        else return std::is_signed_v<decltype(a)> && (i64)a < 0 ? (decltype(a))-a : a;
    });
}

void decode_sqrt(Decoding& d) {
    d.expect({"rn"});
    const Type type = d.type();
    if (!type.is_float()) d.unknown("the type");
    decode_unary(d, type, [](auto a) { return std::sqrt(a); });
}

template <class T> T flushed(T x) { return std::fpclassify(x) == FP_SUBNORMAL ? std::copysign((T)0, x) : x; }

void decode_rcp(Decoding& d) {
    if (d.skip("rn")) {
        const Type type = d.type();
        if (!type.is_float()) d.unknown("the type");
        return decode_unary(d, type, [](auto a) { return 1 / a; });
    }
    // Of the upper half of the bits alone, as the ISA describes it.
    d.expect({"approx", "ftz", "f64"});
    const auto upper = [](double x) { return number<double>(bits_of(flushed(x)) & 0xffffffff00000000ull); };
    decode_unary(d, {'f', 8}, [upper](auto a) { return upper(1.0 / upper((double)a)); });
}

// Hardware is within 2 units in the last place; this is rounded once.
template <class F> void decode_approximate(Decoding& d, F f) {
    d.expect({"approx", "ftz", "f32"});
    decode_unary(d, F32, [f](auto a) { return flushed((float)f((double)flushed((float)a))); });
}
void decode_ex2(Decoding& d) {
    decode_approximate(d, [](double x) { return std::exp2(x); });
}
void decode_lg2(Decoding& d) {
    decode_approximate(d, [](double x) { return std::log2(x); });
}

}  // namespace

const std::map<std::string, Decoder>& arithmetic_decoders() {
    static const std::map<std::string, Decoder> all = {
        {"add", decode_add}, {"sub", decode_sub}, {"mul", decode_mul}, {"mad", decode_mad}, {"fma", decode_fma},
        {"div", decode_div}, {"rem", decode_rem}, {"min", decode_min}, {"max", decode_max}, {"neg", decode_neg},
        {"abs", decode_abs}, {"sqrt", decode_sqrt}, {"rcp", decode_rcp}, {"ex2", decode_ex2}, {"lg2", decode_lg2},
    };
    return all;
}

}  // namespace ptx
