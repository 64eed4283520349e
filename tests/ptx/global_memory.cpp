#include "global_memory.hpp"

namespace ptx {

void GlobalMemory::add_input(const void* at, i64 bytes, const std::string& name) {
    if (at && bytes > 0) inputs_.push_back({(u64)at, (u64)at + bytes, name});
}

void GlobalMemory::add_output(const void* at, i64 bytes, const std::string& name, Written written) {
    if (!at || bytes <= 0) return;
    const Array array{(u64)at, (u64)at + bytes, name, written};
    auto next = outputs_.lower_bound(array.begin);
    if (next != outputs_.end() && next->second.begin < array.end) fault(name, " overlaps ", next->second.name);
    if (next != outputs_.begin() && std::prev(next)->second.end > array.begin) {
        fault(name, " overlaps ", std::prev(next)->second.name);
    }
    if (written->size() < (size_t)bytes) written->resize(bytes);
    outputs_.emplace(array.begin, array);
}

void GlobalMemory::read(Thread by, u64 at, int bytes, void* to) {
    const Array& array = find(at, bytes, "read");
    if (array.written) {
        check_order(array, by, at, bytes, false);
        check_written(array, at, bytes);
    }
    memcpy(to, (const void*)at, bytes);
}

void GlobalMemory::write(Thread by, u64 at, int bytes, const void* from) {
    Array& array = find(at, bytes, "write");
    if (!array.written) fault("write to the input ", array.name, "+", at - array.begin);
    check_order(array, by, at, bytes, true);
    if (array.stamps.empty()) array.stamps.resize(array.word(array.end - 1) + 1);
    const Stamp stamp{by, fences(by)};
    for (u64 word = array.word(at); word <= array.word(at + bytes - 1); word++) array.stamps[word] = stamp;
    memset(&(*array.written)[at - array.begin], 1, bytes);
    memcpy((void*)at, from, bytes);
}

void GlobalMemory::check_atomic(u64 at, int bytes) {
    const Array& array = find(at, bytes, "atomic");
    if (!array.written) fault("write to the input ", array.name, "+", at - array.begin);
    check_written(array, at, bytes);
}

Array& GlobalMemory::find(u64 at, int bytes, const char* what) {
    if (at % bytes) fault("misaligned ", what, " of ", bytes, " bytes at ", hex(at));
    const auto has = [&](const Array& array) { return at >= array.begin && at + bytes <= array.end; };
    if (last_ && has(*last_)) return *last_;
    auto next = outputs_.upper_bound(at);
    if (next != outputs_.begin() && has(std::prev(next)->second)) return *(last_ = &std::prev(next)->second);
    for (Array& array : inputs_) {
        if (has(array)) return *(last_ = &array);
    }
    outside(at, bytes, what);
}

void GlobalMemory::outside(u64 at, int bytes, const char* what) const {
    std::string nearest = "there are none";
    u64 least = ~0ull;
    const auto look = [&](const Array& array) {
        const bool before = at < array.begin;
        const u64 distance = before ? array.begin - at : at - array.end;
        if (distance >= least) return;
        least = distance;
        nearest = std::to_string(distance) + (before ? " bytes before " : " bytes past the end of ") + array.name;
    };
    for (const auto& [begin, array] : outputs_) look(array);
    for (const Array& array : inputs_) look(array);
    fault(what, " of ", bytes, " bytes outside of all arrays, ", nearest);
}

void GlobalMemory::check_written(const Array& array, u64 at, int bytes) const {
    for (u64 k = at - array.begin; k < at - array.begin + bytes; k++) {
        if (!(*array.written)[k]) fault("read of ", array.name, "+", k, ", which nobody wrote");
    }
}

// Blocks run in any order: what one writes, another may read only behind a fence of both, and not write at all.
void GlobalMemory::check_order(const Array& array, Thread by, u64 at, int bytes, bool write) {
    if (array.stamps.empty()) return;
    for (u64 word = array.word(at); word <= array.word(at + bytes - 1); word++) {
        const Stamp& stamp = array.stamps[word];
        const u32 block = stamp.thread.block;
        if (block == Stamp::NOBODY || block == by.block) continue;
        if (write) fault("race: blocks ", block, " and ", by.block, " write the same word of ", array.name);
        if (fences(stamp.thread) == stamp.fences || !fences(by)) {
            fault("race: block ", by.block, " reads what block ", block, " wrote of ", array.name,
                  " without a fence of both");
        }
    }
}

}  // namespace ptx
