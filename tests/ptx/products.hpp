// How tensor cores add up.
#pragma once

#include "values.hpp"

namespace ptx {

// Exact: each sum is rounded once. Truncating: the terms of a block and the accumulator are aligned to the largest of
// them, cut off `extra_bits` below float32's precision, and the sum is cut to it, as measurements of NVIDIA's tensor
// cores say (Fasi, Higham, Mikaitis and Pranesh, "Numerical behavior of NVIDIA tensor cores", 2021). NVIDIA documents
// neither.
struct Rounding {
    bool truncates = false;
    int extra_bits = 1;
    int blocks = 1;  // of the hardware's blocks of terms, added up at once
};

// c + a . b, of `count` terms in the hardware's blocks of `block`.
float dot(const Rounding& rounding, float c, const float* a, const float* b, int count, int block);

}  // namespace ptx
