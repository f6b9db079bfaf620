// What stands between the matrix products of a SANA block, forward and backward, for training on a CPU.
//
// Plain C functions over raw pointers. Each call runs on the thread that makes it: training gives every core a part
// of the batch of its own. Activations are bfloat16 (the upper half of a float32) or, compiled with WIDE, float32;
// arithmetic is float32. Everything a function needs besides is recomputed or lies in a few kilobytes on the stack of
// one sample, head or channel block: the operations of a framework would send each of these tensors through memory a
// dozen times.
//
// B samples, L tokens (H x W), D width, N heads, K head width, S text tokens, F gated width. D, K and F are multiples
// of 16.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace {

// As wide as a register: a compiler that has to split vectors sends them through memory.
#ifdef __AVX512F__
constexpr int64_t V = 16;
constexpr int AT_ONCE = 8;  // rows of a product, by the registers that hold them
#else
constexpr int64_t V = 8;
constexpr int AT_ONCE = 8;
#endif
typedef float vec __attribute__((vector_size(4 * V)));
typedef int32_t ivec __attribute__((vector_size(4 * V)));
typedef uint32_t uvec __attribute__((vector_size(4 * V)));
typedef uint16_t half __attribute__((vector_size(2 * V)));

inline vec fill(float x) { return vec{} + x; }

inline vec load(const float* p) {
    vec v;
    std::memcpy(&v, p, sizeof v);
    return v;
}
inline void store(float* p, vec v) { std::memcpy(p, &v, sizeof v); }

#ifdef WIDE
typedef float narrow;
#else
typedef uint16_t narrow;

inline vec load(const uint16_t* p) {
    half h;
    std::memcpy(&h, p, sizeof h);
    return (vec)(__builtin_convertvector(h, uvec) << 16);
}
inline void store(uint16_t* p, vec v) {  // to nearest, ties to even
    uvec u = (uvec)v;
    half h = __builtin_convertvector((u + 0x7fff + ((u >> 16) & 1)) >> 16, half);
    std::memcpy(p, &h, sizeof h);
}
#endif

inline float sum(vec v) {
    float s = 0;
    for (int i = 0; i < V; i++) s += v[i];
    return s;
}
inline vec max(vec a, vec b) { return a > b ? a : b; }
inline vec min(vec a, vec b) { return a < b ? a : b; }
inline vec relu(vec x) { return max(x, vec{}); }

// 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2]; relative error below 3e-7.
inline vec exp(vec x) {
    x = min(max(x, fill(-87.0f)), fill(88.0f));
    vec shifted = x * 1.44269504f + 12582912.0f;  // rounds to a whole number in the low bits
    ivec n = (ivec)shifted - (ivec)fill(12582912.0f);
    vec r = x - (shifted - 12582912.0f) * 0.693359375f + (shifted - 12582912.0f) * 2.12194440e-4f;
    vec p = fill(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return (vec)((ivec)p + (n << 23));
}
inline vec inverse(vec x) {
#ifdef __AVX512F__
    vec r = (vec)_mm512_rcp14_ps((__m512)x);  // a division takes as long as ten of what stands around it
    return r * (2.0f - x * r);
#else
    return 1.0f / x;
#endif
}
inline vec sigmoid(vec x) { return inverse(1.0f + exp(-x)); }

// Rows of c[M][N] = a b, where a is [M][K], or [K][M] if TURNED, and b [K][N]. N is a multiple of 16.
template <bool TURNED, int ROWS>
inline void product_rows(const float* a, int64_t as, const float* b, float* c, int64_t k, int64_t n) {
    for (int64_t j = 0; j < n; j += V) {
        vec acc[ROWS] = {};
        for (int64_t i = 0; i < k; i++) {
            vec x = load(b + i * n + j);
            for (int r = 0; r < ROWS; r++) acc[r] += a[TURNED ? i * as + r : r * as + i] * x;
        }
        for (int r = 0; r < ROWS; r++) store(c + r * n + j, acc[r]);
    }
}
template <bool TURNED = false>
void product(const float* a, const float* b, float* c, int64_t m, int64_t k, int64_t n) {
    int64_t r = 0, as = TURNED ? m : k;
    auto from = [=](int64_t r) { return a + (TURNED ? r : r * as); };
    for (; r + AT_ONCE <= m; r += AT_ONCE) product_rows<TURNED, AT_ONCE>(from(r), as, b, c + r * n, k, n);
    for (; r + 2 <= m; r += 2) product_rows<TURNED, 2>(from(r), as, b, c + r * n, k, n);
    for (; r < m; r++) product_rows<TURNED, 1>(from(r), as, b, c + r * n, k, n);
}

void transpose(const float* a, float* t, int64_t rows, int64_t columns) {
    for (int64_t i = 0; i < columns; i++)
        for (int64_t r = 0; r < rows; r++) t[i * rows + r] = a[r * columns + i];
}

void read_rows(const narrow* p, int64_t stride, float* out, int64_t rows, int64_t width) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < width; i += V) store(out + r * width + i, load(p + r * stride + i));
}

