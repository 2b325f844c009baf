// reduce.cuh: element types and operations; how p values become one.
//
// CONTRACT  Ranks are joined in the order 0, 1, ..., p-1, in the accumulator type, and rounded once at the end.
//           f16 and bf16 accumulate in f32. Integers wrap. A sum starts from +0 and never yields -0.
//           min and max: a NaN on any rank gives NaN, and -0 < +0. A NaN result has the canonical bits.
//           Built without flush-to-zero and without fast math.
// CHECKED   crates/myelon-collectives/src/reference.rs is the same contract, one element at a time.
#pragma once

#include "myelon/port.cuh"

namespace myelon {

template <typename To, typename From>
MYELON_DEVICE To bits_as(From from) {
    static_assert(sizeof(To) == sizeof(From), "same width");
    union {
        From from;
        To to;
    } cast;
    cast.from = from;
    return cast.to;
}

// ---- element types: Unit as stored, Acc as accumulated --------------------------------------------------

namespace element {

struct f16 {
    using Unit = u16;
    using Acc = float;
    static constexpr bool is_float = true;
    static MYELON_DEVICE Acc widen(Unit bits) { return f32_from_f16(bits); }
    static MYELON_DEVICE Unit narrow(Acc value) { return value != value ? Unit(0x7e00) : f16_from_f32(value); }
    static MYELON_DEVICE bool is_zero(Unit bits) { return (bits & 0x7fff) == 0; }
};

struct bf16 {
    using Unit = u16;
    using Acc = float;
    static constexpr bool is_float = true;
    static MYELON_DEVICE Acc widen(Unit bits) { return bits_as<float>(static_cast<myelon::u32>(bits) << 16); }
    static MYELON_DEVICE Unit narrow(Acc value) { return value != value ? Unit(0x7fc0) : bf16_from_f32(value); }
    static MYELON_DEVICE bool is_zero(Unit bits) { return (bits & 0x7fff) == 0; }
};

struct f32 {
    using Unit = float;
    using Acc = float;
    static constexpr bool is_float = true;
    static MYELON_DEVICE Acc widen(Unit value) { return value; }
    static MYELON_DEVICE Unit narrow(Acc value) { return value != value ? bits_as<float>(0x7fc00000u) : value; }
    static MYELON_DEVICE bool is_zero(Unit value) { return value == 0; }
};

struct f64 {
    using Unit = double;
    using Acc = double;
    static constexpr bool is_float = true;
    static MYELON_DEVICE Acc widen(Unit value) { return value; }
    static MYELON_DEVICE Unit narrow(Acc value) {
        return value != value ? bits_as<double>(static_cast<myelon::u64>(0x7ff8000000000000ull)) : value;
    }
    static MYELON_DEVICE bool is_zero(Unit value) { return value == 0; }
};

// Wraps: sums and products are taken modulo 2^bits, so the arithmetic is unsigned.
template <typename Signed, typename Wide>
struct Integer {
    using Unit = Signed;
    using Acc = Signed;
    static constexpr bool is_float = false;
    static MYELON_DEVICE Acc widen(Unit value) { return value; }
    static MYELON_DEVICE Unit narrow(Acc value) { return value; }
    static MYELON_DEVICE Acc add(Acc a, Acc b) { return static_cast<Acc>(static_cast<Wide>(a) + static_cast<Wide>(b)); }
    static MYELON_DEVICE Acc multiply(Acc a, Acc b) { return static_cast<Acc>(static_cast<Wide>(a) * static_cast<Wide>(b)); }
};

struct i8 : Integer<myelon::i8, myelon::u32> {};
struct u8 : Integer<myelon::u8, myelon::u32> {};
struct i32 : Integer<myelon::i32, myelon::u32> {};
struct u32 : Integer<myelon::u32, myelon::u32> {};
struct i64 : Integer<myelon::i64, myelon::u64> {};
struct u64 : Integer<myelon::u64, myelon::u64> {};

}  // namespace element

// ---- operations: first(x) begins, join(a, x) goes on, finish(a) rounds ----------------------------------

struct sum {
    template <typename E>
    static MYELON_DEVICE typename E::Acc first(typename E::Acc x) {
        if constexpr (E::is_float) return typename E::Acc(0) + x;
        else return x;
    }
    template <typename E>
    static MYELON_DEVICE typename E::Acc join(typename E::Acc a, typename E::Acc x) {
        if constexpr (E::is_float) return a + x;
        else return E::add(a, x);
    }
    static constexpr bool positive_zero = true, compares = false;
};

struct prod {
    template <typename E>
    static MYELON_DEVICE typename E::Acc first(typename E::Acc x) { return x; }
    template <typename E>
    static MYELON_DEVICE typename E::Acc join(typename E::Acc a, typename E::Acc x) {
        if constexpr (E::is_float) return a * x;
        else return E::multiply(a, x);
    }
    static constexpr bool positive_zero = false, compares = false;
};

MYELON_DEVICE u32 bits_of(float x) { return bits_as<u32>(x); }
MYELON_DEVICE u64 bits_of(double x) { return bits_as<u64>(x); }

// min and max of floats. Equal values have equal bits, except zeros: -0 is the smaller.
template <bool smaller, typename Acc>
MYELON_DEVICE Acc extreme(Acc a, Acc x) {
    if (a != a) return a;
    if (x != x) return x;
    if (a == x) return bits_as<Acc>(smaller ? bits_of(a) | bits_of(x) : bits_of(a) & bits_of(x));
    return (a < x) == smaller ? a : x;
}

struct min {
    template <typename E>
    static MYELON_DEVICE typename E::Acc first(typename E::Acc x) { return x; }
    template <typename E>
    static MYELON_DEVICE typename E::Acc join(typename E::Acc a, typename E::Acc x) {
        if constexpr (E::is_float) return extreme<true>(a, x);
        else return x < a ? x : a;
    }
    static constexpr bool positive_zero = false, compares = true;
};

struct max {
    template <typename E>
    static MYELON_DEVICE typename E::Acc first(typename E::Acc x) { return x; }
    template <typename E>
    static MYELON_DEVICE typename E::Acc join(typename E::Acc a, typename E::Acc x) {
        if constexpr (E::is_float) return extreme<false>(a, x);
        else return x > a ? x : a;
    }
    static constexpr bool positive_zero = false, compares = true;
};

// ---- a vector of elements -------------------------------------------------------------------------------

template <typename E, typename Vector>
union Units {
    Vector vector;
    typename E::Unit unit[sizeof(Vector) / sizeof(typename E::Unit)];
};

// Joins one vector a rank. `divisor` is the number of ranks for an average, else 1.
template <typename E, typename Op, u32 most, typename Vector>
MYELON_DEVICE Vector join_ranks(Vector const (&of_rank)[most], u32 ranks, u32 divisor) {
    constexpr u32 count = sizeof(Vector) / sizeof(typename E::Unit);
    typename E::Acc acc[count];
    Units<E, Vector> in;
    in.vector = of_rank[0];
#pragma unroll
    for (u32 i = 0; i < count; ++i) acc[i] = Op::template first<E>(E::widen(in.unit[i]));
#pragma unroll
    for (u32 rank = 1; rank < most; ++rank) {
        if (rank < ranks) {
            in.vector = of_rank[rank];
#pragma unroll
            for (u32 i = 0; i < count; ++i) acc[i] = Op::template join<E>(acc[i], E::widen(in.unit[i]));
        }
    }
    if constexpr (E::is_float && Op::positive_zero) {
        if (MYELON_RARELY(divisor != 1)) {
#pragma unroll
            for (u32 i = 0; i < count; ++i) acc[i] = acc[i] / static_cast<typename E::Acc>(divisor);
        }
    }
    Units<E, Vector> out;
#pragma unroll
    for (u32 i = 0; i < count; ++i) {
        if constexpr (E::is_float && Op::positive_zero) {
            out.unit[i] = E::narrow(acc[i]);
            if (E::is_zero(out.unit[i])) out.unit[i] = 0;
        } else {
            out.unit[i] = E::narrow(acc[i]);
        }
    }
    return out.vector;
}

}  // namespace myelon
