// model_launch.cc: the kernels' own source, compiled for the simulator, behind a C interface.
//
// host_launch.cc compiles the same names with another port. Here they stand in a namespace of their own, or
// the linker would take one body for both.

#define MYELON_MODEL
#define myelon myelon_model

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
    {"staged_copy_check", staged_copy_check},
    MYELON_ENTRIES(u8) MYELON_ENTRIES(i32) MYELON_ENTRIES(u32) MYELON_ENTRIES(i64) MYELON_ENTRIES(u64)
    // clang-format on
};

struct MutantRow {
    char const *name, *about;
};

#define MYELON_MUTANT_ROW(identifier, name, about) {name, about},
MutantRow const mutants[] = {MYELON_MUTANTS(MYELON_MUTANT_ROW)};

}  // namespace
}  // namespace myelon

using namespace myelon;

// Number of kernel `name`, or -1 where there is no such kernel.
extern "C" int myelon_model_find(char const* name) {
    for (Entry const& entry : entries) {
        if (std::strcmp(entry.name, name) == 0) return static_cast<int>(&entry - entries);
    }
    return -1;
}

// Runs kernel number `kernel` as the simulated thread that is current.
extern "C" void myelon_model_run(int kernel, AllReduceArgs const* args) { entries[kernel].kernel(*args); }

// Name of mutant `number`, from 1, and what it weakens; 0 beyond the last one.
extern "C" int myelon_model_mutant_name(u32 number, char const** name, char const** about) {
    if (number == 0 || number > sizeof mutants / sizeof mutants[0]) return 0;
    *name = mutants[number - 1].name;
    *about = mutants[number - 1].about;
    return 1;
}
