// A decoded kernel: statements whose names have become registers, places and functions.
#pragma once

#include <array>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "parser.hpp"
#include "values.hpp"

namespace ptx {

struct Warp;
struct Instruction;
struct AsyncProduct;

// What an instruction does on some lanes of a warp.
using Execute = std::function<void(Warp&, const Instruction&, u32 lanes)>;

struct Instruction {
    enum Kind { ORDINARY, BRANCH, EXIT, BARRIER };
    Kind kind = ORDINARY;
    u32 line = 0;
    std::string text;
    Execute execute;
    std::vector<int> registers;  // of its operands, in order; the result mostly comes first
    size_t results = 1;          // how many of them it writes: the first ones
    int guard = -1;              // the predicate that lanes must have, -1 for none
    bool guard_negated = false;
    size_t target = 0;           // of a branch
    bool aligned = false;        // all lanes of the warp execute it together
    int members = -1;            // or those in this register's mask do
    bool arrives_only = false;   // a barrier that is not waited at
    // Registers that it writes and reads among those of asynchronous products, which are in flight until waited for.
    std::vector<int> writes_products, reads_products;
    // Of an asynchronous product: its accumulators and the registers of its left factor, and what computes it at last.
    std::vector<int> products;
    std::function<void(Warp&, const AsyncProduct&)> retire;
};

// Where a name of the machine, such as %tid.x, is kept.
struct SpecialRegister {
    std::string name;
    int index;
};

struct ParameterPlace {
    std::string name;
    u32 offset, bytes;
};

struct Program {
    std::string name;
    std::vector<Instruction> instructions;
    std::vector<int> widths;                       // bytes of each register
    std::vector<std::pair<int, u64>> constants;    // registers that nobody writes
    std::vector<u64> initial;                      // [register][lane], as a warp begins
    std::vector<SpecialRegister> special;
    std::vector<ParameterPlace> parameters;
    u32 parameter_bytes = 0, most_threads = 0;
};

// Throws a Fault at the first statement that is not known.
Program decode(const Kernel& kernel, const Module& module);

}  // namespace ptx
