// ptx.cuh: the port's body for a GPU. The one header that holds assembly and CUDA builtins.
//
// SOURCE  PTX ISA: "Memory Consistency Model" (scopes, release and acquire patterns), ld, st, atom, fence, cvt.
//         Every access that another device or the host may race with is .sys and strong.
#pragma once

#include "myelon/mutants.cuh"

namespace myelon {

using u8 = unsigned char;
using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long long;
using i8 = signed char;
using i16 = short;
using i32 = int;
using i64 = long long;

static_assert(sizeof(u64) == 8 && sizeof(void*) == 8, "addresses and words are 64 bits wide");

struct alignas(16) vec16 {
    u32 word[4];
};
struct alignas(8) vec8 {
    u32 word[2];
};
struct alignas(16) pair64 {
    u64 word[2];
};

#define MYELON_DEVICE __device__ __forceinline__
#define MYELON_COLD __device__ __noinline__
#define MYELON_THREADS_MAX 512
// One block a multiprocessor is enough to fill it, so the compiler may use 128 registers a thread.
#define MYELON_KERNEL(name) \
    extern "C" __global__ void __launch_bounds__(MYELON_THREADS_MAX, 1) name(const __grid_constant__ AllReduceArgs args)

constexpr u32 warp_threads = 32;
MYELON_DEVICE u32 thread_index() { return threadIdx.x; }
MYELON_DEVICE u32 thread_count() { return blockDim.x; }
MYELON_DEVICE u32 block_index() { return blockIdx.x; }
MYELON_DEVICE bool warp_all(bool mine) { return __all_sync(0xffffffffu, mine) != 0; }

// SOURCE  PTX ISA, "Memory Consistency Model": an arrival synchronizes with the sync of the same phase.
// Barrier 0 belongs to __syncthreads, so ours begin at 1.
constexpr u32 barriers_max = 4;
MYELON_DEVICE void barrier_sync(u32 barrier) {
    asm volatile("barrier.cta.sync %0, %1;" ::"r"(barrier + 1), "r"(blockDim.x) : "memory");
}
MYELON_DEVICE void barrier_arrive(u32 barrier) {
    asm volatile("barrier.cta.arrive %0, %1;" ::"r"(barrier + 1), "r"(blockDim.x) : "memory");
}

constexpr u32 block_words_max = 40;
MYELON_DEVICE u64* block_words() {
    __shared__ u64 words[block_words_max];
    return words;
}

MYELON_DEVICE u64 ld_relaxed_sys(u64 const* word) {
    u64 value;
    asm volatile("ld.relaxed.sys.global.u64 %0, [%1];" : "=l"(value) : "l"(word) : "memory");
    return value;
}

MYELON_DEVICE u64 ld_acquire_sys(u64 const* word) {
    u64 value;
    asm volatile("ld.acquire.sys.global.u64 %0, [%1];" : "=l"(value) : "l"(word) : "memory");
    return value;
}

MYELON_DEVICE void st_relaxed_sys(u64* word, u64 value) {
    asm volatile("st.relaxed.sys.global.u64 [%0], %1;" ::"l"(word), "l"(value) : "memory");
}

// SOURCE  PTX ISA, "Memory Consistency Model", Vector Data-types: two accesses of u64, in no order.
MYELON_DEVICE pair64 ld_relaxed_sys(pair64 const* words) {
    pair64 value;
    asm volatile("ld.relaxed.sys.global.v2.u64 {%0, %1}, [%2];" : "=l"(value.word[0]), "=l"(value.word[1]) : "l"(words) : "memory");
    return value;
}

MYELON_DEVICE void st_relaxed_sys(pair64* words, pair64 const& value) {
    asm volatile("st.relaxed.sys.global.v2.u64 [%0], {%1, %2};" ::"l"(words), "l"(value.word[0]), "l"(value.word[1]) : "memory");
}

MYELON_DEVICE u64 exchange_relaxed_sys(u64* word, u64 value) {
    u64 before;
    asm volatile("atom.exch.relaxed.sys.global.b64 %0, [%1], %2;" : "=l"(before) : "l"(word), "l"(value) : "memory");
    return before;
}

// The sums lie in memory of this GPU: over PCIe not every GPU adds to memory of the host as one access, and none does it
// fast. A store gets there in either case, and one in many is enough. The offset is the instruction's: an address that
// had to be added up would be, in front of the wait.
template <u32 offset>
MYELON_DEVICE void st_relaxed_sys_at(u64* start, u64 value) {
    asm volatile("st.relaxed.sys.global.u64 [%0+%2], %1;" ::"l"(start), "l"(value), "n"(offset) : "memory");
}

template <u32 offset, u64 step>
MYELON_DEVICE void add_and_tell(u64* total, u64* page, u64 more) {
    u64 before;
    asm volatile("atom.add.relaxed.sys.global.u64 %0, [%1], %2;" : "=l"(before) : "l"(total), "l"(more) : "memory");
    u64 const after = before + more;
    if (after / step != before / step) st_relaxed_sys_at<offset>(page, after);
}

template <u32 offset>
MYELON_DEVICE void raise_and_tell(u64* total, u64* page, u64 value) {
    u64 before;
    asm volatile("atom.max.relaxed.sys.global.u64 %0, [%1], %2;" : "=l"(before) : "l"(total), "l"(value) : "memory");
    if (before < value) st_relaxed_sys_at<offset>(page, value);
}

MYELON_DEVICE void fence_acq_rel_sys() { asm volatile("fence.acq_rel.sys;" ::: "memory"); }

// SOURCE  PTX ISA, griddepcontrol; CUDA Programming Guide, "Programmatic Dependent Launch".
MYELON_DEVICE void after_earlier_work() {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

template <typename T>
MYELON_DEVICE void settled(T& value) {
    static_assert(sizeof(T) == 8, "a register pair");
    asm volatile("" : "+l"(value));
}

// Slots are read once, so they need no place in the first-level cache. The asm is volatile and clobbers
// memory, so no load moves in front of the barrier behind the acquire.
MYELON_DEVICE vec16 load_slot(vec16 const* from) {
    vec16 v;
    asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.word[0]), "=r"(v.word[1]), "=r"(v.word[2]), "=r"(v.word[3])
                 : "l"(from)
                 : "memory");
    return v;
}

