// all_reduce_neighbour.cu: the all-reduce round a ring of ranks, each of which sends to the next one alone. The order of
// a sum depends on the plan, so nobody gets it who has not allowed that: docs/protocols/neighbour.md.
//
// One launch a rank, all blocks resident together; block b serves the lanes b, + workers, .... A lane has one ring of slots
// to the next rank, which carries pieces that are summed on their way and then the sums. Step s of a round, on rank r of p:
//
//   0              input of piece r - 1                          -> next
//   1 .. p - 2     what came + input of piece r - 1 - s          -> next
//   p - 1          what came + input of piece r = its sum        -> output, next
//   p .. 2 p - 3   what came: the sum of piece r - 1 - s + p     -> output, next
//   2 p - 2        the same of the last one                      -> output
//
// A turn of a lane is one step of one round. Rounds take turns, `depth` of them at a time: what a turn needs was sent
// `depth` turns ago, so that while a slot is on its way the link carries others. Turn t of such a group sends the group's
// slot t and takes its slot t - depth. The cursor of a lane lies in device memory and carries over from call to call: a
// rank sends as many slots as it takes.
//
// In place is safe. Vector v of a piece is read and written by one and the same thread, and its input is read in an
// earlier turn than its sum comes, or in the same one in front of the store.
//
// PROGRESS  A rank in turn t of a lane waits for slots and for credit that peers give in turns before t, as depth is less
//           than the slots of a ring and credit is given for each slot. So the rank in the lowest turn can move.
// ERRORS    As of the ring: a block that gives up tells nobody of that turn or of a later one, and moves no cursor.

#include "myelon/all_reduce.cuh"
#include "myelon/payload.cuh"
#include "myelon/turns.cuh"
#include "myelon/window.cuh"

