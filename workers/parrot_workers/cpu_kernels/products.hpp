// Products of rows and weights, x W^T, with the tiles of AMX.
//
// A weight lies in blocks of 32 outputs: [num_outputs / 32][num_inputs / P][32][P], with P = 2 inputs side by side in
// bfloat16 and P = 1 in float32. Each thread computes some blocks for all rows, so a weight is read once.
//
// Tiles multiply bfloat16 and add up in float32. A float32 is the sum of three bfloat16, its first, second and last 8
// bits, so its products are six of theirs; the three that are left out are below 2^-22 of the result, as the rounding of
// float32 is. Few rows in float32 are multiplied by ordinary vectors, which need no splitting.
#pragma once

#include <omp.h>

#include <type_traits>

#include "vectors.hpp"

#if defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__AVX512BF16__) && defined(__AVX512BW__)
#define HAS_TILES 1
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#else
#define HAS_TILES 0
#endif

namespace {

// A weight; `block` outputs lie together, as above.
struct Weight {
    const void *data, *bias;
    int64_t num_inputs, num_outputs, block;
};

inline int64_t round_up(int64_t num_bytes) { return (num_bytes + 63) / 64 * 64; }

#if HAS_TILES

constexpr int SIDE = 16;             // rows of a tile
constexpr int EDGE = 32;             // rows, inputs and outputs of a block of products
constexpr int TILE = SIDE * EDGE;    // bfloat16 in a tile
constexpr int LANES = 12;            // rows that ordinary vectors multiply at a time
constexpr int64_t MAX_LANE_ROWS = 48;  // with more rows in float32 tiles are faster
constexpr int64_t DEPTH = 8;         // blocks of inputs at a time: what a weight has of them stays in the first cache
constexpr int64_t ROWS_BYTES = 1280 << 10;  // rows at a time: they stay in the second cache

// Linux lets a process use tiles when it asks for it.
inline bool may_use_tiles() {
    constexpr int REQUEST_PERMISSION = 0x1023, TILE_DATA = 18;
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}

struct alignas(64) TileShapes {
    uint8_t palette = 1, start = 0, reserved[14] = {};
    uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
const TileShapes TILE_SHAPES;

// Tiles are this thread's for as long as one of these lives.
struct UseOfTiles {
    UseOfTiles() { asm volatile("ldtilecfg %0" ::"m"(TILE_SHAPES)); }
    ~UseOfTiles() { _tile_release(); }
};

template <typename T> constexpr int PARTS = std::is_same<T, float>::value ? 3 : 1;
template <typename T> constexpr int64_t GROUP = std::is_same<T, float>::value ? 256 : 512;  // rows at a time

inline __m512i high_bits(__m512 x) { return _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0xffff0000)); }

inline __m512i to_halves(__m512 low, __m512 high) { return (__m512i)_mm512_cvtne2ps_pbh(high, low); }

inline void load_edge(const float *x, __m512 &low, __m512 &high) { low = _mm512_loadu_ps(x), high = _mm512_loadu_ps(x + 16); }

inline void load_edge(const bf16 *x, __m512 &low, __m512 &high) { low = (__m512)load(x), high = (__m512)load(x + 16); }

inline void store_edge(float *x, __m512 low, __m512 high) { _mm512_storeu_ps(x, low), _mm512_storeu_ps(x + 16, high); }

inline void store_edge(bf16 *x, __m512 low, __m512 high) { _mm512_storeu_si512(x, to_halves(low, high)); }

// Rows as the products read them: tiles [blocks of rows][blocks of inputs][PARTS][2][16][32], or lanes
// [groups of rows][inputs][LANES].
template <typename T>
struct Rows {
    char *data;
    int64_t num_rows, num_inputs;

