// tsan_main.cc: calls of the all-reduce on host threads, for ThreadSanitizer. .ci/tsan builds and runs it.
//
// PROPERTY  Whatever one thread of a launch writes and another reads or overwrites is ordered by the protocol:
//           by the block's barriers within a block, by the ring's words between blocks and ranks.
// CATCHES   A race in what has run, also inside a block, which no model of one thread a block has. A missing
//           acquire or fence, though the processor below would forgive it. Wrong sums.
// CANNOT    Scopes; interleavings that did not happen; what gcc's sanitizer forgets, for it keeps the last few
//           accesses of a word only; the acquiring half of a fence, on which nothing relies: see port_host.h.
//
// tsan_main            runs all calls; ends with 1 where an element is wrong or a rank gives up
// tsan_main MUTANT     the same with one ordering weakened, by its name in myelon/mutants.cuh: must be reported
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "myelon/words.cuh"

using namespace myelon;

extern "C" int myelon_host_launch(char const* name, AllReduceArgs const* args, u32 blocks, u32 threads);

namespace {

// Threads a block: one warp of movers, and the signal warp.
constexpr u32 threads = 2 * warp_threads;
constexpr u64 first = ~u64{0} - 2;  // the first sequence: the wrap is near
constexpr u64 deadline_ns = 60'000'000'000;

struct Shape {
    u32 ranks, lanes, capacity, piece_bytes, credit_batch;
};

// The same rows as WindowLayout in crates/myelon-ring/src/window.rs.
struct Layout {
    u64 cursor, gating, sequence, data, bytes, slot_bytes;

