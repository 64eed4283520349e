#include "values.hpp"

#include <cmath>

namespace ptx {

Type type_named(const std::string& name) {
    if (name == "pred") return PREDICATE;
    for (char kind : {'b', 'u', 's', 'f'}) {
        for (int bits : {8, 16, 32, 64}) {
            if (name == kind + std::to_string(bits) && !(kind == 'f' && bits == 8)) return {kind, bits / 8};
        }
    }
    return {};
}

float from_bf16(u16 x) { return number<float>((u64)x << 16); }

float from_f16(u16 x) {
    const int exponent = x >> 10 & 31, fraction = x & 1023;
    float y;
    if (exponent == 31) y = fraction ? NAN : INFINITY;
    else if (exponent == 0) y = std::ldexp((float)fraction, -24);
    else y = std::ldexp((float)(fraction | 1024), exponent - 25);
    return x >> 15 ? -y : y;
}

u16 to_bf16(float x) {
    if (std::isnan(x)) return 0x7fff;
    const u32 bits = (u32)bits_of(x);
    return (u16)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

u16 to_f16(float x) {
    if (std::isnan(x)) return 0x7fff;
    const u16 sign = std::signbit(x) ? 0x8000 : 0;
    const double size = std::fabs((double)x);
    if (size >= 65520) return sign | 0x7c00;
    if (size == 0) return sign;
    int exponent;
    std::frexp(size, &exponent);
    // The unit in the last place; below 2^-14 that of the subnormal numbers.
    const int unit = std::max(exponent - 11, -24);
    const auto units = (u32)std::nearbyint(std::ldexp(size, -unit));
    // The leading bit of a normal number, and a fraction that rounds up to 2048 units, carry into the exponent.
    return sign | (u16)(units + ((u32)(unit + 24) << 10));
}

}  // namespace ptx