    static constexpr bool may_be_lanes = std::is_same<T, float>::value;
    bool are_lanes() const { return may_be_lanes && num_rows <= MAX_LANE_ROWS; }
    static int64_t num_bytes(int64_t num_rows, int64_t num_inputs) {
        return (num_rows + EDGE - 1) / EDGE * EDGE * num_inputs * (may_be_lanes ? 6 : 2);
    }
    const bf16 *tiles(int64_t row, int64_t k) const {
        return reinterpret_cast<const bf16 *>(data) + (row / EDGE * (num_inputs / EDGE) + k) * PARTS<T> * 2 * TILE;
    }
    const float *lanes(int64_t row) const { return reinterpret_cast<const float *>(data) + row / LANES * LANES * num_inputs; }

    // The inputs [32 k, 32 k + 32) of a row.
    void put(int64_t row, int64_t k, __m512 low, __m512 high) {
        if (are_lanes()) {
            float *target = const_cast<float *>(lanes(row)) + k * EDGE * LANES + row % LANES;
            alignas(64) float values[EDGE];
            store_edge(values, low, high);
            for (int i = 0; i < EDGE; ++i) target[i * LANES] = values[i];
            return;
        }
        bf16 *target = const_cast<bf16 *>(tiles(row, k)) + row % EDGE * EDGE;
        if constexpr (PARTS<T> == 1) {
            _mm512_storeu_si512(target, to_halves(low, high));
        } else {
            for (int part = 0; part < 3; ++part, target += 2 * TILE) {
                const __m512i a = high_bits(low), b = high_bits(high);
                _mm256_storeu_si256(reinterpret_cast<__m256i *>(target), _mm512_cvtepi32_epi16(_mm512_srli_epi32(a, 16)));
                _mm256_storeu_si256(reinterpret_cast<__m256i *>(target + 16), _mm512_cvtepi32_epi16(_mm512_srli_epi32(b, 16)));
                low = _mm512_sub_ps(low, _mm512_castsi512_ps(a)), high = _mm512_sub_ps(high, _mm512_castsi512_ps(b));
            }
        }
    }

    template <typename X>
    void put_row(int64_t row, const X *x) {
        for (int64_t k = 0; k < num_inputs / EDGE; ++k) {
            __m512 low, high;
            load_edge(x + k * EDGE, low, high);
            put(row, k, low, high);
        }
    }
};

// C[32][32] (+)= A B over `num` blocks of inputs; meanwhile LINES of what comes `next` are fetched for each.
template <int PARTS, int ROW_TILES, int LINES>
void multiply_tiles(const bf16 *a, const bf16 *b, int64_t num, float *c, bool is_first, const char *next) {
    asm volatile("" ::: "memory");  // what was stored is there
    if (is_first) {
        _tile_zero(0);
        _tile_zero(1);
    } else {
        _tile_loadd(0, c, 128);
        _tile_loadd(1, c + SIDE, 128);
    }
    if (ROW_TILES == 2 && is_first) {
        _tile_zero(2);
        _tile_zero(3);
    } else if (ROW_TILES == 2) {
        _tile_loadd(2, c + TILE, 128);
        _tile_loadd(3, c + TILE + SIDE, 128);
    }
#define LOAD_A(PART)                                                                                                   \
    _tile_loadd(4, a + (PART) * 2 * TILE, 64);                                                                         \
    if (ROW_TILES == 2) {                                                                                              \
        _tile_loadd(5, a + (PART) * 2 * TILE + TILE, 64);                                                              \
    }
#define LOAD_B(PART)                                                                                                   \
    _tile_loadd(6, b + (PART) * 2 * TILE, 128);                                                                        \
    _tile_loadd(7, b + (PART) * 2 * TILE + EDGE, 128);
#define MULTIPLY                                                                                                       \
    _tile_dpbf16ps(0, 4, 6);                                                                                           \
    _tile_dpbf16ps(1, 4, 7);                                                                                           \
    if (ROW_TILES == 2) {                                                                                              \
        _tile_dpbf16ps(2, 5, 6);                                                                                       \
        _tile_dpbf16ps(3, 5, 7);                                                                                       \
    }
    for (int64_t k = 0; k < num; ++k) {
        for (int i = 0; i < LINES; ++i) _mm_prefetch(next + i * 64, _MM_HINT_T1);
        next += LINES * 64;
        if (PARTS == 1) {
            LOAD_A(0) LOAD_B(0) MULTIPLY
        } else {
            LOAD_A(0) LOAD_B(2) MULTIPLY LOAD_B(1) MULTIPLY LOAD_B(0) MULTIPLY
            LOAD_A(2) MULTIPLY LOAD_A(1) MULTIPLY LOAD_B(1) MULTIPLY
        }
        a += PARTS * 2 * TILE, b += PARTS * 2 * TILE;
    }
#undef LOAD_A
#undef LOAD_B
#undef MULTIPLY
    _tile_stored(0, c, 128);
    _tile_stored(1, c + SIDE, 128);
    if (ROW_TILES == 2) {
        _tile_stored(2, c + TILE, 128);
        _tile_stored(3, c + TILE + SIDE, 128);
    }
    asm volatile("" ::: "memory");
}

