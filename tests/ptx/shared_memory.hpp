// Shared memory of a block, with the history of every cell.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "values.hpp"

namespace ptx {

struct Warp;

// Order between warps, as vector clocks: each warp counts its own time and knows how much of every other's it comes
// after. Barriers join clocks. Behind the warps stand the mbarriers, whose time are their phases.
constexpr int CLOCKS = 64;
struct Clock : std::array<u32, CLOCKS> {
    void join(const Clock& other) {
        for (int k = 0; k < CLOCKS; k++) (*this)[k] = std::max((*this)[k], other[k]);
    }
};

// Two bytes, which are written together.
constexpr int CELL = 2;
struct Cell {
    enum State : u8 { UNWRITTEN, WRITTEN, COPYING, BULK_COPYING, MBARRIER };
    static constexpr u16 NOBODY = 0xffff, BY_MBARRIER = 0x8000;
    static constexpr u8 NO_WARP = 0xff;

    State state : 4 = UNWRITTEN;
    bool by_atomic : 1 = false;
    bool by_async_proxy : 1 = false;
    u8 reading_warp = NO_WARP;
    u16 writer = NOBODY;  // a thread, or BY_MBARRIER | the clock of the mbarrier whose phase brought it
    u32 write_time = 0, write_epoch = 0;
    u32 readers = 0, read_epoch = 0;  // lanes of the warp that read last, in that epoch of it
};

class SharedMemory {
public:
    // Its address: as far aligned as the sources ask, no further.
    static constexpr u32 START = 0x410;

    SharedMemory(u32 bytes, u32 warps);

    void read(Warp& warp, int lane, u64 at, int bytes, void* to);
    void write(Warp& warp, int lane, u64 at, int bytes, const void* from);
    // An atomic reads and writes: `f(old)` is what it leaves.
    template <class F> u32 update(Warp& warp, int lane, u64 at, F f) {
        const size_t place = begin_update(warp, lane, at);
        u32 old;
        memcpy(&old, data(place), 4);
        const u32 now = f(old);
        claim(warp, lane, place, 4, Cell::WRITTEN, true);
        memcpy(data(place), &now, 4);
        return old;
    }

    // The place of an address; a fault where it is outside or misaligned.
    size_t place(u64 at, int bytes, const char* what) const;
    // The bytes are `warp`'s from now on: a fault where others may still use them.
    void claim(Warp& warp, int lane, size_t place, int bytes, Cell::State state, bool atomic = false);
    // A fault where a cell cannot be read, or was written by another warp (or an mbarrier's phase) without order.
    void check_readable(const Warp& warp, size_t place, const char* reader) const;
    u8* data(size_t place) { return &data_[place]; }
    Cell& cell(size_t place) { return cells_[place / CELL]; }
    // When a warp last read a cell, by its own clock.
    u32& read_time(size_t place, int warp) { return read_times_[place / CELL * warps_ + warp]; }
    // Asynchronous products that read these 16 bytes and are not waited for.
    u32& products(size_t place) { return products_[place / 16]; }

private:
    std::vector<u8> data_;
    std::vector<Cell> cells_;
    std::vector<u32> read_times_;
    std::vector<u32> products_;
    u32 warps_;

    size_t begin_update(Warp& warp, int lane, u64 at);
    void check_lanes(const Warp& warp, int lane, size_t place, const char* what) const;
};

}  // namespace ptx
