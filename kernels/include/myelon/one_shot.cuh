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

// `whole`: every value of the payload moves as one access. `depth` values of a thread are under way together.
template <typename Kind, typename E, typename Op, u32 most, u32 depth, bool whole>
MYELON_DEVICE bool move(AllReduceArgs const& args, Routes<Kind, most> const& routes, Share const& share, Turn const& turn) {
    using Value = typename Kind::Value;
    u32 const values = values_of<Kind>(args);
    Payload<typename E::Unit, Value> const input(args.input, args.bytes), output(args.output, args.bytes);
    auto const load = [&](u64 at) { return whole ? input.load_whole(at) : input.load(at); };
    auto const store = [&](u64 at, Value const& value) { whole ? output.store_whole(at, value) : output.store(at, value); };
    bool begun = false;
    for (u32 base = share.first; base < values; base += depth * share.step) {
        Value own[depth];
#pragma unroll
        for (u32 d = 0; d < depth; ++d) {
            u32 const i = base + d * share.step;
            if (i < values) own[d] = load(i);
        }
        // Under way together with what may_begin looks at.
        if (!begun && !may_begin(args, turn)) return false;
        begun = true;
#pragma unroll
        for (u32 d = 0; d < depth; ++d) {
            u32 const i = base + d * share.step;
            if (i < values) send_to_peers(routes, turn, i, own[d]);
        }
        // One after the other: waiting for all of them together took a tenth longer.
#pragma unroll
        for (u32 d = 0; d < depth; ++d) {
            u32 const i = base + d * share.step;
            if (i >= values) continue;
            Value of_rank[most];
#pragma unroll
            for (u32 rank = 0; rank < most; ++rank) of_rank[rank] = own[d];
            auto const at = [&](u32 rank) { return arrival(args, routes, turn, rank, i); };
            if (!receive<Kind, most>(args, turn, any_peer, WaitingFor::packet, at, of_rank)) return false;
            store(i, join_ranks<E, Op>(of_rank, args.ranks, divisor_of(args)));
        }
    }
    return begun || may_begin(args, turn);
}

template <typename Kind, typename E, typename Op, u32 most>
MYELON_DEVICE void serve(AllReduceArgs const& args) {
    Share const share = share_of(args);
    Routes<Kind, most> const routes = routes_of<Kind, most>(args);
    bool const whole = (args.input | args.output | args.bytes) % sizeof(typename Kind::Value) == 0;
    // Most calls have one value a thread: their path has no branch for a second one.
    bool const one = values_of<Kind>(args) <= share.step;
    Turn const turn = read_turn(args);
    bool well;
    if (whole && one) well = move<Kind, E, Op, most, 1, true>(args, routes, share, turn);
    else if (whole) well = move<Kind, E, Op, most, 8 / most, true>(args, routes, share, turn);
    else well = move<Kind, E, Op, most, 1, false>(args, routes, share, turn);
    end_turn(args, turn, well);
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
