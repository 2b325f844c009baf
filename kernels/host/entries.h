// entries.h: every kernel by its name, for whoever runs them on a host. Includes their source, so a translation unit takes
// it once, behind its choice of a port.
#pragma once

#include "../checks/staged_copy.cu"
#include "../src/all_reduce_ring.cu"

namespace myelon {
namespace {

struct Entry {
    char const* name;
    void (*kernel)(AllReduceArgs const&);
};

#define MYELON_ENTRIES(type)                                             \
    {"all_reduce_ring_" #type "_sum", all_reduce_ring_##type##_sum},     \
        {"all_reduce_ring_" #type "_prod", all_reduce_ring_##type##_prod}, \
        {"all_reduce_ring_" #type "_min", all_reduce_ring_##type##_min}, \
        {"all_reduce_ring_" #type "_max", all_reduce_ring_##type##_max},

Entry const entries[] = {
    // clang-format off
    MYELON_ENTRIES(f16) MYELON_ENTRIES(bf16) MYELON_ENTRIES(f32) MYELON_ENTRIES(f64) MYELON_ENTRIES(i8)
    MYELON_ENTRIES(u8) MYELON_ENTRIES(i32) MYELON_ENTRIES(u32) MYELON_ENTRIES(i64) MYELON_ENTRIES(u64)
    {"staged_copy_check", staged_copy_check},
    // clang-format on
};

}  // namespace
}  // namespace myelon
