#include "decoder.hpp"

#include <algorithm>
#include <cctype>

#include "shared_memory.hpp"

namespace ptx {

int Registers::fresh(int width) {
    program_.widths.push_back(width);
    return (int)program_.widths.size() - 1;
}

int Registers::constant(u64 value, int width) {
    const auto [at, is_new] = constants_.try_emplace({value, width}, 0);
    if (is_new) {
        at->second = fresh(width);
        program_.constants.emplace_back(at->second, value);
    }
    return at->second;
}

int Registers::find(const std::string& name, Type type) {
    if (name == "_") return fresh(8);
    for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); scope++) {
        if (auto found = scope->find(name); found != scope->end()) {
            return program_.widths[found->second] >= type.bytes ? found->second : -1;
        }
    }
    if (name[0] == '%') return find_special(name);
    if (std::ranges::count(module_.shared, name)) return constant(SharedMemory::START, 8);
    for (const ParameterPlace& place : program_.parameters) {
        if (place.name == name) return constant(place.offset, 8);
    }
    return find_literal(name, type);
}

int Registers::find_special(const std::string& name) {
    static const std::set<std::string> known = {"%tid.x",   "%tid.y",   "%tid.z",    "%ntid.x",   "%laneid",
                                                "%ctaid.x", "%ctaid.y", "%ctaid.z", "%nctaid.x", "%nctaid.y", "%nctaid.z"};
    if (!known.count(name)) return -1;
    for (const SpecialRegister& special : program_.special) {
        if (special.name == name) return special.index;
    }
    program_.special.push_back({name, fresh(4)});
    return program_.special.back().index;
}

// 12, -1, 0x1f, 0f3F800000 (the bits of a float), 0d3FF0000000000000
int Registers::find_literal(const std::string& text, Type type) {
    const bool bits = text.size() > 2 && text[0] == '0' && std::string("fFdD").find(text[1]) != std::string::npos;
    try {
        size_t used = 0;
        const std::string digits = bits ? text.substr(2) : text;
        const bool negative = text[0] == '-';
        u64 value = negative ? (u64)std::stoll(digits, &used, 0) : std::stoull(digits, &used, bits ? 16 : 0);
        if (used != digits.size()) return -1;
        if (type == PREDICATE) value = value != 0;
        return constant(low_bytes(value, type.bytes), type.bytes);
    } catch (const std::logic_error&) {
        return -1;
    }
}

void Decoding::unknown(const std::string& what) const {
    fault("unknown PTX, line ", statement.line, ": ", what, " in ", statement.text);
}

bool Decoding::skip(const std::string& word) {
    if (at_ >= statement.words.size() || statement.words[at_] != word) return false;
    at_++;
    return true;
}

void Decoding::expect(std::initializer_list<const char*> words) {
    for (const char* word : words) {
        if (!skip(word)) unknown(std::string("no .") + word);
    }
}

std::string Decoding::one_of(std::initializer_list<const char*> words) {
    for (const char* word : words) {
        if (skip(word)) return word;
    }
    unknown(at_ < statement.words.size() ? "." + statement.words[at_] : "a modifier too few");
}

std::string Decoding::word() {
    if (at_ >= statement.words.size()) unknown("a modifier too few");
    return statement.words[at_++];
}

Type Decoding::type() {
    const std::string name = word();
    const Type found = type_named(name);
    if (!found.kind) unknown("." + name);
    return found;
}

void Decoding::end(size_t operands) const {
    if (at_ < statement.words.size()) unknown("." + statement.words[at_]);
    if (statement.operands.size() != operands) unknown("the number of operands");
}

int Decoding::find(const std::string& name, Type type) {
    const int found = registers_.find(name, type);
    if (found < 0) unknown("the operand " + name);
    out.registers.push_back(found);
    return found;
}

const Operand& Decoding::operand(size_t at) const {
    if (at >= statement.operands.size()) unknown("the number of operands");
    return statement.operands[at];
}

int Decoding::use(size_t at, Type type) {
    if (operand(at).names.size() != 1 || operand(at).is_address) unknown("the form of an operand");
    return find(operand(at).names[0], type);
}

void Decoding::use_vector(size_t at, Type type, size_t count) {
    if (operand(at).names.size() != count || operand(at).is_address) unknown("the form of an operand");
    for (const std::string& name : operand(at).names) find(name, type);
}

