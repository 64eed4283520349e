// The library's functions: what hex_ssl's emulator and the tests call. Each returns 0, or 1 with a message.
#include <algorithm>
#include <cstdio>
#include <map>
#include <mutex>

#include "hex_arrays.hpp"
#include "layout.hpp"
#include "scheduler.hpp"

namespace ptx {
namespace {

// One text of PTX. Its kernels are decoded when they are launched.
struct Text {
    Module module;
    std::map<std::string, Program> programs;

    const Program* program(const std::string& kernel) {
        if (auto found = programs.find(kernel); found != programs.end()) return &found->second;
        const auto text = module.kernels.find(kernel);
        if (text == module.kernels.end()) return nullptr;
        return &programs.emplace(kernel, decode(text->second, module)).first->second;
    }
};

struct Loaded {
    Text own, replaced;

    const Program& program(const std::string& kernel) {
        if (const Program* found = replaced.program(kernel)) return *found;
        if (const Program* found = own.program(kernel)) return *found;
        fault("the PTX has no kernel ", kernel);
    }
};

struct Interpreter {
    std::mutex one_at_a_time;
    std::map<std::string, Loaded> modules;
    HexArrays arrays;
    Schedule schedule;
    std::string pass;  // that waits for the search of what it keeps
    Grid pass_grid;

    Loaded& module(const std::string& name) {
        const auto found = modules.find(name);
        if (found == modules.end()) fault("no PTX of ", name, " is loaded");
        return found->second;
    }
};

Interpreter& interpreter() {
    static Interpreter one;
    return one;
}

template <class F> int guarded(char* message, size_t room, F f) {
    Interpreter& one = interpreter();
    const std::lock_guard<std::mutex> alone(one.one_at_a_time);
    try {
        f(one);
        return 0;
    } catch (const std::exception& what) {
        snprintf(message, room, "%s", what.what());
        return 1;
    }
}

}  // namespace
}  // namespace ptx

using namespace ptx;

// Takes PTX under a name, such as "BF16_64", in place of what had it.
extern "C" int ptx_load(const char* name, const char* text, char* message, size_t room) {
    return guarded(message, room, [&](Interpreter& one) { one.modules[name] = {.own = {parse(text)}}; });
}

// Takes the kernels of a text in place of those of the same names. What an earlier text replaced is back.
extern "C" int ptx_replace(const char* name, const char* text, char* message, size_t room) {
    return guarded(message, room, [&](Interpreter& one) { one.module(name).replaced = {parse(text)}; });
}

// Decodes every kernel of it.
extern "C" int ptx_decode(const char* name, char* message, size_t room) {
    return guarded(message, room, [&](Interpreter& one) {
        Loaded& loaded = one.module(name);
        for (const auto& [kernel, text] : loaded.own.module.kernels) loaded.program(kernel);
    });
}

// How the next launches are scheduled, and how tensor cores round: exactly where `extra_bits` is negative.
extern "C" void ptx_schedule(u64 seed, int random_lanes, u32 resident_blocks, int extra_bits, int blocks,
                             u32 launch_rows) {
    Schedule& schedule = interpreter().schedule;
    schedule.random.seed(seed);
    schedule.random_lanes = random_lanes;
    schedule.resident_blocks = resident_blocks;
    schedule.rounding = {.truncates = extra_bits >= 0, .extra_bits = extra_bits, .blocks = blocks};
    schedule.launch_rows = launch_rows;
}

struct PtxArray {
    void* at;
    i64 bytes;
    int writable, written;
};

// Launches a kernel on arrays, which are named by their number.
extern "C" int ptx_launch(const char* name, const char* kernel, const u32* blocks, u32 threads, u32 shared_bytes,
                          void* const* arguments, const PtxArray* arrays, int count, char* message, size_t room) {
    return guarded(message, room, [&](Interpreter& one) {
        const Program& program = one.module(name).program(kernel);
        GlobalMemory memory;
        for (int k = 0; k < count; k++) {
            const PtxArray& array = arrays[k];
            const std::string number = "array " + std::to_string(k);
            const auto written = std::make_shared<std::vector<u8>>(array.bytes, array.written != 0);
            if (array.writable) memory.add_output(array.at, array.bytes, number, written);
            else memory.add_input(array.at, array.bytes, number);
        }
        run(program, memory, {{blocks[0], blocks[1], blocks[2]}, threads, shared_bytes}, arguments, one.schedule);
    });
}

// Launches one of hex_ssl's kernels: src/cuda/emulator.rs. Where launches have at most `launch_rows` rows, a pass that
// keeps similarities waits for the kernel that searches them, and both are launched for some rows after the other. Then
// `gather` has several warps for each row, as for long lists.
extern "C" int hex_emulate(const char* operand, u32 dims, const char* kernel, const u32* blocks, u32 threads,
                           u32 shared_bytes, void* const* arguments, char* message, size_t room) {
    return guarded(message, room, [&](Interpreter& one) {
        Loaded& loaded = one.module(std::string(operand) + "_" + std::to_string(dims));
        const auto launch = [&](const std::string& name, const Grid& grid, void* const* arguments) {
            const Program& program = loaded.program(name);
            GlobalMemory memory = one.arrays.of(program, operand, dims, arguments);
            run(program, memory, grid, arguments, one.schedule);
        };
        const std::string name = kernel;
        Grid grid = {{blocks[0], blocks[1], blocks[2]}, threads, shared_bytes};
        const i64 most = one.schedule.launch_rows;
        if (most > 0 && (name.starts_with("sift") || name.starts_with("survivors"))) {
            one.pass = name, one.pass_grid = grid;
            return;
        }
        if (most == 0 || (name != "gather" && name != "pick")) return launch(name, grid, arguments);
        layout::Launch part = *(const layout::Launch*)arguments[1];
        const i64 end = part.first_row + part.rows, block_rows = one.pass.ends_with("_wgmma") ? 256 : 128;
        for (; part.first_row < end; part.first_row += part.rows) {
            part.rows = (int)std::min(most, end - part.first_row);
            void* const own[] = {arguments[0], &part};
            one.pass_grid.blocks[0] = (u32)((part.rows + block_rows - 1) / block_rows);
            launch(one.pass, one.pass_grid, own);
            grid.blocks[0] = (u32)((part.rows + WARPS - 1) / WARPS);
            if (name == "gather") grid.blocks[0] = (u32)part.rows, grid.threads = 3 * LANES;
            launch(name, grid, own);
        }
    });
}
