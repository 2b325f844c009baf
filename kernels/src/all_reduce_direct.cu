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

// The lane's share of a span: the lanes take turns, so that all of them together move through memory front to back. One
// vector of a thread is the first of its turns, the next one is `step` on.
struct Share {
    u64 first, end, step;
};
MYELON_DEVICE Share share_of(AllReduceArgs const& args, Span const& span) {
    u64 const turn = thread_count();
    return {span.start + block_index() * turn + thread_index(), span.start + span.count, turn * args.lanes};
}

// Stores to this rank first, then to the peers behind it, so that not all ranks write to one.
template <u32 most, typename Store>
MYELON_DEVICE void to_all_ranks(AllReduceArgs const& args, Store const& store) {
#pragma unroll
    for (u32 i = 0; i < most; ++i) {
        if (i < args.ranks) store(args.rank + i < args.ranks ? args.rank + i : args.rank + i - args.ranks);
    }
}

// Sums vectors that are whole and lie on multiples of 16 bytes. Copies into shared memory run some turns ahead of the
// sums, which loads into registers do not: the compiler waits for all that are under way where it needs the first.
// Each thread reads back only what it copied itself, so nothing but its own wait stands between.
template <typename E, typename Op, u32 most>
MYELON_DEVICE void sum_whole(AllReduceArgs const& args, Span const& span) {
    constexpr u32 stages = sizeof(DirectStage) / sizeof(vec16) / most;
    Buffers const& of = read_shared(buffers());
    Share const share = share_of(args, span);
    u32 const threads = thread_count();
    vec16* const mine = stage_memory(threads * sizeof(DirectStage)) + thread_index();
    auto const place = [&](u32 stage, u32 rank) { return mine + (stage * most + rank) * threads; };
    // ORDER direct/stage: the copies of a turn are a group, which the wait in front of its sum counts. A group for every
    // turn, also beyond the last one.
    auto const fetch = [&](u64 vector, u32 stage) {
#pragma unroll
        for (u32 rank = 0; rank < most; ++rank) {
            if (vector < share.end && rank < args.ranks) copy_async(place(stage, rank), reinterpret_cast<vec16 const*>(of.input[rank]) + vector);
        }
        copy_async_commit();
    };
    u64 ahead = share.first;
#pragma unroll 1
    for (u32 stage = 0; stage + 1 < stages; ++stage, ahead += share.step) fetch(ahead, stage);
    u32 from = 0, into = stages - 1;
#pragma unroll 1
    for (u64 vector = share.first; vector < share.end; vector += share.step, ahead += share.step) {
        // What this stage held was summed in the turn before.
        fetch(ahead, into);
        // ORDER direct/stage: the thread's own copies of this turn are done. Without the wait it would sum what the stage held before.
        if (!weakened(Mutant::direct_stage)) copy_async_wait<stages - 1>();
        vec16 of_rank[most];
#pragma unroll
        for (u32 rank = 0; rank < most; ++rank) {
            if (rank < args.ranks) of_rank[rank] = ld_weak(place(from, rank));
        }
        vec16 const joined = join_ranks<E, Op>(of_rank, args.ranks, divisor_of(args));
        to_all_ranks<most>(args, [&](u32 rank) { store_slot(reinterpret_cast<vec16*>(of.output[rank]) + vector, joined); });
        from = from + 1 == stages ? 0 : from + 1;
        into = into + 1 == stages ? 0 : into + 1;
    }
}

// Sums any vectors: those that begin at any element, and the last one, which may be a part.
template <typename E, typename Op, u32 most>
MYELON_DEVICE void sum_rest(AllReduceArgs const& args, Span const& span) {
    using Unit = typename E::Unit;
    Buffers const& of = read_shared(buffers());
    Share const share = share_of(args, span);
#pragma unroll 1
    for (u64 vector = share.first; vector < share.end; vector += share.step) {
        vec16 of_rank[most];
#pragma unroll
        for (u32 rank = 0; rank < most; ++rank) {
            if (rank < args.ranks) of_rank[rank] = Payload<Unit>(of.input[rank], args.bytes).load(vector);
        }
        vec16 const joined = join_ranks<E, Op>(of_rank, args.ranks, divisor_of(args));
        to_all_ranks<most>(args, [&](u32 rank) { Payload<Unit>(of.output[rank], args.bytes).store(vector, joined); });
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
    sum_whole<E, Op, most>(args, {piece.start, middle - piece.start});
    if (middle < end) sum_rest<E, Op, most>(args, {middle, end - middle});
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
