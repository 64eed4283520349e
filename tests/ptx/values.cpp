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

float from_f16(u16 x) {
    const u32 size = x & 0x7fff;
    // The exponent's bias goes from 15 to 127, and its largest value, of infinities and NaN, from 31 to 255.
    const float y = size < 0x400 ? (float)size * 0x1p-24f
                                 : number<float>((size << 13) + ((size < 0x7c00 ? 127 - 15 : 255 - 31) << 23));
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
