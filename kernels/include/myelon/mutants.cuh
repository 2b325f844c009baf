// mutants.cuh: every way in which a test may weaken the protocol, one at a time.
//
// On a GPU and on host threads weakened() is false and costs nothing. Under the model it is true for the one
// mutant that a run asks for, and that run must fail: crates/myelon-sim/tests/mutants.rs holds it, and
// docs/protocols names the mutant beside the label or the invariant that it breaks.
#pragma once

namespace myelon {

// X(identifier, name, what is weakened)
#define MYELON_MUTANTS(X)                                                                                              \
    X(publish_fence, "ring/publish.fence", "a slot is published without the fence behind its bytes")                   \
    X(publish_acquire, "ring/publish.acquire", "a slot is read without acquiring its sequence")                        \
    X(publish_early, "ring/publish.early", "a slot is published before it is written")                                 \
    X(credit_fence, "ring/credit.fence", "credit is returned without the fence behind the reads")                      \
    X(credit_acquire, "ring/credit.acquire", "a slot is written without acquiring its credit")                         \
    X(credit_early, "ring/credit.early", "credit is returned before the reads are complete")                           \
    X(credit_gate, "ring/credit.gate", "a slot is written without credit")                                             \
    X(credit_off_by_one, "ring/credit.off-by-one", "a slot is written one credit too early")                           \
    X(credit_batch, "ring/credit.batch", "credit is returned in batches larger than the ring")                         \
    X(credit_flush, "ring/credit.flush", "the last batch of a call is not returned")                                   \
    X(compare_equal, "ring/compare.equal", "a wait ends at exactly what it needs, not at at least that")               \
    X(compare_unsigned, "ring/compare.unsigned", "sequences are compared as numbers, not across the wrap")             \
    X(compare_beyond, "ring/compare.beyond", "a word beyond what can have been written passes")                        \
    X(cursor_restart, "ring/cursor.restart", "every call begins at the sequences of the call before")                  \
    X(writer_shared, "ring/writer.shared", "the rings of two peers share gating words")                                \
    X(neighbour_depth, "neighbour/depth.all", "as many rounds take turns as a ring has slots")                         \
    X(trailer_ignored, "ring/trailer.ignored", "nobody looks which call a slot belongs to")                            \
    X(giveup_told, "ring/giveup.told", "a round whose wait gave up is begun and told all the same")                    \
    X(packet_half, "packet/flag.half", "a packet is taken when its first half has come")                               \
    X(packet_flag, "packet/flag.ignored", "a packet is taken whatever its flag")                                       \
    X(cell_half, "packet/cell.half", "a cell is taken when its first half has come")                                   \
    X(cell_kept, "packet/cell.kept", "whoever takes the payload of a cell leaves it there")                            \
    X(cell_mark_sent, "packet/cell.mark-sent", "payload that looks like the mark is sent as it is")                    \
    X(packet_parity, "packet/parity.one", "all epochs lie in the same place")                                          \
    X(packet_scrub, "packet/scrub.used", "packets that this call uses are scrubbed too")                               \
    X(packet_scrub_none, "packet/scrub.none", "nobody scrubs the packets that no call uses")                           \
    X(turn_early, "packet/turn.early", "a call sends before the launch in front of it has ended")                      \
    X(packet_header, "packet/header.none", "no lane waits for the headers of its peers")                               \
    X(epoch_same, "packet/epoch.same", "a call leaves the epoch as it is")                                             \
    X(call_ignored, "packet/call.ignored", "nobody looks which call a header belongs to")                              \
    X(start_acquire, "direct/start.acquire", "a peer's input is read without acquiring its start")                     \
    X(direct_stage, "direct/stage.unwaited", "a turn is summed before its copies have come")                           \
    X(end_fence, "direct/end.fence", "the end is told without the fence behind the sums")                              \
    X(end_early, "direct/end.early", "the end is told before the sums are written")                                    \
    X(end_unwaited, "direct/end.unwaited", "a call ends without waiting for the ends of its peers")                    \
    X(block_ready, "block/ready.skipped", "movers begin a round without waiting for it")                               \
    X(block_moved, "block/moved.skipped", "the signal warp hands out a third turn before the first is over")           \
    X(block_turns, "block/turns.one", "both turns lie in the same place")                                              \
    X(block_vote, "block/vote.alone", "a thread of the signal warp lets a round begin that only it finds ready")       \
    X(record_fence, "fault/record.fence", "the record's code is stored without the fence behind its fields")           \
    X(record_twice, "fault/record.twice", "whoever gives up writes the record, also the second")                       \
    X(record_code_first, "fault/record.code-first", "the record's code is stored before its fields")                   \
    X(abort_first, "fault/abort.first", "peers are told to stop before the record is written")                         \
    X(abort_fence, "fault/abort.fence", "peers are told to stop without the fence behind the record")                  \
    X(abort_unacquired, "fault/abort.unacquired", "who was told to stop does not acquire the record of who told him")  \
    X(abort_ignored, "fault/abort.ignored", "a call behind one that gave up begins all the same")                      \
    X(patience_same, "fault/patience.same", "waits for others' waits are no more patient than waits for a rank")       \
    X(abort_unseen, "fault/abort.unseen", "waits do not look whether the host wants an end")                           \
    X(calling_unseen, "fault/calling.unseen", "waits do not look whether the peer calls something else")               \
    X(deadline_none, "fault/deadline.none", "waits have no deadline")                                                  \
    X(waits_alike, "fault/waits.alike", "waits for credit are counted as waits for data")                              \
    X(stage_unwaited, "copies/stage.unwaited", "nobody waits for the copies into a stage")                             \
    X(stage_barrier, "copies/stage.barrier", "the sender does not wait for the other threads' copies")                 \
    X(stage_proxy, "copies/stage.proxy", "no proxy fence between copies into a stage and the bulk copy")               \
    X(stage_refetched, "copies/reuse.early", "a stage is filled again before the sender has waited for its bulk copy") \
    X(stage_unread, "copies/reuse.unwaited", "the sender does not wait until its bulk copy was read")                  \
    X(bulk_read_only, "copies/landed.read", "a chunk is told of when its source was read, not when it landed")         \
    X(bulk_unfenced, "copies/landed.fence", "the flag is stored without the fence behind the landed copies")

enum class Mutant : unsigned int {
    none,
#define MYELON_MUTANT(identifier, name, about) identifier,
    MYELON_MUTANTS(MYELON_MUTANT)
#undef MYELON_MUTANT
};

}  // namespace myelon
