// What the two passes over all pixels have in common: their arguments, the way over the pixels, and one pixel's softmax.

struct Strides {
  int64 sample, channel, pixel;  // in elements
};

// Mirrored, field for field, by src/cuda/arguments.rs. Pointers that a loss does not need are null.
struct Arguments {
  const Input* input;          // (N, C, pixels)
  const void* target;          // (N, pixels) of LABEL, or (N, C, pixels) of Real
  const Real* weight;          // (C)
  Real* loss;                  // reduce: (N, pixels)
  double* partials;            // reduce: (rows, columns, blocks a row)
  const Real* incoming;        // gradient: (N, pixels)
  const Real* coefficients;    // gradient: (rows, 1 + 2 C): the factor of the pixel term, q_c at the target, b_c
  Input* gradient;             // gradient: (N, C, pixels)
  Strides input_strides, target_strides, loss_strides, incoming_strides, gradient_strides;
  int64 samples, pixels;
  int64 step_samples, step_pixels;  // from a thread's pixel to its next: all threads of a row
  int64 ignore_index;
  double gamma;
  double smoothing;            // the share of each class: label_smoothing / C
  int rows;                    // rows of sums: N or 1
  int blocks;                  // blocks a row
  int classes;
};

// A label that does not count, and one that is no class.
enum { IGNORED = -1, WRONG = -2 };

#ifdef LABEL
__device__ __forceinline__ int decode(LABEL label, const Arguments& a) {
  if ((int64)label == a.ignore_index) return IGNORED;
  return (uint64)(int64)label < (uint64)a.classes ? (int)label : WRONG;
}
#endif

// The way of one thread over the pixels of its row, WIDTH at a time and without a division inside the loop.
struct Way {
  int row, block;
  int64 sample, pixel, end;

  __device__ __forceinline__ explicit Way(const Arguments& a) {
    row = blockIdx.x / a.blocks;
    block = blockIdx.x - row * a.blocks;
    const int64 samples = a.samples / a.rows;
    const int64 first = ((int64)block * THREADS + threadIdx.x) * WIDTH;
    const int64 begin = row * samples;
    end = begin + samples;
    sample = begin + first / a.pixels;
    pixel = first % a.pixels;
  }
  __device__ __forceinline__ bool more() const { return sample < end; }
  __device__ __forceinline__ void next(const Arguments& a) {
    sample += a.step_samples;
    pixel += a.step_pixels;
    if (pixel >= a.pixels) {
      pixel -= a.pixels;
      ++sample;
    }
  }
};

__device__ __forceinline__ int64 offset(const Strides& s, int64 sample, int64 pixel) {
  return sample * s.sample + pixel * s.pixel;
}

// w_y, or 1 where there are no weights.
__device__ __forceinline__ Real weight_of(const Arguments& a, int y) { return a.weight ? load(a.weight + y) : (Real)1; }

#if CLASSES
// The values of WIDTH pixels and all classes, in registers.
template <typename T> struct Block {
  T value[CLASSES][WIDTH];  // planar: [class][pixel]; channels_last: in the order of memory, whole vectors at a time

  __device__ __forceinline__ void load_from(const T* from, const Strides& s) {
#pragma unroll
    for (int c = 0; c < CLASSES; ++c) load<T, WIDTH>(from + (CHANNELS_LAST ? (int64)(c * WIDTH) : c * s.channel), value[c]);
  }
  __device__ __forceinline__ void store_to(T* to, const Strides& s) const {
#pragma unroll
    for (int c = 0; c < CLASSES; ++c) store<T, WIDTH>(to + (CHANNELS_LAST ? (int64)(c * WIDTH) : c * s.channel), value[c]);
  }
  __device__ __forceinline__ T& at(int c, int k) {
    const int flat = k * CLASSES + c;
    return CHANNELS_LAST ? value[flat / WIDTH][flat % WIDTH] : value[c][k];
  }
};
#define EACH_CLASS(c) _Pragma("unroll") for (int c = 0; c < CLASSES; ++c)
#else
#define EACH_CLASS(c) for (int c = 0; c < a.classes; ++c)
#endif

