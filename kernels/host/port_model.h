// port_model.h: the port's body for the simulator. Every access is a call into crates/myelon-sim, where a
// seed decides who runs next and what a load returns.
//
// Addresses of windows, buffers and records are the simulator's own and cannot be followed; block_words() is
// memory of the host, whose accesses the simulator is told of.
#pragma once

#include <cstring>

#include "convert_host.h"
#include "myelon/mutants.cuh"

// crates/myelon-sim/src/port.rs
extern "C" {
unsigned int myelon_model_thread();
unsigned int myelon_model_threads();
unsigned int myelon_model_block();
unsigned int myelon_model_mutant();
void myelon_model_barrier(unsigned int barrier, int sync);
int myelon_model_vote(int yes);
unsigned long long* myelon_model_block_words();
unsigned long long myelon_model_load(void const* word, int acquire);
void myelon_model_store(void* word, unsigned long long value);
unsigned long long myelon_model_exchange(void* word, unsigned long long value);
void myelon_model_tally(void* total, void* told, unsigned long long value, unsigned long long step);
void myelon_model_after_earlier_work();
void myelon_model_fence();
void myelon_model_read(void const* from, void* to, unsigned long long bytes);
void myelon_model_write(void* to, void const* from, unsigned long long bytes);
void myelon_model_shared(void const* at, unsigned long long bytes, int writes);
void* myelon_model_stage(unsigned long long bytes);
void myelon_model_copy(int bulk, void* to, void const* from, unsigned long long bytes);
void myelon_model_copy_commit(int bulk);
void myelon_model_copy_wait(int bulk, unsigned int pending);
void myelon_model_copy_wait_read(unsigned int pending);
void myelon_model_proxy_fence();
void myelon_model_pause();
unsigned long long myelon_model_clock_ns();
void myelon_model_gave_up(unsigned int lane, unsigned long long sequence);
}

namespace myelon {

#define MYELON_DEVICE inline
#define MYELON_COLD inline
#define MYELON_KERNEL(name) static void name(AllReduceArgs const& args)

constexpr u32 block_words_max = 40;
constexpr u32 barriers_max = 4;
constexpr u32 warp_threads = 16;
constexpr u32 polls_a_look = 2;
constexpr u32 looks_a_far_look = 1;

inline u32 thread_index() { return myelon_model_thread(); }
inline u32 thread_count() { return myelon_model_threads(); }
inline u32 block_index() { return myelon_model_block(); }
inline void barrier_sync(u32 barrier) { myelon_model_barrier(barrier, 1); }
inline void barrier_arrive(u32 barrier) { myelon_model_barrier(barrier, 0); }
inline bool warp_all(bool mine) { return myelon_model_vote(mine) != 0; }
inline u64* block_words() { return myelon_model_block_words(); }

inline u64 ld_relaxed_sys(u64 const* word) { return myelon_model_load(word, 0); }
inline u64 ld_acquire_sys(u64 const* word) { return myelon_model_load(word, 1); }
inline void st_relaxed_sys(u64* word, u64 value) { myelon_model_store(word, value); }
inline pair64 ld_relaxed_sys(pair64 const* words) {
    return {{ld_relaxed_sys(&words->word[0]), ld_relaxed_sys(&words->word[1])}};
}
inline void st_relaxed_sys(pair64* words, pair64 const& value) {
    for (u32 i = 0; i < 2; ++i) st_relaxed_sys(&words->word[i], value.word[i]);
}
inline void after_earlier_work() { myelon_model_after_earlier_work(); }
template <typename T>
inline void settled(T&) {}
inline u64 exchange_relaxed_sys(u64* word, u64 value) { return myelon_model_exchange(word, value); }
template <u32 offset, u64 step>
inline void add_and_tell(u64* total, u64* page, u64 more) {
    myelon_model_tally(total, reinterpret_cast<u8*>(page) + offset, more, step);
}
template <u32 offset>
inline void raise_and_tell(u64* total, u64* page, u64 value) {
    myelon_model_tally(total, reinterpret_cast<u8*>(page) + offset, value, 0);
}
inline void fence_acq_rel_sys() { myelon_model_fence(); }

template <typename T>
inline T ld_weak(T const* from) {
    T value;
    myelon_model_read(from, &value, sizeof value);
    return value;
}

template <typename T>
inline void st_weak(T* to, T const& value) {
    myelon_model_write(to, &value, sizeof value);
}

inline vec16 load_slot(vec16 const* from) { return ld_weak(from); }
inline void store_slot(vec16* to, vec16 const& v) { st_weak(to, v); }

template <typename T>
inline T const& read_shared(T const& object) {
    myelon_model_shared(&object, sizeof object, 0);
    return object;
}

template <typename T>
inline void write_shared(T* to, T const& value) {
    myelon_model_shared(to, sizeof value, 1);
    *to = value;
}

inline vec16* stage_memory(u32 bytes) { return static_cast<vec16*>(myelon_model_stage(bytes)); }
inline void copy_async(vec16* to, vec16 const* from) { myelon_model_copy(0, to, from, sizeof *to); }
inline void copy_async_commit() { myelon_model_copy_commit(0); }
template <u32 pending>
inline void copy_async_wait() {
    myelon_model_copy_wait(0, pending);
}
inline void bulk_store(void* to, void const* from, u32 bytes) { myelon_model_copy(1, to, from, bytes); }
inline void bulk_commit() { myelon_model_copy_commit(1); }
template <u32 pending>
inline void bulk_wait() {
    myelon_model_copy_wait(1, pending);
}
template <u32 pending>
inline void bulk_wait_read() {
    myelon_model_copy_wait_read(pending);
}
inline void fence_proxy_async() { myelon_model_proxy_fence(); }

inline void pause() { myelon_model_pause(); }
inline u64 clock_ns() { return myelon_model_clock_ns(); }

inline bool weakened(Mutant mutant) { return static_cast<u32>(mutant) == myelon_model_mutant(); }
inline void note_gave_up(u32 lane, u64 sequence) { myelon_model_gave_up(lane, sequence); }

}  // namespace myelon
