// Places for registers: PTX has a new one for each value, thousands in a kernel.
#include <algorithm>
#include <map>
#include <set>

#include "decoder.hpp"

namespace ptx {
namespace {

// Where a register is used.
struct Uses {
    size_t first = 0, last = 0;  // instructions
    bool any = false;
    bool shares = false;  // its place has other registers' values before and after
};

// The number of the basic block of each instruction.
std::vector<size_t> blocks_of(const Program& program) {
    std::set<size_t> starts;
    for (size_t at = 0; at < program.instructions.size(); at++) {
        const Instruction& one = program.instructions[at];
        if (one.kind == Instruction::BRANCH) starts.insert(one.target), starts.insert(at + 1);
    }
    std::vector<size_t> blocks;
    for (size_t at = 0; at < program.instructions.size(); at++) {
        blocks.push_back((blocks.empty() ? 0 : blocks.back()) + starts.count(at));
    }
    return blocks;
}

// A register shares its place if each lane that reads it wrote it before in the same basic block: it is first used by an
// instruction that writes it in all lanes, and in no other block. What asynchronous products use is not among these.
std::vector<Uses> uses_of(const Program& program) {
    const std::vector<size_t> blocks = blocks_of(program);
    std::vector<Uses> uses(program.widths.size());
    for (size_t at = 0; at < program.instructions.size(); at++) {
        const Instruction& one = program.instructions[at];
        const auto use = [&](int index, bool writes) {
            Uses& its = uses[index];
            if (!its.any) its = {.first = at, .any = true, .shares = writes && one.guard < 0};
            its.last = at;
            its.shares &= blocks[at] == blocks[its.first];
        };
        if (one.guard >= 0) use(one.guard, false);
        for (size_t k = one.results; k < one.registers.size(); k++) use(one.registers[k], false);
        for (size_t k = 0; k < std::min(one.results, one.registers.size()); k++) use(one.registers[k], true);
    }
    for (const Instruction& one : program.instructions) {
        for (const int index : one.products) uses[index].shares = false;
    }
    return uses;
}

}  // namespace

void share_registers(Program& program) {
    const std::vector<Uses> uses = uses_of(program);
    std::vector<std::vector<int>> begins(program.instructions.size()), ends(program.instructions.size());
    std::vector<int> places(uses.size(), -1), widths;
    const auto fresh = [&](int width) {
        widths.push_back(width);
        return (int)widths.size() - 1;
    };
    for (int index = 0; index < (int)uses.size(); index++) {
        if (!uses[index].any) continue;
        if (!uses[index].shares) {
            places[index] = fresh(program.widths[index]);
            continue;
        }
        begins[uses[index].first].push_back(index);
        ends[uses[index].last].push_back(index);
    }
    std::map<int, std::vector<int>> free;  // by width
    for (size_t at = 0; at < program.instructions.size(); at++) {
        for (const int index : begins[at]) {
            const int width = program.widths[index];
            std::vector<int>& left = free[width];
            if (left.empty()) left.push_back(fresh(width));
            places[index] = left.back();
            left.pop_back();
        }
        for (const int index : ends[at]) free[program.widths[index]].push_back(places[index]);
    }
    const auto move = [&](int& index) { index = places[index]; };
    for (Instruction& one : program.instructions) {
        if (one.guard >= 0) move(one.guard);
        if (one.members >= 0) move(one.members);
        for (auto* list : {&one.registers, &one.products, &one.writes_products, &one.reads_products}) {
            std::ranges::for_each(*list, move);
        }
    }
    for (auto& [index, value] : program.constants) move(index);
    for (SpecialRegister& special : program.special) move(special.index);
    program.widths = widths;
}

}  // namespace ptx
