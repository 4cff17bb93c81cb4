// softmax(cos(Q, K) / tau + B) (V * helper) in windows (Eq. 3) and its gradient, one window and head at a time: what is
// held in between stays in registers and the first cache. Loops have constant bounds, for compilers to vectorise; LANES
// numbers at a time become whatever vectors the processor has. WINDOW is the side of a window, WIDTH the channels of a
// head.

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

constexpr int TOKENS = WINDOW * WINDOW;
constexpr int LANES = 16;
constexpr int PADDED = (WIDTH + LANES - 1) / LANES * LANES;
constexpr int QUERIES = 4;  // at once: their scores fill the registers
typedef float Lanes __attribute__((vector_size(LANES * sizeof(float))));
static_assert(TOKENS % LANES == 0, "windows of 4x4, 8x8, 12x12 and so on");

typedef float Rows[TOKENS][WIDTH];      // by token
typedef float Columns[WIDTH][TOKENS];   // by channel: the lanes are tokens
typedef float Padded[TOKENS][PADDED];   // by token: the lanes are channels
typedef float Scores[QUERIES][TOKENS];  // of some queries with all keys

template <int COUNT>
inline void load(const float* from, float* to) {
    for (int i = 0; i < COUNT; ++i) to[i] = from[i];
}

template <int COUNT>
inline void load(const uint16_t* from, float* to) {  // bfloat16 is the upper half of a float32
    uint32_t bits[COUNT];
    for (int i = 0; i < COUNT; ++i) bits[i] = static_cast<uint32_t>(from[i]) << 16;
    std::memcpy(to, bits, sizeof bits);
}

template <int COUNT>
inline void store(const float* from, float* to) {
    for (int i = 0; i < COUNT; ++i) to[i] = from[i];
}

template <int COUNT>
inline void store(const float* from, uint16_t* to) {  // rounded to nearest, ties to even
    uint32_t bits[COUNT];
    std::memcpy(bits, from, sizeof bits);
    for (int i = 0; i < COUNT; ++i) to[i] = static_cast<uint16_t>((bits[i] + 0x7fff + ((bits[i] >> 16) & 1)) >> 16);
}

// exp of values up to 0, relative error 2e-7: 2^n * 2^f, with a polynomial for |f| <= 1/2.
inline float exponential(float x) {
    float scaled = std::max(x * 1.44269504f, -126.0f);
    float n = std::floor(scaled + 0.5f);
    float f = scaled - n;
    float power = 0.00133952964f + f * 0.000154034f;
    power = 0.0555032842f + f * (0.00961834192f + f * power);
    power = 1.0f + f * (0.693147182f + f * (0.240226462f + f * power));
    uint32_t bits;
    std::memcpy(&bits, &power, sizeof bits);
    bits += static_cast<uint32_t>(static_cast<int32_t>(n)) << 23;
    std::memcpy(&power, &bits, sizeof bits);
    return power;
}

// out[r] = start[r] + sum over d of rows[r][d] * columns[d]; start is 0 where there is none.
inline void multiply(const float (*rows)[WIDTH], const Columns& columns, const float* start, Scores& out) {
    constexpr int PARTS = TOKENS / LANES;
    constexpr int BLOCK = PARTS % 4 == 0 ? 4 : PARTS % 3 == 0 ? 3 : 1;
    for (int first = 0; first < PARTS; first += BLOCK) {
        Lanes sums[QUERIES][BLOCK] = {}, column;
        if (start)
            for (int r = 0; r < QUERIES; ++r)
                std::memcpy(sums[r], start + r * TOKENS + first * LANES, sizeof sums[r]);
        for (int d = 0; d < WIDTH; ++d)
            for (int part = 0; part < BLOCK; ++part) {
                std::memcpy(&column, &columns[d][(first + part) * LANES], sizeof column);
                for (int r = 0; r < QUERIES; ++r) sums[r][part] += rows[r][d] * column;
            }
        for (int r = 0; r < QUERIES; ++r) std::memcpy(&out[r][first * LANES], sums[r], sizeof sums[r]);
    }
}

