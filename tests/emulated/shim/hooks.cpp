// What the compiler calls in a check build: -fsanitize=thread at every access, -fsanitize=alignment,bounds,.. where a rule
// of the language is broken. Stands in for libtsan and libubsan.
#include <cstring>

#include "checker.hpp"

using namespace emu;

namespace {

inline void seen(const void* p, uint32_t bytes, Kind kind, const void* pc) {
    // Reading the name of the current thread is no access of the kernel's.
    if (p == &emu_cur || !emu_cur) return;
    BlockRun& b = block();
    if (b.checker) b.checker->access(b, p, bytes, kind, pc);
}

// The beginning of the data that -fsanitize hands over.
struct Spot {
    const char* file;
    uint32_t line, column;
};

[[noreturn]] void broken(const Spot* at, const char* rule, long value) {
    const char* slash = strrchr(at->file, '/');
    emu_fail("%s (%ld) at %s:%u:%u", rule, value, slash ? slash + 1 : at->file, at->line, at->column);
}

}  // namespace

#define HOOKS(bytes)                                                                              \
    void __tsan_read##bytes(void* p) { seen(p, bytes, READ, CALLER); }                            \
    void __tsan_write##bytes(void* p) { seen(p, bytes, WRITE, CALLER); }                          \
    void __tsan_unaligned_read##bytes(void* p) { seen(p, bytes, READ, CALLER); }                  \
    void __tsan_unaligned_write##bytes(void* p) { seen(p, bytes, WRITE, CALLER); }

extern "C" {

HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)
void __tsan_read_range(void* p, size_t bytes) { seen(p, (uint32_t)bytes, READ, CALLER); }
void __tsan_write_range(void* p, size_t bytes) { seen(p, (uint32_t)bytes, WRITE, CALLER); }
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}

void __ubsan_handle_type_mismatch_v1_abort(void* data, uintptr_t p) {
    broken((Spot*)data, "MISALIGNED: address mod 256 is", p % 256);
}
void __ubsan_handle_out_of_bounds_abort(void* data, uintptr_t i) { broken((Spot*)data, "INDEX OUT OF BOUNDS", (int)i); }
void __ubsan_handle_shift_out_of_bounds_abort(void* data, uintptr_t, uintptr_t by) {
    broken((Spot*)data, "SHIFT OUT OF RANGE", (long)by);
}
void __ubsan_handle_divrem_overflow_abort(void* data, uintptr_t, uintptr_t by) {
    broken((Spot*)data, "DIVISION", (long)by);
}
}
