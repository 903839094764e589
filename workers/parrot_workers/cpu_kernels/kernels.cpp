// What lies between two projections of a layer, and attention of single rows over pages, for a CPU.
//
// Plain loops that a compiler turns into the vector instructions of the machine it runs on. Sums are in float32
// whatever the type of the tensors is. No pointers overlap; rows lie side by side unless a stride says otherwise.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

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

// Below this many elements another thread costs more than it saves.
constexpr int64_t MIN_PARALLEL = 8192;

template <typename T>
float scale_of(const T *x, int64_t size, float eps) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < size; ++i) sum += to_float(x[i]) * to_float(x[i]);
    return 1.0f / std::sqrt(sum / static_cast<float>(size) + eps);
}

template <typename X, typename W, typename O>
void norm_row(const X *x, const W *weight, O *out, int64_t size, float eps) {
    const float scale = scale_of(x, size, eps);
#pragma omp simd
    for (int64_t i = 0; i < size; ++i) put(out[i], to_float(x[i]) * scale * to_float(weight[i]));
}

template <typename T>
void norm(const T *x, const T *weight, T *out, int64_t rows, int64_t size, float eps, int threads) {
#pragma omp parallel for num_threads(threads) if (rows * size > MIN_PARALLEL)
    for (int64_t row = 0; row < rows; ++row) norm_row(x + row * size, weight, out + row * size, size, eps);
}

template <typename T>
void add_norm(const T *x, const T *h, const T *weight, T *total, T *out, int64_t rows, int64_t size, float eps,
              int threads) {
#pragma omp parallel for num_threads(threads) if (rows * size > MIN_PARALLEL)
    for (int64_t row = 0; row < rows; ++row) {
        const T *a = x + row * size, *b = h + row * size;
        T *sum = total + row * size;
#pragma omp simd
        for (int64_t i = 0; i < size; ++i) put(sum[i], to_float(a[i]) + to_float(b[i]));
        norm_row(sum, weight, out + row * size, size, eps);
    }
}

// Of part of a row: silu(gate) * up.
template <typename T>
void gate_row(const T *g, const T *up, T *out, int64_t size) {
#pragma omp simd
    for (int64_t i = 0; i < size; ++i) {
        const float x = to_float(g[i]);
        put(out[i], x / (1.0f + exp_of(std::min(-x, 88.0f))) * to_float(up[i]));
    }
}

template <typename T>
void gate(const T *gate_up, T *out, int64_t rows, int64_t size, int threads) {
#pragma omp parallel for num_threads(threads) if (rows * size > MIN_PARALLEL)
    for (int64_t row = 0; row < rows; ++row) {
        const T *g = gate_up + row * 2 * size;
        gate_row(g, g + size, out + row * size, size);
    }
}

// Turn the halves of a head against each other; `sin` is negative in its first half.
template <typename T, typename C>
void rotate_head(const T *x, const float *factors, const C *cos, const C *sin, T *out, int64_t half) {
#pragma omp simd
    for (int64_t i = 0; i < half; ++i) {
        const float a = to_float(x[i]) * factors[i], b = to_float(x[i + half]) * factors[i + half];
        put(out[i], a * to_float(cos[i]) + b * to_float(sin[i]));
        put(out[i + half], b * to_float(cos[i + half]) + a * to_float(sin[i + half]));
    }
}

template <typename T>
void scale_head(const T *x, const float *factors, T *out, int64_t size) {
#pragma omp simd
    for (int64_t i = 0; i < size; ++i) put(out[i], to_float(x[i]) * factors[i]);
}

template <typename T, typename C>
void rotate_and_write(const T *qkv, const T *weight, float eps, const C *cos, const C *sin, const int64_t *slots, T *q,
                      T *keys, T *values, int64_t rows, int64_t num_qo, int64_t num_kv, int64_t dim, int threads) {
    const int64_t num_qk = num_qo + num_kv, num = num_qk + num_kv;
#pragma omp parallel num_threads(threads) if (rows * num * dim > MIN_PARALLEL)
    {
        std::vector<float> factors(dim, 1.0f);  // of the norm
#pragma omp for
        for (int64_t row = 0; row < rows; ++row) {
            const T *heads = qkv + row * num * dim;
            T *k = keys + slots[row] * num_kv * dim;
            for (int64_t head = 0; head < num_qk; ++head) {
                const T *x = heads + head * dim;
                T *out = head < num_qo ? q + (row * num_qo + head) * dim : k + (head - num_qo) * dim;
                if (weight) {
                    const float scale = scale_of(x, dim, eps);
                    for (int64_t i = 0; i < dim; ++i) factors[i] = scale * to_float(weight[head * dim + i]);
                }
                if (cos)
                    rotate_head(x, factors.data(), cos + row * dim, sin + row * dim, out, dim / 2);
                else
                    scale_head(x, factors.data(), out, dim);
            }
            std::memcpy(values + slots[row] * num_kv * dim, heads + num_qk * dim, num_kv * dim * sizeof(T));
        }
    }
}

