// The arrays that a launch may touch, and who wrote what of them.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "values.hpp"

namespace ptx {

// Which bytes of an array somebody wrote. Outlives a launch where later launches read what it wrote.
using Written = std::shared_ptr<std::vector<u8>>;

struct Thread {
    u32 block, index;  // the block's number in the grid
};

// Who wrote a word in this launch, and the fences of that thread until then.
struct Stamp {
    static constexpr u32 NOBODY = ~0u;
    Thread thread{NOBODY, 0};
    u32 fences = 0;
};

struct Array {
    u64 begin, end;
    std::string name;
    Written written{};            // none of an input
    std::vector<Stamp> stamps{};  // of its words, once one of them is written

    u64 word(u64 at) const { return at / 4 - begin / 4; }
};

class GlobalMemory {
public:
    // Inputs may share memory: views of one tensor do.
    void add_input(const void* at, i64 bytes, const std::string& name);
    // No two of these share memory.
    void add_output(const void* at, i64 bytes, const std::string& name, Written written);

    // Before a launch.
    void start(u32 blocks, u32 threads) { fences_.assign((size_t)blocks * threads, 0), threads_ = threads; }
    void read(Thread by, u64 at, int bytes, void* to);
    void write(Thread by, u64 at, int bytes, const void* from);
    // Reads and writes in one, ordered among blocks without a fence.
    void check_atomic(u64 at, int bytes);
    // membar.gl
    void fence(Thread by) { fences(by)++; }

private:
    std::map<u64, Array> outputs_;  // by their beginning
    std::vector<Array> inputs_;
    Array* last_ = nullptr;
    std::vector<u32> fences_;  // [block][thread]
    u32 threads_ = 0;          // of a block

    u32& fences(Thread thread) { return fences_[(size_t)thread.block * threads_ + thread.index]; }
    Array& find(u64 at, int bytes, const char* what);
    [[noreturn]] void outside(u64 at, int bytes, const char* what) const;
    void check_written(const Array& array, u64 at, int bytes) const;
    void check_order(const Array& array, Thread by, u64 at, int bytes, bool write);
};

}  // namespace ptx