    explicit Layout(Shape const& shape) {
        auto const lines = [](u64 bytes) { return (bytes + line_bytes - 1) / line_bytes * line_bytes; };
        u64 const edges = u64{2} * shape.lanes * (shape.ranks - 1);
        slot_bytes = lines(shape.piece_bytes) + trailer_bytes;
        cursor = line_bytes;
        gating = cursor + lines(3 * shape.lanes * sizeof(u64));
        sequence = gating + edges * line_bytes;
        data = sequence + edges * lines(shape.capacity * sizeof(u64));
        bytes = data + edges * shape.capacity * slot_bytes;
    }
};

struct alignas(line_bytes) Line {
    u64 word[line_bytes / sizeof(u64)];
};

std::vector<Line> fresh_window(Shape const& shape, Layout const& layout) {
    std::vector<Line> window(layout.bytes / line_bytes);
    auto const fill = [&](u64 from, u64 to, u64 value) {
        for (u64 at = from; at < to; at += sizeof(u64)) window[at / line_bytes].word[at % line_bytes / sizeof(u64)] = value;
    };
    fill(0, layout.cursor, 0);
    fill(layout.cursor, layout.cursor + 3 * shape.lanes * sizeof(u64), first);
    fill(layout.gating, layout.sequence, first);
    fill(layout.sequence, layout.data, first - 1);
    fill(layout.data, layout.bytes, 0xdeadbeefdeadbeef);
    return window;
}

struct Call {
    u64 elements;
    bool in_place;
    u32 workers;
    u32 shift;  // elements that the buffers begin behind a vector's place
};

// More rounds than slots, rounds of every remainder, a lane without rounds, an empty call, whole vectors and
// single elements.
constexpr Call calls[] = {
    {1000, false, 2, 0}, {1, true, 1, 0}, {333, true, 1, 1}, {0, false, 2, 0}, {700, true, 2, 0}, {64, false, 2, 3},
};

i32 element(u32 rank, u64 call, u64 at) { return static_cast<i32>((rank + 1) * 1000003u + call * 7919u + at * 31u); }

// Runs one call on all ranks side by side. Returns how many elements are wrong, or ~0 where a rank gave up.
u64 run(Shape const& shape, Layout const& layout, std::vector<std::vector<Line>>& windows, u64 number) {
    Call const& call = calls[number];
    static u64 const host_abort = 0;
    std::vector<std::vector<vec16>> inputs(shape.ranks), outputs(shape.ranks);
    std::vector<HostPage> pages(shape.ranks, HostPage{});
    std::vector<AllReduceArgs> args(shape.ranks, AllReduceArgs{});
    auto const elements = [&](std::vector<vec16>& buffer) { return reinterpret_cast<i32*>(buffer.data()) + call.shift; };
    for (u32 rank = 0; rank < shape.ranks; ++rank) {
        inputs[rank].resize(call.elements / 4 + 2);
        outputs[rank].resize(call.elements / 4 + 2);
        for (u64 at = 0; at < call.elements; ++at) elements(inputs[rank])[at] = element(rank, number, at);
        AllReduceArgs& mine = args[rank];
        for (u32 peer = 0; peer < shape.ranks; ++peer) mine.window[peer] = reinterpret_cast<u64>(windows[peer].data());
        mine.input = reinterpret_cast<u64>(elements(inputs[rank]));
        mine.output = call.in_place ? mine.input : reinterpret_cast<u64>(elements(outputs[rank]));
        mine.bytes = call.elements * sizeof(i32);
        mine.call = number + 1;
        mine.fault = reinterpret_cast<u64>(&pages[rank]);
        mine.deadline_ns = deadline_ns;
        mine.host_abort = reinterpret_cast<u64>(&host_abort);
        mine.cursor_offset = layout.cursor;
        mine.gating_offset = layout.gating;
        mine.sequence_offset = layout.sequence;
        mine.data_offset = layout.data;
        mine.rank = rank;
        mine.ranks = shape.ranks;
        mine.lanes = mine.lanes_max = shape.lanes;
        mine.workers = call.workers;
        mine.capacity = shape.capacity;
        mine.slot_bytes = static_cast<u32>(layout.slot_bytes);
        mine.piece_bytes = shape.piece_bytes;
        mine.credit_batch = shape.credit_batch;
    }

    std::vector<std::thread> ranks;
    for (AllReduceArgs const& mine : args) {
        ranks.emplace_back([&mine, &call] {
            if (myelon_host_launch("all_reduce_ring_i32_sum", &mine, 3 * call.workers, threads) != 0) std::abort();
        });
    }
    for (std::thread& rank : ranks) rank.join();

    u64 wrong = 0;
    for (u32 rank = 0; rank < shape.ranks; ++rank) {
        if (pages[rank].fault.code != 0) return ~u64{0};
        i32 const* const output = elements(call.in_place ? inputs[rank] : outputs[rank]);
        for (u64 at = 0; at < call.elements; ++at) {
            u32 sum = 0;
            for (u32 peer = 0; peer < shape.ranks; ++peer) sum += static_cast<u32>(element(peer, number, at));
            if (output[at] != static_cast<i32>(sum)) ++wrong;
        }
    }
    return wrong;
}

struct Named {
    char const* name;
    Mutant mutant;
};

#define MYELON_NAMED(identifier, name, about) {name, Mutant::identifier},
constexpr Named named[] = {MYELON_MUTANTS(MYELON_NAMED)};

}  // namespace

int main(int count, char** words) {
    if (count > 1) {
        for (Named const& each : named) {
            if (std::strcmp(each.name, words[1]) == 0) mutant = each.mutant;
        }
        if (mutant == Mutant::none) {
            std::fprintf(stderr, "no mutant %s\n", words[1]);
            return 2;
        }
    }
    bool well = true;
    for (Shape const& shape : {Shape{2, 2, 2, 32, 1}, Shape{2, 2, 4, 48, 3}, Shape{3, 2, 2, 32, 2}}) {
        Layout const layout(shape);
        std::vector<std::vector<Line>> windows(shape.ranks, fresh_window(shape, layout));
        for (u64 number = 0; number < sizeof calls / sizeof calls[0]; ++number) {
            u64 const wrong = run(shape, layout, windows, number);
            std::printf("%u ranks, %u slots, credit by %u: %llu elements, %llu wrong\n", shape.ranks, shape.capacity,
                        shape.credit_batch, static_cast<unsigned long long>(calls[number].elements), wrong);
            if (wrong != 0) well = false;
        }
    }
    return well ? 0 : 1;
}
