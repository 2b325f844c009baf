// payload.cuh: the user's buffer as vectors of 16 bytes, at any element alignment and with any tail.
//
// A buffer whose base stands on 16 bytes moves whole vectors; any other moves elements. The last vector
// of a payload may be partial: what is missing reads as zero and is not written.
#pragma once

#include "myelon/chunks.cuh"

namespace myelon {

template <typename Unit>
struct Payload {
    u64 base;
    u64 bytes;
    bool aligned;

    static constexpr u32 units = vector_bytes / sizeof(Unit);

    MYELON_DEVICE Payload(u64 base_, u64 bytes_) : base(base_), bytes(bytes_), aligned(base_ % vector_bytes == 0) {}

    // Whether every vector in front of `end` moves as one access.
    MYELON_DEVICE bool whole_to(u64 end) const { return aligned && end * vector_bytes <= bytes; }

    MYELON_DEVICE vec16 load_whole(u64 vector) const {
        return ld_weak(reinterpret_cast<vec16 const*>(base + vector * vector_bytes));
    }
    MYELON_DEVICE void store_whole(u64 vector, vec16 const& value) const {
        st_weak(reinterpret_cast<vec16*>(base + vector * vector_bytes), value);
    }

    MYELON_DEVICE vec16 load(u64 vector) const {
        u64 const offset = vector * vector_bytes;
        if (whole_to(vector + 1)) return load_whole(vector);
        union {
            vec16 vector;
            Unit unit[units];
        } out;
        out.vector = vec16{{0, 0, 0, 0}};
#pragma unroll
        for (u32 i = 0; i < units; ++i) {
            u64 const at = offset + i * sizeof(Unit);
            if (at < bytes) out.unit[i] = ld_weak(reinterpret_cast<Unit const*>(base + at));
        }
        return out.vector;
    }

    MYELON_DEVICE void store(u64 vector, vec16 const& value) const {
        u64 const offset = vector * vector_bytes;
        if (whole_to(vector + 1)) return store_whole(vector, value);
        union {
            vec16 vector;
            Unit unit[units];
        } in;
        in.vector = value;
#pragma unroll
        for (u32 i = 0; i < units; ++i) {
            u64 const at = offset + i * sizeof(Unit);
            if (at < bytes) st_weak(reinterpret_cast<Unit*>(base + at), in.unit[i]);
        }
    }
};

}  // namespace myelon
