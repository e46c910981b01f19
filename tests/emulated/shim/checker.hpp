// The checker: what a build with hooks at every access can say. Knows memory and the order of events, no kernel.
#pragma once
#include "internal.hpp"

namespace emu {

enum Kind { READ, WRITE, ATOMIC };

// When and by whom: `time` goes on at every block barrier of the process, `who` holds the warp's epoch and the thread.
struct Stamp {
    uint32_t time, who;
};

// What is remembered of four bytes; masks have one bit a byte.
struct Cell {
    Stamp write, read[2];
    uint8_t write_mask, read_mask[2];
    uint8_t written : 4, flying : 4;
};

// One allocation.
struct Region {
    unsigned char *begin, *mapping;
    size_t bytes, mapped;
    std::shared_ptr<Cell> cells;  // one for each four bytes; null where accesses are not checked
};

// memory.cpp: the allocations there are, in the order of their addresses.
std::vector<Region> regions();

struct Checker {
    void begin_launch(const BlockRun& b);
    void begin_block(const BlockRun& b);
    // An access of the current thread, or of another one of its warp.
    void access(BlockRun& b, const void* p, uint32_t bytes, Kind kind, const void* pc, const Fiber* as = nullptr);
    // The destination of a copy belongs to the copy until the wait.
    void in_flight(const BlockRun& b, const void* p, uint32_t bytes, bool flying);

    void block_barrier();
    void warp_barrier(uint32_t warp) { epoch[warp]++; }

  private:
    std::vector<Region> known;
    Region shared;
    size_t last = 0;
    uint32_t launch_time, block_time, now;
    uint32_t epoch[MAX_WARPS];

    const Region* find(BlockRun& b, const unsigned char* p, uint32_t bytes, Kind kind, const void* pc);
    void touch(BlockRun& b, const Region& r, size_t offset, uint8_t mask, Kind kind, const void* pc, const Fiber& f);
    bool ordered(const Stamp& earlier, const Fiber& f) const;
    [[noreturn]] void race(BlockRun& b, const char* what, const Region& r, size_t offset, const Stamp& earlier,
                           const void* pc, const Fiber& f);
};

}  // namespace emu
