// words.cuh: the words that Rust and the kernels share. crates/myelon-ring/src/words.rs is the other side
// and says what each word means; both sides assert every offset, and a test compares the two tables.
#pragma once

#include "myelon/port.cuh"

namespace myelon {

constexpr u32 ranks_max = 8;
constexpr u32 line_bytes = 128;
constexpr u32 trailer_bytes = line_bytes;

enum class Movement : u32 { scatter = 0, gather = 1 };
enum class Role : u32 { scatter = 0, reduce = 1, gather = 2 };
enum class FaultCode : u32 { none = 0, stalled = 1, disagreement = 2, protocol = 3, aborted = 4 };
enum class WaitingFor : u32 { scatter_slot = 0, scatter_credit = 1, gather_slot = 2, gather_credit = 3, packet = 4, sum_packet = 5, start = 6, end = 7 };
constexpr u32 flag_average = 1;

struct RingConfig {
    i32 capacity;
    i32 slot_bytes;
    u64 sequence;
    u64 gating;
    u64 data;
};

struct Trailer {
    u64 call;
    u64 reserved;
};

struct Fault {
    u32 code, rank, peer, lane, waiting_for, reserved;
    u64 needed, seen, waited_ns, call, call_seen;
};

struct WaitCounts {
    u64 polls_data, polls_credit, longest_ns;
};

struct HostPage {
    Fault fault;
    u64 behind_fault[8];
    u64 abort;
    u64 behind_abort[15];
    WaitCounts waits;
    u64 behind_waits[13];
};

struct DirectStage {
    vec16 vectors[16];
};

struct AllReduceArgs {
    u64 window[ranks_max];
    u64 input, output, bytes, call, fault, deadline_ns, host_abort;
    u64 cursor_offset, gating_offset, sequence_offset, data_offset, epoch_offset, inbox_offset,
        cells_offset;
    u32 rank, ranks, lanes, lanes_max, workers, capacity, slot_bytes, piece_bytes, credit_batch, flags;
    u32 inbox_lanes, inbox_packets, inbox_cells, reserved;
    u64 input_at[ranks_max], output_at[ranks_max];
};

// X(type, field, offset); S(type, size)
#define MYELON_SHARED_LAYOUT(X, S)                                                                       \
    X(RingConfig, capacity, 0) X(RingConfig, slot_bytes, 4) X(RingConfig, sequence, 8)                   \
    X(RingConfig, gating, 16) X(RingConfig, data, 24) S(RingConfig, 32)                                  \
    X(Trailer, call, 0) X(Trailer, reserved, 8) S(Trailer, 16)                                           \
    X(Fault, code, 0) X(Fault, rank, 4) X(Fault, peer, 8) X(Fault, lane, 12) X(Fault, waiting_for, 16)   \
    X(Fault, reserved, 20) X(Fault, needed, 24) X(Fault, seen, 32) X(Fault, waited_ns, 40)               \
    X(Fault, call, 48) X(Fault, call_seen, 56) S(Fault, 64)                                              \
    X(WaitCounts, polls_data, 0) X(WaitCounts, polls_credit, 8) X(WaitCounts, longest_ns, 16)            \
    S(WaitCounts, 24)                                                                                    \
    X(HostPage, fault, 0) X(HostPage, abort, 128) X(HostPage, waits, 256) S(HostPage, 384)               \
    X(DirectStage, vectors, 0) S(DirectStage, 256)                                                       \
    X(AllReduceArgs, window, 0) X(AllReduceArgs, input, 64) X(AllReduceArgs, output, 72)                 \
    X(AllReduceArgs, bytes, 80) X(AllReduceArgs, call, 88) X(AllReduceArgs, fault, 96)                   \
    X(AllReduceArgs, deadline_ns, 104) X(AllReduceArgs, host_abort, 112)                                 \
    X(AllReduceArgs, cursor_offset, 120) X(AllReduceArgs, gating_offset, 128)                            \
    X(AllReduceArgs, sequence_offset, 136) X(AllReduceArgs, data_offset, 144)                            \
    X(AllReduceArgs, epoch_offset, 152) X(AllReduceArgs, inbox_offset, 160)                              \
    X(AllReduceArgs, cells_offset, 168)                                                                  \
    X(AllReduceArgs, rank, 176) X(AllReduceArgs, ranks, 180) X(AllReduceArgs, lanes, 184)                \
    X(AllReduceArgs, lanes_max, 188) X(AllReduceArgs, workers, 192) X(AllReduceArgs, capacity, 196)      \
    X(AllReduceArgs, slot_bytes, 200) X(AllReduceArgs, piece_bytes, 204)                                 \
    X(AllReduceArgs, credit_batch, 208) X(AllReduceArgs, flags, 212)                                     \
    X(AllReduceArgs, inbox_lanes, 216) X(AllReduceArgs, inbox_packets, 220)                              \
    X(AllReduceArgs, inbox_cells, 224) X(AllReduceArgs, reserved, 228)           \
    X(AllReduceArgs, input_at, 232) X(AllReduceArgs, output_at, 296) S(AllReduceArgs, 360)

#define MYELON_ASSERT_OFFSET(type, field, offset) static_assert(__builtin_offsetof(type, field) == offset, #type "." #field);
#define MYELON_ASSERT_SIZE(type, size) static_assert(sizeof(type) == size, #type);
MYELON_SHARED_LAYOUT(MYELON_ASSERT_OFFSET, MYELON_ASSERT_SIZE)
#undef MYELON_ASSERT_OFFSET
#undef MYELON_ASSERT_SIZE

}  // namespace myelon
