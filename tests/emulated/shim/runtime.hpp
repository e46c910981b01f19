// What kernels see of the runtime. Includes nothing: it is compiled again with every kernel.
#pragma once

struct uint3 {
    unsigned x, y, z;
};

namespace emu {

enum ShuffleKind { FROM_LANE, FROM_BELOW, FROM_ABOVE, FROM_XOR };
enum Combine { BALLOT, ADD, MIN_U, MAX_U, MIN_S, MAX_S, ALL_BITS, ANY_BITS, ODD_BITS, SWAP, SWAP_IF };
enum Flags { LAZY = 1, SHUFFLED = 2, CHECKED = 4 };

// One launch, as the driver writes it.
struct Launch {
    uint3 grid, block;
    unsigned dynamic_bytes, flags;
    unsigned long long seed;
    void** args;
    char error[1024];
};

// What a thread may know of its block and of itself.
struct Block {
    uint3 index, threads, grid;
};
struct Thread {
    uint3 tid;
    const Block* block;
};

// A compiled kernel: its entry, where it lies in memory, and the part of it that a block's threads share.
struct Module {
    void (*invoke)(void** args);
    unsigned char *image, *shared, *end, *dynamic;
};
// At most what an H200 gives to a block.
constexpr unsigned SHARED_CAP = 227 * 1024;

}  // namespace emu

extern "C" {
extern __thread emu::Thread* emu_cur __attribute__((tls_model("initial-exec")));

// Runs all blocks; 0, or 1 and launch->error.
int emu_run(emu::Launch* launch, emu::Module module);
[[noreturn]] void emu_fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

void emu_syncthreads();
int emu_syncthreads_count(int predicate);
void emu_syncwarp(unsigned mask);
void emu_yield();
unsigned long long emu_shuffle(unsigned mask, emu::ShuffleKind kind, unsigned long long value, int lane, int width);
unsigned emu_vote(unsigned mask, emu::Combine op, unsigned value);

float emu_atomic_f32(float* p, float v);
double emu_atomic_f64(double* p, double v);
unsigned emu_atomic_u32(unsigned* p, emu::Combine op, unsigned v, unsigned expected);
unsigned long long emu_atomic_u64(unsigned long long* p, emu::Combine op, unsigned long long v, unsigned long long expected);

void emu_cp_async(void* dst, const void* src, int bytes, int valid);
void emu_cp_async_commit();
void emu_cp_async_wait(int newest);
void emu_ldmatrix(unsigned* out, const void* row, int matrices, int transposed);
void emu_mma_16816(float* d, const unsigned* a, unsigned b0, unsigned b1);
void emu_mma_16816_f16(float* d, const unsigned* a, unsigned b0, unsigned b1);
void emu_mma_1688_tf32(float* d, const unsigned* a, unsigned b0, unsigned b1);
}
