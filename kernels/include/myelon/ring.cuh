// ring.cuh: one slotted credit ring, both ends, without read-modify-write.
//
// STATE     sequence[capacity], one u64 a slot, in the consumer's memory; written by the producer.
//           gating, one u64, in the producer's memory; written by the consumer.
//           data[capacity][slot_bytes], in the consumer's memory; written by the producer.
// INVARIANTS (docs/protocols/ring.md)
//   R1  One writer a word.
//   R2  Monotone. A sequence or gating word only grows, across calls, and is never reset.
//   R3  Slot s is written only while gating >= s - capacity + 1: its last lap has been read.
//   R4  sequence[s % capacity] becomes s only after every byte of slot s is written.
//   R5  gating becomes s + 1 only after every read of slot s has completed.
//   R6  Never beyond. While slot s is awaited its word is at most s, by R3 and R5; while credit for s is
//       awaited gating is at most s, because no more has been published. More is a fault and not data.
//   By R2 a test is a signed difference, right across the wrap.
// ORDERING  publish  fence.acq_rel.sys + st.relaxed.sys   wait for slot    ld.acquire.sys   ("ring/publish")
//           release  fence.acq_rel.sys + st.relaxed.sys   wait for credit  ld.acquire.sys   ("ring/credit")
// CALLER    One thread an end. A barrier of the block stands between a wait and the block's other threads,
//           and between them and publish or release: the fence is cumulative over it.
// BOUND     A wait ends after deadline_ns, or when an abort word is raised, in every build.
// COST      A look at a word that is ready is one load; a wait reads it once more. Publishing is one fence
//           and one remote store.
// SOURCE    PTX ISA, "Memory Consistency Model": Release and Acquire Patterns; Causality Order.
#pragma once

#include "myelon/words.cuh"

namespace myelon {

// How long a wait may last.
struct Patience {
    u64 const* abort;       // in this rank's memory; not zero: somebody gave up
    u64 const* host_abort;  // in host memory; not zero: the host wants an end
    u64 deadline_ns;
};

// How a wait ended: code is none, stalled, aborted, or disagreement where a look said that it is over.
struct Waited {
    FaultCode code;
    u64 needed, seen, waited_ns;
};

MYELON_DEVICE bool reached(u64 seen, u64 needed) {
    if (weakened(Mutant::compare_equal)) return seen == needed;
    if (weakened(Mutant::compare_unsigned)) return seen >= needed;
    return static_cast<i64>(seen - needed) >= 0;
}

// One word that an end waits for.
struct Awaited {
    u64 const* word;
    u64 needed;
    Mutant unacquired;  // the mutant that looks at it without acquiring
};

// One look at the word, which acquires.
MYELON_DEVICE u64 look_at(Awaited const& awaited) {
    return weakened(awaited.unacquired) ? ld_relaxed_sys(awaited.word) : ld_acquire_sys(awaited.word);
}

// A wait that lasts calls looked(waited_ns) at each look at the clock: whether the peer calls something else.
template <typename Looked>
MYELON_DEVICE Waited wait_until_reached(Awaited const& awaited, Patience const& patience, Looked looked) {
    Waited result = {FaultCode::none, awaited.needed, 0, 0};
    u64 const start = clock_ns();
    // Both loads are under way before either is looked at. Where somebody gave up before, even a word that has
    // come is of no use.
    bool const over = ld_relaxed_sys(patience.abort) != 0 && !weakened(Mutant::abort_ignored);
    result.seen = ld_relaxed_sys(awaited.word);
    for (u32 polls = 1; over || !reached(result.seen, awaited.needed); ++polls) {
        if (over || polls % polls_a_look == 0) {
            result.waited_ns = clock_ns() - start;
            bool const disagrees = !over && looked(result.waited_ns);
            bool const told_by_host = ld_relaxed_sys(patience.host_abort) != 0 && !weakened(Mutant::abort_unseen);
            bool const told = ld_relaxed_sys(patience.abort) != 0 || told_by_host;
            bool const late = result.waited_ns > patience.deadline_ns && !weakened(Mutant::deadline_none);
            if (told) result.code = FaultCode::aborted;
            else if (disagrees) result.code = FaultCode::disagreement;
            else if (late) result.code = FaultCode::stalled;
            if (result.code != FaultCode::none) return result;
        }
        pause();
        result.seen = ld_relaxed_sys(awaited.word);
    }
    // The polls are relaxed, so that they leave the first-level cache alone; this load acquires.
    result.seen = look_at(awaited);
    return result;
}

MYELON_DEVICE u64* sequence_word(RingConfig const& ring, u64 sequence) {
    return reinterpret_cast<u64*>(ring.sequence) + (sequence & static_cast<u64>(ring.capacity - 1));
}

MYELON_DEVICE u64 slot_address(RingConfig const& ring, u64 sequence) {
    return ring.data + (sequence & static_cast<u64>(ring.capacity - 1)) * static_cast<u64>(ring.slot_bytes);
}

// Producer: once reached, slot `sequence` may be written.
// ORDER ring/credit: the acquire of look_at and wait_until_reached pairs with the fence and store of
// release_slot. Without it the writes of the slot could overtake the consumer's reads of its last lap.
MYELON_DEVICE Awaited awaited_credit(RingConfig const& ring, u64 sequence) {
    u64 needed = sequence - static_cast<u64>(ring.capacity) + 1;
    if (weakened(Mutant::credit_gate)) needed -= static_cast<u64>(ring.capacity);
    if (weakened(Mutant::credit_off_by_one)) needed -= 1;
    return {reinterpret_cast<u64 const*>(ring.gating), needed, Mutant::credit_acquire};
}

// Producer, behind release_fence(): hands slot `sequence` over.
MYELON_DEVICE void publish_slot(RingConfig const& ring, u64 sequence) {
    // ORDER ring/publish: relaxed behind release_fence(), which is cumulative over the barrier, so
    // the consumer's acquire sees every thread's writes of the slot. Without the fence it could read old bytes.
    st_relaxed_sys(sequence_word(ring, sequence), sequence);
}

// Consumer: once reached, slot `sequence` may be read.
// ORDER ring/publish: the acquire of look_at and wait_until_reached pairs with the fence and store of
// publish_slot. Without it old bytes could be read behind a new sequence.
MYELON_DEVICE Awaited awaited_slot(RingConfig const& ring, u64 sequence) {
    return {sequence_word(ring, sequence), sequence, Mutant::publish_acquire};
}

// Consumer, behind release_fence(): gives back every slot up to and including `sequence`.
MYELON_DEVICE void release_slot(RingConfig const& ring, u64 sequence) {
    // ORDER ring/credit: relaxed behind release_fence(). All reads of the slot are complete: their values
    // were stored before the barrier that precedes the fence.
    st_relaxed_sys(reinterpret_cast<u64*>(ring.gating), sequence + 1);
}

// What publish_slot and release_slot stand behind: one fence for all rings that this thread serves now.
MYELON_DEVICE void release_fence() { fence_acq_rel_sys(); }

}  // namespace myelon