// out[r] = sum over tokens j of weights[r][j] * values[j].
inline void weigh(const Scores& weights, const Padded& values, float (&out)[QUERIES][PADDED]) {
    constexpr int PARTS = PADDED / LANES;
    Lanes sums[QUERIES][PARTS] = {}, value;
    for (int j = 0; j < TOKENS; ++j)
        for (int part = 0; part < PARTS; ++part) {
            std::memcpy(&value, &values[j][part * LANES], sizeof value);
            for (int r = 0; r < QUERIES; ++r) sums[r][part] += weights[r][j] * value;
        }
    std::memcpy(out, sums, sizeof sums);
}

// sums[d] += sum over r of rows[r][d] * weights[r].
inline void accumulate(const float (*rows)[WIDTH], const Scores& weights, Columns& sums) {
    constexpr int PARTS = TOKENS / LANES;
    constexpr int BLOCK = PARTS % 4 == 0 ? 4 : PARTS % 3 == 0 ? 3 : 1;
    for (int first = 0; first < PARTS; first += BLOCK) {
        Lanes weight[QUERIES][BLOCK], sum[BLOCK];
        for (int r = 0; r < QUERIES; ++r) std::memcpy(weight[r], &weights[r][first * LANES], sizeof weight[r]);
        for (int d = 0; d < WIDTH; ++d) {
            std::memcpy(sum, &sums[d][first * LANES], sizeof sum);
            for (int part = 0; part < BLOCK; ++part)
                for (int r = 0; r < QUERIES; ++r) sum[part] += rows[r][d] * weight[r][part];
            std::memcpy(&sums[d][first * LANES], sum, sizeof sum);
        }
    }
}

// A window in maps of `heads` times WIDTH channels, or three times as many.
struct Place {
    int64_t pixel, row, heads;  // its first pixel; pixels of a row of the image

    Place(int64_t window, int64_t height, int64_t width, int64_t heads)
        : pixel(window / (width / WINDOW) * WINDOW * width + window % (width / WINDOW) * WINDOW), row(width),
          heads(heads) {}

    int64_t token(int i) const { return pixel + i / WINDOW * row + i % WINDOW; }
    int64_t qkv(int i, int64_t head) const { return (token(i) * heads + head) * 3 * WIDTH; }
    int64_t out(int i, int64_t head) const { return (token(i) * heads + head) * WIDTH; }
    int64_t helper(int i) const { return token(i) * WIDTH; }
};

// Queries and keys of unit length, those of queries divided by tau; values as they are.
struct Head {
    alignas(64) Rows q, value;
    alignas(64) Columns k;
    float query_scale[TOKENS], key_scale[TOKENS];

    template <typename T>
    Head(const T* qkv, const Place& place, int64_t head, float inverse_tau) {
        for (int i = 0; i < TOKENS; ++i) {
            alignas(64) float from[3 * WIDTH];
            load<3 * WIDTH>(qkv + place.qkv(i, head), from);
            const float *query = from, *key = from + WIDTH;
            float qq = 0, kk = 0;
            for (int d = 0; d < WIDTH; ++d) qq += query[d] * query[d];
            for (int d = 0; d < WIDTH; ++d) kk += key[d] * key[d];
            query_scale[i] = inverse_tau / std::max(std::sqrt(qq), 1e-12f);
            key_scale[i] = 1 / std::max(std::sqrt(kk), 1e-12f);
            for (int d = 0; d < WIDTH; ++d) q[i][d] = query[d] * query_scale[i];
            for (int d = 0; d < WIDTH; ++d) k[d][i] = key[d] * key_scale[i];
            for (int d = 0; d < WIDTH; ++d) value[i][d] = from[2 * WIDTH + d];
        }
    }

    // The unnormalised attention of some queries from i on, and its sums.
    void attention(int i, const float* bias, Scores& p, float (&sums)[QUERIES]) const {
        multiply(q + i, k, bias + i * TOKENS, p);
        for (int r = 0; r < QUERIES; ++r) {
            float largest = p[r][0], sum = 0;
            for (int j = 1; j < TOKENS; ++j) largest = std::max(largest, p[r][j]);
            for (int j = 0; j < TOKENS; ++j) {
                p[r][j] = exponential(p[r][j] - largest);
                sum += p[r][j];
            }
            sums[r] = sum;
        }
    }
};

