// all_reduce_two_shot.cu: every rank sends to each owner its piece as packets, and the owner sends the sum to all.
//
// One launch a rank, a block a lane, of which the first warp meets the peers. Piece j of the payload belongs to rank j. Thread i of a lane has packet i of
// every piece: it sends those of the peers' pieces to their owners, sums its own piece and sends the sum to all
// peers, and writes the sums that come back. Two hops, no barrier, 4 * (ranks - 1) / ranks times the payload on
// the link. Scattered packets lie in the first half of an inbox, summed ones in the second.
//
// In place is safe: the thread that writes an element of the output has read it before, as input.
//
// PROGRESS  A lane waits for the same lane of its peers, and for nothing else.
// ERRORS    As for the one-shot.

#include "myelon/all_reduce.cuh"
#include "myelon/packet.cuh"

namespace myelon {
namespace two_shot {

// `whole`: every packet of the payload moves as one access.
template <typename E, typename Op, u32 most, bool whole>
MYELON_DEVICE bool move(AllReduceArgs const& args, Routes<most> const& routes, Share const& share, Turn const& turn,
                        Chunk const& all) {
    using Unit = typename E::Unit;
    Payload<Unit, vec8> const input(args.input, args.bytes), output(args.output, args.bytes);
    auto const load = [&](u64 at) { return whole ? input.load_whole(at) : input.load(at); };
    auto const store = [&](u64 at, vec8 const& value) { whole ? output.store_whole(at, value) : output.store(at, value); };
    u32 const longest = all.piece_count_max(), own = all.piece_count(args.rank), summed = args.inbox_packets / 2;
    auto const has = [&](u32 rank, u32 i) { return rank < args.ranks && i < all.piece_count(rank); };
    bool begun = false;
    for (u32 i = share.first; i < longest; i += share.step) {
        // All loads are under way before the first store; of the first packets also together with what may_begin looks at.
        vec8 value[most - 1];
#pragma unroll
        for (u32 peer = 0; peer < most - 1; ++peer) {
            u32 const owner = peer_at(args, peer);
            if (routes.to[peer] != nullptr && i < all.piece_count(owner)) value[peer] = load(all.piece_start(owner) + i);
        }
        if (!begun && !may_begin(args, turn)) return false;
        begun = true;
        u64 const at = on_route(routes, turn, payload_packet(args, i));
#pragma unroll
        for (u32 peer = 0; peer < most - 1; ++peer) {
            bool const owns = routes.to[peer] != nullptr && i < all.piece_count(peer_at(args, peer));
            if (owns) send_packet(routes.to[peer] + at, turn.epoch, value[peer]);
        }
    }
    if (!begun && !may_begin(args, turn)) return false;
    for (u32 i = share.first; i < own; i += share.step) {
        u64 const place = all.piece_start(args.rank) + i;
        vec8 const mine = load(place);
        vec8 of_rank[most];
#pragma unroll
        for (u32 rank = 0; rank < most; ++rank) of_rank[rank] = mine;
        auto const at = [&](u32 rank) { return arrival(routes, turn, rank, payload_packet(args, i)); };
        if (!receive<most>(args, turn, any_peer, WaitingFor::packet, at, of_rank)) return false;
        vec8 const joined = join_ranks<E, Op>(of_rank, args.ranks, divisor_of(args));
        send_to_peers(routes, turn, payload_packet(args, summed + i), joined);
        store(place, joined);
    }
    for (u32 i = share.first; i < longest; i += share.step) {
        vec8 of_rank[most];
        auto const at = [&](u32 rank) {
            return has(rank, i) ? arrival(routes, turn, rank, payload_packet(args, summed + i)) : nullptr;
        };
        if (!receive<most>(args, turn, any_peer, WaitingFor::sum_packet, at, of_rank)) return false;
#pragma unroll
        for (u32 rank = 0; rank < most; ++rank) {
            if (at(rank) != nullptr) store(all.piece_start(rank) + i, of_rank[rank]);
        }
    }
    return true;
}

// The payload by pieces.
MYELON_DEVICE Chunk pieces_of(AllReduceArgs const& args) {
    u32 const packets = packets_of(args);
    return {0, packets, packets / args.ranks, packets % args.ranks};
}

// The first warp's part.
MYELON_DEVICE void speak(AllReduceArgs const& args) {
    Chunk const all = pieces_of(args);
    u32 const own = all.piece_count(args.rank), summed = args.inbox_packets / 2;
    Route const route = route_of(args, peer_at(args, thread_index()), header_packet(block_index(), Header::call));
    Turn const turn = read_turn(args);
    auto const is_used = [&](u64 number, u32 peer) {
        if (number < payload_packet(args, 0)) return is_header(args, number, Header::call);
        u64 const index = number - payload_packet(args, 0);
        return index < own || (index >= summed && index < summed + all.piece_count(peer));
    };
    end_turn(args, turn, may_begin(args, turn) && meet(args, route, turn, is_used));
}

template <typename E, typename Op, u32 most>
MYELON_DEVICE void serve(AllReduceArgs const& args) {
    Share const share = share_of(args);
    Chunk const all = pieces_of(args);
    Routes<most> const routes = routes_of<most>(args);
    bool const whole = (args.input | args.output | args.bytes) % sizeof(vec8) == 0;
    Turn const turn = read_turn(args);
    bool well;
    if (whole) well = move<E, Op, most, true>(args, routes, share, turn, all);
    else well = move<E, Op, most, false>(args, routes, share, turn, all);
    end_turn(args, turn, well);
}

template <typename E, typename Op>
MYELON_DEVICE void all_reduce(AllReduceArgs const& args) {
    if (thread_index() < warp_threads) speak(args);
    else if (args.ranks <= 2) serve<E, Op, 2>(args);
    else if (args.ranks <= 4) serve<E, Op, 4>(args);
    else serve<E, Op, 8>(args);
}

}  // namespace two_shot

MYELON_ALL_REDUCE(two_shot)

}  // namespace myelon
