// A CUDA driver without a card: it keeps the rules of the driver API and does everything as late as it may. Work waits in
// its stream until somebody waits for it, so memory that is reused too early shows; every handle must be given back before
// the context goes; calls without a context, launches outside their limits and addresses that are not alive fail.
//
// Any kernel adds its last argument, an int, to the int its first argument points at. With -1 it faults instead.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#define API extern "C" int
#define NEED_CONTEXT                       \
    std::lock_guard<std::mutex> hold(lock); \
    if (!current) return 201;               \
    if (dead) return dead

typedef std::function<int()> Work;
struct Stream { std::deque<Work> queue; uint64_t asked = 0, done = 0; bool recording = false; std::vector<Work> recorded; };
struct Event { Stream* stream = nullptr; uint64_t at = 0; };
struct Graph { std::vector<Work> work; };
struct Function { std::string name; uint32_t dynamic = 48 << 10; };
struct Module { std::set<Function*> functions; };

static std::mutex lock;
static thread_local void* current = nullptr;
static int dead = 0, retained = 0, context;
static size_t used = 0;
static const size_t TOTAL = 1 << 30;
static std::map<uint64_t, size_t> memory;
static std::map<void*, size_t> pinned;
static std::set<void*> streams, events, graphs, modules;

static bool alive(uint64_t at, size_t bytes) {
    auto it = memory.upper_bound(at);
    return it != memory.begin() && (--it, at + bytes <= it->first + it->second);
}
static int run(Stream* s, uint64_t until) {
    while (s->done < until && !dead) {
        Work work = std::move(s->queue.front());
        s->queue.pop_front();
        s->done++;
        if (int code = work()) dead = code;
    }
    return dead;
}
static int ask(Stream* s, Work work) {
    if (s->recording) return s->recorded.push_back(std::move(work)), 0;
    s->queue.push_back(std::move(work));
    s->asked++;
    return 0;
}

API cuDriverGetVersion(int* v) { return *v = 13000, 0; }
API cuInit(unsigned) { return getenv("FAKE_CUDA_INIT") ? atoi(getenv("FAKE_CUDA_INIT")) : 0; }
API cuDeviceGetCount(int* n) { return *n = 2, 0; }
API cuDeviceGet(int* d, int i) { return i < 2 ? (*d = i, 0) : 101; }
API cuDeviceGetName(char* name, int n, int d) { return snprintf(name, n, "Fake %d", d), 0; }
API cuDeviceTotalMem_v2(size_t* n, int) { return *n = TOTAL, 0; }
API cuDeviceGetAttribute(int* v, int what, int d) {
    switch (what) {
        case 16: *v = 4; break;                     // multiprocessors
        case 38: *v = 1 << 20; break;               // second-level cache
        case 75: *v = d ? 7 : 8; break;             // compute capability
        case 76: *v = d ? 5 : 0; break;
        case 97: *v = 100 << 10; break;             // shared memory of a block
        case 115: *v = !getenv("FAKE_CUDA_NO_POOLS"); break;
        default: return 1;
    }
    return 0;
}
API cuGetErrorName(int code, const char** s) {
    *s = code == 700 ? "CUDA_ERROR_ILLEGAL_ADDRESS" : code == 2 ? "CUDA_ERROR_OUT_OF_MEMORY" : nullptr;
    return *s ? 0 : 1;
}
API cuGetErrorString(int code, const char** s) {
    return *s = code == 700 ? "an illegal memory access was encountered" : nullptr, *s ? 0 : 1;
}
API cuDevicePrimaryCtxRetain(void** c, int) { return retained++, *c = &context, 0; }
API cuDevicePrimaryCtxRelease_v2(int) {
    size_t left = memory.size() + pinned.size() + streams.size() + events.size() + graphs.size() + modules.size();
    if (--retained == 0 && !dead && left) fprintf(stderr, "fake driver: %zu handles were never given back\n", left), abort();
    return 0;
}
API cuCtxSetCurrent(void* c) { return current = c, 0; }
API cuMemGetInfo_v2(size_t* free, size_t* total) { NEED_CONTEXT; return *free = TOTAL - used, *total = TOTAL, 0; }

API cuStreamCreate(void** s, unsigned) { NEED_CONTEXT; return streams.insert(*s = new Stream), 0; }
API cuStreamDestroy_v2(void* s) { NEED_CONTEXT; return streams.erase(s) ? 0 : 400; }
API cuStreamSynchronize(Stream* s) { NEED_CONTEXT; return s->recording ? 900 : run(s, s->asked); }