// The helper of every token, or 1.
template <typename T>
struct Helper {
    alignas(64) Rows rows;

    Helper(const T* helper, const Place& place) {
        for (int i = 0; i < TOKENS; ++i) {
            for (int d = 0; d < WIDTH; ++d) rows[i][d] = 1;
            if (helper) load<WIDTH>(helper + place.helper(i), rows[i]);
        }
    }
};

template <typename T>
void attend(const T* qkv, const T* helper, const float* bias, const float* inverse_tau, T* out, int64_t images,
            int64_t height, int64_t width, int64_t heads, int64_t threads) {
    const int64_t windows = images * height * width / TOKENS;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t window = 0; window < windows; ++window) {
        const Place place(window, height, width, heads);
        const Helper<T> help(helper, place);
        for (int64_t n = 0; n < heads; ++n) {
            const Head head(qkv, place, n, inverse_tau[n]);
            alignas(64) Padded v;
            for (int i = 0; i < TOKENS; ++i) {
                for (int d = 0; d < WIDTH; ++d) v[i][d] = head.value[i][d] * help.rows[i][d];
                for (int d = WIDTH; d < PADDED; ++d) v[i][d] = 0;
            }
            for (int i = 0; i < TOKENS; i += QUERIES) {
                alignas(64) Scores p;
                alignas(64) float o[QUERIES][PADDED], sums[QUERIES];
                head.attention(i, bias + n * TOKENS * TOKENS, p, sums);
                weigh(p, v, o);
                for (int r = 0; r < QUERIES; ++r) {
                    for (int d = 0; d < WIDTH; ++d) o[r][d] /= sums[r];
                    store<WIDTH>(o[r], out + place.out(i + r, n));
                }
            }
        }
    }
}

// Of one head: to_qkv is written; to_help, to_bias and the result, the gradient of 1/tau, are sums.
template <typename T>
float differentiate(const T* to_out, const T* qkv, const Place& place, int64_t n, const Rows& help, const float* bias,
                    float inverse_tau, T* to_qkv, Rows& to_help, float* to_bias) {
    const Head head(qkv, place, n, inverse_tau);
    alignas(64) Rows to_o, to_q;
    alignas(64) Columns v, to_k = {}, to_v = {};
    alignas(64) Padded k;
    for (int i = 0; i < TOKENS; ++i) {
        load<WIDTH>(to_out + place.out(i, n), to_o[i]);
        for (int d = 0; d < WIDTH; ++d) v[d][i] = head.value[i][d] * help[i][d];
        for (int d = 0; d < WIDTH; ++d) k[i][d] = head.k[d][i];
        for (int d = WIDTH; d < PADDED; ++d) k[i][d] = 0;
    }
    float to_inverse_tau = 0;
    for (int i = 0; i < TOKENS; i += QUERIES) {
        alignas(64) Scores p, to_p;
        alignas(64) float to_unit[QUERIES][PADDED], sums[QUERIES];
        head.attention(i, bias, p, sums);
        multiply(to_o + i, v, nullptr, to_p);
        for (int r = 0; r < QUERIES; ++r) {
            float mean = 0, reciprocal = 1 / sums[r];
            for (int j = 0; j < TOKENS; ++j) p[r][j] *= reciprocal;
            for (int j = 0; j < TOKENS; ++j) mean += p[r][j] * to_p[r][j];
            for (int j = 0; j < TOKENS; ++j) to_p[r][j] = p[r][j] * (to_p[r][j] - mean);  // now of the scores
            for (int j = 0; j < TOKENS; ++j) to_bias[(i + r) * TOKENS + j] += to_p[r][j];
        }
        accumulate(to_o + i, p, to_v);
        accumulate(head.q + i, to_p, to_k);
        weigh(to_p, k, to_unit);
        for (int r = 0; r < QUERIES; ++r) {
            const float* q = head.q[i + r];
            float along = 0;
            for (int d = 0; d < WIDTH; ++d) along += to_unit[r][d] * q[d];
            to_inverse_tau += along / inverse_tau;
            along /= inverse_tau * inverse_tau;  // a change along q does not change its direction
            for (int d = 0; d < WIDTH; ++d) to_q[i + r][d] = (to_unit[r][d] - along * q[d]) * head.query_scale[i + r];
        }
    }
    alignas(64) float along[TOKENS] = {};
    for (int d = 0; d < WIDTH; ++d)
        for (int j = 0; j < TOKENS; ++j) along[j] += to_k[d][j] * head.k[d][j];
    for (int d = 0; d < WIDTH; ++d)
        for (int j = 0; j < TOKENS; ++j) to_k[d][j] = (to_k[d][j] - along[j] * head.k[d][j]) * head.key_scale[j];
    for (int j = 0; j < TOKENS; ++j) {
        alignas(64) float to[3 * WIDTH];
        for (int d = 0; d < WIDTH; ++d) to[d] = to_q[j][d];
        for (int d = 0; d < WIDTH; ++d) to[WIDTH + d] = to_k[d][j];
        for (int d = 0; d < WIDTH; ++d) to[2 * WIDTH + d] = to_v[d][j] * help[j][d];
        for (int d = 0; d < WIDTH; ++d) to_help[j][d] += to_v[d][j] * head.value[j][d];
        store<3 * WIDTH>(to, to_qkv + place.qkv(j, n));
    }
    return to_inverse_tau;
}

