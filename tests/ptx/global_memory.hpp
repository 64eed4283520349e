// The arrays that a launch may touch, and who wrote what of them.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "values.hpp"

namespace ptx {

// Which bytes of an array somebody wrote. Outlives a launch where later launches read what it wrote.
using Written = std::shared_ptr<std::vector<bool>>;

struct Array {
    u64 begin, end;
    std::string name;
    Written written;  // none of an input
};

struct Thread {
    u32 block, index;  // the block's number in the grid
};

class GlobalMemory {
public:
    // Inputs may share memory: views of one tensor do.
    void add_input(const void* at, i64 bytes, const std::string& name);
    // No two of these share memory.
    void add_output(const void* at, i64 bytes, const std::string& name, Written written);

    void read(Thread by, u64 at, int bytes, void* to);
    void write(Thread by, u64 at, int bytes, const void* from);
    // Reads and writes in one, ordered among blocks without a fence.
    void check_atomic(u64 at, int bytes);
    // membar.gl
    void fence(Thread by) { fences_[key(by)]++; }

private:
    struct Stamp {
        Thread thread;
        u32 fences;  // of that thread until it wrote
    };

    std::map<u64, Array> outputs_;  // by their beginning
    std::vector<Array> inputs_;
    const Array* last_ = nullptr;
    std::unordered_map<u64, Stamp> stamps_;  // of words written in this launch
    std::unordered_map<u64, u32> fences_;

    static u64 key(Thread thread) { return (u64)thread.block << 32 | thread.index; }
    const Array& find(u64 at, int bytes, const char* what);
    [[noreturn]] void outside(u64 at, int bytes, const char* what) const;
    void check_written(const Array& array, u64 at, int bytes) const;
    void check_order(Thread by, u64 at, int bytes, bool write);
};

}  // namespace ptx
