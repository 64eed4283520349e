// Arithmetic, comparisons and logic. Integers wrap: the build says -fwrapv.
#include <algorithm>
#include <cmath>
#include <type_traits>

#include "decoder.hpp"
#include "machine.hpp"

namespace ptx {
namespace {

// Calls `f` with a number of the C++ type for a PTX type; untyped bits count as unsigned.
template <class F> void with_type(Decoding& d, Type type, F f) {
    if (type.is_float() && type.bytes == 4) f(float());
    else if (type.is_float() && type.bytes == 8) f(double());
    else if (type.is_float() || type.bytes == 1) d.unknown("the type");
    else if (type.is_signed()) type.bytes == 2 ? f(i16()) : type.bytes == 4 ? f(i32()) : f(i64());
    else type.bytes == 2 ? f(u16()) : type.bytes == 4 ? f(u32()) : f(u64());
}

// d = f(a), f(a, b) or f(a, b, c), results and operands of the types `To` and `T`.
template <class T, class To, class F> Execute each(F f) {
    return [f](Warp& warp, const Instruction& one, u32 lanes) {
        u64* to = warp.lanes(one.registers[0]);
        u64* from[3] = {};
        for (size_t k = 1; k < one.registers.size() && k < 4; k++) from[k - 1] = warp.lanes(one.registers[k]);
        each_lane(lanes, [&](int lane) {
            if constexpr (std::is_invocable_v<F, T>) {
                to[lane] = bits_of((To)f(number<T>(from[0][lane])));
            } else if constexpr (std::is_invocable_v<F, T, T>) {
                to[lane] = bits_of((To)f(number<T>(from[0][lane]), number<T>(from[1][lane])));
            } else {
                to[lane] = bits_of((To)f(number<T>(from[0][lane]), number<T>(from[1][lane]), number<T>(from[2][lane])));
            }
        });
    };
}

void use_all(Decoding& d, std::initializer_list<Type> types) {
    d.end(types.size());
    size_t k = 0;
    for (Type type : types) d.use(k++, type);
}

// An instruction on numbers of one type.
template <class F> void decode_unary(Decoding& d, Type type, F f) {
    use_all(d, {type, type});
    with_type(d, type, [&](auto t) { d.out.execute = each<decltype(t), decltype(t)>([f](decltype(t) a) { return f(a); }); });
}
template <class F> void decode_binary(Decoding& d, Type type, F f) {
    use_all(d, {type, type, type});
    with_type(d, type, [&](auto t) {
        using T = decltype(t);
        d.out.execute = each<T, T>([f](T a, T b) { return f(a, b); });
    });
}

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
void decode_max(Decoding& d) { decode_binary(d, d.type(), [](auto a, auto b) { return greatest(a, b); }); }

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

const std::map<std::string, Decoder>& arithmetic_decoders() {
    static const std::map<std::string, Decoder> all = {
        {"add", decode_add},   {"sub", decode_sub},   {"mul", decode_mul},    {"mad", decode_mad},    {"fma", decode_fma},
        {"div", decode_div},   {"rem", decode_rem},   {"min", decode_min},    {"max", decode_max},    {"neg", decode_neg},
        {"abs", decode_abs},   {"sqrt", decode_sqrt}, {"rcp", decode_rcp},    {"ex2", decode_ex2},    {"lg2", decode_lg2},
        {"and", decode_and},   {"or", decode_or},     {"xor", decode_xor},    {"not", decode_not},    {"shl", decode_shift},
        {"shr", decode_shift}, {"bfi", decode_bfi},   {"popc", decode_count}, {"clz", decode_count}, {"setp", decode_setp},
    };
    return all;
}

}  // namespace ptx