struct LinearHead {  // of one sample and head: relu(q), relu(k), v [L, K]; summaries; the output
    std::vector<float> q, k, v, kv, out, k_sum, den;
    int64_t L, K;
    LinearHead(int64_t L, int64_t K)
        : q(L * K), k(L * K), v(L * K), kv(K * K), out(L * K), k_sum(K), den(L), L(L), K(K) {}

    void attend(const narrow* qkv, int64_t stride, int64_t D, float eps) {
        std::fill(k_sum.begin(), k_sum.end(), 0.0f);
        for (int64_t l = 0; l < L; l++)
            for (int64_t i = 0; i < K; i += V) {
                const narrow* row = qkv + l * stride + i;
                store(&q[l * K + i], relu(load(row)));
                vec key = relu(load(row + D));
                store(&k[l * K + i], key);
                store(&v[l * K + i], load(row + 2 * D));
                store(&k_sum[i], load(&k_sum[i]) + key);
            }
        product<true>(k.data(), v.data(), kv.data(), K, L, K);
        product(q.data(), kv.data(), out.data(), L, K, K);
        for (int64_t l = 0; l < L; l++) {
            vec dot{};
            for (int64_t i = 0; i < K; i += V) dot += load(&q[l * K + i]) * load(&k_sum[i]);
            den[l] = sum(dot) + eps;
            for (int64_t i = 0; i < K; i += V) store(&out[l * K + i], load(&out[l * K + i]) / den[l]);
        }
    }
};

struct CrossHead {  // of one sample and head; S is padded to a multiple of 16 with weights of zero
    std::vector<float> q, k, v, t, p, out;
    int64_t L, S, P, K;
    CrossHead(int64_t L, int64_t S, int64_t K)
        : q(L * K), k((S + V) * K), v((S + V) * K), t(K * (S + V)), p(L * (S + V)), out(L * K), L(L), S(S), P(0), K(K) {}

    void attend(const narrow* q_, const narrow* k_, const narrow* v_, const uint8_t* mask, int64_t D, float scale) {
        int64_t last = 0;
        for (int64_t s = 0; s < S; s++)
            if (mask[s]) last = s + 1;
        P = (last + V - 1) / V * V;
        read_rows(q_, D, q.data(), L, K);
        read_rows(k_, D, k.data(), last, K);
        read_rows(v_, D, v.data(), last, K);
        std::fill(k.begin() + last * K, k.begin() + P * K, 0.0f);
        std::fill(v.begin() + last * K, v.begin() + P * K, 0.0f);
        transpose(k.data(), t.data(), P, K);
        product(q.data(), t.data(), p.data(), L, K, P);
        for (int64_t l = 0; l < L; l++) {
            float* row = &p[l * P];
            float most = -INFINITY;
            for (int64_t s = 0; s < P; s++) {
                bool there = s < last && mask[s];
                row[s] = there ? row[s] * scale : -INFINITY;
                most = row[s] > most ? row[s] : most;
            }
            vec total{};
            for (int64_t s = 0; s < P; s += V) {
                vec x = load(row + s);
                vec e = x == -INFINITY ? vec{} : exp(x - most);
                store(row + s, e);
                total += e;
            }
            float one = 1.0f / sum(total);
            for (int64_t s = 0; s < P; s += V) store(row + s, load(row + s) * one);
        }
        product(p.data(), v.data(), out.data(), L, P, K);
    }
};

