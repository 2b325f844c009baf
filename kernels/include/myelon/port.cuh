// port.cuh: the few dozen functions that every other header is written in.
//
// A header above this one holds no CUDA builtin, no vector type, no assembly and no vendor include.
// It says what it needs through the port, and the port has one body for each place where it runs:
//
//   myelon/ptx.cuh     a GPU: PTX, built by nvcc or by NVRTC
//   port_host.h        host threads: compiler atomics, one OS thread for one GPU thread
//   port_model.h       a simulator: each access is a decision of a seed, in a memory as weak as a GPU's
//
// What all bodies provide (namespace myelon):
//
//   u8 u16 u32 u64 i8 i16 i32 i64          integers of a fixed width
//   vec16 vec8                             16 and 8 bytes, moved as one access
//   pair64                                 two u64, each an access of its own
//   thread_index() thread_count()          place in the block, threads of the block
//   warp_threads warp_all(bool)            threads that move in step; did all of my warp say yes
//   block_index()                          place in the grid
//   barrier_sync(i) barrier_arrive(i)      barrier i of the block, from 0 to barriers_max - 1: wait for all
//                                          threads, or only be counted; what came before an arrival is
//                                          seen behind the sync that it completes
//   block_words()                          block_words_max u64 that the threads of a block share
//   ld_relaxed_sys ld_acquire_sys          one u64 that other devices or the host may write; relaxed also a pair64
//   st_relaxed_sys exchange_relaxed_sys    one u64 that other devices or the host may read; a store also a pair64
//   add_and_tell<offset, step>(total, page, more)   a statistic: adds to one u64, and where the sum passes a
//                                          multiple of step leaves it in a page of the host. Orders nothing
//   raise_and_tell<offset>(total, page, value)   the same with the larger one of the two
//   fence_acq_rel_sys()                    orders what came before it with what comes after, at system scope
//   after_earlier_work()                   behind it, all earlier work of the stream is complete; the launch behind
//                                          this one may be prepared from here on
//   settled(value)                         an address or a word is computed by here and not behind the next wait; what
//                                          follows from it, not in front of here
//   load_slot store_slot                   vec16 of a ring slot: bypasses the first-level cache
//   ld_weak(from) st_weak(to, value)       memory that something else orders: buffers, cursors, the record
//   read_shared(object) write_shared(to, value)   the same in block_words(): an object that is read from here
//                                          to the thread's next barrier, and one field
//   stage_memory(bytes)                    memory of the block for asynchronous copies, of the launch's size
//   copy_async(to, from) copy_async_commit() copy_async_wait<n>()   vec16 into stages, in groups: done but for
//                                          the last n groups, for the thread that waits
//   bulk_store(to, from, bytes) bulk_commit() bulk_wait<n>() bulk_wait_read<n>()   stages to anywhere, in groups
//                                          of the thread: landed, or only read. sm_90 and later
//   fence_proxy_async()                    between plain writes of a stage and the bulk copy that reads it
//   pause() clock_ns() polls_a_look        inside a wait; polls between two looks at the clock
//   looks_a_far_look                       where many threads wait: looks of a warp between two at words of the host and of peers
//   weakened(mutant) note_gave_up(lane, sequence)   for the simulator: false, and nothing, elsewhere
//   f32_from_f16 f16_from_f32 bf16_from_f32   conversions of bits, round to nearest even
//
//   MYELON_RARELY(condition)               the same condition
//   MYELON_DEVICE                          in front of a function that the kernels call
//   MYELON_COLD                            the same, of one that hardly ever runs: called where it stands, not copied into
//                                          every caller; has no pointers to locals, which would need a stack
//   MYELON_KERNEL(name) MYELON_THREADS_MAX an entry that is launched with one AllReduceArgs
#pragma once

// A condition that hardly ever holds: what it guards is laid out behind all else, out of the way of a call that takes
// a microsecond or two and fetches its instructions meanwhile.
#define MYELON_RARELY(condition) __builtin_expect(static_cast<bool>(condition), false)

#if defined(__CUDACC__)
#include "myelon/ptx.cuh"
#elif defined(MYELON_MODEL)
#include "port_model.h"
#else
#include "port_host.h"
#endif
