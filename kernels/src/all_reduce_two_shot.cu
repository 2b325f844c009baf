// all_reduce_two_shot.cu: the two-shot by flagged packets, for every type.

#include "myelon/two_shot.cuh"

namespace myelon {
namespace two_shot {

template <typename E, typename Op>
MYELON_DEVICE void all_reduce(AllReduceArgs const& args) {
    all_reduce_in<Flagged, E, Op>(args);
}

}  // namespace two_shot

MYELON_ALL_REDUCE(two_shot)

}  // namespace myelon
