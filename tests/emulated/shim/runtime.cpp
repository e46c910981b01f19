// Fibers: one for each CUDA thread, one block at a time on an OS thread. Switching, scheduling, faults, launches.
#include "internal.hpp"

#include <dlfcn.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>

#include "checker.hpp"

__thread emu::Thread* emu_cur __attribute__((tls_model("initial-exec")));

// Ends with `ret`, not with a jump, so that the processor's stack of return addresses stays in step.
extern "C" void emu_switch(void** save, void* to);
asm(R"(
.text
.globl emu_switch
.hidden emu_switch
.type emu_switch,@function
emu_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp,(%rdi)
.globl emu_switch_tail
.hidden emu_switch_tail
emu_switch_tail:
    movq %rsi,%rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size emu_switch,.-emu_switch
)");
extern "C" char emu_switch_tail[];

namespace emu {
namespace {

// What an OS thread needs to run blocks. Kept after the launch, since threads come and go and mappings are scarce.
struct Engine {
    BlockRun block;
    std::unique_ptr<Fiber[]> fibers{new Fiber[MAX_THREADS]()};
    uint32_t stacks = 0;
    std::unique_ptr<char[]> signal_stack{new char[64 << 10]};
    Checker* checker = nullptr;
};

std::mutex engines_mutex;
std::vector<Engine*> idle_engines;

// ---- scheduling

[[noreturn]] void to_main() {
    void* dead;
    emu_switch(&dead, block().main_sp);
    abort();
}

void fiber_main() {
    for (;;) {
        BlockRun& b = block();
        b.module.invoke(b.launch->args);
        Fiber* f = me();
        if (!f->copies.empty()) emu_cp_async_commit(), emu_cp_async_wait(0);
        f->done = true;
        b.alive--;
        if (b.head == b.tail) to_main();
        Fiber* next = b.ready[b.head++ % RING];
        emu_cur = next;
        if (!next->started) {
            // Without barriers the same warm stack serves one thread after the other.
            std::swap(f->stack, next->stack);
            next->started = true;
            continue;
        }
        void* dead;
        emu_switch(&dead, next->sp);
    }
}

// Makes f current; a new one gets its first frame.
void enter(Fiber* f) {
    emu_cur = f;
    if (__builtin_expect(f->started, 1)) return;
    f->started = true;
    // Staggered by lane: 32 stacks that begin alike would fight for the same sets of the first-level cache.
    uint64_t* sp = (uint64_t*)(f->stack + STACK - 256 - f->lane * 128);
    *--sp = 0;
    *--sp = (uint64_t)fiber_main;
    sp -= 6;
    memset(sp, 0, 6 * sizeof *sp);
    f->sp = sp;
}

void deadlock(BlockRun& b) {
    static const char* const waits[] = {"", "a warp collective", "a barrier", "a yield"};
    std::map<std::string, std::pair<int, uint32_t>> groups;
    char text[256], line[400];
    for (uint32_t i = 0; i < b.n_threads; i++) {
        const Fiber& f = b.fibers[i];
        if (f.done) continue;
        snprintf(line, sizeof line, "%s at %s", waits[f.wait], where(f.wait_pc, text));
        auto& group = groups[line];
        if (!group.first++) group.second = i;
    }
    std::string what = "DEADLOCK: ";
    for (auto& [at, group] : groups) {
        what += std::to_string(group.first) + " threads (first " + std::to_string(group.second) + ") in " + at + "; ";
    }
    if (b.n_threads > b.alive) what += std::to_string(b.n_threads - b.alive) + " threads have exited";
    failed(b, nullptr, what.c_str());
}

// ---- faults

struct sigaction before[2];

// Leaves the kernel for good: returns into the tail of the switch, with the stack of the launch.
void fault(int signal, siginfo_t* info, void* context) {
    if (!emu_cur) {
        sigaction(signal, &before[signal == SIGBUS], nullptr);
        return;
    }
    BlockRun& b = block();
    auto& registers = ((ucontext_t*)context)->uc_mcontext.gregs;
    const unsigned char* at = (unsigned char*)info->si_addr;
    const bool overflow = at >= me()->stack - PAGE && at < me()->stack;
    char text[256], what[400];
    where((char*)registers[REG_RIP] + 1, text);
    snprintf(what, sizeof what, "%s at address %p, pc %s", overflow ? "STACK OVERFLOW" : "INVALID ACCESS", (void*)at, text);
    failed(b, me(), what);
    registers[REG_RSI] = (greg_t)b.main_sp;
    registers[REG_RIP] = (greg_t)emu_switch_tail;
}

void catch_faults() {
    struct sigaction action = {};
    action.sa_sigaction = fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    sigaction(SIGSEGV, &action, &before[0]);
    sigaction(SIGBUS, &action, &before[1]);
}

// ---- blocks

// Waiting fibers start in order, or shuffled: all of them, whole warps, or both warps and lanes.
void shuffle_start(BlockRun& b) {
    const uint32_t mode = b.rng.below(3);
    if (mode == 0) return shuffle(b.rng, &b.ready[b.head % RING], b.n_threads);
    uint32_t order[MAX_WARPS], at = b.head;
    for (uint32_t w = 0; w < b.n_warps; w++) order[w] = w;
    for (uint32_t w = b.n_warps; w > 1; w--) std::swap(order[w - 1], order[b.rng.below(w)]);
    for (uint32_t w = 0; w < b.n_warps; w++) {
        const uint32_t first = at;
        const uint32_t begin = order[w] * LANES, end = std::min(begin + LANES, b.n_threads);
        for (uint32_t i = begin; i < end; i++) b.ready[at++ % RING] = &b.fibers[i];
        if (mode == 2) shuffle(b.rng, &b.ready[first % RING], at - first);
    }
}

void reset_fibers(BlockRun& b) {
    const uint3 n = b.threads;
    for (uint32_t w = 0; w < b.n_warps; w++) {
        const uint32_t lanes = b.n_threads - w * LANES;
        b.warps[w] = Warp{{}, lanes >= LANES ? ~0u : (1u << lanes) - 1};
    }
    for (uint32_t i = 0; i < b.n_threads; i++) {
        Fiber& f = b.fibers[i];
        f.tid = {i % n.x, i / n.x % n.y, i / (n.x * n.y)};
        f.block = &b;
        f.id = i, f.lane = i % LANES, f.warp = i / LANES;
        f.started = f.done = false;
        f.wait = NOTHING;
        f.copies.clear(), f.groups.clear();
        push_back(b, &f);
    }
}

// What a block finds in shared memory is undefined: here it is NaN.
void poison(const BlockRun& b) {
    const Module& m = b.module;
    memset(m.shared, 0xff, m.dynamic - m.shared);
    memset(m.dynamic, 0xff, b.launch->dynamic_bytes);
    memset(m.dynamic + SHARED_CAP, 0xff, m.end - m.dynamic - SHARED_CAP);
}

void run_block(BlockRun& b, uint64_t number) {
    const uint3 g = b.grid;
    b.index = {(unsigned)(number % g.x), (unsigned)(number / g.x % g.y), (unsigned)(number / g.x / g.y)};
    b.rng.state = ((b.launch->seed + 1) * 0x9e3779b97f4a7c15ull ^ number * 0xd1b54a32d192ed03ull) | 1;
    for (int i = 0; i < 4; i++) b.rng.next();
    b.head = b.tail = RING;
    b.alive = b.n_threads;
    b.barrier = Barrier{};
    poison(b);
    if (b.checker) b.checker->begin_block(b);
    reset_fibers(b);
    if (b.shuffled) shuffle_start(b);
    Fiber* first = b.ready[b.head++ % RING];
    enter(first);
    emu_switch(&b.main_sp, first->sp);
    emu_cur = nullptr;
    if (!b.failed && b.alive) deadlock(b);
}

Engine* take_engine(uint32_t threads) {
    static std::once_flag once;
    std::call_once(once, catch_faults);
    Engine* e = nullptr;
    {
        std::lock_guard<std::mutex> lock(engines_mutex);
        if (!idle_engines.empty()) e = idle_engines.back(), idle_engines.pop_back();
    }
    if (!e) e = new Engine();
    for (; e->stacks < threads; e->stacks++) {
        // One page below each stack stays out of reach.
        void* p = mmap(nullptr, STACK + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED || mprotect(p, PAGE, PROT_NONE)) perror("stack of a fiber"), abort();
        e->fibers[e->stacks].stack = (unsigned char*)p + PAGE;
    }
    return e;
}

}  // namespace

void push_back(BlockRun& b, Fiber* f) { b.ready[b.tail++ % RING] = f; }
void push_front(BlockRun& b, Fiber* f) { b.ready[--b.head % RING] = f; }

void park(BlockRun& b, Wait wait, const void* pc) {
    Fiber* f = me();
    f->wait = wait, f->wait_pc = pc;
    if (b.head == b.tail) to_main();
    Fiber* next = b.ready[b.head++ % RING];
    if (next == f) return;
    enter(next);
    emu_switch(&f->sp, next->sp);
}

void shuffle(Rng& rng, Fiber** list, uint32_t n) {
    for (uint32_t i = n; i > 1; i--) std::swap(list[i - 1], list[rng.below(i)]);
}

void release(BlockRun& b, Fiber* list) {
    const uint32_t first = b.tail;
    for (; list; list = list->next) push_back(b, list);
    if (!b.shuffled) return;
    for (uint32_t i = b.tail - first; i > 1; i--) {
        std::swap(b.ready[(first + i - 1) % RING], b.ready[(first + b.rng.below(i)) % RING]);
    }
}

const char* where(const void* pc, char (&text)[256]) {
    Dl_info info;
    if (pc && dladdr(pc, &info) && info.dli_fname) {
        const char* slash = strrchr(info.dli_fname, '/');
        // One back: a return address belongs to the line after the call.
        const long offset = (const char*)pc - (const char*)info.dli_fbase - 1;
        snprintf(text, sizeof text, "%s+0x%lx", slash ? slash + 1 : info.dli_fname, offset);
    } else {
        snprintf(text, sizeof text, "%p", pc);
    }
    return text;
}

void failed(BlockRun& b, const Fiber* f, const char* what) {
    if (b.failed) return;
    b.failed = true;
    char thread[64] = "";
    if (f) snprintf(thread, sizeof thread, " thread (%u,%u,%u)", f->tid.x, f->tid.y, f->tid.z);
    const uint3 i = b.index;
    snprintf(b.launch->error, sizeof b.launch->error, "block (%u,%u,%u)%s: %s", i.x, i.y, i.z, thread, what);
}

}  // namespace emu