// A picture of 16 channels with a border of zeros.
struct Padded {
    std::vector<float> data;
    int64_t H, W;
    Padded(int64_t H, int64_t W) : data((H + 2) * (W + 2) * V), H(H), W(W) {}
    float* at(int64_t y, int64_t x) { return &data[((y + 1) * (W + 2) + x + 1) * V]; }
    vec convolve(int64_t y, int64_t x, const vec* w) {
        vec acc{};
        for (int64_t dy = 0; dy < 3; dy++)
            for (int64_t dx = 0; dx < 3; dx++) acc += load(at(y + dy - 1, x + dx - 1)) * w[dy * 3 + dx];
        return acc;
    }
    vec correlate(int64_t y, int64_t x, const vec* w) {
        vec acc{};
        for (int64_t dy = 0; dy < 3; dy++)
            for (int64_t dx = 0; dx < 3; dx++) acc += load(at(y + 1 - dy, x + 1 - dx)) * w[dy * 3 + dx];
        return acc;
    }
};

}  // namespace

extern "C" {

// out[B,L,D] = layer_norm(x) (1 + scale[B,D]) + shift[B,D]; mean and rstd [B,L] are kept. Samples of scale and shift
// lie `stride` apart.
void norm_forward(const float* x, const float* shift, const float* scale, int64_t stride, narrow* out, float* mean,
                  float* rstd, int64_t B, int64_t L, int64_t D, float eps) {
    for (int64_t b = 0; b < B; b++)
        for (int64_t l = 0; l < L; l++) {
            const float* row = x + (b * L + l) * D;
            vec s{}, q{};
            for (int64_t i = 0; i < D; i += V) s += load(row + i);
            float m = sum(s) / D;
            for (int64_t i = 0; i < D; i += V) {
                vec d = load(row + i) - m;
                q += d * d;
            }
            float r = 1.0f / std::sqrt(sum(q) / D + eps);
            mean[b * L + l] = m;
            rstd[b * L + l] = r;
            for (int64_t i = 0; i < D; i += V)
                store(out + (b * L + l) * D + i,
                      (load(row + i) - m) * r * (1.0f + load(scale + b * stride + i)) + load(shift + b * stride + i));
        }
}

// Adds to gx[B,L,D], and sets g_shift and g_scale (laid out as shift and scale).
void norm_backward(const narrow* g, const float* x, const float* mean, const float* rstd, const float* scale,
                   int64_t stride, float* gx, float* g_shift, float* g_scale, int64_t B, int64_t L, int64_t D) {
    for (int64_t b = 0; b < B; b++) {
        float *gb = g_shift + b * stride, *gs = g_scale + b * stride;
        std::memset(gb, 0, D * sizeof(float));
        std::memset(gs, 0, D * sizeof(float));
        for (int64_t l = 0; l < L; l++) {
            int64_t at = (b * L + l) * D;
            float m = mean[b * L + l], r = rstd[b * L + l];
            vec s1{}, s2{};
            for (int64_t i = 0; i < D; i += V) {
                vec up = load(g + at + i), n = (load(x + at + i) - m) * r, d = up * (1.0f + load(scale + b * stride + i));
                store(gb + i, load(gb + i) + up);
                store(gs + i, load(gs + i) + up * n);
                s1 += d;
                s2 += d * n;
            }
            float a = sum(s1) / D, c = sum(s2) / D;
            for (int64_t i = 0; i < D; i += V) {
                vec n = (load(x + at + i) - m) * r, d = load(g + at + i) * (1.0f + load(scale + b * stride + i));
                store(gx + at + i, load(gx + at + i) + (d - a - n * c) * r);
            }
        }
    }
}

// out = x + gate[B,D] a (gate may be null: 1), and the same as an activation where `rounded` is given.
void residual_forward(const float* x, const narrow* a, const float* gate, int64_t stride, float* out, narrow* rounded,
                      int64_t B, int64_t L, int64_t D) {
    for (int64_t b = 0; b < B; b++)
        for (int64_t l = 0; l < L; l++)
            for (int64_t i = 0; i < D; i += V) {
                int64_t at = (b * L + l) * D + i;
                vec y = load(a + at);
                if (gate) y *= load(gate + b * stride + i);
                y += load(x + at);
                store(out + at, y);
                if (rounded) store(rounded + at, y);
            }
}

// ga = gate g, as an activation; sets g_gate = sum over L of g a.
void residual_backward(const float* g, const narrow* a, const float* gate, int64_t stride, narrow* ga, float* g_gate,
                       int64_t B, int64_t L, int64_t D) {
    for (int64_t b = 0; b < B; b++) {
        if (g_gate) std::memset(g_gate + b * stride, 0, D * sizeof(float));
        for (int64_t l = 0; l < L; l++)
            for (int64_t i = 0; i < D; i += V) {
                int64_t at = (b * L + l) * D + i;
                vec up = load(g + at);
                if (gate) {
                    float* sum = g_gate + b * stride + i;
                    store(sum, load(sum) + up * load(a + at));
                    up *= load(gate + b * stride + i);
                }
                store(ga + at, up);
            }
    }
}

// x[rows, D] += a.
void add(float* x, const narrow* a, int64_t count) {
    for (int64_t i = 0; i < count; i += V) store(x + i, load(x + i) + load(a + i));
}

// out[width] = sum over rows of g[rows, width].
void column_sums(const narrow* g, float* out, int64_t rows, int64_t width) {
    std::memset(out, 0, width * sizeof(float));
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < width; i += V) store(out + i, load(out + i) + load(g + r * width + i));
}

