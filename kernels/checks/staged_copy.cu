// staged_copy.cu: input -> three stages of shared memory -> output, by asynchronous copies both ways.
//
// No collective: the smallest kernel in which the port's asynchronous copies have to be in order, so that the
// simulator and the compiler see them before a collective needs them. One block; whole vectors only.
//
//   prefetch  16-byte copies of all threads bring chunk k into stage k % stages_max
//   drain     one thread sends the stage on by a bulk copy, and tells `flag` how many chunks have landed
//
// The orders, their ends and the races stand in docs/protocols/copies.md.

#include "myelon/words.cuh"

namespace myelon {

constexpr u32 stages_max = 3;
constexpr u32 stage_vectors = 64;
constexpr u32 stage_bytes = stages_max * stage_vectors * sizeof(vec16);  // what the launch gives a block

// `args.call` is the address of the flag; `args.bytes` a multiple of 16.
MYELON_DEVICE void staged_copy(AllReduceArgs const& args) {
    vec16 const* const input = reinterpret_cast<vec16 const*>(args.input);
    vec16* const output = reinterpret_cast<vec16*>(args.output);
    u64* const landed = reinterpret_cast<u64*>(args.call);
    u64 const vectors = args.bytes / sizeof(vec16);
    u64 const chunks = (vectors + stage_vectors - 1) / stage_vectors;
    bool const sends = thread_index() == 0;

    auto const stage = [&](u64 chunk) { return stage_memory(stage_bytes) + chunk % stages_max * stage_vectors; };
    auto const length = [&](u64 chunk) {
        u64 const left = vectors - chunk * stage_vectors;
        return static_cast<u32>(left < stage_vectors ? left : stage_vectors);
    };
    // A group for every chunk, also beyond the last one, so that a wait counts chunks.
    auto const prefetch = [&](u64 chunk) {
        if (chunk < chunks) {
            for (u32 i = thread_index(); i < length(chunk); i += thread_count()) {
                copy_async(stage(chunk) + i, input + chunk * stage_vectors + i);
            }
        }
        copy_async_commit();
    };

    prefetch(0);
    prefetch(1);
    for (u64 chunk = 0; chunk < chunks; ++chunk) {
        // ORDER copies/reuse: the stage of chunk + 2 was sent as chunk - 1. Its reads are over before the barrier,
        // behind which all threads write into it.
        bool const early = weakened(Mutant::stage_refetched);
        if (sends && chunk != 0 && !weakened(Mutant::stage_unread)) bulk_wait_read<0>();
        if (early) prefetch(chunk + 2);
        // ORDER copies/stage: each thread waits for its own copies and passes them through the proxy fence before
        // the barrier. Without the wait or the fence the bulk copy could send what was in the stage before.
        if (!weakened(Mutant::stage_unwaited)) copy_async_wait<1>();
        if (!weakened(Mutant::stage_proxy)) fence_proxy_async();
        // ORDER copies/stage: behind the barrier one thread speaks for all.
        if (weakened(Mutant::stage_barrier)) barrier_arrive(0);
        else barrier_sync(0);
        // ORDER copies/reuse: behind the barrier the sender's wait counts for every thread.
        if (!early) prefetch(chunk + 2);
        if (sends) {
            bulk_store(output + chunk * stage_vectors, stage(chunk), length(chunk) * sizeof(vec16));
            bulk_commit();
        }
    }
    if (sends) {
        // ORDER copies/landed: the whole completion, then a fence and the flag. That the reads are over says nothing
        // about the destination.
        if (weakened(Mutant::bulk_read_only)) bulk_wait_read<0>();
        else bulk_wait<0>();
        if (!weakened(Mutant::bulk_unfenced)) fence_acq_rel_sys();
        st_relaxed_sys(landed, chunks);
    }
}

MYELON_KERNEL(staged_copy_check) { staged_copy(args); }

}  // namespace myelon
