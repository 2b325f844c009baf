// port_host.h: the port's body for host threads. One OS thread stands for one GPU thread.
//
// The kernels' source compiles against it unchanged. A HostThread says where the calling thread stands
// in the launch; host_launch.cc sets it. The memory orders are those of the PTX body; the hardware
// below is usually stronger, so a passing run proves logic, not ordering.
//
// Under ThreadSanitizer, which knows orders and not the hardware, a run proves ordering for what it has run:
// .ci/tsan. gcc's knows no fences, so there a store behind a fence is a release store. To the sanitizer such a
// store orders what comes before the store, where a fence orders only what comes before the fence. So that no
// missing or misplaced fence is hidden, the fence counts only until the thread touches anything else: plain
// memory, a barrier, an acquire. A relaxed store behind that is relaxed. What a fence acquires is left out:
// nothing relies on it, and false alarms are all that it could cost. A vote orders nothing there, as on a GPU.
#pragma once

#include <sched.h>

#include <barrier>
#include <chrono>
#include <cstring>
#include <deque>
#include <mutex>
#include <vector>

#include "convert_host.h"
#include "myelon/mutants.cuh"

namespace myelon {

#define MYELON_DEVICE inline
#define MYELON_COLD inline
#define MYELON_KERNEL(name) extern "C" void name(AllReduceArgs const& args)

constexpr u32 block_words_max = 40;
constexpr u32 barriers_max = 4;
constexpr u32 warp_threads = 16;

#if defined(__SANITIZE_THREAD__)
constexpr bool is_sanitized = true;
inline Mutant mutant = Mutant::none;  // set before the first launch
inline bool weakened(Mutant asked) { return asked == mutant && asked != Mutant::none; }
#else
constexpr bool is_sanitized = false;
inline constexpr bool weakened(Mutant) { return false; }
#endif

// What the threads of one block share.
struct HostBlock {
    using Barrier = std::barrier<>;
    explicit HostBlock(u32 threads) : threads(threads), barriers{Barrier(threads), Barrier(threads), Barrier(threads), Barrier(threads)} {
        for (u32 warp = 0; warp * warp_threads < threads; ++warp) warps.emplace_back();
    }
    struct Warp {
        Barrier barrier{warp_threads};
        int votes[2] = {0, 0};  // of this vote and of the next, by turns
        u32 arrived = 0;        // in place of the barrier, where a vote orders nothing
    };
    u32 threads;
    u64 words[block_words_max] = {};
    Barrier barriers[barriers_max];
    std::deque<Warp> warps;  // a barrier cannot move
    std::vector<vec16> stage;
    std::once_flag staged;
};

struct HostThread {
    HostBlock* block;
    u32 thread, index;
    u32 turn;             // votes that this thread has taken part in
    bool fenced = false;  // nothing touched since the last fence; is_sanitized only
};

extern thread_local HostThread host_thread;

inline void touch() {
    if constexpr (is_sanitized) host_thread.fenced = false;
}

inline u32 thread_index() { return host_thread.thread; }
inline u32 thread_count() { return host_thread.block->threads; }
inline u32 block_index() { return host_thread.index; }
inline void barrier_sync(u32 barrier) {
    touch();
    host_thread.block->barriers[barrier].arrive_and_wait();
}
inline void barrier_arrive(u32 barrier) {
    touch();
    (void)host_thread.block->barriers[barrier].arrive();
}

// All threads of the warp have come to meeting number `meeting`, counted from 1.
inline void meet(HostBlock::Warp& warp, u32 meeting) {
    if constexpr (!is_sanitized) return warp.barrier.arrive_and_wait();
    __atomic_fetch_add(&warp.arrived, 1, __ATOMIC_RELAXED);
    while (__atomic_load_n(&warp.arrived, __ATOMIC_RELAXED) < meeting * warp_threads) sched_yield();
}

inline bool warp_all(bool mine) {
    HostBlock::Warp& warp = host_thread.block->warps[host_thread.thread / warp_threads];
    u32 const turn = host_thread.turn++;
    int* const noes = &warp.votes[turn % 2];
    if (!mine) __atomic_fetch_add(noes, 1, __ATOMIC_RELAXED);
    meet(warp, 2 * turn + 1);
    bool const all = __atomic_load_n(noes, __ATOMIC_RELAXED) == 0;
    // Everybody has read the votes before anybody clears them, and the next vote uses the other word.
    meet(warp, 2 * turn + 2);
    if (host_thread.thread % warp_threads == 0) __atomic_store_n(noes, 0, __ATOMIC_RELAXED);
    return all;
}

inline u64* block_words() { return host_thread.block->words; }

// Copies are done when they are issued, which is as early as they may be; the simulator does them as late.
inline vec16* stage_memory(u32 bytes) {
    HostBlock& block = *host_thread.block;
    std::call_once(block.staged, [&] { block.stage.resize(bytes / sizeof(vec16)); });
    return block.stage.data();
}
inline void copy_async(vec16* to, vec16 const* from) { *to = *from; }
inline void copy_async_commit() {}
template <u32 pending>
inline void copy_async_wait() {}
inline void bulk_store(void* to, void const* from, u32 bytes) { std::memcpy(to, from, bytes); }
inline void bulk_commit() {}
template <u32 pending>
inline void bulk_wait() {}
template <u32 pending>
inline void bulk_wait_read() {}
inline void fence_proxy_async() {}

inline u64 ld_relaxed_sys(u64 const* word) { return __atomic_load_n(word, __ATOMIC_RELAXED); }
inline u64 ld_acquire_sys(u64 const* word) {
    touch();
    return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}
inline void st_relaxed_sys(u64* word, u64 value) {
    if (is_sanitized && host_thread.fenced) return __atomic_store_n(word, value, __ATOMIC_RELEASE);
    __atomic_store_n(word, value, __ATOMIC_RELAXED);
}
inline pair64 ld_relaxed_sys(pair64 const* words) {
    return {{ld_relaxed_sys(&words->word[0]), ld_relaxed_sys(&words->word[1])}};
}
inline void st_relaxed_sys(pair64* words, pair64 const& value) {
    for (u32 i = 0; i < 2; ++i) st_relaxed_sys(&words->word[i], value.word[i]);
}
inline void after_earlier_work() {}
template <typename T>
inline void settled(T&) {}
inline u64 exchange_relaxed_sys(u64* word, u64 value) { return __atomic_exchange_n(word, value, __ATOMIC_RELAXED); }
template <u32 offset, u64 step>
inline void add_and_tell(u64* total, u64* page, u64 more) {
    u64 const before = __atomic_fetch_add(total, more, __ATOMIC_RELAXED), after = before + more;
    if (after / step != before / step) __atomic_store_n(page + offset / sizeof(u64), after, __ATOMIC_RELAXED);
}
template <u32 offset>
inline void raise_and_tell(u64* total, u64* page, u64 value) {
    u64 before = __atomic_load_n(total, __ATOMIC_RELAXED);
    while (before < value) {
        if (!__atomic_compare_exchange_n(total, &before, value, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) continue;
        return __atomic_store_n(page + offset / sizeof(u64), value, __ATOMIC_RELAXED);
    }
}
inline void fence_acq_rel_sys() {
#if defined(__SANITIZE_THREAD__)
    host_thread.fenced = true;
#else
    __atomic_thread_fence(__ATOMIC_ACQ_REL);
#endif
}

template <typename T>
inline T ld_weak(T const* from) {
    touch();
    return *from;
}

template <typename T>
inline void st_weak(T* to, T const& value) {
    touch();
    *to = value;
}

inline vec16 load_slot(vec16 const* from) { return ld_weak(from); }
inline void store_slot(vec16* to, vec16 const& v) { st_weak(to, v); }

template <typename T>
inline T const& read_shared(T const& object) {
    touch();
    return object;
}

template <typename T>
inline void write_shared(T* to, T const& value) {
    st_weak(to, value);
}

inline void note_gave_up(u32, u64) {}

constexpr u32 polls_a_look = 1024;
constexpr u32 looks_a_far_look = 1;
inline void pause() { sched_yield(); }

inline u64 clock_ns() {
    using namespace std::chrono;
    return static_cast<u64>(duration_cast<nanoseconds>(steady_clock::now().time_since_epoch()).count());
}

}  // namespace myelon
