// all_reduce.cuh: the entries of an algorithm, one for each type and operation: all_reduce_ALGORITHM_TYPE_OP. Some
// algorithms are for floats only.
#pragma once

#include "myelon/reduce.cuh"
#include "myelon/words.cuh"

#define MYELON_ALL_REDUCE_OP(algorithm, dtype, op) \
    MYELON_KERNEL(all_reduce_##algorithm##_##dtype##_##op) { algorithm::all_reduce<element::dtype, op>(args); }
#define MYELON_ALL_REDUCE_DTYPE(algorithm, dtype)    \
    MYELON_ALL_REDUCE_OP(algorithm, dtype, sum)  \
    MYELON_ALL_REDUCE_OP(algorithm, dtype, prod) \
    MYELON_ALL_REDUCE_OP(algorithm, dtype, min)  \
    MYELON_ALL_REDUCE_OP(algorithm, dtype, max)
#define MYELON_ALL_REDUCE_EXPANDED(algorithm, dtype) MYELON_ALL_REDUCE_DTYPE(algorithm, dtype)

// A compiler that makes one type at a time, in several threads, says which.
#if defined(MYELON_DTYPE)
#define MYELON_ALL_REDUCE(algorithm) MYELON_ALL_REDUCE_EXPANDED(algorithm, MYELON_DTYPE)
#define MYELON_ALL_REDUCE_FLOATS(algorithm) MYELON_ALL_REDUCE_EXPANDED(algorithm, MYELON_DTYPE)
#else
#define MYELON_ALL_REDUCE_FLOATS(algorithm)      \
    MYELON_ALL_REDUCE_DTYPE(algorithm, f16)  \
    MYELON_ALL_REDUCE_DTYPE(algorithm, bf16) \
    MYELON_ALL_REDUCE_DTYPE(algorithm, f32)  \
    MYELON_ALL_REDUCE_DTYPE(algorithm, f64)
#define MYELON_ALL_REDUCE(algorithm)             \
    MYELON_ALL_REDUCE_FLOATS(algorithm)      \
    MYELON_ALL_REDUCE_DTYPE(algorithm, i8)   \
    MYELON_ALL_REDUCE_DTYPE(algorithm, u8)   \
    MYELON_ALL_REDUCE_DTYPE(algorithm, i32)  \
    MYELON_ALL_REDUCE_DTYPE(algorithm, u32)  \
    MYELON_ALL_REDUCE_DTYPE(algorithm, i64)  \
    MYELON_ALL_REDUCE_DTYPE(algorithm, u64)
#endif

namespace myelon {

// What the sum is divided by.
MYELON_DEVICE u32 divisor_of(AllReduceArgs const& args) { return (args.flags & flag_average) != 0 ? args.ranks : 1; }

}  // namespace myelon
