// one_shot.cuh: every rank sends its whole payload to every other, and each sums for itself.
//
// One launch a rank, a block a lane, of which the first warp meets the peers. A thread of the others has its values, of
// a packet each: it sends them to all peers, waits for those of all peers in the same place, and writes the sum. One
// hop, no barrier. On the link, `ranks - 1` times the payload in cells, and twice that in flagged packets: for small
// messages.
//
// In place is safe: one thread reads, sends and writes an element, in this order.
//
// PROGRESS  A lane waits for the same lane of its peers, and for nothing else.
// ERRORS    A thread whose wait ends badly records why, raises every rank's abort word, and writes nothing more.
#pragma once

#include "myelon/all_reduce.cuh"
#include "myelon/packet.cuh"

namespace myelon {
namespace one_shot {

// The first warp's part.
template <typename Kind>
MYELON_DEVICE void speak(AllReduceArgs const& args) {
    u32 const values = values_of<Kind>(args);
    Route const route = route_of(args, peer_at(args, thread_index()), header_packet(block_index(), Header::call));
    Turn const turn = read_turn(args);
    auto const is_used = [&](u64 number, u32) {
        if (number < payload_packet(args, 0)) return is_header(args, number, Header::call);
        return Kind::is_flagged && number < payload_packet(args, values);
    };
    end_turn(args, turn, may_begin(args, turn) && meet(args, route, turn, is_used));
}

template <typename Kind, typename E, typename Op, u32 most>
MYELON_DEVICE bool move(AllReduceArgs const& args, Routes<Kind, most> const& routes, Share const& share, Turn const& turn) {
    using Value = typename Kind::Value;
    u32 const values = values_of<Kind>(args);
    Payload<typename E::Unit, Value> const input(args.input, args.bytes), output(args.output, args.bytes);
    // Under way together with what may_begin looks at.
    Value const first = share.first < values ? input.load(share.first) : Value{};
    if (!may_begin(args, turn)) return false;
    for (u32 i = share.first; i < values; i += share.step) {
        send_to_peers(routes, turn, i, i == share.first ? first : input.load(i));
    }
    for (u32 i = share.first; i < values; i += share.step) {
        Value const own = i == share.first ? first : input.load(i);
        Value of_rank[most];
#pragma unroll
        for (u32 rank = 0; rank < most; ++rank) of_rank[rank] = own;
        auto const at = [&](u32 rank) { return arrival(args, routes, turn, rank, i); };
        if (!receive<Kind, most>(args, turn, any_peer, WaitingFor::packet, at, of_rank)) return false;
        output.store(i, join_ranks<E, Op>(of_rank, args.ranks, divisor_of(args)));
    }
    return true;
}

template <typename Kind, typename E, typename Op, u32 most>
MYELON_DEVICE void serve(AllReduceArgs const& args) {
    Share const share = share_of(args);
    Routes<Kind, most> const routes = routes_of<Kind, most>(args);
    Turn const turn = read_turn(args);
    end_turn(args, turn, move<Kind, E, Op, most>(args, routes, share, turn));
}

template <typename Kind, typename E, typename Op>
MYELON_DEVICE void all_reduce_in(AllReduceArgs const& args) {
    if (thread_index() < warp_threads) speak<Kind>(args);
    else if (args.ranks <= 2) serve<Kind, E, Op, 2>(args);
    else if (args.ranks <= 4) serve<Kind, E, Op, 4>(args);
    else serve<Kind, E, Op, 8>(args);
}

}  // namespace one_shot

}  // namespace myelon