void linear_attention_forward(const narrow* qkv, narrow* out, int64_t B, int64_t L, int64_t N, int64_t K, float eps) {
    int64_t D = N * K;
    LinearHead head(L, K);
    for (int64_t b = 0; b < B; b++)
        for (int64_t n = 0; n < N; n++) {
            head.attend(qkv + b * L * 3 * D + n * K, 3 * D, D, eps);
            for (int64_t l = 0; l < L; l++)
                for (int64_t i = 0; i < K; i += V) store(out + (b * L + l) * D + n * K + i, load(&head.out[l * K + i]));
        }
}

void linear_attention_backward(const narrow* g, const narrow* qkv, narrow* g_qkv, int64_t B, int64_t L, int64_t N,
                               int64_t K, float eps) {
    int64_t D = N * K;
    LinearHead head(L, K);
    std::vector<float> up(L * K), d(L * K), gd(L), g_kv(K * K), turned(K * K), gk_sum(K);
    for (int64_t b = 0; b < B; b++)
        for (int64_t n = 0; n < N; n++) {
            const narrow* start = qkv + b * L * 3 * D + n * K;
            narrow* out = g_qkv + b * L * 3 * D + n * K;
            head.attend(start, 3 * D, D, eps);
            read_rows(g + b * L * D + n * K, D, up.data(), L, K);
            std::fill(gk_sum.begin(), gk_sum.end(), 0.0f);
            for (int64_t l = 0; l < L; l++) {
                vec dot{};
                for (int64_t i = 0; i < K; i += V) {
                    vec part = load(&up[l * K + i]) / head.den[l];
                    dot += part * load(&head.out[l * K + i]);
                    store(&up[l * K + i], part);
                }
                gd[l] = -sum(dot);
                for (int64_t i = 0; i < K; i += V) store(&gk_sum[i], load(&gk_sum[i]) + gd[l] * load(&head.q[l * K + i]));
            }
            // d q
            transpose(head.kv.data(), turned.data(), K, K);
            product(up.data(), turned.data(), d.data(), L, K, K);
            for (int64_t l = 0; l < L; l++)
                for (int64_t i = 0; i < K; i += V) {
                    vec x = load(&d[l * K + i]) + gd[l] * load(&head.k_sum[i]);
                    store(out + l * 3 * D + i, load(&head.q[l * K + i]) > 0.0f ? x : vec{});
                }
            // d (k^T v), then d k and d v
            product<true>(head.q.data(), up.data(), g_kv.data(), K, L, K);
            transpose(g_kv.data(), turned.data(), K, K);
            product(head.v.data(), turned.data(), d.data(), L, K, K);
            for (int64_t l = 0; l < L; l++)
                for (int64_t i = 0; i < K; i += V) {
                    vec x = load(&d[l * K + i]) + load(&gk_sum[i]);
                    store(out + l * 3 * D + D + i, load(&head.k[l * K + i]) > 0.0f ? x : vec{});
                }
            product(head.k.data(), g_kv.data(), d.data(), L, K, K);
            for (int64_t l = 0; l < L; l++)
                for (int64_t i = 0; i < K; i += V) store(out + l * 3 * D + 2 * D + i, load(&d[l * K + i]));
        }
}

