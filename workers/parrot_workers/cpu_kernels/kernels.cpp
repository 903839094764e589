// What lies between two projections of a layer, and attention of single rows over pages, for a CPU.
//
// Plain loops that a compiler turns into the vector instructions of the machine it runs on. Sums are in float32
// whatever the type of the tensors is. No pointers overlap; rows lie side by side unless a stride says otherwise.

#include <memory>
#include <vector>

#include "attention.hpp"
#include "products.hpp"
#include "vectors.hpp"

namespace {

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
void gate_row(const T *g, const T *up, T *out, int64_t size) {  // `out` may be `up`
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

// A share of the rows for each thread of a team: queries to `q`, keys and values to the cache.
template <typename T, typename C>
void rotate_share(const T *qkv, const T *weight, float eps, const C *cos, const C *sin, const int64_t *slots, T *q, T *keys,
                  T *values, int64_t rows, int64_t num_qo, int64_t num_kv, int64_t dim) {
    const int64_t num_qk = num_qo + num_kv, num = num_qk + num_kv;
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

template <typename T, typename C>
void rotate_and_write(const T *qkv, const T *weight, float eps, const C *cos, const C *sin, const int64_t *slots, T *q,
                      T *keys, T *values, int64_t rows, int64_t num_qo, int64_t num_kv, int64_t dim, int threads) {
#pragma omp parallel num_threads(threads) if (rows * (num_qo + 2 * num_kv) * dim > MIN_PARALLEL)
    rotate_share(qkv, weight, eps, cos, sin, slots, q, keys, values, rows, num_qo, num_kv, dim);
}

// -- a whole layer, for few rows ---------------------------------------------------------------------------------------

// A decoder layer of the plainest kind: norm, attention, sum, norm, gated MLP with SiLU, sum.
struct Layer {
    Weight qkv, o, gate_up, down;
    const void *attention_norm, *mlp_norm, *head_norm;  // the last may be none
    float attention_eps, mlp_eps, head_eps;
    int64_t num_qo, num_kv, dim;
    int64_t is_paired;  // whether blocks of 32 gates and 32 of what they gate take turns in `gate_up`
    int64_t is_rotated;
    float scale, softcap;  // of the scores; a softcap of 0 is none
};

constexpr int64_t AHEAD = 16384;  // bytes of a weight that are fetched before they are read

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
    for (int64_t k = 0; k < w.num_inputs; k += P) {
        __builtin_prefetch(reinterpret_cast<const char *>(weight + k * w.block) + AHEAD, 0, 2);
        __builtin_prefetch(reinterpret_cast<const char *>(weight + k * w.block) + AHEAD + 64, 0, 2);
        for (int v = 0; v < VECTORS; ++v)
            for (int r = 0; r < ROWS; ++r)
                multiply(sums[v][r], weight + k * w.block + v * WIDTH * P, x + r * w.num_inputs + k);
    }
    for (int v = 0; v < VECTORS; ++v)
        for (int r = 0; r < ROWS; ++r)
            store(out + r * w.num_outputs + v * WIDTH, P == 1 ? sums[v][r][0] : sums[v][r][0] + sums[v][r][P - 1]);
}

// out = x W^T + bias; a share of the blocks for each thread of a team, and all wait for the end. All in float32.
template <typename T>
void linear_share(const float *x, const Weight &w, float *out, int64_t rows) {
    constexpr int P = sizeof(float) / sizeof(T), VECTORS = 2;  // a block has as many, or more
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
              T *values, const Units *units, float *memory, int threads) {
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
                                            static_cast<const T *>(values), attended,
                                            *units, l.num_kv, l.num_qo / l.num_kv, l.scale, l.softcap, threads);
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
            const float *g = gate_up + row * 2 * inner;
            if (!l.is_paired)
                gate_row(g + begin, g + inner + begin, gated + row * inner + begin, end - begin);
            for (int64_t i = part % threads * 32; l.is_paired && i < inner; i += 32 * threads)
                gate_row(g + 2 * i, g + 2 * i + 32, gated + row * inner + i, 32);
        }
        linear_share<T>(gated, l.down, sum, rows);
#pragma omp single
        for (int64_t i = 0; i < rows * hidden; ++i) put(out[i], residual[i] + sum[i]);
    }
    return is_known ? 0 : 1;
}

// -- a layer in two calls, for more rows: what comes before attention, and what comes after --------------------------------

#if HAS_TILES

// Memory of a layer, from `memory` on: rows as the products read them, a row of outputs for each, and that of each thread.
template <typename T>
struct Desk {
    Rows<T> hidden, attended, inner;
    T *outputs;
    char *benches;
    int64_t bench_bytes, num_blocks;

