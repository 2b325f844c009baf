// window.cuh: where the rings lie in the windows of the ranks. The other side is WindowLayout in
// crates/myelon-ring/src/window.rs, which draws the table; tests/tests/geometry.rs compares the two.
#pragma once

#include "myelon/ring.cuh"

namespace myelon {

// The first line of a window: raised by whoever gives up, and claimed once by whoever writes the record; what this
// rank calls, with the number of the call, and the whole call word.
MYELON_DEVICE u64* abort_word(AllReduceArgs const& args, u32 rank) { return reinterpret_cast<u64*>(args.window[rank]); }
MYELON_DEVICE u64* recorded_word(AllReduceArgs const& args) { return abort_word(args, args.rank) + 1; }
MYELON_DEVICE u64* calling_word(AllReduceArgs const& args, u32 rank) { return abort_word(args, rank) + 2; }
MYELON_DEVICE u64* call_word(AllReduceArgs const& args, u32 rank) { return abort_word(args, rank) + 3; }

// Behind them in that line: what this rank's waits have polled. Statistics, which order nothing and decide nothing.
MYELON_DEVICE WaitCounts* wait_counts(AllReduceArgs const& args) {
    return reinterpret_cast<WaitCounts*>(abort_word(args, args.rank) + 4);
}
static_assert(4 * sizeof(u64) + sizeof(WaitCounts) <= line_bytes, "the first line of a window is enough");

// A wait that lasts has polled polls_a_look times since its last look, or its first poll. What it polls behind its last
// look is left out, and so is a wait that never looks: a call that takes a microsecond or two has no time for it. Who counts
// one look in some counts for the others. The host is told of each 32 looks, and of every wait that is longer than all before.
MYELON_DEVICE void count_looks(AllReduceArgs const& args, WaitingFor what, u32 looks, u64 waited_ns) {
    constexpr u32 told = __builtin_offsetof(HostPage, waits);
    constexpr u64 step = u64(32) * polls_a_look;
    WaitCounts* const total = wait_counts(args);
    u64* const page = reinterpret_cast<u64*>(args.fault);
    u64 const polls = u64(looks) * polls_a_look;
    bool const for_credit = what == WaitingFor::scatter_credit || what == WaitingFor::gather_credit;
    if (for_credit && !weakened(Mutant::waits_alike)) {
        add_and_tell<told + __builtin_offsetof(WaitCounts, polls_credit), step>(&total->polls_credit, page, polls);
    } else {
        add_and_tell<told + __builtin_offsetof(WaitCounts, polls_data), step>(&total->polls_data, page, polls);
    }
    raise_and_tell<told + __builtin_offsetof(WaitCounts, longest_ns)>(&total->longest_ns, page, waited_ns);
}

// The number of a call is above this bit of what a rank calls, and a checksum of it below.
constexpr u32 calls_shift = 48;

// One thread of a launch says what its rank calls, for peers that wait in vain. Nothing is ordered by it: whoever
// reads another number than its own draws no conclusion.
MYELON_DEVICE void say_call(AllReduceArgs const& args) {
    u64 const number = (ld_relaxed_sys(calling_word(args, args.rank)) >> calls_shift) + 1;
    u64 const checksum = args.call * 0x9e3779b97f4a7c15ull >> (64 - calls_shift);
    st_relaxed_sys(call_word(args, args.rank), args.call);
    st_relaxed_sys(calling_word(args, args.rank), number << calls_shift | checksum);
}

// Whether this rank has not given up, as far as a launch that does not ask at its beginning can see.
MYELON_DEVICE bool may_say_call(AllReduceArgs const& args) {
    return ld_relaxed_sys(abort_word(args, args.rank)) == 0 || weakened(Mutant::abort_ignored);
}

// Whether the peer has made as many calls as this rank and calls something else: then it will never send what this
// rank waits for, perhaps because its algorithm knows no packets. Not for every poll: one word lies at the peer.
MYELON_DEVICE bool calls_another(AllReduceArgs const& args, u32 peer) {
    u64 const own = ld_relaxed_sys(calling_word(args, args.rank)), theirs = ld_relaxed_sys(calling_word(args, peer));
    return own >> calls_shift == theirs >> calls_shift && own != theirs && !weakened(Mutant::calling_unseen);
}

// The sequence that the next slot of `role` in `lane` will have. Read and written by this rank only.
MYELON_DEVICE u64* cursor_word(AllReduceArgs const& args, Role role, u32 lane) {
    u64* const cursors = reinterpret_cast<u64*>(args.window[args.rank] + args.cursor_offset);
    return cursors + static_cast<u32>(role) * args.lanes_max + lane;
}

// The place of `peer` among the peers of `rank`, which leaves itself out.
MYELON_DEVICE u32 place(u32 rank, u32 peer) { return peer < rank ? peer : peer - 1; }

// Peer number `index` of this rank, from 0 to ranks - 2, beginning behind itself: no two ranks begin at the same.
MYELON_DEVICE u32 peer_at(AllReduceArgs const& args, u32 index) {
    u32 const peer = args.rank + 1 + index;
    return peer < args.ranks ? peer : peer - args.ranks;
}

MYELON_DEVICE u64 edge(AllReduceArgs const& args, Movement movement, u32 lane, u32 rank, u32 peer) {
    u64 const lanes = static_cast<u64>(static_cast<u32>(movement)) * args.lanes_max + lane;
    return lanes * (args.ranks - 1) + place(rank, peer);
}

// Ring number `inbound` of those towards `destination`, and `outbound` of those from `source`.
MYELON_DEVICE RingConfig ring_of(AllReduceArgs const& args, u32 source, u32 destination, u64 inbound, u64 outbound) {
    u64 const sequence_bytes = (static_cast<u64>(args.capacity) * sizeof(u64) + line_bytes - 1) / line_bytes * line_bytes;
    RingConfig ring;
    ring.capacity = static_cast<i32>(args.capacity);
    ring.slot_bytes = static_cast<i32>(args.slot_bytes);
    ring.sequence = args.window[destination] + args.sequence_offset + inbound * sequence_bytes;
    u64 const gating = weakened(Mutant::writer_shared) ? inbound : outbound;
    ring.gating = args.window[source] + args.gating_offset + gating * line_bytes;
    ring.data = args.window[destination] + args.data_offset + inbound * args.capacity * args.slot_bytes;
    return ring;
}

MYELON_DEVICE RingConfig ring_at(AllReduceArgs const& args, Movement movement, u32 lane, u32 source, u32 destination) {
    u64 const inbound = edge(args, movement, lane, destination, source);
    return ring_of(args, source, destination, inbound, edge(args, movement, lane, source, destination));
}

// The rank behind `rank` in the ring of all, and the ring of `lane` from `rank` to it. A launch by neighbours is given the
// offsets, the lanes and the slots of those rings, of which each rank has one a lane in either direction.
MYELON_DEVICE u32 next_of(AllReduceArgs const& args, u32 rank) { return rank + 1 == args.ranks ? 0 : rank + 1; }
MYELON_DEVICE RingConfig ring_to_next(AllReduceArgs const& args, u32 lane, u32 rank) {
    return ring_of(args, rank, next_of(args, rank), lane, lane);
}

// A piece to be summed comes from a rank that waits for nobody else, until its rings are full. Sums and credit
// wait in turn for all others' pieces, so those waits are more patient: where a rank never comes, those who wait
// for its own piece give up first, and name it. Where it stops later, they may name one that waits for its credit.
MYELON_DEVICE Patience patience(AllReduceArgs const& args, bool of_others) {
    bool const direct = !of_others || weakened(Mutant::patience_same);
    u64 const more = direct ? 0 : args.deadline_ns / 8;
    return {abort_word(args, args.rank), reinterpret_cast<u64 const*>(args.host_abort), args.deadline_ns + more};
}

// Behind the payload of a slot: which call it belongs to.
MYELON_DEVICE Trailer* trailer(RingConfig const& ring, u64 sequence) {
    return reinterpret_cast<Trailer*>(slot_address(ring, sequence) + static_cast<u64>(ring.slot_bytes) - trailer_bytes);
}

// Records once who waited for whom, and then raises the abort word of every rank: whoever is stopped by
// it finds the record there.
MYELON_COLD void give_up(AllReduceArgs const& args, WaitingFor what, u32 peer, u32 lane, Waited waited, u64 call_seen) {
    auto const tell_all = [&] {
        for (u32 rank = 0; rank < args.ranks; ++rank) st_relaxed_sys(abort_word(args, rank), 1);
    };
    if (exchange_relaxed_sys(recorded_word(args), 1) != 0 && !weakened(Mutant::record_twice)) return;
    // Since its last look, which may have seen an old word, this rank may have been told to stop by one that knows more.
    // An exchange sees what is newest; this rank's own word tells nobody else.
    bool const told = waited.code == FaultCode::stalled && exchange_relaxed_sys(abort_word(args, args.rank), 1) != 0;
    FaultCode const code = told ? FaultCode::aborted : waited.code;
    if (weakened(Mutant::abort_first)) tell_all();
    Fault* const fault = reinterpret_cast<Fault*>(args.fault);
    u64* const head_word = reinterpret_cast<u64*>(fault);
    u64 const head = static_cast<u64>(args.rank) << 32 | static_cast<u32>(code);
    if (weakened(Mutant::record_code_first)) st_relaxed_sys(head_word, head);
    st_weak(&fault->peer, peer);
    st_weak(&fault->lane, lane);
    st_weak(&fault->waiting_for, static_cast<u32>(what));
    st_weak(&fault->needed, waited.needed);
    st_weak(&fault->seen, waited.seen);
    st_weak(&fault->waited_ns, waited.waited_ns);
    st_weak(&fault->call, args.call);
    st_weak(&fault->call_seen, call_seen);
    // ORDER fault/record: the fence and this store release the record; the host acquires `code`.
    // ORDER fault/abort: where an abort word ended the wait, the same fence acquires the record of who raised it. So
    // whoever sees this record sees that one.
    bool const told_unseen = code == FaultCode::aborted && weakened(Mutant::abort_unacquired);
    if (!weakened(Mutant::record_fence) && !told_unseen) fence_acq_rel_sys();
    st_relaxed_sys(head_word, head);
    // ORDER fault/abort: the record, then the abort words. Without the fence a peer could be told before why.
    if (!weakened(Mutant::abort_fence)) fence_acq_rel_sys();
    tell_all();
}

// One edge of a role in a lane: what this thread waits for, round by round.
struct Edge {
    RingConfig ring;
    WaitingFor what;
    u32 peer, lane;