// -- attention -------------------------------------------------------------------------------------------------------

constexpr int WIDTH = 16;  // floats in a vector; where the machine has smaller ones, the compiler takes several
constexpr int BLOCK = 2 * WIDTH;  // keys at a time
constexpr float NOTHING = -3.0e38f;  // lower than any score

typedef float Vector __attribute__((vector_size(4 * WIDTH), aligned(4)));
typedef uint32_t Bits __attribute__((vector_size(4 * WIDTH), aligned(4)));
typedef uint16_t Halves __attribute__((vector_size(2 * WIDTH), aligned(2)));
typedef int32_t Integers __attribute__((vector_size(4 * WIDTH), aligned(4)));

inline Vector load(const float *x) { return *reinterpret_cast<const Vector *>(x); }

inline Vector load(const bf16 *x) {
    return reinterpret_cast<Vector>(__builtin_convertvector(*reinterpret_cast<const Halves *>(x), Bits) << 16);
}

inline void store(float *target, Vector x) { *reinterpret_cast<Vector *>(target) = x; }

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
    int64_t num;

    int64_t slot(int64_t token) const {
        const uint32_t place = static_cast<uint32_t>(token), size = static_cast<uint32_t>(page_size);
        return int64_t{pages[place / size]} * size + place % size;
    }
};

// What a query has read so far: the sum of values, weighted by e^(score - maximum), and the sum of the weights.
template <int DIM>
struct Query {
    alignas(64) float q[DIM], sum[DIM];
    float maximum, total;
};

template <int DIM>
void score(const Query<DIM> &query, const float *const *rows, float *scores) {
    for (int part = 0; part < BLOCK; part += WIDTH) {
        Vector products[WIDTH];
        for (int j = 0; j < WIDTH; ++j) {
            Vector product = load(query.q) * load(rows[part + j]);
            for (int i = WIDTH; i < DIM; i += WIDTH) product += load(query.q + i) * load(rows[part + j] + i);
            products[j] = product;
        }
        store(scores + part, sums_of(products));
    }
}

