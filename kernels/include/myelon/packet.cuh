// packet.cuh: payload that shows by itself that it has come, so that nobody has to say so.
//
// A packet is 16 bytes: two halves of 64 bits, each an access of its own. There are two kinds. A half of a flagged
// packet is 4 bytes of payload below 4 bytes of flag, the low half of the call's epoch. A cell is payload from end to
// end, for floats: it holds the mark, a NaN that no payload is sent as, until payload comes.
//
// STATE     inbox[parity][place][packets] in each rank's window; `place` is the sender's among the owner's peers.
//           The headers of the lanes come first, then the payload. Epochs take turns between the two parities.
//           cells[parity][place][cells], likewise.
//           epoch[lane], one u64, in each rank's window, written and read by this rank: the number of the next
//           call of these algorithms, the same in every lane.
// INVARIANTS (docs/protocols/packet.md)
//   P1  One writer. In epoch e a packet that the call uses is written by its sender, any other by its owner.
//   P2  Whole halves. A half is one access, so a half whose flag is e, or one of a cell that is not the mark, holds
//       payload of epoch e.
//   P3  Two parities are enough. Whoever sends in epoch e + 2 has had a header of every peer in epoch e + 1, and
//       each peer sent that after its call of epoch e was complete: it reads nothing of epoch e any more.
//   P4  No stale flag. Within 2^32 epochs every packet is written or scrubbed, so a flag that matches is new.
//   P5  A call that is complete has moved the epoch of every lane by one. A thread that gave up moves none, and no
//       later call of its rank begins.
//   P6  Marked when empty. Whoever takes the payload of a cell writes the mark there, so between two calls of a rank
//       its cells of both parities hold the mark, but for payload of an epoch that has not come to its end.
// ORDERING  none between halves or packets: see P2. What orders epoch e before e + 2 is the end of a launch, which
//           is a fence, then a relaxed store and a relaxed load, and the end of the peer's launch ("packet/turn").
// BOUND     As for rings: every wait ends after deadline_ns, or when an abort word is raised.
// COST      One hop. Flagged packets take twice the payload's bytes on the link, cells no more than the payload.
// SOURCE    PTX ISA, "Memory Consistency Model": Vector Data-types; Release and Acquire Patterns.
#pragma once

#include "myelon/payload.cuh"
#include "myelon/window.cuh"

namespace myelon {

// The packets with which a lane of a peer begins and ends.
enum class Header : u32 { call = 0, input = 1, output = 2, end = 3 };
constexpr u32 headers = 4;

MYELON_DEVICE u64 header_packet(u32 lane, Header header) { return static_cast<u64>(lane) * headers + static_cast<u32>(header); }
MYELON_DEVICE u64 payload_packet(AllReduceArgs const& args, u64 index) {
    return static_cast<u64>(args.inbox_lanes) * headers + index;
}

// Place 0 of what `sender` sends to `owner` in this epoch, in a region that has `count` packets for each.
MYELON_DEVICE pair64* place_at(AllReduceArgs const& args, u64 offset, u64 count, u32 owner, u32 sender, u64 epoch) {
    u64 const parity = weakened(Mutant::packet_parity) ? 0 : epoch % 2;
    u64 const first = (parity * (args.ranks - 1) + place(owner, sender)) * count;
    return reinterpret_cast<pair64*>(args.window[owner] + offset) + first;
}

// Flagged packet `number` of those that `sender` sends to `owner` in this epoch.
MYELON_DEVICE pair64* packet_at(AllReduceArgs const& args, u32 owner, u32 sender, u64 epoch, u64 number) {
    u64 const count = payload_packet(args, args.inbox_packets);
    return place_at(args, args.inbox_offset, count, owner, sender, epoch) + number;
}

MYELON_DEVICE u64* epoch_word(AllReduceArgs const& args, u32 lane) {
    return reinterpret_cast<u64*>(args.window[args.rank] + args.epoch_offset) + lane;
}

MYELON_DEVICE vec8 halves_of(u64 word) { return {{static_cast<u32>(word), static_cast<u32>(word >> 32)}}; }
MYELON_DEVICE u64 word_of(vec8 const& halves) { return static_cast<u64>(halves.word[1]) << 32 | halves.word[0]; }

MYELON_DEVICE void send_packet(pair64* to, u64 epoch, vec8 const& value) {
    st_relaxed_sys(to, pair64{{epoch << 32 | value.word[0], epoch << 32 | value.word[1]}});
}

MYELON_DEVICE u32 flag_of(u64 half) { return static_cast<u32>(half >> 32); }

// ---- the two kinds --------------------------------------------------------------------------------------

struct Flagged {
    using Value = vec8;
    static constexpr bool is_flagged = true;

