// Numbers in registers, PTX's types, and what a program does wrong.
#pragma once

#include <cstdint>
#include <cstring>
#include <sstream>
#include <stdexcept>
#include <string>

namespace ptx {

using u8 = uint8_t;
using u16 = uint16_t;
using u32 = uint32_t;
using u64 = uint64_t;
using i16 = int16_t;
using i32 = int32_t;
using i64 = int64_t;

constexpr int LANES = 32;
constexpr u32 ALL_LANES = ~0u;

// A wrong program, or PTX that this interpreter does not know: ends the launch.
struct Fault : std::runtime_error {
    using runtime_error::runtime_error;
};

template <class... Parts> [[noreturn]] void fault(const Parts&... parts) {
    std::ostringstream text;
    (text << ... << parts);
    throw Fault(text.str());
}

inline std::string hex(u64 x) {
    std::ostringstream text;
    text << "0x" << std::hex << x;
    return text.str();
}

// A register holds its number in the low bytes; the others are 0.
template <class T> T number(u64 bits) {
    T x;
    memcpy(&x, &bits, sizeof x);
    return x;
}
template <class T> u64 bits_of(T x) {
    u64 bits = 0;
    memcpy(&bits, &x, sizeof x);
    return bits;
}

inline u64 low_bytes(u64 bits, int bytes) { return bytes >= 8 ? bits : bits & ((1ull << bytes * 8) - 1); }

// Calls `f(lane)` for each lane of a mask.
template <class F> void each_lane(u32 mask, F f) {
    if (mask == ALL_LANES) {
        for (int lane = 0; lane < LANES; lane++) f(lane);
    } else {
        for (; mask; mask &= mask - 1) f(__builtin_ctz(mask));
    }
}

// A type as ".s32": its kind is the letter, 'p' of predicates.
struct Type {
    char kind = 0;
    int bytes = 0;

    bool is_float() const { return kind == 'f'; }
    bool is_signed() const { return kind == 's'; }
    bool operator==(const Type&) const = default;
};

constexpr Type PREDICATE{'p', 1}, B16{'b', 2}, B32{'b', 4}, B64{'b', 8}, U32{'u', 4}, F32{'f', 4};

// The type of that name without its dot; of kind 0 where there is none.
Type type_named(const std::string& name);

// Bits of a type as a register of `width` bytes has them: signed integers keep their sign.
inline u64 extended(Type type, u64 bits, int width) {
    if (!type.is_signed()) return low_bytes(bits, type.bytes);
    const int unused = 64 - type.bytes * 8;
    return low_bytes((u64)((i64)(bits << unused) >> unused), width);
}

// 16-bit floating point, rounded to nearest even.
inline float from_bf16(u16 x) { return number<float>((u64)x << 16); }
float from_f16(u16 x);
u16 to_bf16(float x);
u16 to_f16(float x);

}  // namespace ptx
