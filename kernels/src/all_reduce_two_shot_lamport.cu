// all_reduce_two_shot_lamport.cu: the two-shot by cells, for floats.

#include "myelon/two_shot.cuh"

namespace myelon {
namespace two_shot_lamport {

template <typename E, typename Op>
MYELON_DEVICE void all_reduce(AllReduceArgs const& args) {
    two_shot::all_reduce_in<Cell, E, Op>(args);
}

}  // namespace two_shot_lamport

MYELON_ALL_REDUCE_FLOATS(two_shot_lamport)

}  // namespace myelon