template <int PARTS, int ROW_TILES>
void multiply_tiles(const bf16 *a, const bf16 *b, int64_t num, float *c, bool is_first, const char *next, int64_t lines) {
    const auto run = lines <= 2   ? multiply_tiles<PARTS, ROW_TILES, 2>
                     : lines <= 4 ? multiply_tiles<PARTS, ROW_TILES, 4>
                     : lines <= 8 ? multiply_tiles<PARTS, ROW_TILES, 8>
                     : lines <= 16 ? multiply_tiles<PARTS, ROW_TILES, 16>
                                   : multiply_tiles<PARTS, ROW_TILES, 32>;
    run(a, b, num, c, is_first, next);
}

// Some blocks of inputs of a float32 weight, [num][32][32], as tiles: [num][3][16][32][2].
inline void split(const float *w, int64_t num, bf16 *tiles) {
    for (int64_t k = 0; k < num; ++k, w += EDGE * EDGE, tiles += 3 * 2 * TILE)
        for (int row = 0; row < SIDE; ++row)
            for (int half = 0; half < 2; ++half) {
                const float *place = w + row * 2 * EDGE + half * 16;
                bf16 *target = tiles + row * 2 * EDGE + half * EDGE;
                __m512 even = _mm512_loadu_ps(place), odd = _mm512_loadu_ps(place + EDGE);
                for (int part = 0; part < 3; ++part, target += 2 * TILE) {
                    const __m512i e = high_bits(even), o = high_bits(odd);
                    _mm512_storeu_si512(target, _mm512_or_si512(_mm512_srli_epi32(e, 16), o));
                    even = _mm512_sub_ps(even, _mm512_castsi512_ps(e)), odd = _mm512_sub_ps(odd, _mm512_castsi512_ps(o));
                }
            }
}

// What one thread needs for itself.
template <typename T>
struct Bench {
    bf16 *panel;
    float *sums, *gates;

    static int64_t sums_bytes(int64_t num_blocks) { return num_blocks * (GROUP<T> / EDGE) * EDGE * EDGE * 4; }
    static int64_t num_bytes(int64_t num_rows, int64_t num_blocks) {
        return DEPTH * 3 * 2 * TILE * 2 + sums_bytes(num_blocks) + num_rows * EDGE * 4;
    }
    Bench(char *memory, int64_t num_blocks)
        : panel(reinterpret_cast<bf16 *>(memory)),
          sums(reinterpret_cast<float *>(memory + DEPTH * 3 * 2 * TILE * 2)),
          gates(sums + sums_bytes(num_blocks) / 4) {}
};