// q [B,L,D], k and v [B,S,D], mask [B,S] with at least one true in each row.
void cross_attention_forward(const narrow* q, const narrow* k, const narrow* v, const uint8_t* mask, narrow* out,
                             int64_t B, int64_t L, int64_t S, int64_t N, int64_t K) {
    int64_t D = N * K;
    CrossHead head(L, S, K);
    float scale = 1.0f / std::sqrt((float)K);
    for (int64_t b = 0; b < B; b++)
        for (int64_t n = 0; n < N; n++) {
            int64_t text = b * S * D + n * K;
            head.attend(q + b * L * D + n * K, k + text, v + text, mask + b * S, D, scale);
            for (int64_t l = 0; l < L; l++)
                for (int64_t i = 0; i < K; i += V) store(out + (b * L + l) * D + n * K + i, load(&head.out[l * K + i]));
        }
}

void cross_attention_backward(const narrow* g, const narrow* q, const narrow* k, const narrow* v,
                              const uint8_t* mask, narrow* gq, narrow* gk, narrow* gv, int64_t B, int64_t L, int64_t S,
                              int64_t N, int64_t K) {
    int64_t D = N * K;
    CrossHead head(L, S, K);
    std::vector<float> up(L * K), d(std::max(L, S + V) * K), gp(L * (S + V)), turned((S + V) * K);
    float scale = 1.0f / std::sqrt((float)K);
    for (int64_t b = 0; b < B; b++)
        for (int64_t n = 0; n < N; n++) {
            int64_t image = b * L * D + n * K, text = b * S * D + n * K;
            head.attend(q + image, k + text, v + text, mask + b * S, D, scale);
            int64_t P = head.P, rows = P < S ? P : S;
            read_rows(g + image, D, up.data(), L, K);
            product<true>(head.p.data(), up.data(), d.data(), P, L, K);
            for (int64_t s = 0; s < S; s++)
                for (int64_t i = 0; i < K; i += V) store(gv + text + s * D + i, s < rows ? load(&d[s * K + i]) : vec{});
            transpose(head.v.data(), turned.data(), P, K);
            product(up.data(), turned.data(), gp.data(), L, K, P);
            for (int64_t l = 0; l < L; l++) {
                vec dot{};
                for (int64_t s = 0; s < P; s += V) dot += load(&gp[l * P + s]) * load(&head.p[l * P + s]);
                float mean = sum(dot);
                for (int64_t s = 0; s < P; s += V)
                    store(&gp[l * P + s], (load(&gp[l * P + s]) - mean) * load(&head.p[l * P + s]) * scale);
            }
            product(gp.data(), head.k.data(), d.data(), L, P, K);
            for (int64_t l = 0; l < L; l++)
                for (int64_t i = 0; i < K; i += V) store(gq + image + l * D + i, load(&d[l * K + i]));
            product<true>(gp.data(), head.q.data(), d.data(), P, L, K);
            for (int64_t s = 0; s < S; s++)
                for (int64_t i = 0; i < K; i += V) store(gk + text + s * D + i, s < rows ? load(&d[s * K + i]) : vec{});
        }
}