MYELON_DEVICE void store_slot(vec16* to, vec16 const& v) {
    asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(v.word[0]), "r"(v.word[1]),
                 "r"(v.word[2]), "r"(v.word[3])
                 : "memory");
}

// Plain accesses, in the type's own width.
template <typename T>
MYELON_DEVICE T ld_weak(T const* from) {
    return *from;
}

template <typename T>
MYELON_DEVICE void st_weak(T* to, T const& value) {
    *to = value;
}

template <typename T>
MYELON_DEVICE T const& read_shared(T const& object) {
    return object;
}

template <typename T>
MYELON_DEVICE void write_shared(T* to, T const& value) {
    *to = value;
}

MYELON_DEVICE constexpr bool weakened(Mutant) { return false; }
MYELON_DEVICE void note_gave_up(u32, u64) {}

constexpr u32 polls_a_look = 1024;  // polls between two looks at the clock and the abort words
constexpr u32 looks_a_far_look = 64;

// SOURCE  PTX ISA: cp.async, cp.async.bulk, "Async proxy". cp.async belongs to the thread's own proxy; bulk
//         copies to the asynchronous one, which needs the proxy fence to see what threads have written.
MYELON_DEVICE vec16* stage_memory(u32) {
    extern __shared__ __align__(128) vec16 stages[];
    return stages;
}

MYELON_DEVICE u32 shared_address(void const* at) {
    u32 address;
    asm("{ .reg .u64 t; cvta.to.shared.u64 t, %1; cvt.u32.u64 %0, t; }" : "=r"(address) : "l"(at));
    return address;
}

MYELON_DEVICE void copy_async(vec16* to, vec16 const* from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to)), "l"(from) : "memory");
}

MYELON_DEVICE void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

template <u32 pending>
MYELON_DEVICE void copy_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
MYELON_DEVICE void bulk_store(void* to, void const* from, u32 bytes) {
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to), "r"(shared_address(from)),
                 "r"(bytes)
                 : "memory");
}

MYELON_DEVICE void bulk_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }

template <u32 pending>
MYELON_DEVICE void bulk_wait() {
    asm volatile("cp.async.bulk.wait_group %0;" ::"n"(pending) : "memory");
}

template <u32 pending>
MYELON_DEVICE void bulk_wait_read() {
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(pending) : "memory");
}

MYELON_DEVICE void fence_proxy_async() { asm volatile("fence.proxy.async;" ::: "memory"); }
#endif

// A flag hop takes about a microsecond, less than the shortest sleep: a wait polls without pause.
MYELON_DEVICE void pause() {}

MYELON_DEVICE u64 clock_ns() {
    u64 now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    return now;
}

MYELON_DEVICE float f32_from_f16(u16 bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}

MYELON_DEVICE u16 f16_from_f32(float value) {
    u16 bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}

MYELON_DEVICE u16 bf16_from_f32(float value) {
    u16 bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}

}  // namespace myelon