void Decoding::use_pair(size_t at, Type first, Type second) {
    if (operand(at).names.size() != 2 || operand(at).is_address) unknown("the form of an operand");
    find(operand(at).names[0], first), find(operand(at).names[1], second);
}

i64 Decoding::use_address(size_t at, Type type) {
    if (!operand(at).is_address) unknown("the form of an operand");
    find(operand(at).names[0], type);
    return operand(at).offset;
}

i64 Decoding::literal(size_t at) const {
    const std::string text = operand(at).names[0];
    if (text.find_first_not_of("0123456789") != std::string::npos) unknown("the operand " + text);
    return std::stoll(text);
}

namespace {

Decoder decoder_of(const std::string& opcode) {
    for (const auto* family : {&arithmetic_decoders(), &logic_decoders(), &conversion_decoders(), &access_decoders(),
                               &warp_decoders(), &hopper_decoders()}) {
        if (auto found = family->find(opcode); found != family->end()) return found->second;
    }
    return nullptr;
}

void place_parameters(Program& program, const Kernel& kernel) {
    u32 end = 64;  // an address that is not 0
    for (const Parameter& parameter : kernel.parameters) {
        const u32 offset = (end + parameter.alignment - 1) / parameter.alignment * parameter.alignment;
        program.parameters.push_back({parameter.name, offset, (u32)parameter.bytes});
        end = offset + parameter.bytes;
    }
    program.parameter_bytes = end;
}

// Asynchronous products have their registers until they are waited for: what else uses those is checked then.
void mark_products(Program& program) {
    std::set<int> of_products;
    for (const Instruction& one : program.instructions) of_products.insert(one.products.begin(), one.products.end());
    if (of_products.empty()) return;
    for (Instruction& one : program.instructions) {
        if (!one.products.empty()) continue;
        for (size_t k = 0; k < one.registers.size(); k++) {
            if (!of_products.count(one.registers[k])) continue;
            (k < one.results ? one.writes_products : one.reads_products).push_back(one.registers[k]);
        }
    }
}

// What nobody wrote is no zero.
void fill_registers(Program& program) {
    for (const int width : program.widths) {
        program.initial.insert(program.initial.end(), LANES, width == 1 ? 1 : low_bytes(0xdeadbeefdeadbeef, width));
    }
    for (const auto& [at, value] : program.constants) std::fill_n(&program.initial[(size_t)at * LANES], LANES, value);
}

}  // namespace

Program decode(const Kernel& kernel, const Module& module) {
    Program program{.name = kernel.name, .most_threads = kernel.most_threads};
    place_parameters(program, kernel);
    Registers registers(program, module);
    std::map<std::string, size_t> labels;
    for (const Statement& statement : kernel.statements) {
        if (statement.kind == Statement::OPEN_SCOPE) registers.open_scope();
        if (statement.kind == Statement::CLOSE_SCOPE) registers.close_scope();
        if (statement.kind == Statement::LABEL) labels[statement.text] = program.instructions.size();
        if (statement.kind == Statement::REGISTERS) {
            const Type type = type_named(statement.words[0]);
            if (!type.kind) fault("unknown PTX, line ", statement.line, ": registers of .", statement.words[0]);
            for (const std::string& name : statement.registers) registers.declare(name, type);
        }
        if (statement.kind != Statement::INSTRUCTION) continue;
        Instruction& out = program.instructions.emplace_back();
        out.line = statement.line;
        out.text = statement.text;
        Decoding decoding(statement, out, registers);
        if (!statement.guard.empty()) {
            out.guard = registers.find(statement.guard, PREDICATE);
            if (out.guard < 0) decoding.unknown("the predicate");
            out.guard_negated = statement.guard_negated;
        }
        const Decoder decoder = decoder_of(statement.words[0]);
        if (!decoder) decoding.unknown();
        decoder(decoding);
    }
    size_t at = 0;
    for (const Statement& statement : kernel.statements) {
        if (statement.kind != Statement::INSTRUCTION) continue;
        Instruction& one = program.instructions[at++];
        if (one.kind != Instruction::BRANCH) continue;
        const auto found = labels.find(statement.operands[0].names[0]);
        if (found == labels.end()) fault("unknown PTX, line ", statement.line, ": no label for ", statement.text);
        one.target = found->second;
    }
    mark_products(program);
    share_registers(program);
    fill_registers(program);
    return program;
}

}  // namespace ptx
