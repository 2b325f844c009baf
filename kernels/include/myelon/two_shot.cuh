// two_shot.cuh: every rank sends to each owner its piece, and the owner sends the sum to all.
//
// One launch a rank, a block a lane, of which the first warp meets the peers. Piece j of the payload belongs to rank j.
// Thread i of a lane has value i of every piece: it sends those of the peers' pieces to their owners, sums its own
// piece and sends the sum to all peers, and writes the sums that come back. Two hops, no barrier. On the link,
// 2 * (ranks - 1) / ranks times the payload in cells, and twice that in flagged packets. Scattered values lie in the
// first half of a place, summed ones in the second.
//
// In place is safe: the thread that writes an element of the output has read it before, as input.
//
// PROGRESS  A lane waits for the same lane of its peers, and for nothing else.
// ERRORS    As for the one-shot.
#pragma once

#include "myelon/all_reduce.cuh"
#include "myelon/packet.cuh"

namespace myelon {
namespace two_shot {

// `whole`: every value of the payload moves as one access.
template <typename Kind, typename E, typename Op, u32 most, bool whole>
MYELON_DEVICE bool move(AllReduceArgs const& args, Routes<Kind, most> const& routes, Share const& share,
                        Turn const& turn, Chunk const& all) {
    using Value = typename Kind::Value;
    Payload<typename E::Unit, Value> const input(args.input, args.bytes), output(args.output, args.bytes);
    auto const load = [&](u64 at) { return whole ? input.load_whole(at) : input.load(at); };
    auto const store = [&](u64 at, Value const& value) { whole ? output.store_whole(at, value) : output.store(at, value); };
    u32 const longest = all.piece_count_max(), own = all.piece_count(args.rank), summed = Kind::room(args) / 2;
    auto const has = [&](u32 rank, u32 i) { return rank < args.ranks && i < all.piece_count(rank); };
    bool begun = false;
    for (u32 i = share.first; i < longest; i += share.step) {
        // All loads are under way before the first store; of the first values also together with what may_begin looks at.
        Value value[most - 1];
#pragma unroll
        for (u32 peer = 0; peer < most - 1; ++peer) {
            u32 const owner = peer_at(args, peer);
            if (routes.to[peer] != nullptr && i < all.piece_count(owner)) value[peer] = load(all.piece_start(owner) + i);
        }
        if (!begun && !may_begin(args, turn)) return false;
        begun = true;
        u64 const at = on_route(routes, turn, i);
#pragma unroll
        for (u32 peer = 0; peer < most - 1; ++peer) {
            bool const owns = routes.to[peer] != nullptr && i < all.piece_count(peer_at(args, peer));
            if (owns) Kind::send(routes.to[peer] + at, turn.epoch, value[peer]);
        }
    }
    if (!begun && !may_begin(args, turn)) return false;
    for (u32 i = share.first; i < own; i += share.step) {
        u64 const place = all.piece_start(args.rank) + i;
        Value const mine = load(place);
        Value of_rank[most];
#pragma unroll
        for (u32 rank = 0; rank < most; ++rank) of_rank[rank] = mine;
        auto const at = [&](u32 rank) { return arrival(args, routes, turn, rank, i); };
        if (!receive<Kind, most>(args, turn, any_peer, WaitingFor::packet, at, of_rank)) return false;
        Value const joined = join_ranks<E, Op>(of_rank, args.ranks, divisor_of(args));
        send_to_peers(routes, turn, summed + i, joined);
        store(place, joined);
    }
    for (u32 i = share.first; i < longest; i += share.step) {
        auto const at = [&](u32 rank) { return has(rank, i) ? arrival(args, routes, turn, rank, summed + i) : nullptr; };
        u64 longer = all.longer;  // settled behind the wait: where the pieces begin takes no registers in front of it
        auto const take = [&](u32 rank, Value const& sum) {
            Chunk const pieces = {all.start, all.end, all.least, static_cast<u32>(longer)};
            if (at(rank) != nullptr) store(pieces.piece_start(rank) + i, sum);
        };
        if constexpr (whole) {
            Value of_rank[most];
            if (!receive<Kind, most>(args, turn, any_peer, WaitingFor::sum_packet, at, of_rank)) return false;
            settled(longer);
#pragma unroll
            for (u32 rank = 0; rank < most; ++rank) take(rank, of_rank[rank]);
        } else {
#pragma unroll 1
            for (u32 rank = 0; rank < args.ranks; ++rank) {
                Value sum[1];
                auto const of = [&](u32) { return at(rank); };
                if (!receive<Kind, 1>(args, turn, rank, WaitingFor::sum_packet, of, sum)) return false;
                take(rank, sum[0]);
            }
        }
    }
    return true;
}

// The payload by pieces.
template <typename Kind>
MYELON_DEVICE Chunk pieces_of(AllReduceArgs const& args) {
    u32 const values = values_of<Kind>(args);
    return {0, values, values / args.ranks, values % args.ranks};
}

// The first warp's part.
template <typename Kind>
MYELON_DEVICE void speak(AllReduceArgs const& args) {
    Chunk const all = pieces_of<Kind>(args);
    u32 const own = all.piece_count(args.rank), summed = Kind::room(args) / 2;
    Route const route = route_of(args, peer_at(args, thread_index()), header_packet(block_index(), Header::call));
    Turn const turn = read_turn(args);
    auto const is_used = [&](u64 number, u32 peer) {
        if (number < payload_packet(args, 0)) return is_header(args, number, Header::call);
        u64 const index = number - payload_packet(args, 0);
        if (!Kind::is_flagged) return false;
        return index < own || (index >= summed && index < summed + all.piece_count(peer));
    };
    end_turn(args, turn, may_begin(args, turn) && meet(args, route, turn, is_used));
}

template <typename Kind, typename E, typename Op, u32 most>
MYELON_DEVICE void serve(AllReduceArgs const& args) {
    Share const share = share_of(args);
    Chunk const all = pieces_of<Kind>(args);
    Routes<Kind, most> const routes = routes_of<Kind, most>(args);
    bool const whole = (args.input | args.output | args.bytes) % sizeof(typename Kind::Value) == 0;
    Turn const turn = read_turn(args);
    bool well;
    if (whole) well = move<Kind, E, Op, most, true>(args, routes, share, turn, all);
    else well = move<Kind, E, Op, most, false>(args, routes, share, turn, all);
    end_turn(args, turn, well);
}

template <typename Kind, typename E, typename Op>
MYELON_DEVICE void all_reduce_in(AllReduceArgs const& args) {
    if (thread_index() < warp_threads) speak<Kind>(args);
    else if (args.ranks <= 2) serve<Kind, E, Op, 2>(args);
    else if (args.ranks <= 4) serve<Kind, E, Op, 4>(args);
    else serve<Kind, E, Op, 8>(args);
}

}  // namespace two_shot

}  // namespace myelon
