// chunks.cuh: payload -> lanes -> chunks -> pieces, in vectors of 16 bytes.
//
// The same arithmetic as crates/myelon-lanes (Lanes); tests/tests/geometry.rs compares the two.
#pragma once

#include "myelon/words.cuh"

namespace myelon {

constexpr u32 vector_bytes = 16;

struct Span {
    u64 start, count;  // vectors
};

// Part `index` of `total`, split as evenly as can be.
MYELON_DEVICE Span split(u64 total, u64 parts, u64 index) {
    u64 const least = total / parts, more = total % parts;
    return {index * least + (index < more ? index : more), least + (index < more ? 1 : 0)};
}

MYELON_DEVICE Span lane_span(AllReduceArgs const& args, u32 lane) {
    return split((args.bytes + vector_bytes - 1) / vector_bytes, args.lanes, lane);
}

MYELON_DEVICE u64 chunk_vectors(AllReduceArgs const& args) {
    return static_cast<u64>(args.ranks) * (args.piece_bytes / vector_bytes);
}

// Lane 0 has a round even for an empty payload: ranks meet in every call, and find out when they disagree.
MYELON_DEVICE u64 lane_rounds(AllReduceArgs const& args, u32 lane) {
    u64 const rounds = (lane_span(args, lane).count + chunk_vectors(args) - 1) / chunk_vectors(args);
    return rounds == 0 && lane == 0 ? 1 : rounds;
}

// The vectors of one round, and how they divide among their owners.
struct Chunk {
    u64 start, end;     // vectors from the start of the payload
    u32 least, longer;  // each piece has `least` vectors, the first `longer` pieces one more

    MYELON_DEVICE u32 piece_count(u32 owner) const { return least + (owner < longer ? 1 : 0); }
    MYELON_DEVICE u32 piece_count_max() const { return least + (longer != 0 ? 1 : 0); }
    MYELON_DEVICE u64 piece_start(u32 owner) const {
        return start + static_cast<u64>(owner) * least + (owner < longer ? owner : longer);
    }
};

MYELON_DEVICE Chunk chunk_at(AllReduceArgs const& args, u32 lane, u64 round) {
    Span const span = lane_span(args, lane);
    u64 const first = round * chunk_vectors(args);
    u64 const left = span.count - first;
    u32 const count = static_cast<u32>(left < chunk_vectors(args) ? left : chunk_vectors(args));
    return {span.start + first, span.start + first + count, count / args.ranks, count % args.ranks};
}

}  // namespace myelon
