// How a warp goes from instruction to instruction.
#pragma once

#include "machine.hpp"

namespace ptx {

// Executes one instruction. False where the warp waits: at a barrier, or for lanes or warps that have not come.
bool step(Warp& warp, bool random_lanes);

}  // namespace ptx