    static MYELON_DEVICE u32 room(AllReduceArgs const& args) { return args.inbox_packets; }
    static MYELON_DEVICE u64 count(AllReduceArgs const& args) { return payload_packet(args, args.inbox_packets); }
    static MYELON_DEVICE pair64* payload_at(AllReduceArgs const& args, u32 owner, u32 sender, u64 epoch) {
        return packet_at(args, owner, sender, epoch, payload_packet(args, 0));
    }
    static MYELON_DEVICE void send(pair64* to, u64 epoch, Value const& value) { send_packet(to, epoch, value); }
    static MYELON_DEVICE bool has_come(pair64 const& packet, u64 epoch) {
        if (weakened(Mutant::packet_flag)) return true;
        bool const second = (flag_of(packet.word[1]) == static_cast<u32>(epoch)) | weakened(Mutant::packet_half);
        return (flag_of(packet.word[0]) == static_cast<u32>(epoch)) & second;
    }
    static MYELON_DEVICE Value value_of(pair64 const& packet) {
        return {{static_cast<u32>(packet.word[0]), static_cast<u32>(packet.word[1])}};
    }
    // The flag of a packet that has not come: of the half that is late.
    static MYELON_DEVICE u32 shows(pair64 const& packet, u64 epoch) {
        u32 const first = flag_of(packet.word[0]);
        return first == static_cast<u32>(epoch) ? flag_of(packet.word[1]) : first;
    }
    static MYELON_DEVICE void taken(pair64*) {}
};

constexpr u64 mark = ~u64(0);
// What is sent for a half that looks like the mark. Of every type of floats each element of both is a NaN, and all
// NaNs give the same result (reduce.cuh).
constexpr u64 not_mark = 0x7fff7fff7fff7fff;

struct Cell {
    using Value = vec16;
    static constexpr bool is_flagged = false;

