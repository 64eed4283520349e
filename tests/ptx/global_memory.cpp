#include "global_memory.hpp"

namespace ptx {

void GlobalMemory::add_input(const void* at, i64 bytes, const std::string& name) {
    if (at && bytes > 0) inputs_.push_back({(u64)at, (u64)at + bytes, name, nullptr});
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
        check_order(by, at, bytes, false);
        check_written(array, at, bytes);
    }
    memcpy(to, (const void*)at, bytes);
}

void GlobalMemory::write(Thread by, u64 at, int bytes, const void* from) {
    const Array& array = find(at, bytes, "write");
    if (!array.written) fault("write to the input ", array.name, "+", at - array.begin);
    check_order(by, at, bytes, true);
    const Stamp stamp{by, fences_[key(by)]};
    for (u64 word = at / 4; word <= (at + bytes - 1) / 4; word++) stamps_[word] = stamp;
    for (int k = 0; k < bytes; k++) (*array.written)[at - array.begin + k] = true;
    memcpy((void*)at, from, bytes);
}

void GlobalMemory::check_atomic(u64 at, int bytes) {
    const Array& array = find(at, bytes, "atomic");
    if (!array.written) fault("write to the input ", array.name, "+", at - array.begin);
    check_written(array, at, bytes);
}

const Array& GlobalMemory::find(u64 at, int bytes, const char* what) {
    if (at % bytes) fault("misaligned ", what, " of ", bytes, " bytes at ", hex(at));
    const auto has = [&](const Array& array) { return at >= array.begin && at + bytes <= array.end; };
    if (last_ && has(*last_)) return *last_;
    auto next = outputs_.upper_bound(at);
    if (next != outputs_.begin() && has(std::prev(next)->second)) return *(last_ = &std::prev(next)->second);
    for (const Array& array : inputs_) {
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
void GlobalMemory::check_order(Thread by, u64 at, int bytes, bool write) {
    if (stamps_.empty()) return;
    for (u64 word = at / 4; word <= (at + bytes - 1) / 4; word++) {
        const auto found = stamps_.find(word);
        if (found == stamps_.end() || found->second.thread.block == by.block) continue;
        const Stamp& stamp = found->second;
        const std::string name = find(at, bytes, "access").name;
        if (write) fault("race: blocks ", stamp.thread.block, " and ", by.block, " write the same word of ", name);
        if (fences_[key(stamp.thread)] == stamp.fences || !fences_[key(by)]) {
            fault("race: block ", by.block, " reads what block ", stamp.thread.block, " wrote of ", name,
                  " without a fence of both");
        }
    }
}

}  // namespace ptx