template <int DIM>
void add_values(Query<DIM> &query, const float *const *rows, const float *weights, int num, float shrink) {
    Vector sum[DIM / WIDTH];
    for (int i = 0; i < DIM / WIDTH; ++i) sum[i] = load(query.sum + i * WIDTH) * shrink;
    for (int j = 0; j < num; ++j)
        for (int i = 0; i < DIM / WIDTH; ++i) sum[i] += load(rows[j] + i * WIDTH) * weights[j];
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

// Some queries over up to BLOCK tokens; `keys` and `values` point to one KV head of each.
template <typename T, int DIM>
void attend_block(Query<DIM> *queries, int group, const T *const *key_rows, const T *const *value_rows, int num,
                  float softcap) {
    alignas(64) float buffers[2][BLOCK * DIM];
    const float *places[2][BLOCK];
    const float *const *keys = floats_of<DIM>(key_rows, buffers[0], places[0]);
    const float *const *values = floats_of<DIM>(value_rows, buffers[1], places[1]);
    alignas(64) float scores[BLOCK];
    for (int g = 0; g < group; ++g) {
        Query<DIM> &query = queries[g];
        score<DIM>(query, keys, scores);
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
        add_values<DIM>(query, values, scores, num, shrink);
    }
}

// All queries of a row that read the KV heads [0, num_kv) from `keys` and `values` on; a token is `stride` elements.
template <typename T, int DIM>
void attend(Query<DIM> *queries, int group, const T *keys, const T *values, Tokens tokens, int64_t num_kv, int64_t stride,
            float softcap) {
    const T *k[BLOCK], *v[BLOCK];
    const int64_t num_bytes = num_kv * DIM * static_cast<int64_t>(sizeof(T));
    for (int64_t begin = 0; begin < tokens.num; begin += BLOCK) {
        const int num = static_cast<int>(std::min<int64_t>(BLOCK, tokens.num - begin));
        for (int j = 0; j < BLOCK; ++j) {
            const int64_t offset = tokens.slot(begin + std::min(j, num - 1)) * stride;
            k[j] = keys + offset, v[j] = values + offset;
        }
        for (int64_t next = begin + BLOCK; next < std::min(begin + 2 * BLOCK, tokens.num); ++next) {
            const int64_t offset = tokens.slot(next) * stride;
            for (int64_t byte = 0; byte < num_bytes; byte += 64) {
                __builtin_prefetch(reinterpret_cast<const char *>(keys + offset) + byte);
                __builtin_prefetch(reinterpret_cast<const char *>(values + offset) + byte);
            }
        }
        for (int64_t head = 0; head < num_kv; ++head) {
            attend_block<T, DIM>(queries + head * group, group, k, v, num, softcap);
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

// A share of the units, for each thread of a team. `q`: [rows, num_kv, group, DIM]; results likewise, unit by unit; `lse`
// may be none.
template <typename T, int DIM, typename Q>
void attend_share(const Q *q, const T *keys, const T *values, Q *out, float *lse, const Units &units, int64_t num_kv,
                  int64_t group, float scale, float softcap, int threads) {
    // Heads of a token lie side by side, so a unit is read fastest by one thread; but no thread shall be idle.
    const int64_t part = units.num >= 2 * threads ? num_kv : 1, num_parts = num_kv / part;
    std::unique_ptr<Query<DIM>[]> queries(new Query<DIM>[part * group]);
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < units.num * num_parts; ++task) {
        const int64_t unit = task / num_parts, head = task % num_parts * part;
        const Q *source = q + (units.rows[unit] * num_kv + head) * group * DIM;
        for (int64_t g = 0; g < part * group; ++g) {
            for (int i = 0; i < DIM; ++i) queries[g].q[i] = to_float(source[g * DIM + i]) * scale, queries[g].sum[i] = 0;
            queries[g].maximum = NOTHING, queries[g].total = 0;
        }
        const Tokens tokens{units.pages + units.indptr[unit], units.page_size, units.lens[unit]};
        attend<T, DIM>(queries.get(), static_cast<int>(group), keys + head * DIM, values + head * DIM, tokens, part,
                       num_kv * DIM, softcap);
        const int64_t place = (unit * num_kv + head) * group;
        for (int64_t g = 0; g < part * group; ++g) {
            const float factor = 1.0f / queries[g].total;
            for (int i = 0; i < DIM; ++i) put(out[(place + g) * DIM + i], queries[g].sum[i] * factor);
            if (lse) lse[place + g] = queries[g].maximum + std::log(queries[g].total);
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

template <typename T>
int attend_units(const T *q, const T *keys, const T *values, T *out, float *lse, const Units *units, int64_t num_kv,
                 int64_t group, int64_t dim, float scale, float softcap, int threads) {
    bool is_known = false;
#pragma omp parallel num_threads(threads)
    {
        const bool can = attend_share_of<T>(dim, q, keys, values, out, lse, *units, num_kv, group, scale, softcap, threads);
#pragma omp single
        is_known = can;
    }
    return is_known ? 0 : 1;
}

// -- a whole layer, for few rows ---------------------------------------------------------------------------------------

// A weight in blocks of outputs: [num_outputs / block][num_inputs / P][block][P], with P = 2 inputs side by side in
// bfloat16 and P = 1 in float32: read from one end to the other, and no sum goes across a vector.
struct Weight {
    const void *data, *bias;
    int64_t num_inputs, num_outputs, block;
};

// A decoder layer of the plainest kind: norm, attention, sum, norm, gated MLP with SiLU, sum.
struct Layer {
    Weight qkv, o, gate_up, down;
    const void *attention_norm, *mlp_norm, *head_norm;  // the last may be none
    float attention_eps, mlp_eps, head_eps;
    int64_t num_qo, num_kv, dim;
};

inline void multiply(Vector *sums, const float *weight, const float *x) { sums[0] += load(weight) * x[0]; }

inline void multiply(Vector *sums, const bf16 *weight, const float *x) {
    const Bits pairs = *reinterpret_cast<const Bits *>(weight);
    sums[0] += reinterpret_cast<Vector>(pairs << 16) * x[0];
    sums[1] += reinterpret_cast<Vector>(pairs & 0xffff0000u) * x[1];
}

// Some vectors of outputs of a block, for some rows.
template <typename T, int ROWS, int VECTORS>
void project(const float *x, const T *weight, float *out, const Weight &w) {
    constexpr int P = sizeof(float) / sizeof(T);
    Vector sums[VECTORS][ROWS][P] = {};
    for (int64_t k = 0; k < w.num_inputs; k += P)
        for (int v = 0; v < VECTORS; ++v)
            for (int r = 0; r < ROWS; ++r)
                multiply(sums[v][r], weight + k * w.block + v * WIDTH * P, x + r * w.num_inputs + k);
    for (int v = 0; v < VECTORS; ++v)
        for (int r = 0; r < ROWS; ++r)
            store(out + r * w.num_outputs + v * WIDTH, P == 1 ? sums[v][r][0] : sums[v][r][0] + sums[v][r][P - 1]);
}

// out = x W^T + bias; a share of the blocks for each thread of a team, and all wait for the end. All in float32.
template <typename T>
void linear_share(const float *x, const Weight &w, float *out, int64_t rows) {
    constexpr int P = sizeof(float) / sizeof(T), VECTORS = 4 / P;  // as many as a block has, for the usual blocks
    const T *data = static_cast<const T *>(w.data), *bias = static_cast<const T *>(w.bias);
#pragma omp for schedule(static)
    for (int64_t place = 0; place < w.num_outputs; place += w.block)
        for (int64_t first = place; first < place + w.block; first += VECTORS * WIDTH) {
            const T *weight = data + place * w.num_inputs + (first - place) * P;
            int64_t row = 0;
            for (; row + 2 <= rows; row += 2)
                project<T, 2, VECTORS>(x + row * w.num_inputs, weight, out + row * w.num_outputs + first, w);
            for (; row < rows; ++row)
                project<T, 1, VECTORS>(x + row * w.num_inputs, weight, out + row * w.num_outputs + first, w);
            for (row = 0; bias && row < rows; ++row)
                for (int i = 0; i < VECTORS * WIDTH; ++i) out[row * w.num_outputs + first + i] += to_float(bias[first + i]);
        }
}

template <typename T>
void norm_floats(const float *x, const T *weight, float *out, int64_t rows, int64_t size, float eps) {
    for (int64_t row = 0; row < rows; ++row) norm_row(x + row * size, weight, out + row * size, size, eps);
}

template <typename T, typename C>
int run_layer(const Layer *layer, const T *x, T *out, int64_t rows, const C *cos, const C *sin, const int64_t *slots, T *keys,
              T *values, const Units *units, float scale, float softcap, float *memory, int threads) {
    const Layer &l = *layer;
    const int64_t hidden = l.qkv.num_inputs, inner = l.down.num_inputs, dim = l.dim, num_qk = l.num_qo + l.num_kv;
    float *residual = memory, *normed = residual + rows * hidden, *qkv = normed + rows * hidden;
    float *attended = qkv + rows * l.qkv.num_outputs, *sum = attended + rows * l.o.num_inputs;
    float *gate_up = sum + rows * hidden, *gated = gate_up + rows * 2 * inner;
    bool is_known = false;
#pragma omp parallel num_threads(threads)
    {
#pragma omp single
        {
            for (int64_t i = 0; i < rows * hidden; ++i) residual[i] = to_float(x[i]);
            norm_floats(residual, static_cast<const T *>(l.attention_norm), normed, rows, hidden, l.attention_eps);
        }
        linear_share<T>(normed, l.qkv, qkv, rows);
#pragma omp single
        for (int64_t row = 0; row < rows; ++row) {
            float *heads = qkv + row * l.qkv.num_outputs;
            for (int64_t head = 0; head < num_qk; ++head) {
                float *h = heads + head * dim;
                if (l.head_norm)
                    norm_floats(h, static_cast<const T *>(l.head_norm) + head * dim, h, 1, dim, l.head_eps);
                for (int64_t i = 0; cos && i < dim / 2; ++i) {
                    const C *c = cos + row * dim, *s = sin + row * dim;
                    const float a = h[i], b = h[i + dim / 2];
                    h[i] = a * to_float(c[i]) + b * to_float(s[i]);
                    h[i + dim / 2] = b * to_float(c[i + dim / 2]) + a * to_float(s[i + dim / 2]);
                }
            }
            const int64_t place = slots[row] * l.num_kv * dim;
            for (int64_t i = 0; i < l.num_kv * dim; ++i) {
                put(keys[place + i], heads[l.num_qo * dim + i]);
                put(values[place + i], heads[num_qk * dim + i]);
            }
            // Attention wants the queries of all rows side by side.
            std::memmove(qkv + row * l.num_qo * dim, heads, l.num_qo * dim * sizeof(float));
        }
        const bool can = attend_share_of<T>(dim, static_cast<const float *>(qkv), static_cast<const T *>(keys),
                                            static_cast<const T *>(values), attended, static_cast<float *>(nullptr),
                                            *units, l.num_kv, l.num_qo / l.num_kv, scale, softcap, threads);
        linear_share<T>(attended, l.o, sum, rows);
#pragma omp single
        {
            is_known = can;
            for (int64_t i = 0; i < rows * hidden; ++i) residual[i] += sum[i];
            norm_floats(residual, static_cast<const T *>(l.mlp_norm), normed, rows, hidden, l.mlp_eps);
        }
        linear_share<T>(normed, l.gate_up, gate_up, rows);
#pragma omp for schedule(static)
        for (int64_t part = 0; part < rows * threads; ++part) {
            const int64_t row = part / threads, begin = part % threads * inner / threads,
                          end = (part % threads + 1) * inner / threads;
            const float *g = gate_up + row * 2 * inner, *up = g + inner;
            gate_row(g + begin, up + begin, gated + row * inner + begin, end - begin);
        }
        linear_share<T>(gated, l.down, sum, rows);
#pragma omp single
        for (int64_t i = 0; i < rows * hidden; ++i) put(out[i], residual[i] + sum[i]);
    }
    return is_known ? 0 : 1;
}

}  // namespace

#define EXPORT(T, NAME)                                                                                                \
    extern "C" void norm_##NAME(const T *x, const T *weight, T *out, int64_t rows, int64_t size, float eps,            \
                                int threads) {                                                                         \
        norm(x, weight, out, rows, size, eps, threads);                                                                \
    }                                                                                                                  \
    extern "C" void add_norm_##NAME(const T *x, const T *h, const T *weight, T *total, T *out, int64_t rows,           \
                                    int64_t size, float eps, int threads) {                                            \
        add_norm(x, h, weight, total, out, rows, size, eps, threads);                                                  \
    }                                                                                                                  \
    extern "C" void gate_##NAME(const T *gate_up, T *out, int64_t rows, int64_t size, int threads) {                   \
        gate(gate_up, out, rows, size, threads);                                                                       \
    }                                                                                                                  \
    extern "C" int attend_##NAME(const T *q, const T *keys, const T *values, T *out, float *lse, const Units *units,   \
                                 int64_t num_kv, int64_t group, int64_t dim, float scale, float softcap,               \
                                 int threads) {                                                                        \
        return attend_units(q, keys, values, out, lse, units, num_kv, group, dim, scale, softcap, threads);            \
    }

#define EXPORT_ROTATED(T, C, NAME)                                                                                     \
    extern "C" void rotate_and_write_##NAME(const T *qkv, const T *weight, float eps, const C *cos, const C *sin,      \
                                            const int64_t *slots, T *q, T *keys, T *values, int64_t rows,              \
                                            int64_t num_qo, int64_t num_kv, int64_t dim, int threads) {                \
        rotate_and_write(qkv, weight, eps, cos, sin, slots, q, keys, values, rows, num_qo, num_kv, dim, threads);      \
    }                                                                                                                  \
    extern "C" int run_layer_##NAME(const Layer *layer, const T *x, T *out, int64_t rows, const C *cos, const C *sin,  \
                                    const int64_t *slots, T *keys, T *values, const Units *units, float scale,         \
                                    float softcap, float *memory, int threads) {                                       \
        return run_layer(layer, x, out, rows, cos, sin, slots, keys, values, units, scale, softcap, memory, threads);  \
    }

EXPORT(float, float32)
EXPORT(bf16, bfloat16)
EXPORT_ROTATED(float, float, float32_float32)
EXPORT_ROTATED(bf16, bf16, bfloat16_bfloat16)
EXPORT_ROTATED(bf16, float, bfloat16_float32)
