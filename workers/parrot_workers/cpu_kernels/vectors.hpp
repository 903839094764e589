// Numbers of the types that tensors have, and vectors of them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

struct bf16 { uint16_t bits; };

inline float to_float(float x) { return x; }

inline float to_float(bf16 x) {
    uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
    float y;
    std::memcpy(&y, &bits, sizeof y);
    return y;
}

inline void put(float &target, float x) { target = x; }

inline void put(bf16 &target, float x) {  // to the nearest, ties to even
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    target.bits = static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// e^x for x <= 88, to about 1e-7: 2^n times a polynomial for what is left, which is at most half a power of two.
inline float exp_of(float x) {
    x = std::max(x, -87.0f);
    const float n = std::nearbyint(x * 1.44269504f);
    const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    const int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
    float power;
    std::memcpy(&power, &bits, sizeof power);
    return p * power;
}

constexpr int WIDTH = 16;  // floats in a vector; where the machine has smaller ones, the compiler takes several

typedef float Vector __attribute__((vector_size(4 * WIDTH), aligned(4)));
typedef uint32_t Bits __attribute__((vector_size(4 * WIDTH), aligned(4)));
typedef uint16_t Halves __attribute__((vector_size(2 * WIDTH), aligned(2)));

inline Vector load(const float *x) { return *reinterpret_cast<const Vector *>(x); }

inline Vector load(const bf16 *x) {
    return reinterpret_cast<Vector>(__builtin_convertvector(*reinterpret_cast<const Halves *>(x), Bits) << 16);
}

inline void store(float *target, Vector x) { *reinterpret_cast<Vector *>(target) = x; }

}  // namespace