using namespace emu;

void emu_fail(const char* format, ...) {
    char what[800];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    failed(block(), me(), what);
    to_main();
}

void emu_yield() {
    BlockRun& b = block();
    push_back(b, me());
    park(b, YIELDED, CALLER);
}

int emu_run(Launch* launch, Module module) {
    const uint3 g = launch->grid, n = launch->block;
    const uint64_t threads = (uint64_t)n.x * n.y * n.z, blocks = (uint64_t)g.x * g.y * g.z;
    if (threads == 0 || threads > MAX_THREADS || blocks == 0 || g.x > 0x7fffffff || g.y > 65535 || g.z > 65535) {
        snprintf(launch->error, sizeof launch->error, "no device runs a grid of %u,%u,%u blocks of %u,%u,%u threads", g.x,
                 g.y, g.z, n.x, n.y, n.z);
        return 1;
    }
    if (launch->dynamic_bytes > SHARED_CAP) {
        snprintf(launch->error, sizeof launch->error, "no device has %u bytes of shared memory", launch->dynamic_bytes);
        return 1;
    }
    Engine* e = take_engine((uint32_t)threads);
    stack_t own = {}, old;
    own.ss_sp = e->signal_stack.get(), own.ss_size = 64 << 10;
    sigaltstack(&own, &old);
    BlockRun& b = e->block;
    b.grid = g, b.threads = n, b.launch = launch, b.module = module, b.fibers = e->fibers.get(), b.failed = false;
    b.n_threads = (uint32_t)threads, b.n_warps = (b.n_threads + LANES - 1) / LANES;
    b.lazy = launch->flags & LAZY, b.shuffled = launch->flags & SHUFFLED;
    b.checker = nullptr;
    if (launch->flags & CHECKED) {
        if (!e->checker) e->checker = new Checker();
        b.checker = e->checker;
        b.checker->begin_launch(b);
    }
    for (uint64_t i = 0; i < blocks && !b.failed; i++) run_block(b, i);
    sigaltstack(&old, nullptr);
    std::lock_guard<std::mutex> lock(engines_mutex);
    idle_engines.push_back(e);
    return b.failed;
}