namespace myelon {
namespace neighbour {

// Steps of a round, and those of them that send.
MYELON_DEVICE u32 steps_of(AllReduceArgs const& args) { return 2 * args.ranks - 1; }
MYELON_DEVICE u32 sends_of(AllReduceArgs const& args) { return 2 * args.ranks - 2; }
MYELON_DEVICE u64 turns_of(AllReduceArgs const& args, u32 lane) { return lane_rounds(args, lane) * steps_of(args); }

// What a turn of a lane is.
struct At {
    u64 round;
    u64 sends;  // slot that it sends, and `depth` behind the one that it takes, from the first of the call
    u32 step;
    u32 depth;  // rounds that take turns
};

MYELON_DEVICE At at_turn(AllReduceArgs const& args, u64 rounds, u64 turn) {
    u64 const depth_max = weakened(Mutant::neighbour_depth) ? args.capacity : args.capacity / 2;
    u64 const first = turn / (depth_max * steps_of(args)) * depth_max;  // round of the group
    u32 const within = static_cast<u32>(turn - first * steps_of(args));
    u32 const depth = static_cast<u32>(rounds - first < depth_max ? rounds - first : depth_max);
    return {first + within % depth, first * sends_of(args) + within, within / depth, depth};
}

// What the signal warp leaves for the movers.
struct Turn {
    Chunk chunk;
    vec16* from;
    vec16* to;
    u32 step;
    u32 stop;
};

// What a thread of the signal warp does in a turn.
struct Due {
    bool any;
    Edge edge;
    u64 sequence;
    Manner manner;
};

// A lane of the signal warp: its first thread serves the ring to the next rank, its second one that from the rank before.
MYELON_DEVICE bool signal_lane(AllReduceArgs const& args, u32 lane) {
    u64 const rounds = lane_rounds(args, lane);
    if (rounds == 0) return true;
    bool const sends = thread_index() == mover_count(), takes = thread_index() == mover_count() + 1;
    u64* const cursor = cursor_word(args, Role::scatter, lane);
    u64 const first = ld_weak(cursor);
    u32 const before = args.rank == 0 ? args.ranks - 1 : args.rank - 1, next = next_of(args, args.rank);
    RingConfig const ring = ring_to_next(args, lane, sends ? args.rank : before);
    auto const due = [&](At const& at) -> Due {
        bool const of_sums = at.step >= (sends ? args.ranks - 1 : args.ranks);
        WaitingFor const credit = of_sums ? WaitingFor::gather_credit : WaitingFor::scatter_credit;
        WaitingFor const slot = of_sums ? WaitingFor::gather_slot : WaitingFor::scatter_slot;
        bool const any = (sends && at.step < sends_of(args)) || (takes && at.step > 0);
        // Only what comes in step 1 was sent by a rank that waits for nobody else.
        Manner const manner = {sends || at.step != 1, true, first + at.sends};
        return {any, {ring, sends ? credit : slot, sends ? next : before, lane}, first + at.sends - (sends ? 0 : at.depth), manner};
    };
    auto const let_begin = [&](u64 number, bool well) {
        Turn& turn = turn_of<Turn>(number);
        At const at = at_turn(args, rounds, number);
        Due const mine = due(at);
        if (mine.any) {
            write_shared(sends ? &turn.to : &turn.from, reinterpret_cast<vec16*>(slot_address(ring, mine.sequence)));
        }
        if (!sends) return;
        write_shared(&turn.chunk, chunk_at(args, lane, at.round));
        write_shared(&turn.step, at.step);
        write_shared(&turn.stop, well ? 0u : 1u);
    };
    auto const is_ready = [&](u64 number) {
        Due const mine = due(at_turn(args, rounds, number));
        return !mine.any || is_edge_ready(args, mine.edge, mine.sequence);
    };
    auto const await = [&](u64 number) {
        Due const mine = due(at_turn(args, rounds, number));
        return !mine.any || wait_for_edge(args, mine.edge, mine.sequence, mine.manner);
    };
    auto const tell = [&](u64 number, bool early) {
        if (weakened(sends ? Mutant::publish_early : Mutant::credit_early) != early) return;
        Due const mine = due(at_turn(args, rounds, number));
        tell_edge(args, ring, mine.sequence, mine.any && sends, mine.any && takes);
    };
    if (!signal_turns(turns_of(args, lane), is_ready, await, let_begin, tell)) return false;
    u64 const last = weakened(Mutant::cursor_restart) ? first : first + rounds * sends_of(args);
    if (sends) st_weak(cursor, last);
    return true;
}

// Calls load(vector) and then store(vector, value) for every vector of a piece; `depth` loads a mover are in flight.
template <u32 depth, typename Load, typename Store>
MYELON_DEVICE void each_vector(u32 count, Load load, Store store) {
    for (u32 base = thread_index(); base < count; base += depth * mover_count()) {
        decltype(load(base)) value[depth];
#pragma unroll
        for (u32 d = 0; d < depth; ++d) {
            u32 const vector = base + d * mover_count();
            if (vector < count) value[d] = load(vector);
        }
#pragma unroll
        for (u32 d = 0; d < depth; ++d) {
            u32 const vector = base + d * mover_count();
            if (vector < count) store(vector, value[d]);
        }
    }
}

struct Both {
    vec16 value[2];  // what came, and this rank's own
};

// One turn of the movers. `whole`: every vector of the piece moves as one access, in input and output.
template <typename E, typename Op, u32 depth, bool whole>
MYELON_DEVICE void move(AllReduceArgs const& args, Payload<typename E::Unit> const& input,
                        Payload<typename E::Unit> const& output, Turn const& turn) {
    u32 const step = turn.step, owner = (args.rank + 2 * args.ranks - 1 - step) % args.ranks;
    u64 const start = turn.chunk.piece_start(owner);
    u32 const count = turn.chunk.piece_count(owner);
    vec16* const from = turn.from;
    vec16* const to = turn.to;
    auto const own = [&](u32 vector) { return whole ? input.load_whole(start + vector) : input.load(start + vector); };
    auto const came = [&](u32 vector) { return load_slot(from + vector); };
    auto const send = [&](u32 vector, vec16 const& value) { store_slot(to + vector, value); };
    auto const keep = [&](u32 vector, vec16 const& value) {
        if (whole) output.store_whole(start + vector, value);
        else output.store(start + vector, value);
    };
    if (step == 0) return each_vector<depth>(count, own, send);
    if (step < args.ranks) {
        bool const is_sum = step == args.ranks - 1;
        u32 const divisor = is_sum ? divisor_of(args) : 1;
        auto const both = [&](u32 vector) { return Both{{came(vector), own(vector)}}; };
        return each_vector<depth>(count, both, [&](u32 vector, Both const& both) {
            vec16 const joined = join_ranks<E, Op>(both.value, 2, divisor);
            if (is_sum) keep(vector, joined);
            send(vector, joined);
        });
    }
    if (step == sends_of(args)) return each_vector<depth>(count, came, keep);
    each_vector<depth>(count, came, [&](u32 vector, vec16 const& value) {
        keep(vector, value);
        send(vector, value);
    });
}

template <typename E, typename Op>
MYELON_DEVICE void all_reduce(AllReduceArgs const& args) {
    // As in the ring: not where this rank has given up before.
    if (block_index() == 0 && thread_index() == 0 && may_say_call(args)) say_call(args);
    using Unit = typename E::Unit;
    if (thread_index() >= mover_count()) {
        for (u32 lane = block_index(); lane < args.lanes; lane += args.workers) {
            if (!signal_lane(args, lane)) return;
        }
        return;
    }
    Payload<Unit> const input(args.input, args.bytes), output(args.output, args.bytes);
    // Sixteen accumulators, the comparisons of eight, or sums of doubles take the registers.
    constexpr bool takes_registers =
        sizeof(Unit) == 1 || (sizeof(Unit) == 2 && Op::compares) || (sizeof(Unit) == 8 && E::is_float);
    constexpr u32 depth = takes_registers ? 2 : 4;
    for (u32 lane = block_index(); lane < args.lanes; lane += args.workers) {
        bool const well = move_turns<Turn>(turns_of(args, lane), [&](Turn const& turn) {
            bool const whole = input.whole_to(turn.chunk.end) && output.whole_to(turn.chunk.end);
            if (whole) move<E, Op, depth, true>(args, input, output, turn);
            else move<E, Op, 1, false>(args, input, output, turn);
        });
        if (!well) return;
    }
}

}  // namespace neighbour

MYELON_ALL_REDUCE(neighbour)

}  // namespace myelon
