// The structures of src/cuda/kernels/parameters.cu, cut out by the build: no second copy of their layout.
#pragma once

namespace layout {
using u8 = unsigned char;
using u32 = unsigned int;
using i64 = long long;
#define OPERAND 0
#include "parameters.hpp"
}  // namespace layout
