#include "parser.hpp"

#include <cctype>

namespace ptx {
namespace {

struct Token {
    std::string text;
    u32 line;
};

bool is_word(char c) { return isalnum((unsigned char)c) || c == '_' || c == '$' || c == '%' || c == '.'; }

// Words (with "::" in them), strings, numbers with their sign, and single characters.
std::vector<Token> tokens_of(const std::string& text) {
    std::vector<Token> tokens;
    u32 line = 1;
    for (size_t at = 0; at < text.size();) {
        const char c = text[at];
        size_t end = at + 1;
        if (c == '\n') line++;
        if (isspace((unsigned char)c)) {
            at++;
            continue;
        }
        if (text.compare(at, 2, "//") == 0) {
            at = std::min(text.find('\n', at), text.size());
            continue;
        }
        if (c == '"') {
            end = text.find('"', end) + 1;
        } else if (is_word(c) || (c == '-' && end < text.size() && isdigit((unsigned char)text[end]))) {
            while (end < text.size() && (is_word(text[end]) || text.compare(end, 2, "::") == 0)) {
                end += text[end] == ':' ? 2 : 1;
            }
        }
        tokens.push_back({text.substr(at, end - at), line});
        at = end;
    }
    return tokens;
}

class Parser {
public:
    explicit Parser(const std::string& text) : tokens_(tokens_of(text)) {}

    Module module() {
        Module found;
        while (at_ < tokens_.size()) {
            const std::string word = next();
            if (word == ".version" || word == ".target") next();
            else if (word == ".address_size") expect("64");
            else if (word == ".extern") found.shared.push_back(shared_name());
            else if (word == ".visible") expect(".entry"), add_kernel(found);
            else if (word == ".entry") add_kernel(found);
            else unknown(word);
        }
        return found;
    }

private:
    std::vector<Token> tokens_;
    size_t at_ = 0;

    const std::string& peek(size_t ahead = 0) const {
        if (at_ + ahead >= tokens_.size()) fault("the PTX ends too early");
        return tokens_[at_ + ahead].text;
    }
    u32 line() const { return tokens_[std::min(at_, tokens_.size() - 1)].line; }
    std::string next() {
        const std::string text = peek();
        at_++;
        return text;
    }
    bool skip(const std::string& text) {
        if (peek() != text) return false;
        at_++;
        return true;
    }
    void expect(const std::string& text) {
        if (!skip(text)) fault("unknown PTX, line ", line(), ": expected ", text, ", but got ", peek());
    }
    [[noreturn]] void unknown(const std::string& text) const { fault("unknown PTX, line ", line(), ": ", text); }
    i64 number() {
        const std::string text = next();
        try {
            size_t used = 0;
            const i64 value = std::stoll(text, &used, 0);
            if (used == text.size()) return value;
        } catch (const std::logic_error&) {
        }
        unknown(text);
    }

    // .extern .shared .align 16 .b8 name[];
    std::string shared_name() {
        expect(".shared"), expect(".align"), number(), expect(".b8");
        const std::string name = next();
        expect("["), expect("]"), expect(";");
        return name;
    }

    void add_kernel(Module& module) {
        Kernel kernel{.name = next()};
        expect("(");
        while (!skip(")")) {
            kernel.parameters.push_back(parameter());
            skip(",");
        }
        while (!skip("{")) {
            const std::string word = next();
            if (word == ".maxntid") {
                kernel.most_threads = 1;
                do kernel.most_threads *= (u32)number();
                while (skip(","));
            } else if (word == ".minnctapersm") {
                number();
            } else {
                unknown(word);
            }
        }
        for (int depth = 1; depth > 0;) {
            if (skip(".pragma")) {
                next(), expect(";");
                continue;
            }
            Statement found = statement();
            depth += found.kind == Statement::OPEN_SCOPE;
            depth -= found.kind == Statement::CLOSE_SCOPE;
            if (depth > 0) kernel.statements.push_back(std::move(found));
        }
        const std::string name = kernel.name;
        module.kernels[name] = std::move(kernel);
    }

    // .param .align 8 .b8 name[72], or .param .u64 name
    Parameter parameter() {
        expect(".param");
        Parameter found;
        if (skip(".align")) found.alignment = (int)number();
        const std::string type = next();
        found.bytes = type_named(type.substr(1)).bytes;
        if (!found.bytes) unknown(type);
        if (!found.alignment) found.alignment = found.bytes;
        found.name = next();
        if (skip("[")) {
            found.bytes *= (int)number();
            expect("]");
        }
        return found;
    }

    Statement statement() {
        Statement found{.line = line()};
        if (skip("{")) {
            found.kind = Statement::OPEN_SCOPE;
        } else if (skip("}")) {
            found.kind = Statement::CLOSE_SCOPE;
        } else if (peek(1) == ":") {
            found.kind = Statement::LABEL;
            found.text = next();
            expect(":");
        } else if (skip(".reg")) {
            found.kind = Statement::REGISTERS;
            found.words = {next().substr(1)};
            do declare(found.registers);
            while (skip(","));
            expect(";");
        } else {
            instruction(found);
        }
        return found;
    }

    void declare(std::vector<std::string>& names) {
        const std::string name = next();
        if (!skip("<")) {
            names.push_back(name);
            return;
        }
        const i64 count = number();
        for (i64 k = 0; k < count; k++) names.push_back(name + std::to_string(k));
        expect(">");
    }

    void instruction(Statement& found) {
        const size_t first = at_;
        if (skip("@")) {
            found.guard_negated = skip("!");
            found.guard = next();
        }
        std::istringstream words(next());
        for (std::string word; std::getline(words, word, '.');) found.words.push_back(word);
        if (found.words.empty() || found.words[0].empty()) unknown(tokens_[at_ - 1].text);
        while (!skip(";")) {
            found.operands.push_back(operand());
            if (peek() != ";") expect(",");
        }
        for (size_t k = first; k + 1 < at_; k++) {
            const auto is_one_of = [&](const char* signs, size_t at) { return strchr(signs, tokens_[at].text[0]); };
            const bool tight = k == first || is_one_of(",]}+|", k) || is_one_of("@![{+|", k - 1);
            found.text += (tight ? "" : " ") + tokens_[k].text;
        }
    }

    Operand operand() {
        Operand found;
        if (skip("{")) {
            do found.names.push_back(next());
            while (skip(","));
            expect("}");
        } else if (skip("[")) {
            found.is_address = true;
            found.names.push_back(next());
            if (skip("+")) found.offset = number();
            expect("]");
        } else {
            do found.names.push_back(next());
            while (skip("|"));
        }
        return found;
    }
};

}  // namespace

Module parse(const std::string& text) { return Parser(text).module(); }

}  // namespace ptx
