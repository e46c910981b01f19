// Races, bounds, and reads of what was never written: each four bytes remember their last write and two of their reads.
#include "checker.hpp"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace emu {
namespace {

std::atomic<uint32_t> clock_of_all{1};

uint32_t tick() { return clock_of_all.fetch_add(1, std::memory_order_relaxed) + 1; }

constexpr uint32_t THREAD_BITS = 10;
constexpr uint8_t BY_ATOMIC = 0x80;  // in write_mask

uint32_t thread_of(const Stamp& s) { return s.who & (MAX_THREADS - 1); }
uint32_t epoch_of(const Stamp& s) { return s.who >> THREAD_BITS; }

const char* name_of(Kind kind) { return kind == READ ? "read" : kind == WRITE ? "write" : "atomic"; }

// `dynamic shared +12`, `static shared +12`, `global 0x12 (+12 of 34 bytes)`.
struct Place {
    char text[96];
    Place(const BlockRun& b, const Region& r, size_t offset) {
        const unsigned char* p = r.begin + offset;
        if (r.begin != b.module.shared) {
            snprintf(text, sizeof text, "global %p (+%zu of %zu bytes)", (void*)p, offset, r.bytes);
        } else if (p >= b.module.dynamic && p < b.module.dynamic + SHARED_CAP) {
            snprintf(text, sizeof text, "dynamic shared +%zu", (size_t)(p - b.module.dynamic));
        } else {
            snprintf(text, sizeof text, "static shared +%zu", offset);
        }
    }
};

}  // namespace

void Checker::begin_launch(const BlockRun& b) {
    known = regions();
    last = 0;
    launch_time = tick();
    const size_t bytes = b.module.end - b.module.shared;
    if (bytes > shared.mapped) {
        shared.mapped = bytes;
        shared.cells.reset((Cell*)calloc(bytes / 4 + 1, sizeof(Cell)), free);
    }
    shared.begin = shared.mapping = b.module.shared;
    shared.bytes = bytes;
}

void Checker::begin_block(const BlockRun& b) {
    block_time = now = tick();
    for (uint32_t& e : epoch) e = 1;
    const size_t before = b.module.dynamic - b.module.shared, dynamic = (b.launch->dynamic_bytes + 3) / 4;
    Cell* cells = shared.cells.get();
    memset(cells, 0, (before + 3) / 4 * sizeof(Cell));
    memset(cells + before / 4, 0, dynamic * sizeof(Cell));
    const size_t after = (before + SHARED_CAP) / 4;
    memset(cells + after, 0, (shared.bytes / 4 + 1 - after) * sizeof(Cell));
}

void Checker::block_barrier() { now = tick(); }

// Whether what was stamped comes before what f does now. Stamps of other launches are not asked about.
bool Checker::ordered(const Stamp& earlier, const Fiber& f) const {
    if (earlier.time < block_time) return false;  // another block of this launch
    if (earlier.time < now) return true;
    const uint32_t thread = thread_of(earlier);
    return thread == f.id || (thread / LANES == f.warp && epoch_of(earlier) < epoch[f.warp]);
}

void Checker::race(BlockRun& b, const char* what, const Region& r, size_t offset, const Stamp& earlier, const void* pc,
                   const Fiber& f) {
    char text[256];
    const bool other = earlier.time < block_time;
    emu_fail("RACE %s: %s by thread %u%s and by thread %u, pc %s", what, Place(b, r, offset).text, thread_of(earlier),
             other ? " of another block" : "", f.id, where(pc, text));
}

const Region* Checker::find(BlockRun& b, const unsigned char* p, uint32_t bytes, Kind kind, const void* pc) {
    const auto near = [p](const Region& r) { return p >= r.mapping && p < r.mapping + r.mapped; };
    if (last >= known.size() || !near(known[last])) {
        const unsigned char* stack = me()->stack;
        const unsigned char* fibers = (unsigned char*)b.fibers;
        if (p >= stack && p < stack + STACK) return nullptr;
        if (p >= fibers && p < fibers + MAX_THREADS * sizeof(Fiber)) return nullptr;
        if (p >= (unsigned char*)&b && p < (unsigned char*)(&b + 1)) return nullptr;
        if (p >= b.module.image && p < b.module.shared && kind == READ) return nullptr;
        for (last = 0; last < known.size() && !near(known[last]); last++) {}
    }
    char text[256];
    if (last == known.size()) {
        emu_fail("OUT OF BOUNDS: %s of %u bytes at %p, which nobody has allocated, pc %s", name_of(kind), bytes, (void*)p,
                 where(pc, text));
    }
    const Region& r = known[last];
    if (p < r.begin || p + bytes > r.begin + r.bytes) {
        emu_fail("OUT OF BOUNDS: %s of %u bytes at offset %ld of an allocation of %zu bytes, pc %s", name_of(kind), bytes,
                 (long)(p - r.begin), r.bytes, where(pc, text));
    }
    return r.cells ? &r : nullptr;
}

