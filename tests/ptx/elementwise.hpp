// Instructions that do the same in each lane: what arithmetic and logic are made of.
#pragma once

#include <type_traits>

#include "decoder.hpp"
#include "machine.hpp"

namespace ptx {

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

inline void use_all(Decoding& d, std::initializer_list<Type> types) {
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

}  // namespace ptx
