// payload.cuh: the user's buffer as vectors of 16 or 8 bytes, at any element alignment and with any tail.
//
// A buffer whose base stands on a multiple of the vector moves whole vectors; any other moves elements. The last
// vector of a payload may be partial: what is missing reads as zero and is not written.
#pragma once

#include "myelon/chunks.cuh"

namespace myelon {

template <typename Unit, typename Vector = vec16>
struct Payload {
    u64 base;
    u64 bytes;
    bool aligned;

    static constexpr u32 units = sizeof(Vector) / sizeof(Unit);

    MYELON_DEVICE Payload(u64 base_, u64 bytes_) : base(base_), bytes(bytes_), aligned(base_ % sizeof(Vector) == 0) {}

    // Whether every vector in front of `end` moves as one access.
    MYELON_DEVICE bool whole_to(u64 end) const { return aligned && end * sizeof(Vector) <= bytes; }

    MYELON_DEVICE Vector load_whole(u64 vector) const {
        return ld_weak(reinterpret_cast<Vector const*>(base + vector * sizeof(Vector)));
    }
    MYELON_DEVICE void store_whole(u64 vector, Vector const& value) const {
        st_weak(reinterpret_cast<Vector*>(base + vector * sizeof(Vector)), value);
    }

    MYELON_DEVICE Vector load(u64 vector) const {
        u64 const offset = vector * sizeof(Vector);
        if (whole_to(vector + 1)) return load_whole(vector);
        union {
            Vector vector;
            Unit unit[units];
        } out;
        out.vector = Vector{};
#pragma unroll
        for (u32 i = 0; i < units; ++i) {
            u64 const at = offset + i * sizeof(Unit);
            if (at < bytes) out.unit[i] = ld_weak(reinterpret_cast<Unit const*>(base + at));
        }
        return out.vector;
    }

    MYELON_DEVICE void store(u64 vector, Vector const& value) const {
        u64 const offset = vector * sizeof(Vector);
        if (whole_to(vector + 1)) return store_whole(vector, value);
        union {
            Vector vector;
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
