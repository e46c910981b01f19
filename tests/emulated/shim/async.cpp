// cp.async: a copy happens at once, or as late as it may; meanwhile its destination holds NaN.
#include <cstring>

#include "checker.hpp"
#include "internal.hpp"

using namespace emu;

namespace {

void copy_now(const Copy& c) {
    memcpy(c.dst, c.src, c.valid);
    memset(c.dst + c.valid, 0, c.bytes - c.valid);
}

}  // namespace

void emu_cp_async(void* dst, const void* src, int bytes, int valid) {
    BlockRun& b = block();
    const bool aligned = (((uintptr_t)dst | (uintptr_t)src) & (bytes - 1)) == 0;
    if (!aligned) emu_fail("MISALIGNED cp.async of %d bytes: %p <- %p", bytes, dst, src);
    if (valid < 0 || valid > bytes) emu_fail("cp.async copies %d of %d bytes", valid, bytes);
    if (!is_shared(b, dst, bytes)) emu_fail("cp.async writes %p, which is not shared memory", dst);
    const Copy copy{(unsigned char*)dst, (const unsigned char*)src, (uint32_t)bytes, (uint32_t)valid};
    if (b.checker) {
        if (valid) b.checker->access(b, src, valid, READ, CALLER);
        b.checker->access(b, dst, bytes, WRITE, CALLER);
        b.checker->in_flight(b, dst, bytes, true);
    }
    if (b.checker || (b.lazy && b.rng.next() & 1)) {
        memset(dst, 0xff, bytes);
        me()->copies.push_back(copy);
    } else {
        copy_now(copy);
    }
}

void emu_cp_async_commit() { me()->groups.push_back(me()->copies.size()); }

void emu_cp_async_wait(int newest) {
    BlockRun& b = block();
    Fiber* f = me();
    if (f->groups.size() <= (size_t)newest) return;
    const size_t groups = f->groups.size() - newest, copies = f->groups[groups - 1];
    for (size_t i = 0; i < copies; i++) {
        const Copy& c = f->copies[i];
        copy_now(c);
        if (!b.checker) continue;
        b.checker->in_flight(b, c.dst, c.bytes, false);
        b.checker->access(b, c.dst, c.bytes, WRITE, CALLER);
    }
    f->copies.erase(f->copies.begin(), f->copies.begin() + copies);
    f->groups.erase(f->groups.begin(), f->groups.begin() + groups);
    for (size_t& end : f->groups) end -= copies;
}
