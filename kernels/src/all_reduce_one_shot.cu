// all_reduce_one_shot.cu: every rank sends its whole payload to every other as packets, and each sums for itself.
//
// One launch a rank, a block a lane, of which the first warp meets the peers. A thread of the others has its packets
// of 8 bytes: it sends them to all peers, waits for those of all peers in the same place, and writes the sum. One
// hop, no barrier, 2 * (ranks - 1) times the payload on the link: for small messages.
//
// In place is safe: one thread reads, sends and writes an element, in this order.
//
// PROGRESS  A lane waits for the same lane of its peers, and for nothing else.
// ERRORS    A thread whose wait ends badly records why, raises every rank's abort word, and writes nothing more.

#include "myelon/all_reduce.cuh"
#include "myelon/packet.cuh"

namespace myelon {
namespace one_shot {

// The first warp's part.
MYELON_DEVICE void speak(AllReduceArgs const& args) {
    u32 const packets = packets_of(args);
    Route const route = route_of(args, peer_at(args, thread_index()), header_packet(block_index(), Header::call));
    Turn const turn = read_turn(args);
    auto const is_used = [&](u64 number, u32) {
        bool const is_payload = number >= payload_packet(args, 0);
        return is_payload ? number < payload_packet(args, packets) : is_header(args, number, Header::call);
    };
    end_turn(args, turn, may_begin(args, turn) && meet(args, route, turn, is_used));
}

template <typename E, typename Op, u32 most>
MYELON_DEVICE bool move(AllReduceArgs const& args, Routes<most> const& routes, Share const& share, Turn const& turn) {
    using Unit = typename E::Unit;
    u32 const packets = packets_of(args);
    Payload<Unit, vec8> const input(args.input, args.bytes), output(args.output, args.bytes);
    // Under way together with what may_begin looks at.
    vec8 const first = share.first < packets ? input.load(share.first) : vec8{};
    if (!may_begin(args, turn)) return false;
    for (u32 i = share.first; i < packets; i += share.step) {
        send_to_peers(routes, turn, payload_packet(args, i), i == share.first ? first : input.load(i));
    }
    for (u32 i = share.first; i < packets; i += share.step) {
        vec8 const own = i == share.first ? first : input.load(i);
        vec8 of_rank[most];
#pragma unroll
        for (u32 rank = 0; rank < most; ++rank) of_rank[rank] = own;
        auto const at = [&](u32 rank) { return arrival(routes, turn, rank, payload_packet(args, i)); };
        if (!receive<most>(args, turn, any_peer, WaitingFor::packet, at, of_rank)) return false;
        output.store(i, join_ranks<E, Op>(of_rank, args.ranks, divisor_of(args)));
    }
    return true;
}

template <typename E, typename Op, u32 most>
MYELON_DEVICE void serve(AllReduceArgs const& args) {
    Share const share = share_of(args);
    Routes<most> const routes = routes_of<most>(args);
    Turn const turn = read_turn(args);
    end_turn(args, turn, move<E, Op, most>(args, routes, share, turn));
}

template <typename E, typename Op>
MYELON_DEVICE void all_reduce(AllReduceArgs const& args) {
    if (thread_index() < warp_threads) speak(args);
    else if (args.ranks <= 2) serve<E, Op, 2>(args);
    else if (args.ranks <= 4) serve<E, Op, 4>(args);
    else serve<E, Op, 8>(args);
}

}  // namespace one_shot

MYELON_ALL_REDUCE(one_shot)

}  // namespace myelon
