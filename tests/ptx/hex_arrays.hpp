// Where hex_ssl's kernels may read and write: from the structures that they are told, their sizes from what these say.
#pragma once

#include <map>
#include <string>

#include "global_memory.hpp"
#include "program.hpp"

namespace ptx {

class HexArrays {
public:
    // The arrays of one launch. What earlier launches of the same evaluation wrote, counts as written.
    GlobalMemory of(const Program& program, const std::string& operand, u32 dims, void* const* arguments);

private:
    std::map<u64, Written> written_;  // by address
};

}  // namespace ptx