// The blocks [first, last) of outputs for all rows. `finish(row, num, block, c)` gets `num` rows of 32 sums at a time.
template <typename T, typename Finish>
void multiply_by_tiles(const Rows<T> &x, const Weight &w, int64_t first, int64_t last, const Bench<T> &bench, Finish finish) {
    const int64_t num = w.num_inputs / EDGE;
    const int64_t deep = std::max<int64_t>(1, ROWS_BYTES / (GROUP<T> * EDGE * 2 * PARTS<T>) / DEPTH) * DEPTH;
    for (int64_t row = 0; row < x.num_rows; row += GROUP<T>) {
        const int64_t num_blocks = (std::min(GROUP<T>, x.num_rows - row) + EDGE - 1) / EDGE;
        const int64_t lines = static_cast<int64_t>(sizeof(T)) * EDGE * EDGE / 64 / num_blocks;
        for (int64_t begin = 0; begin < num; begin += deep)
            for (int64_t block = first; block < last; ++block)
                for (int64_t k = begin; k < std::min(num, begin + deep); k += DEPTH) {
                    const int64_t depth = std::min(DEPTH, num - k);
                    const T *weight = static_cast<const T *>(w.data) + (block * w.num_inputs + k * EDGE) * EDGE;
                    const char *next = reinterpret_cast<const char *>(weight + depth * EDGE * EDGE);
                    const bf16 *panel;
                    if constexpr (PARTS<T> == 1)
                        panel = weight;
                    else
                        split(weight, depth, bench.panel), panel = bench.panel;
                    for (int64_t i = 0; i < num_blocks; ++i, next += depth * lines * 64) {
                        const int64_t place = row + i * EDGE, here = std::min<int64_t>(EDGE, x.num_rows - place);
                        float *c = bench.sums + ((deep < num ? (block - first) * num_blocks : 0) + i) * EDGE * EDGE;
                        (here > SIDE ? multiply_tiles<PARTS<T>, 2> : multiply_tiles<PARTS<T>, 1>)(
                            x.tiles(place, k), panel, depth, c, k == 0, next, lines);
                        if (k + depth == num) finish(place, here, block, c);
                    }
                }
    }
}

// A group of rows by a block of outputs; meanwhile what comes `next` is fetched.
template <int NUM>
void multiply_lanes(const float *x, const float *weight, int64_t num_inputs, float *c, const char *next, int64_t step) {
    __m512 sums[NUM][2];
    for (int r = 0; r < NUM; ++r) sums[r][0] = sums[r][1] = _mm512_setzero_ps();
    for (int64_t k = 0; k < num_inputs; ++k, next += step) {
        const __m512 low = _mm512_loadu_ps(weight + k * EDGE), high = _mm512_loadu_ps(weight + k * EDGE + 16);
        _mm_prefetch(next, _MM_HINT_T1);
        if (step > 64) _mm_prefetch(next + 64, _MM_HINT_T1);
#pragma GCC unroll 12
        for (int r = 0; r < NUM; ++r) {
            const __m512 value = _mm512_set1_ps(x[k * LANES + r]);
            sums[r][0] = _mm512_fmadd_ps(low, value, sums[r][0]);
            sums[r][1] = _mm512_fmadd_ps(high, value, sums[r][1]);
        }
    }
    for (int r = 0; r < NUM; ++r) store_edge(c + r * EDGE, sums[r][0], sums[r][1]);
}

