// all_reduce_one_shot_lamport.cu: the one-shot by cells, for floats.

#include "myelon/one_shot.cuh"

namespace myelon {
namespace one_shot_lamport {

template <typename E, typename Op>
MYELON_DEVICE void all_reduce(AllReduceArgs const& args) {
    one_shot::all_reduce_in<Cell, E, Op>(args);
}

}  // namespace one_shot_lamport

MYELON_ALL_REDUCE_FLOATS(one_shot_lamport)

}  // namespace myelon
