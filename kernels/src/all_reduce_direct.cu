// all_reduce_direct.cu: each owner reads its piece of every rank's input where it lies, and writes the sum into every
// rank's output.
//
// Inputs and outputs are windows: memory that all ranks may read and write. One launch a rank, a block a lane.
// Ranks tell each other in a lane that they have begun, and where their buffers are; a lane's threads sum the
// lane's turns of the rank's own piece; then the lane tells that it has ended. Nothing is staged.
//
// ORDERING  direct/start  the end of earlier work, then a header    a header with ld.acquire.sys, then the barrier
//           direct/end    the barrier, fence.acq_rel.sys, a header  a header, then the end of the launch
// In place is safe: one thread reads an element of all ranks before it writes it to any, and nobody else reads it.
//
// PROGRESS  A lane waits for the same lane of its peers, and for nothing else.
// ERRORS    As for the one-shot. A peer that gives up leaves this rank's output half written.

#include "myelon/all_reduce.cuh"
#include "myelon/packet.cuh"

namespace myelon {
namespace direct {

// Where the buffers of all ranks are, in the words of the block.
struct Buffers {
    u64 input[ranks_max], output[ranks_max];
    u64 well, whole;
};
static_assert(sizeof(Buffers) <= block_words_max * sizeof(u64), "the buffers fit");
MYELON_DEVICE Buffers& buffers() { return *reinterpret_cast<Buffers*>(block_words()); }

// Thread `rank` of the first warp: tells that rank where this one's buffers are, and learns where that one's are.
// The route begins at the headers of the lane.
MYELON_DEVICE bool start_with(AllReduceArgs const& args, Route const& route, Turn const& turn, u32 rank, u64* input, u64* output) {
    *input = args.input;
    *output = args.output;
    if (rank == args.rank) return true;
    auto const place = [&](Header header) { return on_route(route, turn, static_cast<u64>(header)); };
    // ORDER direct/start: headers come behind the launch in front, whose end is a fence that releases what earlier work
    // wrote into this rank's input. Without it a peer could read what the input was before.
    send_packet(route.to + place(Header::call), turn.epoch, halves_of(args.call));
    // In another process they are at other addresses.
    send_packet(route.to + place(Header::input), turn.epoch, halves_of(args.input_at[rank]));
    send_packet(route.to + place(Header::output), turn.epoch, halves_of(args.output_at[rank]));
    if (turn.lane == 0 && peer_at(args, 0) == rank) say_call(args);
    scrub(args, turn, rank, [&](u64 number, u32) { return number < payload_packet(args, 0) && number / headers < args.lanes; });
    vec8 told[3];
    auto const at = [&](u32 header) { return route.from + place(static_cast<Header>(header)); };
    if (!receive<Flagged, 3>(args, turn, rank, WaitingFor::start, at, told)) return false;
    // ORDER direct/start: the acquire pairs with the end of the peer's earlier work, a fence in front of its header;
    // start's barrier passes it on. Without it an input could be read as it was before. Not a fence: that would wait
    // until this rank's own headers have arrived.
    if (!weakened(Mutant::start_acquire)) (void)ld_acquire_sys(&at(0)->word[0]);
    *input = word_of(told[1]);
    *output = word_of(told[2]);
    return is_call_of(args, turn, rank, word_of(told[0]));
}

// The block's threads learn where the buffers are; false for all of them where one gave up.
MYELON_DEVICE bool start(AllReduceArgs const& args, Route const& route, Turn const& turn, bool well) {
    u32 const rank = thread_index();
    if (rank < warp_threads) {
        bool whole = true;
        if (well && rank < args.ranks) {
            u64 input, output;
            well = start_with(args, route, turn, rank, &input, &output);
            whole = (input | output) % vector_bytes == 0;
            write_shared(&buffers().input[rank], input);
            write_shared(&buffers().output[rank], output);
        }
        bool const all_well = warp_all(well), all_whole = warp_all(whole);
        if (rank == 0) {
            write_shared(&buffers().well, all_well ? u64(1) : u64(0));
            write_shared(&buffers().whole, all_whole ? u64(1) : u64(0));
        }
    }
    barrier_sync(0);
    return read_shared(buffers().well) != 0;
}

// Thread `rank` of the first warp: tells that rank that this lane has written, and waits for its word.
MYELON_DEVICE bool end(AllReduceArgs const& args, Route const& route, Turn const& turn) {
    if (!weakened(Mutant::end_early)) barrier_sync(1);
    u32 const rank = thread_index();
    if (rank >= args.ranks || rank == args.rank) return true;
    // ORDER direct/end: the fence releases what all threads of the block have written, which the barrier passed to
    // this one. Without it a peer's launch could end before the sums are there.
    if (!weakened(Mutant::end_fence)) fence_acq_rel_sys();
    u64 const at = on_route(route, turn, static_cast<u64>(Header::end));
    send_packet(route.to + at, turn.epoch, halves_of(args.call));
    if (weakened(Mutant::end_unwaited)) return true;
    vec8 told[1];
    // ORDER direct/end: what the peer wrote is seen behind this launch, whose end is a fence.
    return receive<Flagged, 1>(args, turn, rank, WaitingFor::end, [&](u32) { return route.from + at; }, told);
}

// Sums the lane's share of a span: the lanes take turns, so that all of them together move through memory front to
// back. `most` ranks times `depth` vectors a thread are loaded while as many are summed and stored.
template <typename E, typename Op, u32 most, u32 depth, bool whole>
MYELON_DEVICE void sum_share(AllReduceArgs const& args, Span const& span) {
    using Unit = typename E::Unit;
    Buffers const& of = read_shared(buffers());
    u64 const end = span.start + span.count, turn = static_cast<u64>(depth) * thread_count(), step = turn * args.lanes;
    auto const load = [&](u64 base, vec16(&of_rank)[depth][most]) {
#pragma unroll
        for (u32 d = 0; d < depth; ++d) {
            u64 const vector = base + static_cast<u64>(d) * thread_count();
            if (vector >= end) continue;
#pragma unroll
            for (u32 rank = 0; rank < most; ++rank) {
                if (rank >= args.ranks) continue;
                if constexpr (whole) of_rank[d][rank] = load_slot(reinterpret_cast<vec16 const*>(of.input[rank]) + vector);
                else of_rank[d][rank] = Payload<Unit>(of.input[rank], args.bytes).load(vector);
            }
        }
    };
    auto const store = [&](u64 base, vec16 const(&of_rank)[depth][most]) {
#pragma unroll
        for (u32 d = 0; d < depth; ++d) {
            u64 const vector = base + static_cast<u64>(d) * thread_count();
            if (vector >= end) continue;
            vec16 const joined = join_ranks<E, Op>(of_rank[d], args.ranks, divisor_of(args));
#pragma unroll 1
            for (u32 i = 0; i < args.ranks; ++i) {
                u32 const rank = args.rank + i < args.ranks ? args.rank + i : args.rank + i - args.ranks;
                if constexpr (whole) store_slot(reinterpret_cast<vec16*>(of.output[rank]) + vector, joined);
                else Payload<Unit>(of.output[rank], args.bytes).store(vector, joined);
            }
        }
    };
    u64 base = span.start + block_index() * turn + thread_index();
    vec16 even[depth][most];
    if constexpr (sizeof(Unit) == 1) {
        // Bytes have sixteen accumulators, which leave no registers for a second set.
        for (; base < end; base += step) {
            load(base, even);
            store(base, even);
        }
    } else {
        vec16 odd[depth][most];
        load(base, even);
        for (; base < end; base += 2 * step) {
            load(base + step, odd);
            store(base, even);
            load(base + 2 * step, even);
            store(base + step, odd);
        }
    }
}

// Vectors that a warp moves at once. Pieces begin at multiples of it, so that no access touches a line more than it must.
constexpr u64 grain = warp_threads;

// This rank's piece.
MYELON_DEVICE Span piece_of(AllReduceArgs const& args) {
    u64 const vectors = (args.bytes + vector_bytes - 1) / vector_bytes;
    Span const grains = split((vectors + grain - 1) / grain, args.ranks, args.rank);
    u64 const start = grains.start * grain, end = start + grains.count * grain;
    return {start < vectors ? start : vectors, end <= vectors ? end - start : start < vectors ? vectors - start : 0};
}

template <typename E, typename Op, u32 most>
MYELON_DEVICE void sum_all(AllReduceArgs const& args, Span const& piece) {
    // The last vector of a payload may be a part of one.
    u64 const end = piece.start + piece.count, moves = read_shared(buffers().whole) != 0 ? args.bytes / vector_bytes : 0;
    u64 const middle = moves <= piece.start ? piece.start : moves < end ? moves : end;
    sum_share<E, Op, most, 8 / most, true>(args, {piece.start, middle - piece.start});
    if (middle < end) sum_share<E, Op, most, 1, false>(args, {middle, end - middle});
}

template <typename E, typename Op>
MYELON_DEVICE void all_reduce(AllReduceArgs const& args) {
    // Divided before earlier work is waited for.
    Span piece = piece_of(args);
    settled(piece.start);
    settled(piece.count);
    Route const route = route_of(args, thread_index(), header_packet(block_index(), Header::call));
    Turn const turn = read_turn(args);
    bool const well = may_begin(args, turn);
    // A thread that finds that the call is over must not leave the others at a barrier.
    bool const started = start(args, route, turn, well);
    if (started && args.ranks <= 2) sum_all<E, Op, 2>(args, piece);
    else if (started && args.ranks <= 4) sum_all<E, Op, 4>(args, piece);
    else if (started) sum_all<E, Op, 8>(args, piece);
    end_turn(args, turn, started && end(args, route, turn));
}

}  // namespace direct

MYELON_ALL_REDUCE(direct)

}  // namespace myelon
