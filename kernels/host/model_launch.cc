// model_launch.cc: the kernels' own source, compiled for the simulator, behind a C interface.
//
// host_launch.cc compiles the same names with another port. Here they stand in a namespace of their own, or
// the linker would take one body for both.

#define MYELON_MODEL
#define myelon myelon_model

#include "entries.h"

namespace myelon {
namespace {

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