// h [B,L,2F] before its SiLU; w [9,2F], bias [2F]: out [B,L,F] = value silu(gate) of the convolved.
void gated_convolution_forward(const narrow* h, const float* w, const float* bias, narrow* out, int64_t B, int64_t H,
                               int64_t W, int64_t F) {
    Padded value(H, W), gate(H, W);
    for (int64_t c = 0; c < F; c += V) {
        vec wv[9], wg[9];
        for (int t = 0; t < 9; t++) wv[t] = load(w + t * 2 * F + c), wg[t] = load(w + t * 2 * F + F + c);
        vec bv = load(bias + c), bg = load(bias + F + c);
        for (int64_t b = 0; b < B; b++) {
            const narrow* row = h + b * H * W * 2 * F + c;
            for (int64_t y = 0; y < H; y++)
                for (int64_t x = 0; x < W; x++, row += 2 * F) {
                    vec v = load(row), g = load(row + F);
                    store(value.at(y, x), v * sigmoid(v));
                    store(gate.at(y, x), g * sigmoid(g));
                }
            narrow* to = out + b * H * W * F + c;
            for (int64_t y = 0; y < H; y++)
                for (int64_t x = 0; x < W; x++, to += F) {
                    vec v = value.convolve(y, x, wv) + bv, g = gate.convolve(y, x, wg) + bg;
                    store(to, v * g * sigmoid(g));
                }
        }
    }
}

// Sets gh [B,L,2F], gw [9,2F] and g_bias [2F].
void gated_convolution_backward(const narrow* g, const narrow* h, const float* w, const float* bias, narrow* gh,
                                float* gw, float* g_bias, int64_t B, int64_t H, int64_t W, int64_t F) {
    Padded s[2] = {Padded(H, W), Padded(H, W)}, up[2] = {Padded(H, W), Padded(H, W)};
    std::vector<float> slope[2] = {std::vector<float>(H * W * V), std::vector<float>(H * W * V)};
    for (int64_t c = 0; c < F; c += V) {
        vec k[2][9], bias_[2], acc[2][9] = {}, acc_bias[2] = {};
        for (int part = 0; part < 2; part++) {
            for (int t = 0; t < 9; t++) k[part][t] = load(w + t * 2 * F + part * F + c);
            bias_[part] = load(bias + part * F + c);
        }
        for (int64_t b = 0; b < B; b++) {
            const narrow* row = h + b * H * W * 2 * F + c;
            for (int64_t y = 0, l = 0; y < H; y++)
                for (int64_t x = 0; x < W; x++, l++, row += 2 * F)
                    for (int part = 0; part < 2; part++) {
                        vec a = load(row + part * F), p = sigmoid(a);
                        store(s[part].at(y, x), a * p);
                        store(&slope[part][l * V], p * (1.0f + a * (1.0f - p)));
                    }
            const narrow* from = g + b * H * W * F + c;
            for (int64_t y = 0; y < H; y++)
                for (int64_t x = 0; x < W; x++, from += F) {
                    vec d = load(from), v = s[0].convolve(y, x, k[0]) + bias_[0], a = s[1].convolve(y, x, k[1]) + bias_[1];
                    vec p = sigmoid(a), dv = d * a * p, da = d * v * p * (1.0f + a * (1.0f - p));
                    store(up[0].at(y, x), dv);
                    store(up[1].at(y, x), da);
                    acc_bias[0] += dv;
                    acc_bias[1] += da;
                }
            for (int part = 0; part < 2; part++) {
                vec sums[9];
                for (int t = 0; t < 9; t++) sums[t] = acc[part][t];
                for (int64_t y = 0; y < H; y++)
                    for (int64_t x = 0; x < W; x++) {
                        vec d = load(up[part].at(y, x));
                        for (int t = 0; t < 9; t++) sums[t] += d * load(s[part].at(y + t / 3 - 1, x + t % 3 - 1));
                    }
                for (int t = 0; t < 9; t++) acc[part][t] = sums[t];
                narrow* to = gh + b * H * W * 2 * F + part * F + c;
                for (int64_t y = 0, l = 0; y < H; y++)
                    for (int64_t x = 0; x < W; x++, l++, to += 2 * F)
                        store(to, up[part].correlate(y, x, k[part]) * load(&slope[part][l * V]));
            }
        }
        for (int part = 0; part < 2; part++) {
            for (int t = 0; t < 9; t++) store(gw + t * 2 * F + part * F + c, acc[part][t]);
            store(g_bias + part * F + c, acc_bias[part]);
        }
    }
}

}  // extern "C"
