// The parts of the runtime to each other: fibers, blocks, warps. Kernels do not see this.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "runtime.hpp"

namespace emu {

constexpr size_t STACK = 64 << 10, PAGE = 4096;
constexpr uint32_t LANES = 32, MAX_THREADS = 1024, MAX_WARPS = MAX_THREADS / LANES, RING = 4 * MAX_THREADS;

// xorshift64: which of the orders that CUDA leaves open is taken.
struct Rng {
    uint64_t state;
    uint32_t next() {
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        return (uint32_t)(state >> 24);
    }
    uint32_t below(uint32_t n) { return (uint32_t)((uint64_t)next() * n >> 32); }
};

enum Wait { NOTHING, IN_COLLECTIVE, AT_BARRIER, YIELDED };

// A cp.async that has not happened yet.
struct Copy {
    unsigned char* dst;
    const unsigned char* src;
    uint32_t bytes, valid;
};

// One CUDA thread.
struct Fiber : Thread {
    uint32_t id, lane, warp;
    bool started, done;
    void* sp;
    unsigned char* stack;
    Fiber* next;  // in the list of those who wait at a barrier
    Wait wait;
    const void* wait_pc;
    std::vector<Copy> copies;
    std::vector<size_t> groups;  // ends of the committed groups in `copies`
};

struct BlockRun;
// Does the work of a whole warp: `slot` holds what each lane of `mask` has brought.
typedef void (*Exec)(BlockRun& block, void** slot, uint32_t mask, Fiber* lanes);

struct Collective {
    uint32_t mask, arrived;
    Exec exec;
    void* slot[LANES];
};
struct Warp {
    Collective open[4];  // more than one only where the warp has diverged
    uint32_t exists;
};
struct Barrier {
    uint32_t arrived, count, result;
    Fiber* waiting;
};

struct Checker;

// The block that an OS thread runs at the moment.
struct BlockRun : Block {
    Launch* launch;
    Module module;
    bool lazy, shuffled, failed;
    uint32_t n_threads, n_warps, alive;
    Rng rng;
    Fiber* fibers;
    Fiber* ready[RING];
    uint32_t head, tail;
    Warp warps[MAX_WARPS];
    Barrier barrier;
    void* main_sp;
    Checker* checker;  // null in a fast build
};

inline Fiber* me() { return static_cast<Fiber*>(emu_cur); }
inline BlockRun& block() { return *const_cast<BlockRun*>(static_cast<const BlockRun*>(emu_cur->block)); }
inline bool is_shared(const BlockRun& b, const void* p, size_t bytes) {
    return p >= b.module.shared && (const unsigned char*)p + bytes <= b.module.end;
}

// ---- runtime.cpp
void push_back(BlockRun& b, Fiber* f);
void push_front(BlockRun& b, Fiber* f);
// Runs others until this fiber is ready again.
void park(BlockRun& b, Wait wait, const void* pc);
// Makes a list of fibers ready, in any order where orders are shuffled.
void release(BlockRun& b, Fiber* list);
void shuffle(Rng& rng, Fiber** list, uint32_t n);
// `module.so+0x1234`, for addr2line.
const char* where(const void* pc, char (&text)[256]);
// Records the first failure of a launch.
void failed(BlockRun& b, const Fiber* f, const char* what);

// ---- sync.cpp
void collective(uint32_t mask, void* data, Exec exec, const void* pc);

}  // namespace emu

#define CALLER __builtin_return_address(0)
