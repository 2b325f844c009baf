// all_reduce_one_shot.cu: the one-shot by flagged packets, for every type.

#include "myelon/one_shot.cuh"

namespace myelon {
namespace one_shot {

template <typename E, typename Op>
MYELON_DEVICE void all_reduce(AllReduceArgs const& args) {
    all_reduce_in<Flagged, E, Op>(args);
}

}  // namespace one_shot

MYELON_ALL_REDUCE(one_shot)

}  // namespace myelon