void Checker::access(BlockRun& b, const void* at, uint32_t bytes, Kind kind, const void* pc, const Fiber* as) {
    const unsigned char* p = (const unsigned char*)at;
    const Region* r = &shared;
    if (is_shared(b, p, bytes)) {
        const long dynamic = p - b.module.dynamic;
        if (dynamic >= 0 && dynamic < SHARED_CAP && dynamic + bytes > b.launch->dynamic_bytes) {
            char text[256];
            emu_fail("OUT OF BOUNDS: %s of %u bytes at dynamic shared +%ld, %u bytes were asked for, pc %s", name_of(kind),
                     bytes, dynamic, b.launch->dynamic_bytes, where(pc, text));
        }
    } else if (!(r = find(b, p, bytes, kind, pc))) {
        return;
    }
    for (size_t offset = p - r->begin, end = offset + bytes; offset < end;) {
        const size_t word_end = std::min((offset & ~(size_t)3) + 4, end);
        const uint8_t mask = (uint8_t)(((1u << (word_end - offset)) - 1) << offset % 4);
        touch(b, *r, offset, mask, kind, pc, as ? *as : *me());
        offset = word_end;
    }
}

void Checker::touch(BlockRun& b, const Region& r, size_t offset, uint8_t mask, Kind kind, const void* pc, const Fiber& f) {
    Cell& c = r.cells.get()[offset / 4];
    const Stamp stamp{now, epoch[f.warp] << THREAD_BITS | f.id};
    const uint32_t oldest = &r == &shared ? block_time : launch_time;
    const auto same = [&](const Stamp& s) { return s.time == stamp.time && s.who == stamp.who; };
    if (c.flying & mask) race(b, "with an asynchronous copy that is not waited for", r, offset, c.write, pc, f);
    if (kind != WRITE && mask & ~c.written) {
        char text[256];
        emu_fail("UNINITIALISED: %s of %s, pc %s", name_of(kind), Place(b, r, offset).text, where(pc, text));
    }
    const bool both_atomic = kind == ATOMIC && c.write_mask & BY_ATOMIC;
    if (c.write_mask & mask && c.write.time >= oldest && !both_atomic && !ordered(c.write, f)) {
        race(b, kind == READ ? "write, then read" : "write, then write", r, offset, c.write, pc, f);
    }
    if (kind == READ) {
        // The first reader since the last barrier (or that of another block) and the latest.
        const Stamp& first = c.read[0];
        const bool past = first.time < oldest || (first.time >= block_time && first.time < now);
        const int i = past || !c.read_mask[0] || thread_of(first) == f.id ? 0 : 1;
        c.read_mask[i] = same(c.read[i]) ? c.read_mask[i] | mask : mask;
        c.read[i] = stamp;
        return;
    }
    for (int i = 0; i < 2; i++) {
        const bool conflict = kind == WRITE && c.read_mask[i] & mask && c.read[i].time >= oldest && !ordered(c.read[i], f);
        if (conflict) race(b, "read, then write", r, offset, c.read[i], pc, f);
        c.read_mask[i] &= (uint8_t)~mask;
    }
    // A thread's own atomic must not hide its plain write before.
    const bool plain_before = c.write_mask && !(c.write_mask & BY_ATOMIC) && same(c.write);
    const uint8_t more = same(c.write) ? c.write_mask & 15 : 0;
    c.write_mask = mask | more | (kind == ATOMIC && !plain_before ? BY_ATOMIC : 0);
    c.write = stamp;
    c.written |= mask;
}

void Checker::in_flight(const BlockRun& b, const void* p, uint32_t bytes, bool flying) {
    const size_t offset = (const unsigned char*)p - b.module.shared;
    for (size_t i = offset; i < offset + bytes; i++) {
        Cell& c = shared.cells.get()[i / 4];
        const uint8_t bit = (uint8_t)(1u << i % 4);
        c.flying = flying ? c.flying | bit : c.flying & ~bit;
    }
}

}  // namespace emu