// One pixel: its logits, and with them e_c = exp(z_c - m).
struct Logits {
  Real m;
#if CLASSES
  Real value[CLASSES];  // z_c, then e_c

  __device__ __forceinline__ Logits(Block<Input>& block, int k, bool valid) {
    m = -infinity();
#pragma unroll
    for (int c = 0; c < CLASSES; ++c) {
      // What stands at an ignored pixel, nan and inf included, must not matter.
      value[c] = valid ? to_real(block.at(c, k)) : (Real)0;
      m = larger(m, value[c]);
    }
#pragma unroll
    for (int c = 0; c < CLASSES; ++c) value[c] = exponential(value[c] - m);
  }
  __device__ __forceinline__ Real e(int c) const { return value[c]; }
#else
  const Input* from;
  int64 stride;
  bool valid;

  __device__ __forceinline__ Logits(const Input* from, int64 stride, int classes, bool valid)
      : from(from), stride(stride), valid(valid) {
    m = -infinity();
    for (int c = 0; c < classes; ++c) m = larger(m, z(c));
  }
  __device__ __forceinline__ Real z(int c) const { return valid ? to_real(load(from + c * stride)) : (Real)0; }
  __device__ __forceinline__ Real e(int c) const { return exponential(z(c) - m); }
#endif
};

// The softmax of one pixel, seen from its target class y: see src/loss/pixel.rs, whose names and formulas these are.
struct Softmax {
  Real distance, target, others, inverse;

  // `z_y` is the target's logit, read once more: choosing it among registers by a run-time index would put them all in
  // local memory.
  __device__ __forceinline__ Softmax(const Logits& logits, const Arguments& a, int y, Real z_y) {
    distance = logits.m - z_y;
    target = exponential(-distance);
    others = 0;
    EACH_CLASS(c) others += c == y ? (Real)0 : logits.e(c);
    inverse = inverse_of(target + others);
  }
  __device__ __forceinline__ Real log_sum() const {
    const Real t = others + (target - 1);
    const Real sum = target + others;
    return (t - (sum - 1)) * inverse + logarithm(sum);
  }
  __device__ __forceinline__ Real probability() const { return target * inverse; }
  __device__ __forceinline__ Real complement() const { return others * inverse; }
};

// The loss at a pixel, and k = dL/d(ce).
struct PixelLoss {
  Real loss, slope;
};

__device__ __forceinline__ PixelLoss pixel_loss(const Arguments& a, const Softmax& softmax, Real log_sum, Real weight) {
  const Real ce = softmax.distance + log_sum;
  PixelLoss result;
  if (PIXEL == 1) {
    result.slope = SMOOTHING ? weight * (Real)(1 - a.smoothing * a.classes) : weight;
    result.loss = result.slope * ce;
    return result;
  }
  Real s = ce, u = softmax.complement(), p = softmax.probability(), outer = weight;
  if (WEIGHTED_PT) {
    s = weight * ce;
    u = -exponential_minus_one(-s);
    p = 1 - u;
    outer = 1;
  }
  // p_t s -> 0 as s -> inf, but 0 * inf is nan: bound s first. A nan stays one: it is not larger than the bound.
  const Real ps = p * (s > (Real)1e30 ? (Real)1e30 : s);
  Real power, slope;
  if (POWER == 0) {
    power = slope = 1;
  } else if (POWER == 1) {
    power = u;
    slope = ps + u;
  } else if (POWER == 2) {
    power = u * u;
    slope = u * (2 * ps + u);
  } else {
    const bool positive = u > 0;
    const Real safe = positive ? u : (Real)1;
    // u is 0 or nan here, and both must go on as they are.
    power = positive ? exponential((Real)a.gamma * logarithm(safe)) : u;
    slope = power * ((Real)a.gamma * (positive ? ps / safe : 0) + 1);
  }
  result.loss = outer * power * s;
  result.slope = weight * slope;
  return result;
}
