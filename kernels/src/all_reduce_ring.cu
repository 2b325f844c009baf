// all_reduce_ring.cu: the persistent producer-consumer all-reduce over slotted credit rings, 2 to 8 ranks.
//
// One launch a rank, blocks = 3 * workers, all resident together. Block b has role b / workers and serves
// the lanes b % workers, + workers, ...: the three roles of a lane run side by side, so that sending,
// summing and gathering overlap, and none waits for another's turn.
//
//   scatter   input  -> the scatter ring of each owner     (pieces that others will sum)
//   reduce    scatter rings + own input -> own output, and the gather ring of each peer
//   gather    gather rings -> output                       (pieces that others have summed)
//
// A round moves one chunk of a lane: one slot of each ring, also when its piece is empty. The cursors of
// the roles lie in device memory and carry over from call to call; the host passes no counter.
//
// In place is safe. An owner's sum of piece (round, owner) comes back only after the owner has consumed
// this rank's copy of it, which scatter published after reading it; own pieces are read and written by one
// and the same thread.
//
// A block is its movers, who copy and add, and behind them one signal warp, which waits for peers and
// tells them: see myelon/turns.cuh and signal_lane.
//
// PROGRESS  Every role serves its lanes in the same order on every rank, and a lane's roles are different
//           blocks, so the lowest unfinished round of the lowest unfinished lane can always move.
// ERRORS    A wait that ends badly records why, raises every rank's abort word, and the block returns at
//           once: nothing more is published, no credit is returned, no cursor moves.

#include "myelon/all_reduce.cuh"
#include "myelon/payload.cuh"
#include "myelon/turns.cuh"
#include "myelon/window.cuh"