    static MYELON_DEVICE u32 room(AllReduceArgs const& args) { return args.inbox_cells; }
    static MYELON_DEVICE u64 count(AllReduceArgs const& args) { return args.inbox_cells; }
    static MYELON_DEVICE pair64* payload_at(AllReduceArgs const& args, u32 owner, u32 sender, u64 epoch) {
        return place_at(args, args.cells_offset, args.inbox_cells, owner, sender, epoch);
    }
    static MYELON_DEVICE u64 half_of(u32 low, u32 high) {
        u64 const half = static_cast<u64>(high) << 32 | low;
        return half == mark && !weakened(Mutant::cell_mark_sent) ? not_mark : half;
    }
    static MYELON_DEVICE void send(pair64* to, u64, Value const& value) {
        st_relaxed_sys(to, pair64{{half_of(value.word[0], value.word[1]), half_of(value.word[2], value.word[3])}});
    }
    static MYELON_DEVICE bool has_come(pair64 const& cell, u64) {
        bool const second = (cell.word[1] != mark) | weakened(Mutant::cell_half);
        return (cell.word[0] != mark) & second;
    }
    static MYELON_DEVICE Value value_of(pair64 const& cell) {
        auto const low = [](u64 half) { return static_cast<u32>(half); };
        auto const high = [](u64 half) { return static_cast<u32>(half >> 32); };
        return {{low(cell.word[0]), high(cell.word[0]), low(cell.word[1]), high(cell.word[1])}};
    }
    // A cell tells no epoch; that it is empty is the end of the one before.
    static MYELON_DEVICE u32 shows(pair64 const&, u64 epoch) { return static_cast<u32>(epoch) - 1; }
    // ORDER packet/turn: the mark is written before this launch ends, so before the next header that the peer waits
    // for, behind which it writes here again. Else the mark could replace that payload, and the wait for it never end.
    static MYELON_DEVICE void taken(pair64* cell) {
        if (!weakened(Mutant::cell_kept)) st_relaxed_sys(cell, pair64{{mark, mark}});
    }
};

// Values of the whole payload: no more than an inbox has.
template <typename Kind>
MYELON_DEVICE u32 values_of(AllReduceArgs const& args) {
    return static_cast<u32>((args.bytes + sizeof(typename Kind::Value) - 1) / sizeof(typename Kind::Value));
}

// A call's place in a lane.
struct Turn {
    u64 epoch, abort;
    u32 lane;
};

// Behind all earlier work: what a call has to know. Nothing is looked at yet, so that the caller can have its own
// loads under way at the same time.
MYELON_DEVICE Turn read_turn(AllReduceArgs const& args) {
    // ORDER packet/turn: all that is sent from here on comes behind the launch in front, whose end is a fence. Else a
    // peer that had this header could write over packets of the last epoch that this rank still reads.
    if (!weakened(Mutant::turn_early)) after_earlier_work();
    u32 const lane = block_index();
    u64 const abort = ld_relaxed_sys(abort_word(args, args.rank));
    return {ld_weak(epoch_word(args, lane)), abort, lane};
}

// Whether the call may begin: not where this rank, or a peer, has given up before.
MYELON_DEVICE bool may_begin(AllReduceArgs const& args, Turn const& turn) {
    if (!MYELON_RARELY(turn.abort != 0) || weakened(Mutant::abort_ignored)) return true;
    note_gave_up(turn.lane, turn.epoch);
    give_up(args, WaitingFor::packet, args.rank, turn.lane, {FaultCode::aborted, turn.epoch, turn.epoch, 0}, 0);
    return false;
}

// All threads of the block come here, well or not, and the call is over.
MYELON_DEVICE void end_turn(AllReduceArgs const& args, Turn const& turn, bool well) {
    barrier_sync(0);
    if (!well || weakened(Mutant::epoch_same)) return;
    // Also the epochs of lanes that this call does without.
    u64 const step = static_cast<u64>(thread_count()) * args.lanes;
    for (u64 lane = turn.lane + static_cast<u64>(thread_index()) * args.lanes; lane < args.inbox_lanes; lane += step) {
        st_weak(epoch_word(args, static_cast<u32>(lane)), turn.epoch + 1);
    }
}

// P4: writes this epoch into one packet of those that `peer` does not send in this call, another one each time.
template <typename IsUsed>
MYELON_DEVICE void scrub(AllReduceArgs const& args, Turn const& turn, u32 peer, IsUsed is_used) {
    if (turn.lane != 0 || weakened(Mutant::packet_scrub_none)) return;
    u64 const number = (turn.epoch / 2) % payload_packet(args, args.inbox_packets);
    if (is_used(number, peer) && !weakened(Mutant::packet_scrub)) return;
    send_packet(packet_at(args, args.rank, peer, turn.epoch, number), turn.epoch, vec8{});
}

// Whether packet `number` is the header `header` of a lane of this call.
MYELON_DEVICE bool is_header(AllReduceArgs const& args, u64 number, Header header) {
    return number % headers == static_cast<u32>(header) && number / headers < args.lanes;
}

// Looks since this thread's last turn to look at what lies far away, at the host and at a peer, and to count; 0 where it is its turn.
// Thousands of threads wait together here. If all of them asked at each of their looks, they would queue for the same words longer
// than a peer waits without a look; then that peer's threads would queue, and so on without an end. So warps take turns,
// the first one of the first block at its first look.
MYELON_DEVICE u32 looks_since_turn(u32 look) {
    return (look - 1 - thread_index() / warp_threads - block_index()) % looks_a_far_look;
}

// A look of a wait that lasts: at the clock, which is first read here so that short waits pay nothing for it, and
// at the abort word. `flag` is what the packet of `peer` showed. True where the wait is over.
MYELON_DEVICE bool is_over(AllReduceArgs const& args, Turn const& turn, WaitingFor what, u32 peer, u32 flag, u32 polls, u64* start) {
    u64 const now = clock_ns();
    if (*start == 0) *start = now;
    i32 const ahead = static_cast<i32>(flag - static_cast<u32>(turn.epoch));
    Waited waited = {FaultCode::none, turn.epoch, turn.epoch + static_cast<u64>(static_cast<i64>(ahead)), now - *start};
    // By P3 no peer is ahead of this epoch in a packet that this rank waits for.
    Patience const limits = patience(args, what == WaitingFor::sum_packet || what == WaitingFor::end);
    u32 const look = polls / polls_a_look, since = looks_since_turn(look);
    bool const late = waited.waited_ns > limits.deadline_ns && !weakened(Mutant::deadline_none);
    bool const far = since == 0 || late;
    if (far) {
        u32 const looks = since == 0 ? looks_a_far_look : since;
        count_looks(args, what, look < looks ? look : looks, waited.waited_ns);
    }
    bool const told_by_host = far && ld_relaxed_sys(limits.host_abort) != 0 && !weakened(Mutant::abort_unseen);
    if (ahead > 0) waited.code = FaultCode::protocol;
    else if (ld_relaxed_sys(limits.abort) != 0 || told_by_host) waited.code = FaultCode::aborted;
    else if (far && calls_another(args, peer)) waited.code = FaultCode::disagreement;
    else if (late) waited.code = FaultCode::stalled;
    if (waited.code == FaultCode::none) return false;
    u64 const call_seen = waited.code == FaultCode::disagreement ? ld_relaxed_sys(call_word(args, peer)) : 0;
    note_gave_up(turn.lane, turn.epoch);
    give_up(args, what, peer, turn.lane, waited, call_seen);
    return true;
}

constexpr u32 any_peer = ranks_max;  // packet i is of rank i

// Waits for the packets at(i) that are not null, of `peer` or of rank i each. All loads of a look are under way before
// any is tested: one more peer then costs a tenth of a microsecond and not a third.
// False where the wait gave up.
template <typename Kind, u32 most, typename At>
MYELON_DEVICE bool receive(AllReduceArgs const& args, Turn const& turn, u32 peer, WaitingFor what, At at,
                           typename Kind::Value (&value)[most]) {
    u64 start = 0;
    for (u32 polls = 1;; ++polls) {
        pair64 packet[most];
#pragma unroll
        for (u32 i = 0; i < most; ++i) {
            pair64 const* const from = at(i);
            if (from != nullptr) packet[i] = ld_relaxed_sys(from);
        }
        bool late[most], any_late = false;
#pragma unroll
        for (u32 i = 0; i < most; ++i) {
            late[i] = (at(i) != nullptr) & !Kind::has_come(packet[i], turn.epoch);
            any_late |= late[i];
        }
        if (!any_late) {
#pragma unroll
            for (u32 i = 0; i < most; ++i) {
                if (at(i) == nullptr) continue;
                value[i] = Kind::value_of(packet[i]);
                Kind::taken(at(i));
            }
            return true;
        }
        if (MYELON_RARELY(polls % polls_a_look == 0)) {
            u32 of = peer, shown = 0;
#pragma unroll
            for (u32 i = 0; i < most; ++i) {
                if (!late[i]) continue;
                if (peer == any_peer) of = i;
                shown = Kind::shows(packet[i], turn.epoch);
            }
            if (is_over(args, turn, what, of, shown, polls, &start)) return false;
        }
        pause();
    }
}

// Where this rank's payload to each peer goes, in the order of peer_at, null beyond the last one, and where that of the
// peers arrives, in epochs that are even. Known before earlier work is complete.
template <typename Kind, u32 most>
struct Routes {
    pair64* to[most - 1];
    pair64* from;  // of the peer at place 0
    u64 next;      // packets from the place of one peer to the next
    u64 odd;       // packets from the even epochs' places to the odd ones'
};

template <typename Kind, u32 most>
MYELON_DEVICE Routes<Kind, most> routes_of(AllReduceArgs const& args) {
    Routes<Kind, most> routes;
#pragma unroll
    for (u32 i = 0; i < most - 1; ++i) {
        routes.to[i] = i < args.ranks - 1 ? Kind::payload_at(args, peer_at(args, i), args.rank, 0) : nullptr;
        settled(routes.to[i]);
    }
    routes.from = Kind::payload_at(args, args.rank, args.rank == 0 ? 1 : 0, 0);
    routes.next = Kind::count(args);
    routes.odd = weakened(Mutant::packet_parity) ? 0 : (args.ranks - 1) * routes.next;
    settled(routes.from);
    settled(routes.next);
    settled(routes.odd);
    return routes;
}

// The same for the headers of one peer, from packet `number` on.
struct Route {
    pair64* to;
    pair64* from;
    u64 odd;
};

MYELON_DEVICE Route route_of(AllReduceArgs const& args, u32 peer, u64 number) {
    Route route = {nullptr, nullptr, 0};
    if (peer >= args.ranks || peer == args.rank) return route;
    route.to = packet_at(args, peer, args.rank, 0, number);
    route.from = packet_at(args, args.rank, peer, 0, number);
    route.odd = packet_at(args, args.rank, peer, 1, number) - route.from;
    settled(route.to);
    settled(route.from);
    settled(route.odd);
    return route;
}

// The place of packet `number` behind a route's first one.
template <typename Routes>
MYELON_DEVICE u64 on_route(Routes const& routes, Turn const& turn, u64 number) {
    return number + (turn.epoch % 2 != 0 ? routes.odd : 0);
}

// Sends payload of the same number to every peer.
template <typename Kind, u32 most>
MYELON_DEVICE void send_to_peers(Routes<Kind, most> const& routes, Turn const& turn, u64 number,
                                 typename Kind::Value const& value) {
    u64 const at = on_route(routes, turn, number);
#pragma unroll
    for (u32 i = 0; i < most - 1; ++i) {
        if (routes.to[i] != nullptr) Kind::send(routes.to[i] + at, turn.epoch, value);
    }
}

// Where the payload of that number arrives from `rank`; null for this rank and beyond the last one.
template <typename Kind, u32 most>
MYELON_DEVICE pair64* arrival(AllReduceArgs const& args, Routes<Kind, most> const& routes, Turn const& turn, u32 rank, u64 number) {
    if (rank >= args.ranks || rank == args.rank) return nullptr;
    return routes.from + place(args.rank, rank) * routes.next + on_route(routes, turn, number);
}

// Whether what a peer's header names is this call; else the ranks disagree.
MYELON_DEVICE bool is_call_of(AllReduceArgs const& args, Turn const& turn, u32 peer, u64 seen) {
    if (!MYELON_RARELY(seen != args.call) || weakened(Mutant::call_ignored)) return true;
    note_gave_up(turn.lane, turn.epoch);
    give_up(args, WaitingFor::packet, peer, turn.lane, {FaultCode::disagreement, turn.epoch, turn.epoch, 0}, seen);
    return false;
}

// The part of a lane's first warp, of which thread i meets peer i: its header goes there, and what the peer's header
// names is looked at. The other warps have nothing to do with it, so that nobody waits for two things in turn.
// What else there is to do is done while the header is under way.
template <typename IsUsed>
MYELON_DEVICE bool meet(AllReduceArgs const& args, Route const& route, Turn const& turn, IsUsed is_used) {
    if (thread_index() >= args.ranks - 1) return true;
    u32 const peer = peer_at(args, thread_index());
    u64 const at = on_route(route, turn, 0);
    // ORDER packet/turn: a header says that its sender reads nothing of the epoch before any more; the end of this
    // launch acquires it for the sends of the next one.
    send_packet(route.to + at, turn.epoch, halves_of(args.call));
    if (turn.lane == 0 && thread_index() == 0) say_call(args);
    scrub(args, turn, peer, is_used);
    if (weakened(Mutant::packet_header)) return true;
    vec8 told[1];
    auto const arrived = [&](u32) { return route.from + at; };
    return receive<Flagged, 1>(args, turn, peer, WaitingFor::packet, arrived, told) && is_call_of(args, turn, peer, word_of(told[0]));
}

// What a thread behind the first warp moves: packets first, first + step, ...
struct Share {
    u32 first, step;
};
MYELON_DEVICE Share share_of(AllReduceArgs const& args) {
    u32 const movers = thread_count() - warp_threads;
    return {block_index() * movers + thread_index() - warp_threads, args.lanes * movers};
}

}  // namespace myelon
