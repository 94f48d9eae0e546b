/* The element-wise parts of an optimization step, forward and backward in one pass over memory each, and of a range search.

   Formulas, their sources and their names are those of formulas.py. Sums are taken in parts of fixed
   size and in order, so that the number of threads changes nothing. */

#include <math.h>
#include <stdint.h>
#include <string.h>

#if !defined PART || !defined LOWEST || !defined HIGHEST || !defined SMALLEST_SQUARE
#error "the constants are given by compilation.py: one place for them and for the formulas in Python"
#endif
#define END(n) (start + PART < (n) ? start + PART : (n))
#define INLINE static inline __attribute__((always_inline))

INLINE float clip(float value, float low, float high) {
    return value < low ? low : value > high ? high : value;
}

/* 2^x = 2^k · e^r with |r| ≤ ln(2)/2, by Taylor's series; unlike the C library's, compilers can vectorize it. */
INLINE float power_of_two(float x) {
    x = x > -126 ? (x < 126 ? x : 126) : -126; /* a NaN, too */
    float k = rintf(x), r = (x - k) * 0.693147181f;
    float series = 1 + r * (1.f / 7);
    for (int i = 6; i > 0; i--) series = 1 + r * (1.f / (float)i) * series;
    uint32_t bits = (uint32_t)((int32_t)k + 127) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    return series * power;
}

/* log2(m · 2^k) = k + 2/ln(2) · artanh((m − 1)/(m + 1)) with m from √½ to √2, for normal positive numbers. */
INLINE float logarithm_of_two(float x) {
    int32_t bits;
    memcpy(&bits, &x, sizeof bits);
    int32_t k = (bits - 0x3f3504f3) >> 23;
    bits -= k * (1 << 23);
    float m;
    memcpy(&m, &bits, sizeof m);
    float t = (m - 1) / (m + 1), square = t * t;
    float series = 1 + square * (1.f / 3 + square * (1.f / 5 + square * (1.f / 7 + square * (1.f / 9))));
    return (float)k + 2.88539008f * t * series;
}

INLINE float sigmoid(float x) { return 1 / (1 + power_of_two(x * -1.44269504f)); }

INLINE float total(const float *sums, int64_t count) {
    double sum = 0;
    for (int64_t i = 0; i < count; i++) sum += sums[i];
    return (float)sum;
}

/* A tensor of activations on its way through a quantizer.

   x: n values, which are clipped to [floor, ceiling] first. keep: n times 0 or 1, or null. */
struct activation {
    const float *x, *keep, *scale;
    float floor, ceiling, low, high;
};

INLINE void fake_quantize_part(struct activation a, int64_t start, int64_t end, int masked, float *restrict y) {
    const float *restrict x = a.x, *restrict keep = a.keep;
    const float scale = *a.scale;
    #pragma omp simd
    for (int64_t i = start; i < end; i++) {
        float clipped = clip(x[i], a.floor, a.ceiling);
        float ratio = masked ? clipped / scale * keep[i] : clipped / scale;
        float code = clip(rintf(ratio), a.low, a.high);
        y[i] = masked ? clipped + (code - ratio) * scale : code * scale;
    }
}

void fake_quantize(int threads, int64_t n, const float *x, const float *keep, const float *scale, float low,
                   float high, float floor, float ceiling, float *y) {
    const struct activation a = {x, keep, scale, floor, ceiling, low, high};
    #pragma omp parallel for schedule(static) num_threads(threads) if (n > 2 * PART)
    for (int64_t start = 0; start < n; start += PART) {
        if (keep) fake_quantize_part(a, start, END(n), 1, y);
        else fake_quantize_part(a, start, END(n), 0, y);
    }
}

INLINE float fake_quantize_part_backward(struct activation a, int64_t start, int64_t end, int masked,
                                         const float *restrict g, float *restrict g_x) {
    const float *restrict x = a.x, *restrict keep = a.keep;
    const float scale = *a.scale;
    float sum = 0;
    #pragma omp simd reduction(+ : sum)
    for (int64_t i = start; i < end; i++) {
        float clipped = clip(x[i], a.floor, a.ceiling);
        float ratio = masked ? clipped / scale * keep[i] : clipped / scale;
        float passed = (ratio > a.low - 0.5f) & (ratio < a.high + 0.5f) ? g[i] : 0;
        g_x[i] = (x[i] > a.floor) & (x[i] < a.ceiling) ? passed : 0;
        sum += g[i] * clip(rintf(ratio), a.low, a.high) - passed * ratio;
    }
    return sum;
}

/* g: slopes of y. g_x: slopes of x. sums: one per part, to work with. g_factor: the slope of the factor, of
   which the scale is `unit` times. */