template <typename T>
void differentiate(const T* to_out, const T* qkv, const T* helper, const float* bias, const float* inverse_tau,
                   T* to_qkv, T* to_helper, float* to_bias, float* to_inverse_tau, int64_t images, int64_t height,
                   int64_t width, int64_t heads, int64_t threads) {
    const int64_t windows = images * height * width / TOKENS;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t window = 0; window < windows; ++window) {
        const int64_t first = omp_get_thread_num() * heads;
        const Place place(window, height, width, heads);
        const Helper<T> help(helper, place);
        alignas(64) Rows to_help = {};
        for (int64_t n = 0; n < heads; ++n)
            to_inverse_tau[first + n] += differentiate(
                to_out, qkv, place, n, help.rows, bias + n * TOKENS * TOKENS, inverse_tau[n], to_qkv, to_help,
                to_bias + (first + n) * TOKENS * TOKENS);
        if (to_helper)
            for (int i = 0; i < TOKENS; ++i) store<WIDTH>(to_help[i], to_helper + place.helper(i));
    }
}

}  // namespace

// Maps qkv (N, H, W, heads * 3 * WIDTH), helper (N, H, W, WIDTH) or null, bias (heads, TOKENS, TOKENS), 1/tau (heads)
// -> out (N, H, W, heads * WIDTH); H and W are multiples of WINDOW. The gradients, to_..., have the same shapes, and
// those of bias and 1/tau one sum for each thread: (threads, ...), zero before.
#define EXPORT(DTYPE, T)                                                                                               \
    extern "C" void attend_##DTYPE(const T* qkv, const T* helper, const float* bias, const float* inverse_tau, T* out, \
                                   int64_t images, int64_t height, int64_t width, int64_t heads, int64_t threads) {    \
        attend(qkv, helper, bias, inverse_tau, out, images, height, width, heads, threads);                            \
    }                                                                                                                  \
    extern "C" void differentiate_##DTYPE(const T* to_out, const T* qkv, const T* helper, const float* bias,           \
                                          const float* inverse_tau, T* to_qkv, T* to_helper, float* to_bias,           \
                                          float* to_inverse_tau, int64_t images, int64_t height, int64_t width,        \
                                          int64_t heads, int64_t threads) {                                            \
        differentiate(to_out, qkv, helper, bias, inverse_tau, to_qkv, to_helper, to_bias, to_inverse_tau, images,      \
                      height, width, heads, threads);                                                                  \
    }

EXPORT(float32, float)
EXPORT(bfloat16, uint16_t)
