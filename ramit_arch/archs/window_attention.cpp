// softmax(cos(Q, K) / tau + B) (V * helper) in windows (Eq. 3), one window and head at a time: what is held in between
// stays in registers and the first cache. Loops have constant bounds, for compilers to vectorise; LANES numbers at a time
// become whatever vectors the processor has. WINDOW is the side of a window, WIDTH the channels of a head.

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

// Queries and keys of unit length, those of queries divided by tau; values times the helper.
template <typename T>
struct Head {
    alignas(64) float q[TOKENS][WIDTH], k[WIDTH][TOKENS], v[TOKENS][PADDED];

    Head(const T* qkv, int64_t token, int64_t row, const T* helper, int64_t helper_row, float inverse_tau) {
        for (int i = 0; i < TOKENS; ++i) {
            alignas(64) float from[3 * WIDTH], help[WIDTH];
            load<3 * WIDTH>(qkv + i / WINDOW * row + i % WINDOW * token, from);
            const float *query = from, *key = from + WIDTH, *value = from + 2 * WIDTH;
            float qq = 0, kk = 0;
            for (int d = 0; d < WIDTH; ++d) qq += query[d] * query[d];
            for (int d = 0; d < WIDTH; ++d) kk += key[d] * key[d];
            float query_scale = inverse_tau / std::max(std::sqrt(qq), 1e-12f);
            float key_scale = 1 / std::max(std::sqrt(kk), 1e-12f);
            for (int d = 0; d < WIDTH; ++d) q[i][d] = query[d] * query_scale;
            for (int d = 0; d < WIDTH; ++d) k[d][i] = key[d] * key_scale;
            for (int d = 0; d < WIDTH; ++d) v[i][d] = value[d];
            for (int d = WIDTH; d < PADDED; ++d) v[i][d] = 0;
            if (helper) {
                load<WIDTH>(helper + i / WINDOW * helper_row + i % WINDOW * WIDTH, help);
                for (int d = 0; d < WIDTH; ++d) v[i][d] *= help[d];
            }
        }
    }

    void attend(const float* bias, T* out, int64_t token, int64_t row) const {
        for (int i = 0; i < TOKENS; i += QUERIES) {
            alignas(64) float p[QUERIES][TOKENS];
            float sums[QUERIES];
            scores(i, bias, p);
            for (int r = 0; r < QUERIES; ++r) {
                float largest = p[r][0], sum = 0;
                for (int j = 1; j < TOKENS; ++j) largest = std::max(largest, p[r][j]);
                for (int j = 0; j < TOKENS; ++j) {
                    p[r][j] = exponential(p[r][j] - largest);
                    sum += p[r][j];
                }
                sums[r] = sum;
            }
            alignas(64) float o[QUERIES][PADDED];
            weigh(p, o);
            for (int r = 0; r < QUERIES; ++r) {
                for (int d = 0; d < WIDTH; ++d) o[r][d] /= sums[r];
                store<WIDTH>(o[r], out + (i + r) / WINDOW * row + (i + r) % WINDOW * token);
            }
        }
    }

  private:
    // Of some queries from i on with all keys, bias added.
    void scores(int i, const float* bias, float (*p)[TOKENS]) const {
        constexpr int PARTS = TOKENS / LANES;
        constexpr int BLOCK = PARTS % 4 == 0 ? 4 : PARTS % 3 == 0 ? 3 : 1;
        for (int first = 0; first < PARTS; first += BLOCK) {
            Lanes sums[QUERIES][BLOCK], keys;
            for (int r = 0; r < QUERIES; ++r)
                std::memcpy(sums[r], bias + (i + r) * TOKENS + first * LANES, sizeof sums[r]);
            for (int d = 0; d < WIDTH; ++d)
                for (int part = 0; part < BLOCK; ++part) {
                    std::memcpy(&keys, &k[d][(first + part) * LANES], sizeof keys);
                    for (int r = 0; r < QUERIES; ++r) sums[r][part] += q[i + r][d] * keys;
                }
            for (int r = 0; r < QUERIES; ++r) std::memcpy(&p[r][first * LANES], sums[r], sizeof sums[r]);
        }
    }

    // The sum of all values, weighted.
    void weigh(const float (*p)[TOKENS], float (*o)[PADDED]) const {
        constexpr int PARTS = PADDED / LANES;
        Lanes sums[QUERIES][PARTS] = {}, values;
        for (int j = 0; j < TOKENS; ++j)
            for (int part = 0; part < PARTS; ++part) {
                std::memcpy(&values, &v[j][part * LANES], sizeof values);
                for (int r = 0; r < QUERIES; ++r) sums[r][part] += p[r][j] * values;
            }
        std::memcpy(o, sums, sizeof sums);
    }
};

template <typename T>
void attend(const T* qkv, const T* helper, const float* bias, const float* inverse_tau, T* out, int64_t images,
            int64_t height, int64_t width, int64_t heads) {
    const int64_t down = height / WINDOW, across = width / WINDOW;
#pragma omp parallel for schedule(static)
    for (int64_t window = 0; window < images * down * across; ++window) {
        const int64_t pixel = window / across * WINDOW * width + window % across * WINDOW;
        for (int64_t head = 0; head < heads; ++head) {
            const Head<T> loaded(qkv + (pixel * heads + head) * 3 * WIDTH, 3 * heads * WIDTH, 3 * heads * WIDTH * width,
                                 helper ? helper + pixel * WIDTH : nullptr, width * WIDTH, inverse_tau[head]);
            loaded.attend(bias + head * TOKENS * TOKENS, out + (pixel * heads + head) * WIDTH, heads * WIDTH,
                          heads * WIDTH * width);
        }
    }
}

}  // namespace

// Maps qkv (N, H, W, heads * 3 * WIDTH), helper (N, H, W, WIDTH) or null, bias (heads, TOKENS, TOKENS), 1/tau (heads)
// -> out (N, H, W, heads * WIDTH); H and W are multiples of WINDOW.
extern "C" {

void attend_float32(const float* qkv, const float* helper, const float* bias, const float* inverse_tau, float* out,
                    int64_t images, int64_t height, int64_t width, int64_t heads) {
    attend(qkv, helper, bias, inverse_tau, out, images, height, width, heads);
}

void attend_bfloat16(const uint16_t* qkv, const uint16_t* helper, const float* bias, const float* inverse_tau,
                     uint16_t* out, int64_t images, int64_t height, int64_t width, int64_t heads) {
    attend(qkv, helper, bias, inverse_tau, out, images, height, width, heads);
}
}
