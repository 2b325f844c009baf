// convert_host.h: integer types, vectors and the conversions of 16-bit floats, for every body of the port that runs on a host.
#pragma once

#include <cstdint>
#include <cstring>

namespace myelon {

using u8 = std::uint8_t;
using u16 = std::uint16_t;
using u32 = std::uint32_t;
using u64 = unsigned long long;
using i8 = std::int8_t;
using i16 = std::int16_t;
using i32 = std::int32_t;
using i64 = long long;

static_assert(sizeof(u64) == 8 && sizeof(void*) == 8, "addresses and words are 64 bits wide");

struct alignas(16) vec16 {
    u32 word[4];
};
struct alignas(8) vec8 {
    u32 word[2];
};
struct alignas(16) pair64 {
    u64 word[2];
};

inline float f32_from_bits(u32 bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

inline u32 bits_from_f32(float value) {
    u32 bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

inline float f32_from_f16(u16 bits) {
    u32 const sign = static_cast<u32>(bits & 0x8000u) << 16;
    u32 const exponent = (bits >> 10) & 0x1fu;
    u32 const fraction = bits & 0x3ffu;
    if (exponent == 31) return f32_from_bits(sign | 0x7f800000u | fraction << 13);
    if (exponent != 0) return f32_from_bits(sign | (exponent + 112) << 23 | fraction << 13);
    float const magnitude = static_cast<float>(fraction) * 0x1p-24f;  // zero or subnormal: exact
    return f32_from_bits(sign | bits_from_f32(magnitude));
}

// Round to nearest even by one exact addition: the magnitude plus a power of two whose last place is
// the last place of the result.
inline u16 f16_from_f32(float value) {
    u32 const bits = bits_from_f32(value);
    u16 const sign = static_cast<u16>(bits >> 16 & 0x8000u);
    u32 const magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return static_cast<u16>(sign | 0x7e00u);
    if (magnitude >= 0x477ff000u) return static_cast<u16>(sign | 0x7c00u);  // 65520 and beyond round to infinity
    if (magnitude < 0x38800000u) {                                         // below 2^-14: subnormal
        float const shifted = f32_from_bits(magnitude) + 0.5f;             // last place of 0.5 is 2^-24
        return static_cast<u16>(sign | (bits_from_f32(shifted) - 0x3f000000u));
    }
    u32 const odd = magnitude >> 13 & 1u;
    return static_cast<u16>(sign | (magnitude - (112u << 23) + 0xfffu + odd) >> 13);
}

inline u16 bf16_from_f32(float value) {
    u32 const bits = bits_from_f32(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fc0u;
    return static_cast<u16>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

}  // namespace myelon
