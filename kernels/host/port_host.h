// port_host.h: the port's body for host threads. One OS thread stands for one GPU thread.
//
// The kernels' source compiles against it unchanged. A HostThread says where the calling thread stands
// in the launch; host_launch.cc sets it. The memory orders are those of the PTX body; the hardware
// below is usually stronger, so a passing run proves logic, not ordering. A thread sanitizer that knows no
// fences (gcc's) reports races here that are none.
#pragma once

#include <sched.h>

#include <barrier>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <deque>

namespace myelon {

using u8 = std::uint8_t;
using u16 = std::uint16_t;
using u32 = std::uint32_t;
using u64 = unsigned long long;
using i8 = std::int8_t;
using i16 = std::int16_t;
using i32 = std::int32_t;
using i64 = long long;

static_assert(sizeof(u64) == 8 && sizeof(void*) == 8, "addresses and words are 64 bits wide");

struct alignas(16) vec16 {
    u32 word[4];
};

#define MYELON_DEVICE inline
#define MYELON_KERNEL(name) extern "C" void name(AllReduceArgs const& args)

constexpr u32 block_words_max = 40;
constexpr u32 barriers_max = 4;
constexpr u32 warp_threads = 16;

// What the threads of one block share.
struct HostBlock {
    using Barrier = std::barrier<>;
    explicit HostBlock(u32 threads) : threads(threads), barriers{Barrier(threads), Barrier(threads), Barrier(threads), Barrier(threads)} {
        for (u32 warp = 0; warp * warp_threads < threads; ++warp) warps.emplace_back();
    }
    struct Warp {
        Barrier barrier{warp_threads};
        int votes[2] = {0, 0};  // of this vote and of the next, by turns
    };
    u32 threads;
    u64 words[block_words_max] = {};
    Barrier barriers[barriers_max];
    std::deque<Warp> warps;  // a barrier cannot move
};

struct HostThread {
    HostBlock* block;
    u32 thread, index;
    u32 turn;  // votes that this thread has taken part in
};

extern thread_local HostThread host_thread;

inline u32 thread_index() { return host_thread.thread; }
inline u32 thread_count() { return host_thread.block->threads; }
inline u32 block_index() { return host_thread.index; }
inline void barrier_sync(u32 barrier) { host_thread.block->barriers[barrier].arrive_and_wait(); }
inline void barrier_arrive(u32 barrier) { (void)host_thread.block->barriers[barrier].arrive(); }

inline bool warp_all(bool mine) {
    HostBlock::Warp& warp = host_thread.block->warps[host_thread.thread / warp_threads];
    int* const noes = &warp.votes[host_thread.turn++ % 2];
    if (!mine) __atomic_fetch_add(noes, 1, __ATOMIC_RELAXED);
    warp.barrier.arrive_and_wait();
    bool const all = __atomic_load_n(noes, __ATOMIC_RELAXED) == 0;
    // Everybody has read the votes before anybody clears them, and the next vote uses the other word.
    warp.barrier.arrive_and_wait();
    if (host_thread.thread % warp_threads == 0) __atomic_store_n(noes, 0, __ATOMIC_RELAXED);
    return all;
}

inline u64* block_words() { return host_thread.block->words; }

inline u64 ld_relaxed_sys(u64 const* word) { return __atomic_load_n(word, __ATOMIC_RELAXED); }
inline u64 ld_acquire_sys(u64 const* word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }
inline void st_relaxed_sys(u64* word, u64 value) { __atomic_store_n(word, value, __ATOMIC_RELAXED); }
inline u64 exchange_relaxed_sys(u64* word, u64 value) { return __atomic_exchange_n(word, value, __ATOMIC_RELAXED); }
inline void fence_acq_rel_sys() { __atomic_thread_fence(__ATOMIC_ACQ_REL); }

inline vec16 load_slot(vec16 const* from) { return *from; }
inline void store_slot(vec16* to, vec16 const& v) { *to = v; }

inline void pause() { sched_yield(); }

inline u64 clock_ns() {
    using namespace std::chrono;
    return static_cast<u64>(duration_cast<nanoseconds>(steady_clock::now().time_since_epoch()).count());
}

inline float f32_from_bits(u32 bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

inline u32 bits_from_f32(float value) {
    u32 bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

inline float f32_from_f16(u16 bits) {
    u32 const sign = static_cast<u32>(bits & 0x8000u) << 16;
    u32 const exponent = (bits >> 10) & 0x1fu;
    u32 const fraction = bits & 0x3ffu;
    if (exponent == 31) return f32_from_bits(sign | 0x7f800000u | fraction << 13);
    if (exponent != 0) return f32_from_bits(sign | (exponent + 112) << 23 | fraction << 13);
    float const magnitude = static_cast<float>(fraction) * 0x1p-24f;  // zero or subnormal: exact
    return f32_from_bits(sign | bits_from_f32(magnitude));
}

// Round to nearest even by one exact addition: the magnitude plus a power of two whose last place is
// the last place of the result.
inline u16 f16_from_f32(float value) {
    u32 const bits = bits_from_f32(value);
    u16 const sign = static_cast<u16>(bits >> 16 & 0x8000u);
    u32 const magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return static_cast<u16>(sign | 0x7e00u);
    if (magnitude >= 0x477ff000u) return static_cast<u16>(sign | 0x7c00u);  // 65520 and beyond round to infinity
    if (magnitude < 0x38800000u) {                                         // below 2^-14: subnormal
        float const shifted = f32_from_bits(magnitude) + 0.5f;             // last place of 0.5 is 2^-24
        return static_cast<u16>(sign | (bits_from_f32(shifted) - 0x3f000000u));
    }
    u32 const odd = magnitude >> 13 & 1u;
    return static_cast<u16>(sign | (magnitude - (112u << 23) + 0xfffu + odd) >> 13);
}

inline u16 bf16_from_f32(float value) {
    u32 const bits = bits_from_f32(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fc0u;
    return static_cast<u16>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

}  // namespace myelon
