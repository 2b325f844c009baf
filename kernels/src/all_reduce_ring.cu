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
// PROGRESS  Every role serves its lanes in the same order on every rank, and a lane's roles are different
//           blocks, so the lowest unfinished round of the lowest unfinished lane can always move.
// ERRORS    A wait that ends badly records why, raises every rank's abort word, and the block returns at
//           once: nothing is published, no credit is returned, no cursor moves.

#include "myelon/payload.cuh"
#include "myelon/reduce.cuh"
#include "myelon/window.cuh"

namespace myelon {

// Copies of 16 bytes that a thread has in flight at once, where vectors move whole.
constexpr u32 depth_whole = 4;

// A thread serves at most one edge: thread i the edge with peer i as this role's main one, and thread
// second_edge + i, a warp further, the other one.
constexpr u32 second_edge = warp_threads;

// Whether all waits of the block went well. Behind it the block sees what the waits acquired, and the
// slot addresses that the waiting threads left in block_words().
MYELON_DEVICE bool all_well(bool mine) { return !block_any(!mine); }

MYELON_DEVICE vec16* slot_of(u32 word) { return reinterpret_cast<vec16*>(block_words()[word]); }

// Calls load(i, vector, at) and then store(i, vector, at, value) for every vector of the pieces of all
// peers: i counts the peers, `vector` is the place in the slot, `at` the place in the payload.
template <u32 depth, typename Load, typename Store>
MYELON_DEVICE void move_pieces(AllReduceArgs const& args, Chunk const& chunk, Load load, Store store) {
    u32 const longest = chunk.piece_count_max();
    u32 const total = (args.ranks - 1) * longest;
    for (u32 base = thread_index(); base < total; base += depth * thread_count()) {
        vec16 value[depth];
        u32 peer[depth], vector[depth];
        u64 at[depth];
        bool used[depth];
#pragma unroll
        for (u32 d = 0; d < depth; ++d) {
            u32 const index = base + d * thread_count();
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

template <typename Unit>
MYELON_DEVICE void scatter_role(AllReduceArgs const& args, u32 lane) {
    u32 const me = thread_index();
    bool const serves = me < args.ranks - 1;
    u32 const peer = serves ? peer_at(args, me) : 0;
    Payload<Unit> const input(args.input, args.bytes);
    u64 const first = *cursor_word(args, Role::scatter, lane);
    u64 const rounds = lane_rounds(args, lane);
    for (u64 round = 0; round < rounds; ++round) {
        u64 const sequence = first + round;
        RingConfig ring = {};
        bool well = true;
        if (serves) {
            ring = ring_at(args, Movement::scatter, lane, args.rank, peer);
            well = credit_ready(args, Movement::scatter, lane, peer, sequence);
            block_words()[me] = slot_address(ring, sequence);
        }
        if (!all_well(well)) return;

        // From the owner's slice of the input to the owner's slot: `at` and `vector` are of the owner's piece.
        Chunk const chunk = chunk_at(args, lane, round);
        auto const store = [](u32 i, u32 vector, u64, vec16 const& value) { store_slot(slot_of(i) + vector, value); };
        if (input.whole_to(chunk.end)) {
            auto const load = [&](u32, u32, u64 at) { return input.load_whole(at); };
            move_pieces<depth_whole>(args, chunk, load, store);
        } else {
            auto const load = [&](u32, u32, u64 at) { return input.load(at); };
            move_pieces<1>(args, chunk, load, store);
        }

        block_sync();
        if (serves) {
            st_relaxed_sys(&trailer(ring, sequence)->call, args.call);
            release_fence();
            publish_slot(ring, sequence);
        }
    }
    if (me == 0) *cursor_word(args, Role::scatter, lane) = first + rounds;
}

template <typename E, typename Op>
MYELON_DEVICE void reduce_role(AllReduceArgs const& args, u32 lane) {
    using Unit = typename E::Unit;
    u32 const me = thread_index(), peers = args.ranks - 1;
    bool const serves = me < peers, serves_second = me - second_edge < peers;
    u32 const peer = serves ? peer_at(args, me) : serves_second ? peer_at(args, me - second_edge) : 0;
    u32 const divisor = (args.flags & flag_average) != 0 ? args.ranks : 1;
    Payload<Unit> const input(args.input, args.bytes), output(args.output, args.bytes);
    u64 const first = *cursor_word(args, Role::reduce, lane);
    u64 const rounds = lane_rounds(args, lane);
    for (u64 round = 0; round < rounds; ++round) {
        u64 const sequence = first + round;
        bool well = true;
        if (serves) {  // block_words()[rank]: that rank's piece
            well = slot_ready(args, Movement::scatter, lane, peer, sequence);
            block_words()[peer] = slot_address(ring_at(args, Movement::scatter, lane, peer, args.rank), sequence);
        } else if (serves_second) {  // block_words()[ranks_max + i]: the slot towards peer i
            well = credit_ready(args, Movement::gather, lane, peer, sequence);
            RingConfig const ring = ring_at(args, Movement::gather, lane, args.rank, peer);
            block_words()[ranks_max + me - second_edge] = slot_address(ring, sequence);
        }
        if (!all_well(well)) return;

        Chunk const chunk = chunk_at(args, lane, round);
        u64 const start = chunk.piece_start(args.rank);
        u32 const count = chunk.piece_count(args.rank);
        for (u32 vector = me; vector < count; vector += thread_count()) {
            vec16 const own = input.load(start + vector);
            vec16 of_rank[ranks_max];
#pragma unroll
            for (u32 rank = 0; rank < ranks_max; ++rank) {
                of_rank[rank] = own;
                if (rank < args.ranks && rank != args.rank) of_rank[rank] = load_slot(slot_of(rank) + vector);
            }
            vec16 const joined = join_ranks<E, Op>(of_rank, args.ranks, divisor);
            output.store(start + vector, joined);
#pragma unroll 1
            for (u32 i = 0; i < peers; ++i) store_slot(slot_of(ranks_max + i) + vector, joined);
        }

        block_sync();
        if (serves) {
            RingConfig const gather = ring_at(args, Movement::gather, lane, args.rank, peer);
            st_relaxed_sys(&trailer(gather, sequence)->call, args.call);
            release_fence();
            publish_slot(gather, sequence);
            if ((round + 1) % args.credit_batch == 0 || round + 1 == rounds) {
                release_slot(ring_at(args, Movement::scatter, lane, peer, args.rank), sequence);
            }
        }
    }
    if (me == 0) *cursor_word(args, Role::reduce, lane) = first + rounds;
}

template <typename Unit>
MYELON_DEVICE void gather_role(AllReduceArgs const& args, u32 lane) {
    u32 const me = thread_index();
    bool const serves = me < args.ranks - 1;
    u32 const peer = serves ? peer_at(args, me) : 0;
    Payload<Unit> const output(args.output, args.bytes);
    u64 const first = *cursor_word(args, Role::gather, lane);
    u64 const rounds = lane_rounds(args, lane);
    for (u64 round = 0; round < rounds; ++round) {
        u64 const sequence = first + round;
        RingConfig ring = {};
        bool well = true;
        if (serves) {
            ring = ring_at(args, Movement::gather, lane, peer, args.rank);
            well = slot_ready(args, Movement::gather, lane, peer, sequence);
            block_words()[me] = slot_address(ring, sequence);
        }
        if (!all_well(well)) return;

        Chunk const chunk = chunk_at(args, lane, round);
        auto const load = [](u32 i, u32 vector, u64) { return load_slot(slot_of(i) + vector); };
        if (output.whole_to(chunk.end)) {
            auto const store = [&](u32, u32, u64 at, vec16 const& value) { output.store_whole(at, value); };
            move_pieces<depth_whole>(args, chunk, load, store);
        } else {
            auto const store = [&](u32, u32, u64 at, vec16 const& value) { output.store(at, value); };
            move_pieces<1>(args, chunk, load, store);
        }

        block_sync();
        if (serves && ((round + 1) % args.credit_batch == 0 || round + 1 == rounds)) {
            release_fence();
            release_slot(ring, sequence);
        }
    }
    if (me == 0) *cursor_word(args, Role::gather, lane) = first + rounds;
}

template <typename E, typename Op>
MYELON_DEVICE void all_reduce_ring(AllReduceArgs const& args) {
    Role const role = static_cast<Role>(block_index() / args.workers);
    for (u32 lane = block_index() % args.workers; lane < args.lanes; lane += args.workers) {
        if (role == Role::scatter) scatter_role<typename E::Unit>(args, lane);
        if (role == Role::reduce) reduce_role<E, Op>(args, lane);
        if (role == Role::gather) gather_role<typename E::Unit>(args, lane);
    }
}

#define MYELON_ALL_REDUCE(name, type)                                                    \
    MYELON_KERNEL(all_reduce_ring_##name##_sum) { all_reduce_ring<type, sum>(args); }   \
    MYELON_KERNEL(all_reduce_ring_##name##_prod) { all_reduce_ring<type, prod>(args); } \
    MYELON_KERNEL(all_reduce_ring_##name##_min) { all_reduce_ring<type, min>(args); }   \
    MYELON_KERNEL(all_reduce_ring_##name##_max) { all_reduce_ring<type, max>(args); }

MYELON_ALL_REDUCE(f16, f16)
MYELON_ALL_REDUCE(bf16, bf16)
MYELON_ALL_REDUCE(f32, f32)
MYELON_ALL_REDUCE(f64, f64)
MYELON_ALL_REDUCE(i8, i8_)
MYELON_ALL_REDUCE(u8, u8_)
MYELON_ALL_REDUCE(i32, i32_)
MYELON_ALL_REDUCE(u32, u32_)
MYELON_ALL_REDUCE(i64, i64_)
MYELON_ALL_REDUCE(u64, u64_)

}  // namespace myelon
