// PTX text to statements.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "values.hpp"

namespace ptx {

// "a", "a|b", "{a, b}" or "[a+4]".
struct Operand {
    std::vector<std::string> names;  // the one between brackets of an address
    bool is_address = false;
    i64 offset = 0;
};

struct Statement {
    enum Kind { OPEN_SCOPE, CLOSE_SCOPE, LABEL, REGISTERS, INSTRUCTION };
    Kind kind = INSTRUCTION;
    u32 line = 0;
    std::string text;                    // an instruction's; a label's name
    std::string guard;                   // the predicate behind "@"
    bool guard_negated = false;
    std::vector<std::string> words;      // "ld", "global", "u32"; of registers their type alone
    std::vector<Operand> operands;
    std::vector<std::string> registers;  // the names declared: "%p<128>" is 128 names
};

struct Parameter {
    std::string name;
    int bytes = 0, alignment = 0;
};

struct Kernel {
    std::string name;
    std::vector<Parameter> parameters;
    u32 most_threads = 0;  // 0: not said
    std::vector<Statement> statements;
};

struct Module {
    std::map<std::string, Kernel> kernels;
    std::vector<std::string> shared;  // names of the dynamic shared memory, all of them its start
};

// Throws a Fault that names the line of what it does not know.
Module parse(const std::string& text);

}  // namespace ptx