    Desk(const Layer &l, char *memory, int64_t rows) {
        const int64_t size = l.qkv.num_inputs, heads = l.o.num_inputs;
        hidden = {memory, rows, size}, attended = {memory, rows, heads};
        memory += round_up(Rows<T>::num_bytes(rows, std::max(size, heads)));
        inner = {memory, rows, l.down.num_inputs};
        memory += round_up(Rows<T>::num_bytes(rows, l.down.num_inputs));
        outputs = reinterpret_cast<T *>(memory);
        benches = memory + round_up(rows * std::max(l.qkv.num_outputs, size) * static_cast<int64_t>(sizeof(T)));
        num_blocks = std::max(std::max(l.qkv.num_outputs, size), l.gate_up.num_outputs) / EDGE;
        bench_bytes = round_up(Bench<T>::num_bytes(rows, num_blocks));
    }
    int64_t num_bytes(int threads) const { return benches - hidden.data + threads * bench_bytes; }
    Bench<T> bench() const { return Bench<T>(benches + omp_get_thread_num() * bench_bytes, num_blocks); }
};

// A share of the rows for each thread of a team.
template <typename T>
void norm_share(const T *x, const void *weight, Rows<T> rows, float eps) {
    std::vector<float> normed(rows.num_inputs);
#pragma omp for schedule(static)
    for (int64_t row = 0; row < rows.num_rows; ++row) {
        norm_row(x + row * rows.num_inputs, static_cast<const T *>(weight), normed.data(), rows.num_inputs, eps);
        rows.put_row(row, normed.data());
    }
}

template <typename T, typename C>
void enter_layer(const Layer &l, const T *x, int64_t rows, const C *cos, const C *sin, const int64_t *slots, T *q, T *keys,
                 T *values, char *memory, int threads) {
    const Desk<T> desk(l, memory, rows);
#pragma omp parallel num_threads(threads)
    {
        const UseOfTiles tiles;
        norm_share(x, l.attention_norm, desk.hidden, l.attention_eps);
        multiply_share(desk.hidden, l.qkv, 1, desk.bench(),
                       Output<T>{desk.outputs, nullptr, static_cast<const T *>(l.qkv.bias), l.qkv.num_outputs});
#pragma omp barrier
        rotate_share(desk.outputs, static_cast<const T *>(l.head_norm), l.head_eps, cos, sin, slots, q, keys, values, rows,
                     l.num_qo, l.num_kv, l.dim);
    }
}

// As `finish`: gates are kept until what they gate comes, which is the next block; then both become inputs.
template <typename T>
struct Gate {
    Rows<T> inner;
    float *gates;
    const T *bias;

    void operator()(int64_t row, int64_t num, int64_t block, const float *c) {
        __m512 bias_low = _mm512_setzero_ps(), bias_high = bias_low, low, high;
        if (bias) load_edge(bias + block * EDGE, bias_low, bias_high);
        for (int64_t r = 0; r < num; ++r) {
            float *gates_of_row = gates + (row + r) * EDGE;
            load_edge(c + r * EDGE, low, high);
            low = _mm512_add_ps(low, bias_low), high = _mm512_add_ps(high, bias_high);
            if (block % 2 == 0) {
                store_edge(gates_of_row, low, high);
                continue;
            }
            alignas(64) float up[EDGE];
            store_edge(up, low, high);
            gate_row(gates_of_row, up, up, EDGE);
            load_edge(up, low, high);
            inner.put(row + r, block / 2, low, high);
        }
    }
};

template <typename T>
void leave_layer(const Layer &l, const T *x, const T *attended, T *out, int64_t rows, char *memory, int threads) {
    Desk<T> desk(l, memory, rows);
    const int64_t hidden = l.qkv.num_inputs;
#pragma omp parallel num_threads(threads)
    {
        const UseOfTiles tiles;
        const Bench<T> bench = desk.bench();
#pragma omp for schedule(static)
        for (int64_t row = 0; row < rows; ++row) desk.attended.put_row(row, attended + row * l.o.num_inputs);
        multiply_share(desk.attended, l.o, 1, bench, Output<T>{desk.outputs, x, static_cast<const T *>(l.o.bias), hidden});
#pragma omp barrier
        norm_share(desk.outputs, l.mlp_norm, desk.hidden, l.mlp_eps);
        multiply_share(desk.hidden, l.gate_up, 2, bench,
                       Gate<T>{desk.inner, bench.gates, static_cast<const T *>(l.gate_up.bias)});
#pragma omp barrier
        multiply_share(desk.inner, l.down, 1, bench, Output<T>{out, desk.outputs, static_cast<const T *>(l.down.bias), hidden});
    }
}

#else

#endif

// -- several layers ----------------------------------------------------------------------------------------------------

template <typename T>
int64_t few_bytes(const Layer &l, int64_t rows) {
    return round_up(rows * (3 * l.qkv.num_inputs + l.qkv.num_outputs + l.o.num_inputs + 3 * l.down.num_inputs) * 4);
}

template <typename T>
int64_t many_bytes(const Layer &l, int64_t rows, int64_t num_levels, int threads) {
#if HAS_TILES
    return round_up(Desk<T>(l, nullptr, rows).num_bytes(threads)) + 2 * round_up(rows * l.o.num_inputs * sizeof(T)) +
           read_bytes<T>(rows * l.num_qo, l.dim, num_levels, threads);
#else
    return 0;
#endif
}

