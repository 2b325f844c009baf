// host_launch.cc: the kernels' own source, compiled for host threads, behind a C interface.
//
// crates/myelon-sim builds this file and calls it. A launch starts one OS thread for each GPU thread of one
// rank and returns when all have ended; ranks are launched side by side by the caller.

#include "entries.h"

#include <thread>
#include <vector>

namespace myelon {

thread_local HostThread host_thread;

namespace {

struct LayoutRow {
    char const* name;
    u64 offset;
};

#define MYELON_ROW_FIELD(type, field, offset) {#type "." #field, __builtin_offsetof(type, field)},
#define MYELON_ROW_SIZE(type, size) {#type, sizeof(type)},
LayoutRow const layout_rows[] = {MYELON_SHARED_LAYOUT(MYELON_ROW_FIELD, MYELON_ROW_SIZE)};

}  // namespace
}  // namespace myelon

using namespace myelon;

// Runs kernel `name` on `blocks` x `threads` OS threads. Returns 0, or 1 where there is no such kernel.
extern "C" int myelon_host_launch(char const* name, AllReduceArgs const* args, u32 blocks, u32 threads) {
    for (Entry const& entry : entries) {
        if (std::strcmp(entry.name, name) != 0) continue;
        std::deque<HostBlock> shared;  // a barrier cannot move
        std::vector<std::thread> running;
        for (u32 block = 0; block < blocks; ++block) {
            shared.emplace_back(threads);
            for (u32 thread = 0; thread < threads; ++thread) {
                running.emplace_back([&entry, args, place = HostThread{&shared.back(), thread, block, 0}] {
                    host_thread = place;
                    entry.kernel(*args);
                });
            }
        }
        for (std::thread& thread : running) thread.join();
        return 0;
    }
    return 1;
}

// Row `index` of the shared words; 0 beyond the last one.
extern "C" int myelon_host_layout(u64 index, char const** name, u64* offset) {
    if (index >= sizeof layout_rows / sizeof layout_rows[0]) return 0;
    *name = layout_rows[index].name;
    *offset = layout_rows[index].offset;
    return 1;
}

// What the kernel takes piece (lane, round, owner) to be: rounds of the lane, first vector, vectors.
extern "C" void myelon_host_piece(AllReduceArgs const* args, u32 lane, u64 round, u32 owner, u64* out) {
    out[0] = lane_rounds(*args, lane);
    Chunk const chunk = chunk_at(*args, lane, round);
    out[1] = chunk.piece_start(owner);
    out[2] = chunk.piece_count(owner);
}

// Where the kernel takes a ring to be.
extern "C" void myelon_host_ring(AllReduceArgs const* args, u32 movement, u32 lane, u32 source, u32 destination, RingConfig* out) {
    *out = ring_at(*args, static_cast<Movement>(movement), lane, source, destination);
}

extern "C" void myelon_host_ring_to_next(AllReduceArgs const* args, u32 lane, u32 rank, RingConfig* out) {
    *out = ring_to_next(*args, lane, rank);
}

// Conversions of the host port, so that a test can hold them against another implementation.
extern "C" u32 myelon_host_f32_from_f16(u32 bits) { return bits_from_f32(f32_from_f16(static_cast<u16>(bits))); }
extern "C" u32 myelon_host_f16_from_f32(u32 bits) { return f16_from_f32(f32_from_bits(bits)); }
extern "C" u32 myelon_host_bf16_from_f32(u32 bits) { return bf16_from_f32(f32_from_bits(bits)); }
