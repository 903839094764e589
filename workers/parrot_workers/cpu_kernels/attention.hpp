// Attention over pages: single rows, and rows of which many see the same tokens.
#pragma once

#include <memory>
#include <vector>

#include "products.hpp"
#include "vectors.hpp"

namespace {

constexpr int BLOCK = 2 * WIDTH;  // keys at a time
constexpr float NOTHING = -3.0e38f;  // lower than any score

// The sum of each of 16 vectors: halves, quarters, ... of two vectors are added side by side.
inline Vector sums_of(Vector *x) {
#define FOLD(COUNT, LOW, HIGH)                                                                                         \
    for (int i = 0; i < COUNT; ++i)                                                                                    \
        x[i] = __builtin_shufflevector(x[2 * i], x[2 * i + 1], LOW) + __builtin_shufflevector(x[2 * i], x[2 * i + 1], HIGH);
#define EVEN 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30
#define ODD 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31
    FOLD(8, EVEN, ODD)
    FOLD(4, EVEN, ODD)
    FOLD(2, EVEN, ODD)
    FOLD(1, EVEN, ODD)
    return x[0];
#undef FOLD
#undef EVEN
#undef ODD
}

// Which tokens a unit reads, and where they are.
struct Tokens {
    const int32_t *pages;
    int page_size;
    int64_t first, num;  // of the tokens on these pages

    int64_t slot(int64_t token) const {
        const uint32_t place = static_cast<uint32_t>(first + token), size = static_cast<uint32_t>(page_size);
        return int64_t{pages[place / size]} * size + place % size;
    }
};

// Whether queries of a single row are multiplied as they are, in bfloat16, and their scores scaled; else they are scaled.
template <typename T, int DIM> constexpr bool ARE_PAIRS = HAS_TILES && std::is_same<T, bf16>::value && DIM % 32 == 0;

// What a query has read so far: the sum of values, weighted by e^(score - maximum), and the sum of the weights.
template <int DIM>
struct Query {
    alignas(64) float q[DIM], sum[DIM];
    float maximum, total;
};

// Fetches what comes next a little at a time, between computations: much at once would hold up what is read now.
template <typename T>
struct Fetcher {
    const char *rows[2 * BLOCK];
    int num = 0, row = 0;
    int64_t place = 0, num_bytes;