// Memory that `run_layers` needs; no levels: for few rows.
template <typename T>
int64_t layers_bytes(const Layer *layers, int64_t num_layers, int64_t rows, int64_t num_levels, int threads) {
    int64_t most = 0;
    for (int64_t i = 0; i < num_layers; ++i)
        most = std::max(most, num_levels ? many_bytes<T>(layers[i], rows, num_levels, threads) : few_bytes<T>(layers[i], rows));
    return most;
}

// Layers one after the other. What the rows read: `units`, for few rows that share nothing, or levels.
template <typename T, typename C>
int run_layers(const Layer *layers, int64_t num_layers, const T *x, T *out, int64_t rows, const C *cos, const C *sin,
               const int64_t *slots, T *const *keys, T *const *values, const Units *units, const Level *levels,
               int64_t num_levels, int64_t window, char *memory, int threads) {
    for (int64_t i = 0; i < num_layers; ++i, x = out) {
        const Layer &l = layers[i];
        const C *c = l.is_rotated ? cos : nullptr, *s = l.is_rotated ? sin : nullptr;
        if (units) {
            if (run_layer(&l, x, out, rows, c, s, slots, keys[i], values[i], units, reinterpret_cast<float *>(memory), threads))
                return 1;
            continue;
        }
#if HAS_TILES
        char *rest = memory + round_up(Desk<T>(l, nullptr, rows).num_bytes(threads));
        T *q = reinterpret_cast<T *>(rest), *attended = reinterpret_cast<T *>(rest + round_up(rows * l.o.num_inputs * sizeof(T)));
        rest += 2 * round_up(rows * l.o.num_inputs * sizeof(T));
        enter_layer(l, x, rows, c, s, slots, q, keys[i], values[i], memory, threads);
        const Reading<T> r{q,        keys[i],           values[i], attended, nullptr,   nullptr, l.num_kv,
                           l.num_qo / l.num_kv, window, l.scale,   l.softcap, true,     true};
        if (!read(r, levels, num_levels, l.dim, rows * l.num_qo, rest, threads)) return 1;
        leave_layer(l, x, attended, out, rows, memory, threads);
#else
        return 1;
#endif
    }
    return 0;
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
    extern "C" int64_t read_bytes_##NAME(int64_t num_queries, int64_t dim, int64_t num_levels, int threads) {           \
        return read_bytes<T>(num_queries, dim, num_levels, threads);                                                   \
    }                                                                                                                  \
    extern "C" int read_##NAME(const T *q, const T *keys, const T *values, T *out, const Level *levels,                \
                               int64_t num_levels, int64_t rows, int64_t num_kv, int64_t group, int64_t dim,           \
                               float scale, float softcap, int64_t window, char *memory, int threads) {                \
        const Reading<T> r{q, keys, values, out, nullptr, nullptr, num_kv, group, window, scale, softcap, true, true}; \
        return read(r, levels, num_levels, dim, rows * num_kv * group, memory, threads) ? 0 : 1;                       \
    }                                                                                                                  \
    extern "C" int64_t product_bytes_##NAME(const Weight *weight, int64_t rows, int threads) {                         \
        return product_bytes<T>(*weight, rows, threads);                                                               \
    }                                                                                                                  \
    extern "C" void multiply_##NAME(const Weight *weight, const T *x, T *out, int64_t rows, char *memory,              \
                                    int threads) {                                                                     \
        multiply(*weight, x, out, rows, memory, threads);                                                              \
    }                                                                                                                  \
    extern "C" int64_t layers_bytes_##NAME(const Layer *layers, int64_t num_layers, int64_t rows, int64_t num_levels,  \
                                           int threads) {                                                              \
        return layers_bytes<T>(layers, num_layers, rows, num_levels, threads);                                         \
    }

#define EXPORT_ROTATED(T, C, NAME)                                                                                     \
    extern "C" void rotate_and_write_##NAME(const T *qkv, const T *weight, float eps, const C *cos, const C *sin,      \
                                            const int64_t *slots, T *q, T *keys, T *values, int64_t rows,              \
                                            int64_t num_qo, int64_t num_kv, int64_t dim, int threads) {                \
        rotate_and_write(qkv, weight, eps, cos, sin, slots, q, keys, values, rows, num_qo, num_kv, dim, threads);      \
    }                                                                                                                  \
    extern "C" int run_layers_##NAME(const Layer *layers, int64_t num_layers, const T *x, T *out, int64_t rows,        \
                                     const C *cos, const C *sin, const int64_t *slots, T *const *keys,                 \
                                     T *const *values, const Units *units, const Level *levels, int64_t num_levels,    \
                                     int64_t window, char *memory, int threads) {                                      \
        return run_layers(layers, num_layers, x, out, rows, cos, sin, slots, keys, values, units, levels, num_levels,  \
                          window, memory, threads);                                                                    \
    }

EXPORT(float, float32)
EXPORT(bf16, bfloat16)
EXPORT_ROTATED(float, float, float32_float32)
EXPORT_ROTATED(bf16, bf16, bfloat16_bfloat16)
EXPORT_ROTATED(bf16, float, bfloat16_float32)

extern "C" int may_multiply() { return may_use_tiles(); }
