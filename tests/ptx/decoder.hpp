// From a statement to an instruction: names to registers, modifiers to what they ask for.
#pragma once

#include <initializer_list>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "program.hpp"

namespace ptx {

// The registers of a kernel that is decoded.
class Registers {
public:
    Registers(Program& program, const Module& module) : program_(program), module_(module) {}

    void open_scope() { scopes_.emplace_back(); }
    void close_scope() { scopes_.pop_back(); }
    void declare(const std::string& name, Type type) { scopes_.back()[name] = fresh(type.bytes); }
    // The register of an operand that is read as `type`: a name, a number, an address. -1 where it is none of them.
    int find(const std::string& name, Type type);
    int fresh(int width);
    int width(int at) const { return program_.widths[at]; }
    int constant(u64 value, int width);

private:
    Program& program_;
    const Module& module_;
    std::vector<std::map<std::string, int>> scopes_{1};
    std::map<std::pair<u64, int>, int> constants_;

    int find_special(const std::string& name);
    int find_literal(const std::string& text, Type type);
};

// The decoding of one instruction. Whatever a decoder does not ask for is not known: modifiers are read from left to
// right, and `end` refuses what is left of them.
class Decoding {
public:
    const Statement& statement;
    Instruction& out;

    Decoding(const Statement& statement, Instruction& out, Registers& registers)
        : statement(statement), out(out), registers_(registers) {}

    [[noreturn]] void unknown(const std::string& what = "this instruction") const;
    // Passes the next modifier if it is this one.
    bool skip(const std::string& word);
    void expect(std::initializer_list<const char*> words);
    // The next modifier, which must be one of these.
    std::string one_of(std::initializer_list<const char*> words);
    // The next modifier, which must be a type.
    Type type();
    std::string word();  // whatever the next modifier is
    void end(size_t operands) const;

    // The registers of an operand: they become the instruction's next ones.
    int use(size_t operand, Type type);
    // "d|p": two results, of a type each.
    void use_pair(size_t operand, Type first, Type second);
    // Those between braces, as many as said.
    void use_vector(size_t operand, Type type, size_t count);
    // An address: its register, its offset apart.
    i64 use_address(size_t operand, Type type);
    // A number in the text.
    i64 literal(size_t operand) const;
    const Operand& operand(size_t at) const;
    Registers& registers() { return registers_; }

private:
    Registers& registers_;
    size_t at_ = 1;  // the opcode comes first

    int find(const std::string& name, Type type);
};

// Gives registers that have no value at the same time one place.
void share_registers(Program& program);

// By opcode.
using Decoder = void (*)(Decoding&);
const std::map<std::string, Decoder>& arithmetic_decoders();
const std::map<std::string, Decoder>& logic_decoders();
const std::map<std::string, Decoder>& conversion_decoders();
const std::map<std::string, Decoder>& access_decoders();
const std::map<std::string, Decoder>& warp_decoders();
const std::map<std::string, Decoder>& hopper_decoders();

// Those that stand in another file than the table that names them.
void decode_mma(Decoding& d);
void decode_wgmma(Decoding& d);
// False where the copy is not a bulk copy.
bool decode_bulk_copy(Decoding& d);

}  // namespace ptx