    MYELON_DEVICE bool is_slot() const { return what == WaitingFor::scatter_slot || what == WaitingFor::gather_slot; }
    MYELON_DEVICE Awaited awaited(u64 sequence) const {
        return is_slot() ? awaited_slot(ring, sequence) : awaited_credit(ring, sequence);
    }
};

MYELON_DEVICE Edge edge_to(AllReduceArgs const& args, Movement movement, u32 lane, u32 peer) {
    WaitingFor const what = movement == Movement::scatter ? WaitingFor::scatter_credit : WaitingFor::gather_credit;
    return {ring_at(args, movement, lane, args.rank, peer), what, peer, lane};
}

MYELON_DEVICE Edge edge_from(AllReduceArgs const& args, Movement movement, u32 lane, u32 peer) {
    WaitingFor const what = movement == Movement::scatter ? WaitingFor::scatter_slot : WaitingFor::gather_slot;
    return {ring_at(args, movement, lane, peer, args.rank), what, peer, lane};
}

// Whether the slot behind a reached word belongs to this call.
MYELON_DEVICE bool is_this_call(AllReduceArgs const& args, Edge const& edge, u64 sequence, u64* call_seen) {
    if (!edge.is_slot()) return true;
    *call_seen = ld_relaxed_sys(&trailer(edge.ring, sequence)->call);
    return *call_seen == args.call || weakened(Mutant::trailer_ignored);
}

// R6: a word that was reached is not beyond what its writer can have written by now.
MYELON_DEVICE bool is_possible(u64 seen, u64 sequence) {
    return reached(sequence, seen) || weakened(Mutant::compare_beyond);
}

// One look, without waiting. False also where something is wrong: wait_for_edge then says what.
MYELON_DEVICE bool is_edge_ready(AllReduceArgs const& args, Edge const& edge, u64 sequence) {
    Awaited const awaited = edge.awaited(sequence);
    u64 const seen = look_at(awaited);
    u64 call_seen = 0;
    return reached(seen, awaited.needed) && is_possible(seen, sequence) && is_this_call(args, edge, sequence, &call_seen);
}

// How an edge is waited for, beyond the ring's own way.
struct Manner {
    bool of_others;         // see patience()
    bool looks_at_calling;  // the peer may call what fills other rings than these: a look that lasts asks for that
    u64 noted;              // for the simulator
};

// Waits until the edge is ready for `sequence`, or gives up.
MYELON_DEVICE bool wait_for_edge(AllReduceArgs const& args, Edge const& edge, u64 sequence, Manner const& manner) {
    auto const looked = [&](u64 waited_ns) {
        count_looks(args, edge.what, 1, waited_ns);
        return manner.looks_at_calling && calls_another(args, edge.peer);
    };
    Waited waited = wait_until_reached(edge.awaited(sequence), patience(args, manner.of_others), looked);
    u64 call_seen = 0;
    if (waited.code == FaultCode::none) {
        if (!is_possible(waited.seen, sequence)) waited.code = FaultCode::protocol;
        else if (!is_this_call(args, edge, sequence, &call_seen)) waited.code = FaultCode::disagreement;
    } else if (waited.code == FaultCode::disagreement) {
        call_seen = ld_relaxed_sys(call_word(args, edge.peer));
    }
    if (waited.code == FaultCode::none) return true;
    note_gave_up(edge.lane, manner.noted);
    give_up(args, edge.what, edge.peer, edge.lane, waited, call_seen);
    return weakened(Mutant::giveup_told);
}
MYELON_DEVICE bool wait_for_edge(AllReduceArgs const& args, Edge const& edge, u64 sequence) {
    return wait_for_edge(args, edge, sequence, {edge.what != WaitingFor::scatter_slot, false, sequence});
}

// Behind the barrier that ends a turn: hands the slot of `sequence` over, or gives it back, or neither.
MYELON_DEVICE void tell_edge(AllReduceArgs const& args, RingConfig const& ring, u64 sequence, bool publishes, bool releases) {
    if (publishes) st_relaxed_sys(&trailer(ring, sequence)->call, args.call);
    bool const unfenced = weakened(publishes ? Mutant::publish_fence : Mutant::credit_fence);
    if ((publishes || releases) && !unfenced) release_fence();
    if (publishes) publish_slot(ring, sequence);
    if (releases) release_slot(ring, sequence);
}

}  // namespace myelon