    void next() {
        if (row == num) return;
        for (int i = 0; i < static_cast<int>(sizeof(T)); i += 2, place += 64) __builtin_prefetch(rows[row] + place);
        if (place >= num_bytes) place = 0, ++row;
    }
};

template <int DIM, typename F>
void score(const Query<DIM> &query, const float *const *rows, float *scores, F &fetcher) {
    for (int part = 0; part < BLOCK; part += WIDTH) {
        Vector products[WIDTH];
        for (int j = 0; j < WIDTH; ++j) {
            Vector product = load(query.q) * load(rows[part + j]);
            for (int i = WIDTH; i < DIM; i += WIDTH) product += load(query.q + i) * load(rows[part + j] + i);
            products[j] = product;
            fetcher.next();
        }
        store(scores + part, sums_of(products));
    }
}

template <int DIM, typename F>
void add_values(Query<DIM> &query, const float *const *rows, const float *weights, int num, float shrink,
                F &fetcher) {
    Vector sum[DIM / WIDTH];
    for (int i = 0; i < DIM / WIDTH; ++i) sum[i] = load(query.sum + i * WIDTH) * shrink;
    for (int j = 0; j < num; ++j) {
        for (int i = 0; i < DIM / WIDTH; ++i) sum[i] += load(rows[j] + i * WIDTH) * weights[j];
        fetcher.next();
    }
    for (int i = 0; i < DIM / WIDTH; ++i) store(query.sum + i * WIDTH, sum[i]);
}

// The rows as floats: where they are, or in a buffer, so that the queries of a group need not all convert them.
template <int DIM>
const float *const *floats_of(const float *const *rows, float *, const float **) { return rows; }

template <int DIM>
const float *const *floats_of(const bf16 *const *rows, float *buffer, const float **places) {
    for (int j = 0; j < BLOCK; ++j) {
        for (int i = 0; i < DIM; i += WIDTH) store(buffer + j * DIM + i, load(rows[j] + i));
        places[j] = buffer + j * DIM;
    }
    return places;
}

// What queries have of a block: scores to weights. Returns by how much what was there shrinks.
template <int DIM>
float weigh_block(Query<DIM> &query, float *scores, int num, float softcap) {
    if (softcap > 0)
        for (int j = 0; j < num; ++j) scores[j] = softcap * std::tanh(scores[j] / softcap);
    for (int j = num; j < BLOCK; ++j) scores[j] = NOTHING;
    float top = query.maximum, total = 0;
#pragma omp simd reduction(max : top)
    for (int j = 0; j < BLOCK; ++j) top = scores[j] > top ? scores[j] : top;
#pragma omp simd
    for (int j = 0; j < BLOCK; ++j) scores[j] = exp_of(scores[j] - top);
    for (int j = num; j < BLOCK; ++j) scores[j] = 0;
#pragma omp simd reduction(+ : total)
    for (int j = 0; j < BLOCK; ++j) total += scores[j];
    const float shrink = exp_of(query.maximum - top);
    query.maximum = top;
    query.total = query.total * shrink + total;
    return shrink;
}

// Some queries over up to BLOCK tokens; `keys` and `values` point to one KV head of each.
template <typename T, int DIM>
void attend_block(Query<DIM> *queries, int group, const T *const *key_rows, const T *const *value_rows, int num,
                  float softcap, Fetcher<T> &fetcher) {
    alignas(64) float buffers[2][BLOCK * DIM];
    const float *places[2][BLOCK];
    const float *const *keys = floats_of<DIM>(key_rows, buffers[0], places[0]);
    const float *const *values = floats_of<DIM>(value_rows, buffers[1], places[1]);
    alignas(64) float scores[BLOCK];
    for (int g = 0; g < group; ++g) {
        score<DIM>(queries[g], keys, scores, fetcher);
        const float shrink = weigh_block(queries[g], scores, num, softcap);
        add_values<DIM>(queries[g], values, scores, num, shrink, fetcher);
    }
}

#if HAS_TILES
// The same by products of two bfloat16 at a time; two values side by side for each of the numbers of a head.
template <int DIM>
void attend_block_by_pairs(Query<DIM> *queries, int group, const bf16 *const *keys, const bf16 *const *values, int num,
                           float scale, float softcap, Fetcher<bf16> &fetcher) {
    alignas(64) static const uint16_t LOW[32] = {0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
                                                 8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
    const __m512i low = _mm512_load_si512(LOW), high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
    alignas(64) bf16 pairs[BLOCK * DIM];
    for (int j = 0; j < BLOCK; j += 2)
        for (int i = 0; i < DIM; i += 32) {
            const __m512i a = _mm512_loadu_si512(values[j] + i), b = _mm512_loadu_si512(values[j + 1] + i);
            _mm512_store_si512(pairs + j * DIM + 2 * i, _mm512_permutex2var_epi16(a, low, b));
            _mm512_store_si512(pairs + j * DIM + 2 * i + 32, _mm512_permutex2var_epi16(a, high, b));
        }
    const auto halves = [](const void *place) { return (__m512bh)_mm512_loadu_si512(place); };
    for (int g = 0; g < group; ++g) {
        Query<DIM> &query = queries[g];
        __m512bh q[DIM / 32];
        for (int i = 0; i < DIM / 32; ++i)
            q[i] = _mm512_cvtne2ps_pbh(_mm512_load_ps(query.q + i * 32 + 16), _mm512_load_ps(query.q + i * 32));
        alignas(64) float scores[BLOCK];
        for (int part = 0; part < BLOCK; part += WIDTH) {
            Vector products[WIDTH];
            for (int j = 0; j < WIDTH; ++j) {
                __m512 product = _mm512_setzero_ps();
                for (int i = 0; i < DIM / 32; ++i) product = _mm512_dpbf16_ps(product, halves(keys[part + j] + i * 32), q[i]);
                products[j] = (Vector)product;
                fetcher.next();
            }
            store(scores + part, sums_of(products) * scale);
        }
        const __m512 shrink = _mm512_set1_ps(weigh_block(query, scores, num, softcap));
        alignas(64) uint32_t weights[BLOCK / 2];
        _mm512_store_si512(weights, to_halves(_mm512_load_ps(scores), _mm512_load_ps(scores + 16)));
        __m512 sums[DIM / WIDTH];
        for (int i = 0; i < DIM / WIDTH; ++i) sums[i] = _mm512_mul_ps(_mm512_load_ps(query.sum + i * WIDTH), shrink);
        for (int j = 0; j < BLOCK / 2; ++j) {
            const __m512bh weight = (__m512bh)_mm512_set1_epi32(static_cast<int>(weights[j]));
            fetcher.next();
            for (int i = 0; i < DIM / WIDTH; ++i)
                sums[i] = _mm512_dpbf16_ps(sums[i], halves(pairs + (j * DIM + i * WIDTH) * 2), weight);
        }
        for (int i = 0; i < DIM / WIDTH; ++i) _mm512_store_ps(query.sum + i * WIDTH, sums[i]);
    }
}
#endif

// All queries of a row that read the KV heads [0, num_kv) from `keys` and `values` on; a token is `stride` elements.
template <typename T, int DIM>
void attend(Query<DIM> *queries, int group, const T *keys, const T *values, Tokens tokens, int64_t num_kv, int64_t stride,
            float scale, float softcap) {
    const T *k[BLOCK], *v[BLOCK];
    const int64_t num_bytes = num_kv * DIM * static_cast<int64_t>(sizeof(T));
    for (int64_t begin = 0; begin < tokens.num; begin += BLOCK) {
        const int num = static_cast<int>(std::min<int64_t>(BLOCK, tokens.num - begin));
        for (int j = 0; j < BLOCK; ++j) {
            const int64_t offset = tokens.slot(begin + std::min(j, num - 1)) * stride;
            k[j] = keys + offset, v[j] = values + offset;
        }
        Fetcher<T> fetcher;
        fetcher.num_bytes = num_bytes;
        for (int64_t next = begin + BLOCK; next < std::min(begin + 2 * BLOCK, tokens.num); ++next) {
            const int64_t offset = tokens.slot(next) * stride;
            fetcher.rows[fetcher.num++] = reinterpret_cast<const char *>(keys + offset);
            fetcher.rows[fetcher.num++] = reinterpret_cast<const char *>(values + offset);
        }
        for (int64_t head = 0; head < num_kv; ++head) {
#if HAS_TILES
            if constexpr (ARE_PAIRS<T, DIM>)
                attend_block_by_pairs<DIM>(queries + head * group, group, k, v, num, scale, softcap, fetcher);
            else
#endif
                attend_block<T, DIM>(queries + head * group, group, k, v, num, softcap, fetcher);
            for (int j = 0; j < BLOCK; ++j) k[j] += DIM, v[j] += DIM;
        }
    }
}

// Single rows over pages: unit `u` is row rows[u] over lens[u] tokens on the pages from indptr[u] on.
struct Units {
    const int64_t *rows, *indptr;
    const int32_t *pages;
    const int64_t *lens;
    int64_t num;
    int page_size;
};

// A share of the units, for each thread of a team. `q`: [rows, num_kv, group, DIM]; results likewise, unit by unit.
template <typename T, int DIM, typename Q>
void attend_share(const Q *q, const T *keys, const T *values, Q *out, const Units &units, int64_t num_kv,
                  int64_t group, float scale, float softcap, int threads) {
    // Heads of a token lie side by side, so a unit is read fastest by one thread; but no thread shall be idle.
    const int64_t part = units.num >= 2 * threads ? num_kv : 1, num_parts = num_kv / part;
    const float factor = ARE_PAIRS<T, DIM> ? 1.0f : scale;
    std::unique_ptr<Query<DIM>[]> queries(new Query<DIM>[part * group]);
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < units.num * num_parts; ++task) {
        const int64_t unit = task / num_parts, head = task % num_parts * part;
        const Q *source = q + (units.rows[unit] * num_kv + head) * group * DIM;
        for (int64_t g = 0; g < part * group; ++g) {
            for (int i = 0; i < DIM; ++i) queries[g].q[i] = to_float(source[g * DIM + i]) * factor, queries[g].sum[i] = 0;
            queries[g].maximum = NOTHING, queries[g].total = 0;
        }
        const Tokens tokens{units.pages + units.indptr[unit], units.page_size, 0, units.lens[unit]};
        attend<T, DIM>(queries.get(), static_cast<int>(group), keys + head * DIM, values + head * DIM, tokens, part,
                       num_kv * DIM, scale, softcap);
        const int64_t place = (unit * num_kv + head) * group;
        for (int64_t g = 0; g < part * group; ++g) {
            const float part_of = 1.0f / queries[g].total;
            for (int i = 0; i < DIM; ++i) put(out[(place + g) * DIM + i], queries[g].sum[i] * part_of);
        }
    }
}

template <typename T, typename Q, typename... Arguments>
bool attend_share_of(int64_t dim, const Q *q, const T *keys, const T *values, Arguments... arguments) {
    switch (dim) {
        case 16: attend_share<T, 16>(q, keys, values, arguments...); return true;
        case 32: attend_share<T, 32>(q, keys, values, arguments...); return true;
        case 64: attend_share<T, 64>(q, keys, values, arguments...); return true;
        case 80: attend_share<T, 80>(q, keys, values, arguments...); return true;
        case 96: attend_share<T, 96>(q, keys, values, arguments...); return true;
        case 128: attend_share<T, 128>(q, keys, values, arguments...); return true;
        case 256: attend_share<T, 256>(q, keys, values, arguments...); return true;
    }
    return false;
}

// -- levels ----------------------------------------------------------------------------------------------------------

// A level of a plan: the rows [rows[i], rows[i + 1]) read lens[i] tokens on the pages from indptr[i] on. In a causal level the
// last row is at the last token, and none sees what comes after it.
struct Level {
    const int32_t *rows, *indptr, *pages, *lens;
    int64_t num_entries;
    int32_t page_size, is_causal;
};

// What all levels of a step share. `sums` ([rows * heads][dim]) and `states` ([rows * heads][2]: maximum and total) keep
// what a query has read from one level to the next; `window` is 0 if there is none.
template <typename T>
struct Reading {
    const T *q, *keys, *values;
    T *out;
    float *sums, *states;
    int64_t num_kv, group, window;
    float scale, softcap;
    bool is_first, is_last;  // level
};

// Some heads of an entry: a single row, or the queries [first, first + num) of one head, row by row.
struct Piece {
    int32_t entry, head, num_heads;
    int64_t first, num;
};

constexpr int QUERIES = 32, KEYS = 128;  // at a time
constexpr int64_t MAX_TILES = 16;        // of queries, in a piece

template <typename T, int DIM> constexpr bool IS_TILED = HAS_TILES && std::is_same<T, bf16>::value && DIM % 32 == 0;

inline std::vector<Piece> cut(const Level &level, int64_t num_kv, int64_t group, int threads) {
    std::vector<Piece> pieces;
    for (int32_t i = 0; i < level.num_entries; ++i) {
        const int64_t num_rows = level.rows[i + 1] - level.rows[i], num = num_rows * group;
        if (!num || !level.lens[i]) continue;
        if (num_rows == 1) {  // heads of a token lie side by side, so one thread reads them fastest; but none shall be idle
            const int32_t part = level.num_entries >= 2 * threads ? static_cast<int32_t>(num_kv) : 1;
            for (int32_t head = 0; head < num_kv; head += part) pieces.push_back({i, head, part, 0, 1});
            continue;
        }
        const int64_t tiles = (num + QUERIES - 1) / QUERIES;
        const int64_t step = std::min(MAX_TILES, std::max<int64_t>(1, tiles * num_kv / (2 * threads))) * QUERIES;
        for (int64_t first = (num - 1) / step * step; first >= 0; first -= step)  // those that read most come first
            for (int32_t head = 0; head < num_kv; ++head) pieces.push_back({i, head, 1, first, std::min(step, num - first)});
    }
    return pieces;
}

// Queries of a single row; what each has read so far comes from, and goes to, `sums` and `states`.
template <typename T, int DIM>
void read_row(const Reading<T> &r, const Level &level, const Piece &piece) {
    const int64_t group = r.group, num = piece.num_heads * group, len = level.lens[piece.entry];
    const int64_t place = level.rows[piece.entry] * r.num_kv * group + piece.head * group;  // among all queries
    std::unique_ptr<Query<DIM>[]> queries(new Query<DIM>[num]);
    for (int64_t g = 0; g < num; ++g) {
        Query<DIM> &query = queries[g];
        for (int i = 0; i < DIM; ++i) query.q[i] = to_float(r.q[(place + g) * DIM + i]) * (ARE_PAIRS<T, DIM> ? 1.0f : r.scale), query.sum[i] = 0;
        query.maximum = NOTHING, query.total = 0;
        if (r.is_first) continue;
        std::memcpy(query.sum, r.sums + (place + g) * DIM, sizeof query.sum);
        query.maximum = r.states[2 * (place + g)], query.total = r.states[2 * (place + g) + 1];
    }
    const int64_t first = r.window && level.is_causal ? std::max<int64_t>(0, len - r.window) : 0;
    const Tokens tokens{level.pages + level.indptr[piece.entry], level.page_size, first, len - first};
    attend<T, DIM>(queries.get(), static_cast<int>(group), r.keys + piece.head * DIM, r.values + piece.head * DIM, tokens,
                   piece.num_heads, r.num_kv * DIM, r.scale, r.softcap);
    for (int64_t g = 0; g < num; ++g) {
        Query<DIM> &query = queries[g];
        if (r.is_last) {
            const float factor = 1.0f / query.total;
            for (int i = 0; i < DIM; ++i) put(r.out[(place + g) * DIM + i], query.sum[i] * factor);
        } else {
            std::memcpy(r.sums + (place + g) * DIM, query.sum, sizeof query.sum);
            r.states[2 * (place + g)] = query.maximum, r.states[2 * (place + g) + 1] = query.total;
        }
    }
}

// Swap the halves of squares of 2 x DISTANCE: all distances together transpose 16 vectors.
#define SWAP_PAIRS(DISTANCE, LOW, HIGH)                                                                                \
    for (int i = 0; i < WIDTH; ++i)                                                                                    \
        if (!(i & DISTANCE)) {                                                                                         \
            const Bits a = x[i], b = x[i + DISTANCE];                                                                  \
            x[i] = __builtin_shufflevector(a, b, LOW), x[i + DISTANCE] = __builtin_shufflevector(a, b, HIGH);          \
        }
#define LOW_8 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23
#define HIGH_8 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31
#define LOW_4 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27
#define HIGH_4 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31
#define LOW_2 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29
#define HIGH_2 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31
#define LOW_1 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30
#define HIGH_1 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31
inline void transpose(Bits *x) {
    SWAP_PAIRS(8, LOW_8, HIGH_8)
    SWAP_PAIRS(4, LOW_4, HIGH_4)
    SWAP_PAIRS(2, LOW_2, HIGH_2)
    SWAP_PAIRS(1, LOW_1, HIGH_1)
}

// Memory of a piece. Floats for ordinary vectors: keys [DIM][KEYS], values [KEYS][DIM], queries [QUERIES][DIM] and weights as
// the scores. With tiles: keys [KEYS / 16][DIM / 32][16][16][2], values [KEYS / 32][DIM / 16][16][16][2], queries
// [2][DIM / 32][16][32], weights [2][KEYS / 32][16][32].
template <typename T, int DIM>
struct Sheet {
    using Operand = typename std::conditional<IS_TILED<T, DIM>, bf16, float>::type;
    alignas(64) Operand keys[DIM * KEYS], values[DIM * KEYS], weights[QUERIES * KEYS];
    alignas(64) float scores[QUERIES * KEYS];
    struct Tile {
        alignas(64) Operand q[QUERIES * DIM];
        alignas(64) float sums[QUERIES * DIM];
        float maxima[QUERIES], totals[QUERIES];
    } tiles[MAX_TILES];
};

// C[QUERIES][columns] (+)= A[QUERIES][depth] B[depth][columns], VECTORS of columns and 8 rows at a time.
template <int VECTORS, bool IS_SUM>
void multiply_floats(const float *a, int64_t a_stride, const float *b, int64_t b_stride, float *c, int64_t c_stride,
                     int depth, int columns) {
    constexpr int ROWS = 8;
    for (int column = 0; column < columns; column += VECTORS * WIDTH)
        for (int row = 0; row < QUERIES; row += ROWS) {
            Vector sums[ROWS][VECTORS];
            for (int r = 0; r < ROWS; ++r)
                for (int v = 0; v < VECTORS; ++v)
                    sums[r][v] = IS_SUM ? load(c + (row + r) * c_stride + column + v * WIDTH) : Vector{};
            for (int k = 0; k < depth; ++k) {
                Vector line[VECTORS];
                for (int v = 0; v < VECTORS; ++v) line[v] = load(b + k * b_stride + column + v * WIDTH);
                for (int r = 0; r < ROWS; ++r)
                    for (int v = 0; v < VECTORS; ++v) sums[r][v] += line[v] * a[(row + r) * a_stride + k];
            }
            for (int r = 0; r < ROWS; ++r)
                for (int v = 0; v < VECTORS; ++v) store(c + (row + r) * c_stride + column + v * WIDTH, sums[r][v]);
        }
}

#if HAS_TILES
// C[32][columns] (+)= A B with A in [2][depth][16][32]. Column tile t and block k of the depth of B are at
// b + t * b_column + k * b_depth.
template <bool IS_SUM>
void multiply_by_tiles(const bf16 *a, const bf16 *b, int64_t b_column, int64_t b_depth, float *c, int64_t c_stride, int depth,
                       int columns) {
    asm volatile("" ::: "memory");
    const int64_t bytes = c_stride * 4;
    for (int column = 0; column < columns; column += 32, b += 2 * b_column, c += 32) {
        if (IS_SUM) {
            _tile_loadd(0, c, bytes);
            _tile_loadd(1, c + 16, bytes);
            _tile_loadd(2, c + 16 * c_stride, bytes);
            _tile_loadd(3, c + 16 * c_stride + 16, bytes);
        } else {
            _tile_zero(0);
            _tile_zero(1);
            _tile_zero(2);
            _tile_zero(3);
        }
        for (int k = 0; k < depth; ++k) {
            _tile_loadd(4, a + k * TILE, 64);
            _tile_loadd(5, a + (depth + k) * TILE, 64);
            _tile_loadd(6, b + k * b_depth, 64);
            _tile_loadd(7, b + b_column + k * b_depth, 64);
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
        _tile_stored(0, c, bytes);
        _tile_stored(1, c + 16, bytes);
        _tile_stored(2, c + 16 * c_stride, bytes);
        _tile_stored(3, c + 16 * c_stride + 16, bytes);
    }
    asm volatile("" ::: "memory");
}
#endif

// KEYS tokens of one head to the sheet; behind the last of them that one again.
template <typename T, int DIM>
void lay_out(Sheet<T, DIM> &sheet, const T *keys, const T *values, const Tokens &tokens, int64_t begin, int64_t stride) {
    const T *k[KEYS], *v[KEYS];
    for (int j = 0; j < KEYS; ++j) {
        const int64_t offset = tokens.slot(std::min(begin + j, tokens.num - 1)) * stride;
        k[j] = keys + offset, v[j] = values + offset;
    }
    constexpr int PER = sizeof(T) == 4 ? 1 : 2;  // elements of a vector's 32 bits
    Bits x[WIDTH];
    for (int j = 0; j < KEYS; j += WIDTH)
        for (int i = 0; i < DIM; i += WIDTH * (IS_TILED<T, DIM> ? PER : 1)) {
            for (int each = 0; each < WIDTH; ++each) {
                if constexpr (IS_TILED<T, DIM>)
                    x[each] = *reinterpret_cast<const Bits *>(k[j + each] + i);
                else
                    x[each] = reinterpret_cast<Bits>(load(k[j + each] + i));
            }
            transpose(x);
            for (int each = 0; each < WIDTH; ++each) {
                if constexpr (IS_TILED<T, DIM>)
                    *reinterpret_cast<Bits *>(sheet.keys + (j / 16 * (DIM / 32) + i / 32) * 512 + each * 32) = x[each];
                else
                    store(sheet.keys + (i + each) * KEYS + j, reinterpret_cast<Vector>(x[each]));
            }
        }
    for (int j = 0; j < KEYS; ++j)
        for (int i = 0; i < DIM; i += WIDTH) {
            if constexpr (IS_TILED<T, DIM>) {
                if (j % 2) continue;
                const Bits even = __builtin_convertvector(*reinterpret_cast<const Halves *>(v[j] + i), Bits);
                const Bits odd = __builtin_convertvector(*reinterpret_cast<const Halves *>(v[j + 1] + i), Bits);
                *reinterpret_cast<Bits *>(sheet.values + (j / 32 * (DIM / 16) + i / 16) * 512 + j % 32 * 16) = even | odd << 16;
            } else {
                store(sheet.values + j * DIM + i, load(v[j] + i));
            }
        }
}

// Scores of a row to weights: those outside of [low, high) are nothing. Returns by how much what was there shrinks.
inline float weigh(float *scores, int64_t low, int64_t high, float scale, float softcap, float &maximum, float &total) {
    if (softcap > 0)
        for (int j = 0; j < KEYS; ++j) scores[j] = softcap * std::tanh(scores[j] * scale / softcap);
    else
#pragma omp simd
        for (int j = 0; j < KEYS; ++j) scores[j] *= scale;
    if (low > 0 || high < KEYS)
        for (int j = 0; j < KEYS; ++j) scores[j] = j < low || j >= high ? NOTHING : scores[j];
    float top = maximum, sum = 0;
#pragma omp simd reduction(max : top)
    for (int j = 0; j < KEYS; ++j) top = scores[j] > top ? scores[j] : top;
#pragma omp simd reduction(+ : sum)
    for (int j = 0; j < KEYS; ++j) {
        scores[j] = exp_of(scores[j] - top);
        sum += scores[j];
    }
    const float shrink = exp_of(maximum - top);
    total = total * shrink + sum, maximum = top;
    return shrink;
}

// Queries of one head, some of which see the same tokens.
template <typename T, int DIM>
void read_queries(const Reading<T> &r, const Level &level, const Piece &piece, Sheet<T, DIM> &sheet) {
    constexpr bool is_tiled = IS_TILED<T, DIM>;
    const int64_t group = r.group, first_row = level.rows[piece.entry], num_rows = level.rows[piece.entry + 1] - first_row;
    const int64_t len = level.lens[piece.entry], past = level.is_causal ? len - num_rows : len - 1;
    const int64_t num_tiles = (piece.num + QUERIES - 1) / QUERIES;
    const Tokens tokens{level.pages + level.indptr[piece.entry], level.page_size, 0, len};
    const auto row_of = [&](int64_t query) { return (piece.first + query) / group; };
    const auto place_of = [&](int64_t query) {  // among all queries
        return ((first_row + row_of(query)) * r.num_kv + piece.head) * group + (piece.first + query) % group;
    };
    // What a row sees, of its entry.
    const auto end_of = [&](int64_t row) { return level.is_causal ? past + row + 1 : len; };
    const auto begin_of = [&](int64_t row) { return r.window && level.is_causal ? std::max<int64_t>(0, past + row + 1 - r.window) : 0; };
    for (int64_t t = 0; t < num_tiles; ++t) {
        auto &tile = sheet.tiles[t];
        for (int64_t i = 0; i < QUERIES; ++i) {
            const int64_t query = std::min(t * QUERIES + i, piece.num - 1), place = place_of(query);
            const T *q = r.q + place * DIM;
            if constexpr (is_tiled)
                for (int d = 0; d < DIM; d += 32)
                    std::memcpy(tile.q + ((i / 16 * (DIM / 32) + d / 32) * 16 + i % 16) * 32, q + d, 64);
            else
                for (int d = 0; d < DIM; ++d) tile.q[i * DIM + d] = to_float(q[d]);
            for (int d = 0; d < DIM; ++d) tile.sums[i * DIM + d] = r.is_first ? 0 : r.sums[place * DIM + d];
            tile.maxima[i] = r.is_first ? NOTHING : r.states[2 * place];
            tile.totals[i] = r.is_first ? 0 : r.states[2 * place + 1];
        }
    }
    for (int64_t key = begin_of(row_of(0)); key < end_of(row_of(piece.num - 1)); key += KEYS) {
        lay_out<T, DIM>(sheet, r.keys + piece.head * DIM, r.values + piece.head * DIM, tokens, key, r.num_kv * DIM);
        for (int64_t t = 0; t < num_tiles; ++t) {
            const int64_t last = std::min((t + 1) * QUERIES, piece.num) - 1;
            if (end_of(row_of(last)) <= key || begin_of(row_of(t * QUERIES)) >= key + KEYS) continue;
            auto &tile = sheet.tiles[t];
#if HAS_TILES
            if constexpr (is_tiled)
                multiply_by_tiles<false>(tile.q, sheet.keys, DIM / 32 * TILE, TILE, sheet.scores, KEYS, DIM / 32, KEYS);
#endif
            if constexpr (!is_tiled)
                multiply_floats<2, false>(tile.q, DIM, sheet.keys, KEYS, sheet.scores, KEYS, DIM, KEYS);
            for (int64_t i = 0; i < QUERIES; ++i) {
                const int64_t row = row_of(std::min(t * QUERIES + i, piece.num - 1));
                float *scores = sheet.scores + i * KEYS, *sums = tile.sums + i * DIM;
                const float shrink = weigh(scores, begin_of(row) - key, std::min(end_of(row), len) - key, r.scale, r.softcap,
                                           tile.maxima[i], tile.totals[i]);
                if (shrink != 1.0f)
                    for (int d = 0; d < DIM; ++d) sums[d] *= shrink;
#if HAS_TILES
                if constexpr (is_tiled)
                    for (int j = 0; j < KEYS; j += 32) {
                        bf16 *weights = sheet.weights + ((i / 16 * (KEYS / 32) + j / 32) * 16 + i % 16) * 32;
                        store_edge(weights, _mm512_loadu_ps(scores + j), _mm512_loadu_ps(scores + j + 16));
                    }
#endif
            }
#if HAS_TILES
            if constexpr (is_tiled)
                multiply_by_tiles<true>(sheet.weights, sheet.values, TILE, DIM / 16 * TILE, tile.sums, DIM, KEYS / 32, DIM);
#endif
            if constexpr (!is_tiled)
                multiply_floats<DIM % 32 ? 1 : 2, true>(sheet.scores, KEYS, sheet.values, DIM, tile.sums, DIM, KEYS, DIM);
        }
    }
    for (int64_t query = 0; query < piece.num; ++query) {
        const auto &tile = sheet.tiles[query / QUERIES];
        const int64_t i = query % QUERIES, place = place_of(query);
        const float *sums = tile.sums + i * DIM;
        const float factor = 1.0f / tile.totals[i];
        if (r.is_last) {
            for (int d = 0; d < DIM; ++d) put(r.out[place * DIM + d], sums[d] * factor);
        } else {
            std::memcpy(r.sums + place * DIM, sums, DIM * sizeof(float));
            r.states[2 * place] = tile.maxima[i], r.states[2 * place + 1] = tile.totals[i];
        }
    }
}

// Rows without an entry in the first level have read nothing when the next one comes.
template <typename T>
void clear(const Reading<T> &r, const Level &level, int64_t dim) {
    const int64_t heads = r.num_kv * r.group;
    for (int64_t i = 0; i < level.num_entries; ++i)
        for (int64_t place = level.rows[i] * heads; !level.lens[i] && place < level.rows[i + 1] * heads; ++place) {
            r.states[2 * place] = NOTHING, r.states[2 * place + 1] = 0;
            std::fill_n(r.sums + place * dim, dim, 0.0f);
        }
}

template <typename T, int DIM>
void read_levels(Reading<T> r, const Level *levels, int64_t num_levels, char *memory, int threads) {
    for (int64_t i = 0; i < num_levels; ++i) {
        const std::vector<Piece> pieces = cut(levels[i], r.num_kv, r.group, threads);
        r.is_first = i == 0, r.is_last = i + 1 == num_levels;
        const int64_t num = static_cast<int64_t>(pieces.size());
        if (r.is_first && !r.is_last) clear(r, levels[i], DIM);
#pragma omp parallel num_threads(threads)
        {
#if HAS_TILES
            const UseOfTiles tiles;
#endif
            auto &sheet = *reinterpret_cast<Sheet<T, DIM> *>(memory + omp_get_thread_num() * sizeof(Sheet<T, DIM>));
#pragma omp for schedule(dynamic)
            for (int64_t each = 0; each < num; ++each) {
                const Piece &piece = pieces[each];
                if (levels[i].rows[piece.entry + 1] - levels[i].rows[piece.entry] == 1)
                    read_row<T, DIM>(r, levels[i], piece);
                else
                    read_queries<T, DIM>(r, levels[i], piece, sheet);
            }
        }
    }
}

// Memory: queries' states and sums if there are several levels, and a sheet for each thread.
template <typename T>
int64_t read_bytes(int64_t num_queries, int64_t dim, int64_t num_levels, int threads) {
    const int64_t operand = 4, tile = QUERIES * dim * (operand + 4) + 2 * QUERIES * 4 + 64;
    const int64_t sheet = (2 * dim + QUERIES) * KEYS * operand + QUERIES * KEYS * 4 + MAX_TILES * tile + 4 * 64;
    return threads * sheet + (num_levels > 1 ? num_queries * (dim + 2) * 4 + 64 : 0);
}

// Attention of all rows of a step. False: not compiled for heads of this size.
template <typename T>
bool read(Reading<T> r, const Level *levels, int64_t num_levels, int64_t dim, int64_t num_queries, char *memory, int threads) {
    r.sums = reinterpret_cast<float *>(memory), r.states = r.sums + num_queries * dim;
    if (num_levels > 1) memory += (num_queries * (dim + 2) * 4 + 63) / 64 * 64;
    switch (dim) {
        case 16: read_levels<T, 16>(r, levels, num_levels, memory, threads); return true;
        case 32: read_levels<T, 32>(r, levels, num_levels, memory, threads); return true;
        case 64: read_levels<T, 64>(r, levels, num_levels, memory, threads); return true;
        case 80: read_levels<T, 80>(r, levels, num_levels, memory, threads); return true;
        case 96: read_levels<T, 96>(r, levels, num_levels, memory, threads); return true;
        case 128: read_levels<T, 128>(r, levels, num_levels, memory, threads); return true;
        case 256: read_levels<T, 256>(r, levels, num_levels, memory, threads); return true;
    }
    return false;
}

}  // namespace
