#include "shared_memory.hpp"

#include "machine.hpp"

namespace ptx {
namespace {

const char* const STATES[] = {"which nobody wrote", "", "which cp.async has in flight", "which a bulk copy has in flight",
                              "which is an mbarrier"};

bool is_before(const Cell& cell, const Warp& warp) {
    if (cell.writer == Cell::NOBODY) return true;
    const int whose = cell.writer & Cell::BY_MBARRIER ? cell.writer & ~Cell::BY_MBARRIER : cell.writer / LANES;
    return warp.clock[whose] >= cell.write_time;
}

std::string name_of(u16 writer) {
    if (writer & Cell::BY_MBARRIER) return "a bulk copy";
    return "thread " + std::to_string(writer);
}

}  // namespace

SharedMemory::SharedMemory(u32 bytes, u32 warps)
    // Bytes of which any four are a NaN.
    : data_(bytes, 0xff),
      cells_((bytes + CELL - 1) / CELL),
      read_times_(cells_.size() * warps),
      products_(bytes / 16 + 1),
      warps_(warps) {}

size_t SharedMemory::place(u64 at, int bytes, const char* what) const {
    if (at % bytes) fault("misaligned ", what, " of ", bytes, " bytes of shared memory at ", hex(at));
    if (at < START || at + bytes > START + data_.size()) {
        fault(what, " of ", bytes, " bytes outside of shared memory: at ", (i64)(at - START), " of ", data_.size());
    }
    return at - START;
}

void SharedMemory::check_readable(const Warp& warp, size_t place, const char* reader) const {
    const Cell& cell = cells_[place / CELL];
    if (cell.state != Cell::WRITTEN) fault(reader, " reads shared+", place, ", ", STATES[cell.state]);
    if (!is_before(cell, warp)) {
        fault("race: ", reader, " reads shared+", place, ", written by ", name_of(cell.writer),
              " without a barrier between");
    }
}

// Of the warp's own lanes another one may have written since the last bar.warp.sync.
void SharedMemory::check_lanes(const Warp& warp, int lane, size_t place, const char* what) const {
    const Cell& cell = cells_[place / CELL];
    if (cell.writer == warp.thread(lane) || cell.writer / LANES != warp.index) return;
    if (cell.write_epoch != warp.epoch) return;
    fault("race in a warp: thread ", warp.thread(lane), " ", what, " shared+", place, ", written by thread ", cell.writer,
          " without bar.warp.sync between");
}

void SharedMemory::read(Warp& warp, int lane, u64 at, int bytes, void* to) {
    const size_t first = place(at, bytes, "read");
    for (size_t k = first; k < first + bytes; k += CELL) {
        check_readable(warp, k, "a thread");
        check_lanes(warp, lane, k, "reads");
        Cell& cell = cells_[k / CELL];
        if (cell.reading_warp != warp.index || cell.read_epoch != warp.epoch) {
            cell.reading_warp = (u8)warp.index;
            cell.read_epoch = warp.epoch;
            cell.readers = 0;
        }
        cell.readers |= 1u << lane;
        read_time(k, warp.index) = warp.clock[warp.index];
    }
    memcpy(to, &data_[first], bytes);
}

void SharedMemory::write(Warp& warp, int lane, u64 at, int bytes, const void* from) {
    const size_t first = place(at, bytes, "write");
    claim(warp, lane, first, bytes, Cell::WRITTEN);
    memcpy(&data_[first], from, bytes);
}

size_t SharedMemory::begin_update(Warp& warp, int lane, u64 at) {
    const size_t first = place(at, 4, "atomic");
    for (size_t k = first; k < first + 4; k += CELL) {
        if (cell(k).state == Cell::WRITTEN && cell(k).by_atomic) continue;
        check_readable(warp, k, "an atomic");
        check_lanes(warp, lane, k, "updates");
    }
    return first;
}

void SharedMemory::claim(Warp& warp, int lane, size_t first, int bytes, Cell::State state, bool atomic) {
    for (size_t k = first; k < first + bytes; k += CELL) {
        Cell& cell = cells_[k / CELL];
        if (cell.state > Cell::WRITTEN) fault("write of shared+", k, ", ", STATES[cell.state]);
        if (products(k)) fault("write of shared+", k, ", which an asynchronous product may read");
        if (!(atomic && cell.by_atomic)) {
            if (!is_before(cell, warp)) {
                fault("race: thread ", warp.thread(lane), " writes shared+", k, ", written by ", name_of(cell.writer),
                      " without a barrier between");
            }
            check_lanes(warp, lane, k, "writes");
            for (u32 other = 0; other < warps_; other++) {
                if (read_time(k, other) <= warp.clock[other]) continue;
                fault("race: thread ", warp.thread(lane), " writes shared+", k, ", read by warp ", other,
                      " without a barrier between");
            }
            const bool read_now = cell.reading_warp == warp.index && cell.read_epoch == warp.epoch;
            if (read_now && cell.readers & ~(1u << lane)) {
                fault("race in a warp: thread ", warp.thread(lane), " writes shared+", k,
                      ", read by another lane without bar.warp.sync between");
            }
        }
        cell.state = state;
        cell.by_atomic = atomic;
        cell.by_async_proxy = false;
        cell.writer = (u16)warp.thread(lane);
        cell.write_time = warp.clock[warp.index];
        cell.write_epoch = warp.epoch;
    }
}

}  // namespace ptx
