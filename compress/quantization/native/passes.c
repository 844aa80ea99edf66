/* A quantizer's work on float32, each in one pass over memory; passes.py calls it and says what is equal to what.

   Compiled without contraction and without fast math: every operation is rounded as torch's own are. */
#include <float.h>
#include <math.h>
#include <stdint.h>

#define MOST_THREADS 64
#define LANES 64

/* Parts are multiples of 64 elements: no two threads write to one cache line. */
#define IN_PARTS(n, threads, run)                                        \
  if (threads <= 1) {                                                    \
    const int part = 0;                                                  \
    const int64_t from = 0, count = n;                                   \
    run;                                                                 \
  } else {                                                               \
    const int64_t step = ((n + threads - 1) / threads + 63) / 64 * 64;   \
    _Pragma("omp parallel for num_threads(threads) schedule(static, 1)") \
    for (int part = 0; part < threads; ++part) {                         \
      const int64_t from = part * step < n ? part * step : n;            \
      const int64_t count = from + step < n ? step : n - from;           \
      run;                                                               \
    }                                                                    \
  }

static inline float rounded(float x, float scale, float low, float high) {
  float t = x / scale;
  t = low > t ? low : t; /* a NaN stays one */
  t = high < t ? high : t;
  return nearbyintf(t) * scale;
}

static void quantize_part(const float *restrict x, float *restrict y, int64_t n, float scale, float low, float high) {
  for (int64_t i = 0; i < n; ++i) y[i] = rounded(x[i], scale, low, high);
}

static void quantize_inside_part(const float *restrict x, float *restrict y, uint8_t *restrict inside, int64_t n,
                                 float scale, float low, float high) {
  const float first = low * scale, last = high * scale;
  for (int64_t i = 0; i < n; ++i) {
    y[i] = rounded(x[i], scale, low, high);
    inside[i] = (x[i] > first) & (x[i] < last);
  }
}

static void keep_part(const uint32_t *restrict grad, const uint8_t *restrict inside, uint32_t *restrict out,
                      int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = grad[i] & -(uint32_t)inside[i];
}

static void ends_part(const float *restrict x, int64_t n, float *ends) {
  float low[LANES], high[LANES];
  uint32_t lost[LANES];
  for (int j = 0; j < LANES; ++j) low[j] = INFINITY, high[j] = -INFINITY, lost[j] = 0;
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES)
    for (int j = 0; j < LANES; ++j) {
      const float value = x[i + j];
      low[j] = value < low[j] ? value : low[j];
      high[j] = value > high[j] ? value : high[j];
      lost[j] |= value != value;
    }
  for (int j = 0; i < n; ++i, ++j) {
    low[j] = x[i] < low[j] ? x[i] : low[j];
    high[j] = x[i] > high[j] ? x[i] : high[j];
    lost[j] |= x[i] != x[i];
  }
  for (int j = 1; j < LANES; ++j) {
    low[0] = low[j] < low[0] ? low[j] : low[0];
    high[0] = high[j] > high[0] ? high[j] : high[0];
    lost[0] |= lost[j];
  }
  ends[0] = lost[0] ? NAN : low[0];
  ends[1] = lost[0] ? NAN : high[0];
}

/* y = the nearest multiple of `scale` between low * scale and high * scale, ties to even multiples. */
void quantize(const float *x, float *y, int64_t n, float scale, float low, float high, int threads) {
  IN_PARTS(n, threads, (void)part; quantize_part(x + from, y + from, count, scale, low, high))
}

/* The same; inside = 1 where low * scale < x < high * scale, else 0. */
void quantize_inside(const float *x, float *y, uint8_t *inside, int64_t n, float scale, float low, float high,
                     int threads) {
  IN_PARTS(n, threads, (void)part;
           quantize_inside_part(x + from, y + from, inside + from, count, scale, low, high))
}

/* out = grad where inside is 1, else 0. */
void keep(const float *grad, const uint8_t *inside, float *out, int64_t n, int threads) {
  IN_PARTS(n, threads, (void)part;
           keep_part((const uint32_t *)grad + from, inside + from, (uint32_t *)out + from, count))
}

/* ends = minimum and maximum, both NaN where any of x is. */
void find_ends(const float *x, int64_t n, float *ends, int threads) {
  float parts[2 * MOST_THREADS];
  const int used = threads < 1 ? 1 : threads > MOST_THREADS ? MOST_THREADS : threads;
  IN_PARTS(n, used, ends_part(x + from, count, parts + 2 * part))
  float low = parts[0], high = parts[1];
  for (int part = 1; part < used; ++part) {
    const float a = parts[2 * part], b = parts[2 * part + 1];
    low = a < low || a != a ? a : low;
    high = b > high || b != b ? b : high;
  }
  ends[0] = low;
  ends[1] = high;
}

/* steps[row] = factor * the largest magnitude of that row, of `rows` rows of `count` elements; 1 where that is
   below the smallest normal number (`usable` in functions.py). */
void steps_of_rows(const float *x, float *steps, int64_t rows, int64_t count, float factor) {
  for (int64_t row = 0; row < rows; ++row) {
    float ends[2];
    ends_part(x + row * count, count, ends);
    const float step = (ends[1] > -ends[0] ? ends[1] : -ends[0]) * factor;
    steps[row] = step >= FLT_MIN ? step : 1.0f; /* NaN is not */
  }
}

/* `quantize`, with a scale for each row. */
void quantize_rows(const float *x, float *y, const float *steps, int64_t rows, int64_t count, float low, float high) {
  for (int64_t row = 0; row < rows; ++row)
    quantize_part(x + row * count, y + row * count, count, steps[row], low, high);
}
