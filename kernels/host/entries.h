// entries.h: every kernel by its name, for whoever runs them on a host. Includes their source, so a translation unit takes
// it once, behind its choice of a port.
#pragma once

#include "../checks/staged_copy.cu"
#include "../src/all_reduce_direct.cu"
#include "../src/all_reduce_neighbour.cu"
#include "../src/all_reduce_one_shot.cu"
#include "../src/all_reduce_one_shot_lamport.cu"
#include "../src/all_reduce_ring.cu"
#include "../src/all_reduce_two_shot.cu"
#include "../src/all_reduce_two_shot_lamport.cu"

namespace myelon {
namespace {

struct Entry {
    char const* name;
    void (*kernel)(AllReduceArgs const&);
};

#define MYELON_ENTRY(algorithm, type, op) {"all_reduce_" #algorithm "_" #type "_" #op, all_reduce_##algorithm##_##type##_##op},
#define MYELON_ENTRIES_OF(algorithm, type)                                          \
    MYELON_ENTRY(algorithm, type, sum) MYELON_ENTRY(algorithm, type, prod)          \
    MYELON_ENTRY(algorithm, type, min) MYELON_ENTRY(algorithm, type, max)
#define MYELON_ENTRIES(type)                                                        \
    MYELON_ENTRIES_OF(ring, type) MYELON_ENTRIES_OF(one_shot, type)                 \
    MYELON_ENTRIES_OF(two_shot, type) MYELON_ENTRIES_OF(direct, type)               \
    MYELON_ENTRIES_OF(neighbour, type)
#define MYELON_ENTRIES_OF_FLOATS(type)                                              \
    MYELON_ENTRIES(type)                                                            \
    MYELON_ENTRIES_OF(one_shot_lamport, type) MYELON_ENTRIES_OF(two_shot_lamport, type)

Entry const entries[] = {
    // clang-format off
    MYELON_ENTRIES_OF_FLOATS(f16) MYELON_ENTRIES_OF_FLOATS(bf16) MYELON_ENTRIES_OF_FLOATS(f32) MYELON_ENTRIES_OF_FLOATS(f64)
    MYELON_ENTRIES(i8)
    MYELON_ENTRIES(u8) MYELON_ENTRIES(i32) MYELON_ENTRIES(u32) MYELON_ENTRIES(i64) MYELON_ENTRIES(u64)
    {"staged_copy_check", staged_copy_check},
    // clang-format on
};

}  // namespace
}  // namespace myelon
