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

constexpr int PRODUCT_COLUMNS = 8;

// c += a b^T of 16 rows and 8 columns, in the hardware's blocks of `block` dimensions. For K = 8 and 16.
template <int K>
void add_product(const Rounding& rounding, int block, const float (&a)[16][K], const float (&b)[PRODUCT_COLUMNS][K],
                 float (&c)[16][PRODUCT_COLUMNS]);

}  // namespace ptx
