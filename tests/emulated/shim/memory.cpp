// Device memory: every allocation between pages out of reach, filled with NaN, the bytes around it watched.
#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

#include "checker.hpp"

namespace emu {
namespace {

constexpr size_t ALIGNMENT = 256;
constexpr unsigned char FILL = 0xff;

std::mutex mutex;
std::map<const void*, Region> allocated;  // by address

}  // namespace

std::vector<Region> regions() {
    std::lock_guard<std::mutex> lock(mutex);
    std::vector<Region> all;
    for (const auto& [begin, region] : allocated) all.push_back(region);
    return all;
}

}  // namespace emu

using namespace emu;

extern "C" {

// The end lies as near to the page behind it as the alignment lets it; null where there is no memory.
void* emu_alloc(size_t bytes, int checked) {
    const size_t body = (bytes + PAGE - 1) / PAGE * PAGE + (bytes == 0 ? PAGE : 0);
    void* mapping = mmap(nullptr, body + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapping == MAP_FAILED) return nullptr;
    Region r;
    r.mapping = (unsigned char*)mapping;
    r.mapped = body + 2 * PAGE;
    r.begin = r.mapping + PAGE + (body - bytes) / ALIGNMENT * ALIGNMENT;
    r.bytes = bytes;
    if (mprotect(r.mapping + PAGE, body, PROT_READ | PROT_WRITE)) return nullptr;
    memset(r.mapping + PAGE, FILL, body);
    if (checked) {
        r.cells.reset((Cell*)calloc(bytes / 4 + 1, sizeof(Cell)), free);
        if (!r.cells) return nullptr;
    }
    std::lock_guard<std::mutex> lock(mutex);
    allocated[r.begin] = r;
    return r.begin;
}

void emu_free(void* p) {
    std::lock_guard<std::mutex> lock(mutex);
    const auto at = allocated.find(p);
    if (at == allocated.end()) abort();
    munmap(at->second.mapping, at->second.mapped);
    allocated.erase(at);
}

// Says that the host has written these bytes, or has made them undefined.
void emu_mark(void* p, size_t bytes, int written) {
    if (!written) memset(p, FILL, bytes);
    std::lock_guard<std::mutex> lock(mutex);
    auto at = allocated.upper_bound(p);
    if (at == allocated.begin()) abort();
    const Region& r = (--at)->second;
    if (!r.cells) return;
    const size_t offset = (unsigned char*)p - r.begin;
    for (size_t i = offset; i < offset + bytes; i++) {
        Cell& c = r.cells.get()[i / 4];
        const uint8_t bit = (uint8_t)(1u << i % 4);
        c.written = written ? c.written | bit : c.written & ~bit;
    }
}

// How far before (negative) or behind an allocation somebody has written; 0 where nobody has.
long emu_damage(const void* p) {
    std::lock_guard<std::mutex> lock(mutex);
    const Region& r = allocated.at(p);
    const unsigned char *end = r.begin + r.bytes, *limit = r.mapping + r.mapped - PAGE;
    for (const unsigned char* q = r.mapping + PAGE; q < r.begin; q++) {
        if (*q != FILL) return q - r.begin;
    }
    for (const unsigned char* q = end; q < limit; q++) {
        if (*q != FILL) return q - end + 1;
    }
    return 0;
}

}