namespace myelon {
namespace ring {

// Copies of 16 bytes that a mover has in flight at once, where vectors move whole.
constexpr u32 depth_whole = 4;

// Threads of the signal warp: thread i serves peer i on the role's main edge, thread second_edge + i on
// its other edge.
constexpr u32 second_edge = warp_threads / 2;
static_assert(second_edge >= ranks_max - 1, "a thread serves one edge");

// What the signal warp leaves for the movers: the chunk, the slot addresses, and whether to go on.
struct Turn {
    Chunk chunk;
    vec16* slot[2 * ranks_max];
    u32 stop;
};

// The edge that a thread of the signal warp serves, if any.
struct Served {
    bool any;
    Edge edge;
    u32 place;  // where the movers look for its slot: Turn::slot
};

// A lane of a thread of the signal warp, which serves its edge, if it has one. A turn is a round.
MYELON_DEVICE bool signal_lane(AllReduceArgs const& args, Role role, u32 lane, Served const& served) {
    u64 const rounds = lane_rounds(args, lane);
    if (rounds == 0) return true;
    u64 const first = ld_weak(cursor_word(args, role, lane));
    auto const let_begin = [&](u64 round, bool well) {
        Turn& turn = turn_of<Turn>(round);
        if (served.any) {
            write_shared(&turn.slot[served.place], reinterpret_cast<vec16*>(slot_address(served.edge.ring, first + round)));
        }
        if (thread_index() == mover_count()) {
            write_shared(&turn.chunk, chunk_at(args, lane, round));
            write_shared(&turn.stop, well ? 0u : 1u);
        }
    };
    auto const is_ready = [&](u64 round) { return !served.any || is_edge_ready(args, served.edge, first + round); };
    auto const await = [&](u64 round) { return !served.any || wait_for_edge(args, served.edge, first + round); };
    // One fence, and then each peer is told of its slot, or given credit.
    auto const tell = [&](u64 round, bool early) {
        bool const publishes = served.any && !served.edge.is_slot();
        if (weakened(publishes ? Mutant::publish_early : Mutant::credit_early) != early) return;
        u64 const batch = weakened(Mutant::credit_batch) ? args.capacity + 1 : args.credit_batch;
        bool const is_last = round + 1 == rounds && !weakened(Mutant::credit_flush);
        bool const batch_is_full = (round + 1) % batch == 0 || is_last;
        bool const releases = served.any && served.edge.is_slot() && batch_is_full;
        tell_edge(args, served.edge.ring, first + round, publishes, releases);
    };
    if (!signal_turns(rounds, is_ready, await, let_begin, tell)) return false;
    u64 const next = weakened(Mutant::cursor_restart) ? first : first + rounds;
    if (thread_index() == mover_count()) st_weak(cursor_word(args, role, lane), next);
    return true;
}

// Calls load(i, vector, at) and then store(i, vector, at, value) for every vector of the pieces of all
// peers: i counts the peers, `vector` is the place in the slot, `at` the place in the payload.
template <u32 depth, typename Load, typename Store>
MYELON_DEVICE void move_pieces(AllReduceArgs const& args, Chunk const& chunk, Load load, Store store) {
    u32 const longest = chunk.piece_count_max();
    u32 const total = (args.ranks - 1) * longest;
    for (u32 base = thread_index(); base < total; base += depth * mover_count()) {
        vec16 value[depth];
        u32 peer[depth], vector[depth];
        u64 at[depth];
        bool used[depth];
#pragma unroll
        for (u32 d = 0; d < depth; ++d) {
            u32 const index = base + d * mover_count();
            peer[d] = index / longest;
            vector[d] = index % longest;
            used[d] = false;
            if (index >= total) continue;
            u32 const owner = peer_at(args, peer[d]);
            used[d] = vector[d] < chunk.piece_count(owner);
            at[d] = chunk.piece_start(owner) + vector[d];
            if (used[d]) value[d] = load(peer[d], vector[d], at[d]);
        }
#pragma unroll
        for (u32 d = 0; d < depth; ++d) {
            if (used[d]) store(peer[d], vector[d], at[d], value[d]);
        }
    }
}

// Serves the lanes of this block in ascending order, as every rank does. Movers and signal warp have a loop each, so
// that neither keeps registers for the other: thread i of the signal warp serves serves(lane, i).
template <typename Serves, typename Move>
MYELON_DEVICE void run_role(AllReduceArgs const& args, Role role, Serves serves, Move move) {
    u32 const first = block_index() % args.workers;
    if (thread_index() < mover_count()) {
        for (u32 lane = first; lane < args.lanes; lane += args.workers) {
            if (!move_turns<Turn>(lane_rounds(args, lane), move)) return;
        }
    } else {
        for (u32 lane = first; lane < args.lanes; lane += args.workers) {
            if (!signal_lane(args, role, lane, serves(lane, thread_index() - mover_count()))) return;
        }
    }
}

template <typename Unit>
MYELON_DEVICE void scatter_role(AllReduceArgs const& args) {
    Payload<Unit> const input(args.input, args.bytes);
    auto const serves = [&](u32 lane, u32 i) -> Served {
        if (i >= args.ranks - 1) return {};
        return {true, edge_to(args, Movement::scatter, lane, peer_at(args, i)), i};
    };
    run_role(args, Role::scatter, serves, [&](Turn const& turn) {
        auto const store = [&](u32 peer, u32 vector, u64, vec16 const& value) { store_slot(turn.slot[peer] + vector, value); };
        if (input.whole_to(turn.chunk.end)) {
            auto const load = [&](u32, u32, u64 at) { return input.load_whole(at); };
            move_pieces<depth_whole>(args, turn.chunk, load, store);
        } else {
            auto const load = [&](u32, u32, u64 at) { return input.load(at); };
            move_pieces<1>(args, turn.chunk, load, store);
        }
    });
}

// Sums `depth` vectors a mover at a time, for up to `most` ranks: most * depth loads are in flight at once.
template <typename E, typename Op, u32 most, u32 depth>
MYELON_DEVICE void sum_piece(AllReduceArgs const& args, Turn const& turn) {
    using Unit = typename E::Unit;
    Payload<Unit> const input(args.input, args.bytes), output(args.output, args.bytes);
    u32 const divisor = divisor_of(args);
    u64 const start = turn.chunk.piece_start(args.rank);
    u32 const count = turn.chunk.piece_count(args.rank);
    bool const whole_in = input.whole_to(turn.chunk.end), whole_out = output.whole_to(turn.chunk.end);
    for (u32 base = thread_index(); base < count; base += depth * mover_count()) {
        vec16 of_rank[depth][most];
#pragma unroll
        for (u32 d = 0; d < depth; ++d) {
            u32 const vector = base + d * mover_count();
            if (vector >= count) continue;
            vec16 const own = whole_in ? input.load_whole(start + vector) : input.load(start + vector);
#pragma unroll
            for (u32 rank = 0; rank < most; ++rank) {
                of_rank[d][rank] = own;
                if (rank < args.ranks && rank != args.rank) of_rank[d][rank] = load_slot(turn.slot[rank] + vector);
            }
        }
#pragma unroll
        for (u32 d = 0; d < depth; ++d) {
            u32 const vector = base + d * mover_count();
            if (vector >= count) continue;
            vec16 const joined = join_ranks<E, Op>(of_rank[d], args.ranks, divisor);
            if (whole_out) output.store_whole(start + vector, joined);
            else output.store(start + vector, joined);
#pragma unroll 1
            for (u32 i = 0; i < args.ranks - 1; ++i) store_slot(turn.slot[ranks_max + i] + vector, joined);
        }
    }
}

template <typename E, typename Op>
MYELON_DEVICE void reduce_role(AllReduceArgs const& args) {
    auto const serves = [&](u32 lane, u32 i) -> Served {
        if (i < args.ranks - 1) {  // slot[rank]: what that rank sent
            u32 const peer = peer_at(args, i);
            return {true, edge_from(args, Movement::scatter, lane, peer), peer};
        }
        u32 const index = i - second_edge;  // slot[ranks_max + index]: towards peer number index
        if (index >= args.ranks - 1) return {};
        return {true, edge_to(args, Movement::gather, lane, peer_at(args, index)), ranks_max + index};
    };
    run_role(args, Role::reduce, serves, [&](Turn const& turn) {
        // Eight vectors a mover in flight; four where sixteen accumulators, or the comparisons of eight, take
        // the registers.
        constexpr u32 bytes = sizeof(typename E::Unit);
        constexpr u32 vectors = bytes == 1 || (bytes == 2 && Op::compares) ? 4 : 8;
        if (args.ranks <= 2) sum_piece<E, Op, 2, vectors / 2>(args, turn);
        else if (args.ranks <= 4) sum_piece<E, Op, 4, vectors / 4>(args, turn);
        else sum_piece<E, Op, 8, 1>(args, turn);
    });
}

template <typename Unit>
MYELON_DEVICE void gather_role(AllReduceArgs const& args) {
    Payload<Unit> const output(args.output, args.bytes);
    auto const serves = [&](u32 lane, u32 i) -> Served {
        if (i >= args.ranks - 1) return {};
        return {true, edge_from(args, Movement::gather, lane, peer_at(args, i)), i};
    };
    run_role(args, Role::gather, serves, [&](Turn const& turn) {
        auto const load = [&](u32 peer, u32 vector, u64) { return load_slot(turn.slot[peer] + vector); };
        if (output.whole_to(turn.chunk.end)) {
            auto const store = [&](u32, u32, u64 at, vec16 const& value) { output.store_whole(at, value); };
            move_pieces<depth_whole>(args, turn.chunk, load, store);
        } else {
            auto const store = [&](u32, u32, u64 at, vec16 const& value) { output.store(at, value); };
            move_pieces<1>(args, turn.chunk, load, store);
        }
    });
}

template <typename E, typename Op>
MYELON_DEVICE void all_reduce(AllReduceArgs const& args) {
    using Unit = typename E::Unit;
    switch (static_cast<Role>(block_index() / args.workers)) {
        case Role::scatter:
            // Not where this rank has given up before: a peer that still waits by packets in an earlier call would take
            // the number of this one for its own call's.
            if (block_index() == 0 && thread_index() == 0 && may_say_call(args)) say_call(args);
            return scatter_role<Unit>(args);
        case Role::reduce: return reduce_role<E, Op>(args);
        case Role::gather: return gather_role<Unit>(args);
    }
}

}  // namespace ring

MYELON_ALL_REDUCE(ring)

}  // namespace myelon