API cuMemAlloc_v2(uint64_t* p, size_t n) {
    NEED_CONTEXT;
    if (used + n > TOTAL) return 2;
    used += n;
    *p = (uint64_t)aligned_alloc(256, (n + 255) / 256 * 256);
    return memset((void*)*p, 0xff, n), memory[*p] = n, 0;
}
static int release(uint64_t p) {
    auto it = memory.find(p);
    if (it == memory.end()) return 700;
    used -= it->second, memory.erase(it), free((void*)p);
    return 0;
}
API cuMemAllocAsync(uint64_t* p, size_t n, Stream* s) { return s->recording ? 900 : cuMemAlloc_v2(p, n); }
API cuMemFreeAsync(uint64_t p, Stream* s) { NEED_CONTEXT; return ask(s, [=] { return release(p); }); }
API cuMemFree_v2(uint64_t p) { NEED_CONTEXT; return release(p); }
API cuMemHostAlloc(void** p, size_t n, unsigned) { NEED_CONTEXT; return pinned[*p = malloc(n)] = n, 0; }
API cuMemFreeHost(void* p) { NEED_CONTEXT; return pinned.erase(p) ? (free(p), 0) : 1; }
API cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t n, Stream* s) {
    NEED_CONTEXT;
    return ask(s, [=] { return alive(to, n) ? (memcpy((void*)to, from, n), 0) : 700; });
}
API cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t n, Stream* s) {
    NEED_CONTEXT;
    return ask(s, [=] { return alive(from, n) ? (memcpy(to, (void*)from, n), 0) : 700; });
}

API cuEventCreate(void** e, unsigned) { NEED_CONTEXT; return events.insert(*e = new Event), 0; }
API cuEventDestroy_v2(void* e) { NEED_CONTEXT; return events.erase(e) ? 0 : 400; }
API cuEventRecord(Event* e, Stream* s) { NEED_CONTEXT; return s->recording ? 900 : (e->stream = s, e->at = s->asked, 0); }
API cuEventSynchronize(Event* e) { NEED_CONTEXT; return e->stream ? run(e->stream, e->at) : 0; }
API cuEventElapsedTime(float* ms, Event* a, Event* b) {
    NEED_CONTEXT;
    if (!a->stream || !b->stream || b->stream->done < b->at) return 600;
    return *ms = (float)(b->at - a->at), 0;
}

API cuModuleLoadData(void** m, const char* image) {
    NEED_CONTEXT;
    return memcmp(image, "\x7f" "ELF", 4) ? 200 : (modules.insert(*m = new Module), 0);
}
API cuModuleUnload(void* m) { NEED_CONTEXT; return modules.erase(m) ? 0 : 400; }
API cuModuleGetFunction(void** f, Module* m, const char* name) {
    NEED_CONTEXT;
    auto function = new Function{name};
    return m->functions.insert(function), *f = function, 0;
}
API cuFuncGetAttribute(int* v, int, Function*) { NEED_CONTEXT; return *v = 1024, 0; }
API cuFuncSetAttribute(Function* f, int what, int v) { NEED_CONTEXT; return what == 8 ? (f->dynamic = v, 0) : 1; }
API cuLaunchKernel(Function* f, unsigned x, unsigned y, unsigned z, unsigned bx, unsigned by, unsigned bz, unsigned shared,
                   Stream* s, void** params, void**) {
    NEED_CONTEXT;
    if (!x || !y || !z || !bx || by != 1 || bz != 1 || bx > 1024) return 1;
    if (shared + 1024 > (48 << 10) && shared > f->dynamic) return 1;
    // pgd_linf has seven parameters; the values are copied, as the driver does.
    const uint64_t to = *(uint64_t*)params[0];
    const int n = *(int*)params[6];
    return ask(s, [=] { return n >= 0 && alive(to, 4) ? (*(int*)to += n, 0) : 700; });
}

API cuStreamBeginCapture_v2(Stream* s, int) { NEED_CONTEXT; return s->recording ? 901 : (s->recording = true, 0); }
API cuStreamEndCapture(Stream* s, void** g) {
    NEED_CONTEXT;
    *g = nullptr;
    if (!s->recording) return 903;
    s->recording = false;
    auto graph = new Graph{std::move(s->recorded)};
    return s->recorded.clear(), graphs.insert(*g = graph), 0;
}
API cuGraphInstantiateWithFlags(void** e, Graph* g, unsigned long long) {
    NEED_CONTEXT;
    return graphs.insert(*e = new Graph(*g)), 0;
}
API cuGraphUpload(void* e, void*) { NEED_CONTEXT; return graphs.count(e) ? 0 : 400; }
API cuGraphLaunch(Graph* e, Stream* s) {
    NEED_CONTEXT;
    for (auto& work : e->work) ask(s, work);
    return graphs.count(e) ? 0 : 400;
}
API cuGraphDestroy(void* g) { NEED_CONTEXT; return graphs.erase(g) ? 0 : 400; }
API cuGraphExecDestroy(void* g) { NEED_CONTEXT; return graphs.erase(g) ? 0 : 400; }
