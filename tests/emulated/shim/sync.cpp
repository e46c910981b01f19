// Barriers, warp collectives and atomics.
#include <cstring>

#include "checker.hpp"
#include "internal.hpp"

namespace emu {

// The last lane to arrive does the work for all and runs on; the others go to the front, so that the warp stays warm.
void collective(uint32_t mask, void* data, Exec exec, const void* pc) {
    BlockRun& b = block();
    Fiber* f = me();
    Warp& warp = b.warps[f->warp];
    const uint32_t bit = 1u << f->lane;
    mask &= warp.exists;
    if (!(mask & bit)) emu_fail("WARP: lane %u calls for lanes 0x%08x only", f->lane, mask);
    Collective *joined = nullptr, *unused = nullptr;
    for (Collective& c : warp.open) {
        if (!c.arrived) {
            if (!unused) unused = &c;
        } else if (c.mask == mask && c.exec == exec && !(c.arrived & bit)) {
            joined = &c;
            break;
        }
    }
    if (!joined) {
        if (!unused) emu_fail("WARP: more than 4 collectives at a time in one warp");
        joined = unused;
        joined->mask = mask, joined->exec = exec;
    }
    joined->slot[f->lane] = data;
    joined->arrived |= bit;
    if (joined->arrived != mask) return park(b, IN_COLLECTIVE, pc);
    joined->arrived = 0;
    Fiber* lanes = f - f->lane;
    exec(b, joined->slot, mask, lanes);
    if (!b.shuffled) {
        for (uint32_t rest = mask & ~bit; rest;) {
            const int lane = 31 - __builtin_clz(rest);
            rest &= ~(1u << lane);
            push_front(b, lanes + lane);
        }
        return;
    }
    Fiber* order[LANES];
    uint32_t n = 0;
    for (uint32_t l = 0; l < LANES; l++) {
        if (mask >> l & 1) order[n++] = lanes + l;
    }
    shuffle(b.rng, order, n);
    const bool front = b.rng.next() & 3;
    for (uint32_t i = 0; i < n; i++) front ? push_front(b, order[i]) : push_back(b, order[i]);
    park(b, YIELDED, pc);
}

namespace {

// Returns for how many threads the predicate holds.
uint32_t barrier(uint32_t predicate, const void* pc) {
    BlockRun& b = block();
    Barrier& at = b.barrier;
    Fiber* f = me();
    at.count += predicate;
    if (++at.arrived < b.n_threads) {
        f->next = at.waiting;
        at.waiting = f;
        park(b, AT_BARRIER, pc);
        return at.result;
    }
    at = Barrier{0, 0, at.count, at.waiting};
    f->next = at.waiting;
    Fiber* all = b.shuffled ? f : at.waiting;
    at.waiting = nullptr;
    if (b.checker) b.checker->block_barrier();
    release(b, all);
    if (b.shuffled) park(b, YIELDED, pc);
    return at.result;
}

void meet(BlockRun& b, void**, uint32_t, Fiber* lanes) {
    if (b.checker) b.checker->warp_barrier(lanes->warp);
}

struct Shuffle {
    uint64_t value, out;
    int lane, width;
};

template <ShuffleKind KIND> void exchange(BlockRun&, void** slot, uint32_t mask, Fiber*) {
    for (int l = 0; l < (int)LANES; l++) {
        if (!(mask >> l & 1)) continue;
        Shuffle& s = *(Shuffle*)slot[l];
        const int base = l & -s.width, end = base + s.width;
        int from = l;
        if (KIND == FROM_LANE) from = base + (s.lane & (s.width - 1));
        if (KIND == FROM_BELOW && l - s.lane >= base) from = l - s.lane;
        if (KIND == FROM_ABOVE && l + s.lane < end) from = l + s.lane;
        if (KIND == FROM_XOR && (l ^ s.lane) < end) from = l ^ s.lane;
        // What a lane that takes no part would give is undefined: a NaN, and no good index.
        s.out = mask >> from & 1 ? ((Shuffle*)slot[from])->value : ~0ull;
    }
}

struct Vote {
    uint32_t value;
};

uint32_t combine(Combine op, uint32_t a, uint32_t b) {
    switch (op) {
        case ADD: return a + b;
        case MIN_U: return a < b ? a : b;
        case MAX_U: return a > b ? a : b;
        case MIN_S: return (int32_t)a < (int32_t)b ? a : b;
        case MAX_S: return (int32_t)a > (int32_t)b ? a : b;
        case ALL_BITS: return a & b;
        case ANY_BITS: return a | b;
        case ODD_BITS: return a ^ b;
        default: return b;
    }
}

template <Combine OP> void vote(BlockRun&, void** slot, uint32_t mask, Fiber*) {
    uint32_t all = 0;
    bool first = true;
    for (uint32_t l = 0; l < LANES; l++) {
        if (!(mask >> l & 1)) continue;
        const uint32_t v = ((Vote*)slot[l])->value;
        if (OP == BALLOT) {
            all |= (uint32_t)(v != 0) << l;
        } else {
            all = first ? v : combine(OP, all, v);
        }
        first = false;
    }
    for (uint32_t l = 0; l < LANES; l++) {
        if (mask >> l & 1) ((Vote*)slot[l])->value = all;
    }
}

void atomic_access(const void* p, uint32_t bytes, const void* pc) {
    BlockRun& b = block();
    if ((uintptr_t)p % bytes) emu_fail("MISALIGNED atomic of %u bytes at %p", bytes, p);
    if (b.checker) b.checker->access(b, p, bytes, ATOMIC, pc);
}

template <class T> T add(T* p, T v) {
    const T old = *p;
    *p = old + v;
    return old;
}

}  // namespace
}  // namespace emu

using namespace emu;

void emu_syncthreads() { barrier(0, CALLER); }
int emu_syncthreads_count(int predicate) { return (int)barrier(predicate != 0, CALLER); }
void emu_syncwarp(unsigned mask) { collective(mask, nullptr, meet, CALLER); }

unsigned long long emu_shuffle(unsigned mask, ShuffleKind kind, unsigned long long value, int lane, int width) {
    static const Exec execs[] = {exchange<FROM_LANE>, exchange<FROM_BELOW>, exchange<FROM_ABOVE>, exchange<FROM_XOR>};
    Shuffle s{value, 0, lane, width};
    collective(mask, &s, execs[kind], CALLER);
    return s.out;
}

unsigned emu_vote(unsigned mask, Combine op, unsigned value) {
    static const Exec execs[] = {vote<BALLOT>, vote<ADD>,      vote<MIN_U>,    vote<MAX_U>,
                                 vote<MIN_S>,  vote<MAX_S>,    vote<ALL_BITS>, vote<ANY_BITS>};
    Vote v{value};
    collective(mask, &v, execs[op], CALLER);
    return v.value;
}

float emu_atomic_f32(float* p, float v) {
    atomic_access(p, 4, CALLER);
    return add(p, v);
}

double emu_atomic_f64(double* p, double v) {
    atomic_access(p, 8, CALLER);
    return add(p, v);
}

unsigned emu_atomic_u32(unsigned* p, Combine op, unsigned v, unsigned expected) {
    atomic_access(p, 4, CALLER);
    const unsigned old = *p;
    if (op != SWAP_IF || old == expected) *p = combine(op, old, v);
    return old;
}

unsigned long long emu_atomic_u64(unsigned long long* p, Combine op, unsigned long long v, unsigned long long expected) {
    atomic_access(p, 8, CALLER);
    if (op == ADD) return add(p, v);
    const unsigned long long old = *p;
    if (old == expected) *p = v;
    return old;
}