void fake_quantize_backward(int threads, int64_t n, const float *x, const float *keep, const float *scale, float low,
                            float high, float floor, float ceiling, const float *g, const float *unit,
                            float *g_x, float *sums, float *g_factor) {
    const struct activation a = {x, keep, scale, floor, ceiling, low, high};
    #pragma omp parallel for schedule(static) num_threads(threads) if (n > 2 * PART)
    for (int64_t start = 0; start < n; start += PART)
        sums[start / PART] = keep ? fake_quantize_part_backward(a, start, END(n), 1, g, g_x)
                                  : fake_quantize_part_backward(a, start, END(n), 0, g, g_x);
    *g_factor = total(sums, (n + PART - 1) / PART) * *unit;
}

/* alpha, base, span, y: rows of `size` weights. delta: of the range, in codes, one for each row (stride 1) or one for all
   (stride 0). scale: of one code, as a fraction of the range. LOWEST, HIGHEST: where the sigmoid is held. */
void soft_rounding(int threads, int64_t rows, int64_t size, int64_t stride, float scale, const float *restrict alpha,
                   const float *restrict base, const float *restrict span,
                   const float *restrict delta, float *restrict y) {
    #pragma omp parallel for schedule(static) num_threads(threads) if (rows * size > 2 * PART)
    for (int64_t row = 0; row < rows; row++) {
        const float factor = 1 + delta[row * stride] * scale;
        #pragma omp simd
        for (int64_t i = row * size; i < (row + 1) * size; i++)
            y[i] = factor * (base[i] + span[i] * clip(sigmoid(alpha[i]), (float)LOWEST, (float)HIGHEST));
    }
}

INLINE float soft_rounding_row_backward(int64_t start, int64_t end, float factor,
                                        const float *restrict alpha, const float *restrict base,
                                        const float *restrict span, const float *restrict g, int penalized,
                                        float strength, float exponent, float *restrict g_alpha) {
    float sum = 0;
    #pragma omp simd reduction(+ : sum)
    for (int64_t i = start; i < end; i++) {
        float up = sigmoid(alpha[i]), distance = up - 0.5f, square = distance * distance + (float)SMALLEST_SQUARE;
        float slope = g[i] * factor * span[i];
        if (penalized) slope -= strength * distance * power_of_two(exponent * logarithm_of_two(square));
        sum += g[i] * (base[i] + span[i] * clip(up, (float)LOWEST, (float)HIGHEST));
        g_alpha[i] = (up > (float)LOWEST) & (up < (float)HIGHEST) ? slope * up * (1 - up) : 0;
    }
    return sum;
}

/* g: slopes of y. The penalty's slope is −strength · distance · (distance²)^exponent; none where strength is 0. */
void soft_rounding_backward(int threads, int64_t rows, int64_t size, int64_t stride, float scale,
                            const float *alpha, const float *base, const float *span, const float *delta,
                            const float *g, float strength, float exponent, float *g_alpha, float *g_delta) {
    #pragma omp parallel for schedule(static) num_threads(threads) if (rows * size > 2 * PART)
    for (int64_t row = 0; row < rows; row++) {
        const float factor = 1 + delta[row * stride] * scale;
        const int64_t start = row * size, end = start + size;
        g_delta[row] = scale * (strength != 0
            ? soft_rounding_row_backward(start, end, factor, alpha, base, span, g, 1, strength,
                                         exponent, g_alpha)
            : soft_rounding_row_backward(start, end, factor, alpha, base, span, g, 0, 0, 0,
                                         g_alpha));
    }
}

INLINE float error_of_row(int64_t size, const float *restrict x, const float *restrict counts, int counted, float scale,
                          float low, float high, float exponent) {
    const float per_code = 1 / scale;
    float sum = 0;
    #pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < size; i++) {
        float ratio = x[i] * per_code, error = fabsf(clip(rintf(ratio), low, high) - ratio);
        float power = power_of_two(exponent * logarithm_of_two(error > 1e-30f ? error : 1e-30f));
        sum += counted ? power * counts[i] : power;
    }
    return sum;
}

/* x: rows of `size` values. counts: how many each stands for, or null. scale, zero_point, errors: of `candidates` for each
   row. The error is taken in codes, where its logarithm is small and so exact. */
void grid_errors(int threads, int64_t rows, int64_t size, int64_t candidates, const float *x, const float *counts,
                 const float *scale, const float *zero_point, float low, float high, float exponent, float *errors) {
    #pragma omp parallel for schedule(static) num_threads(threads) if (rows * size * candidates > 2 * PART)
    for (int64_t i = 0; i < rows * candidates; i++) {
        const int64_t start = i / candidates * size;
        const float lowest = low - zero_point[i], highest = high - zero_point[i];
        const float sum = counts ? error_of_row(size, x + start, counts + start, 1, scale[i], lowest, highest, exponent)
                                 : error_of_row(size, x + start, x, 0, scale[i], lowest, highest, exponent);
        errors[i] = (float)(sum * pow(scale[i], exponent));
    }
}
