// turns.cuh: a block whose movers copy and add, and whose last warp, the signal warp, waits for peers and tells them.
// Publishing means to wait until bytes have landed at the peer, one round trip; meanwhile the movers are in the next turn.
//
// STATE     two turns in block_words(), for even and odd turns: what the movers need, and whether to stop. Written by the
//           signal warp, read by the movers. Four barriers of the block: ready(turn) and moved(turn), two of each.
// INVARIANTS
//   T1  A turn is written by the signal warp before it arrives at ready(turn), and read by movers behind that barrier.
//   T2  Turn t + 2, which lies where t lay, is written only behind moved(t).
//   T3  All threads of the signal warp agree that a turn begins: none begins for one edge alone.
//   T4  A turn is told of behind moved(turn) alone, and its wait comes before ready(turn).
// ORDERING  the barriers of the block: what came before an arrival is seen behind the sync that it completes.
// CALLER    All threads of a block, each with the same number of turns. A signal warp that gives up lets that turn begin
//           with `stop`, and returns.
// BOUND     As the waits of `await`.
// COST      Two barriers a turn; the movers wait for the signal warp only where nothing is ready.
// SOURCE    PTX ISA, "bar, barrier".
#pragma once

#include "myelon/port.cuh"

namespace myelon {

MYELON_DEVICE u32 mover_count() { return thread_count() - warp_threads; }

// ready(turn) lets the movers begin, moved(turn) ends their turn.
MYELON_DEVICE u32 ready(u64 turn) { return static_cast<u32>(turn % 2); }
MYELON_DEVICE u32 moved(u64 turn) { return static_cast<u32>(2 + turn % 2); }

// What the signal warp leaves for the movers of that turn; has a field `stop`.
template <typename Turn>
MYELON_DEVICE Turn& turn_of(u64 turn) {
    static_assert(2 * sizeof(Turn) <= block_words_max * sizeof(u64) && barriers_max >= 4, "two turns fit");
    return reinterpret_cast<Turn*>(block_words())[weakened(Mutant::block_turns) ? 0 : turn % 2];
}

// A mover's turns: calls move(turn) for each. False where a wait of the signal warp gave up.
template <typename Turn, typename Move>
MYELON_DEVICE bool move_turns(u64 turns, Move move) {
    for (u64 number = 0; number < turns; ++number) {
        if (weakened(Mutant::block_ready)) barrier_arrive(ready(number));
        else barrier_sync(ready(number));
        Turn const& turn = read_shared(turn_of<Turn>(number));
        if (turn.stop != 0) return false;
        move(turn);
        barrier_arrive(moved(number));
    }
    return true;
}

// The same of a thread of the signal warp: await(turn) and is_ready(turn) say whether what this thread serves is ready,
// the first one waits for it; let_begin(turn, well) writes the turn; tell(turn, early) tells peers, behind moved(turn)
// unless a mutant wants it early.
//
// Turn 0 begins with a wait, so a call behind one that gave up, here or at a peer, begins nothing: it must not write
// into what that one has left. The next turn may begin before this one is told, where all that it needs is there.
template <typename IsReady, typename Await, typename LetBegin, typename Tell>
MYELON_DEVICE bool signal_turns(u64 turns, IsReady is_ready, Await await, LetBegin let_begin, Tell tell) {
    auto const all_ready = [&](u64 turn) {
        if (turn >= turns) return false;
        bool const mine = is_ready(turn);
        bool const all = warp_all(mine);
        return weakened(Mutant::block_vote) ? mine : all;
    };
    auto const begin = [&](u64 turn, bool well) {
        let_begin(turn, well);
        barrier_arrive(ready(turn));
    };
    bool begun = false;
    for (u64 turn = 0; turn < turns; ++turn) {
        if (!begun) {
            bool const well = warp_all(await(turn));
            begin(turn, well);
            if (!well) return false;
        }
        begun = all_ready(turn + 1);
        if (begun) begin(turn + 1, true);
        tell(turn, true);
        if (weakened(Mutant::block_moved)) barrier_arrive(moved(turn));
        else barrier_sync(moved(turn));
        if (!begun) {
            begun = all_ready(turn + 1);
            if (begun) begin(turn + 1, true);
        }
        tell(turn, false);
    }
    return true;
}

}  // namespace myelon