template <typename Finish>
void multiply_by_lanes(const Rows<float> &x, const Weight &w, int64_t first, int64_t last, const Bench<float> &bench,
                       Finish finish) {
    constexpr decltype(&multiply_lanes<1>) KERNELS[LANES + 1] = {
        nullptr,           multiply_lanes<1>, multiply_lanes<2>, multiply_lanes<3>,  multiply_lanes<4>,  multiply_lanes<5>, multiply_lanes<6>,
        multiply_lanes<7>, multiply_lanes<8>, multiply_lanes<9>, multiply_lanes<10>, multiply_lanes<11>, multiply_lanes<12>};
    const int64_t num_groups = (x.num_rows + LANES - 1) / LANES, step = num_groups == 1 ? 128 : num_groups == 2 ? 64 : 43;
    for (int64_t block = first; block < last; ++block) {
        const float *weight = static_cast<const float *>(w.data) + block * w.num_inputs * EDGE;
        const char *next = reinterpret_cast<const char *>(weight + w.num_inputs * EDGE);
        for (int64_t row = 0; row < x.num_rows; row += LANES, next += step * w.num_inputs) {
            const int64_t here = std::min<int64_t>(LANES, x.num_rows - row);
            KERNELS[here](x.lanes(row), weight, w.num_inputs, bench.sums, next, step);
            finish(row, here, block, static_cast<const float *>(bench.sums));
        }
    }
}

// A share of the blocks for each thread of a team, `together` of them side by side with the same thread.
template <typename T, typename Finish>
void multiply_share(const Rows<T> &x, const Weight &w, int64_t together, const Bench<T> &bench, Finish finish) {
    const int64_t num = w.num_outputs / EDGE / together, thread = omp_get_thread_num(), threads = omp_get_num_threads();
    const int64_t first = num * thread / threads * together, last = num * (thread + 1) / threads * together;
    if constexpr (Rows<T>::may_be_lanes)
        if (x.are_lanes()) return multiply_by_lanes(x, w, first, last, bench, finish);
    multiply_by_tiles<T>(x, w, first, last, bench, finish);
}

// As `finish`: sums and bias, and what is there already, to rows of outputs. No residual and no bias: none.
template <typename T>
struct Output {
    T *out;
    const T *residual, *bias;
    int64_t num_outputs;

    void operator()(int64_t row, int64_t num, int64_t block, const float *c) const {
        __m512 low, high, l, h;
        __m512 bias_low = _mm512_setzero_ps(), bias_high = bias_low;
        if (bias) load_edge(bias + block * EDGE, bias_low, bias_high);
        for (int64_t r = 0; r < num; ++r) {
            const int64_t place = (row + r) * num_outputs + block * EDGE;
            load_edge(c + r * EDGE, low, high);
            low = _mm512_add_ps(low, bias_low), high = _mm512_add_ps(high, bias_high);
            if (residual) {
                load_edge(residual + place, l, h);
                low = _mm512_add_ps(low, l), high = _mm512_add_ps(high, h);
            }
            store_edge(out + place, low, high);
        }
    }
};

template <typename T>
int64_t product_bytes(const Weight &w, int64_t num_rows, int threads) {
    return round_up(Rows<T>::num_bytes(num_rows, w.num_inputs)) +
           threads * round_up(Bench<T>::num_bytes(num_rows, w.num_outputs / EDGE));
}

// out = x W^T + bias
template <typename T>
void multiply(const Weight &w, const T *x, T *out, int64_t num_rows, char *memory, int threads) {
    Rows<T> rows{memory, num_rows, w.num_inputs};
    char *rest = memory + round_up(Rows<T>::num_bytes(num_rows, w.num_inputs));
#pragma omp parallel num_threads(threads)
    {
        const UseOfTiles tiles;
        const int64_t num_blocks = w.num_outputs / EDGE;
        const Bench<T> bench(rest + omp_get_thread_num() * round_up(Bench<T>::num_bytes(num_rows, num_blocks)), num_blocks);
#pragma omp for schedule(static)
        for (int64_t row = 0; row < num_rows; ++row) rows.put_row(row, x + row * w.num_inputs);
        multiply_share(rows, w, 1, bench, Output<T>{out, nullptr, static_cast<const T *>(w.bias), w.num_outputs});
    }
}

#else

inline bool may_use_tiles() { return false; }

template <typename T>
int64_t product_bytes(const Weight &, int64_t, int) { return 0; }

template <typename T>
void multiply(const Weight &, const T *, T *, int64_t, char *, int) {}

#endif

}  // namespace
