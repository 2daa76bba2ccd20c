// What the two passes of a loss have in common: the softmax of a pixel and its pixel loss.

// w_y, or 1 where there are no weights.
#if CLASSES
__shared__ Real class_weights[CLASSES];

// Fills them: before the first `weight_of`.
__device__ __forceinline__ void load_weights(const Arguments& a) {
  for (int c = threadIdx.x; c < CLASSES; c += THREADS) class_weights[c] = a.weight ? load(a.weight + c) : (Real)1;
  __syncthreads();
}
__device__ __forceinline__ Real weight_of(const Arguments&, int y) { return class_weights[y]; }
#else
__device__ __forceinline__ void load_weights(const Arguments&) {}
__device__ __forceinline__ Real weight_of(const Arguments& a, int y) { return a.weight ? load(a.weight + y) : (Real)1; }
#endif

// sum_c w_c, of which label smoothing needs the same at every pixel.
__device__ __forceinline__ Real weight_sum(const Arguments& a) {
  Real sum = 0;
  if (SMOOTHING) EACH_CLASS(c) sum += weight_of(a, c);
  return sum;
}

// The classes' weights in what z - m is summed up with: label smoothing, and cross entropy of shares.
#define SPREAD (SMOOTHING || (SOFT && PIXEL))

// One pixel: its logits, and with them e_c = exp(z_c - m). What stands at an ignored pixel, nan and inf included, must not matter: `z(c)` is 0
// there, or whoever adds or writes something masks that. `v(c)` weighs the classes in the spread; the gradient has no use for it.
template <typename Z> struct Logits {
  Real m;
  Real spread = 0;  // sum_c v_c (m - z_c), if SPREAD
#if CLASSES
  Real value[CLASSES];  // z_c, then e_c

  template <typename V> __device__ __forceinline__ Logits(const Arguments& a, const Z& z, const V& v) {
    m = z(0);
#pragma unroll
    for (int c = 0; c < CLASSES; ++c) {
      value[c] = z(c);
      m = larger(m, value[c]);
    }
#pragma unroll
    for (int c = 0; c < CLASSES; ++c) {
      value[c] -= m;
      if (SPREAD) add(v(c), -value[c]);
    }
#pragma unroll
    for (int c = 0; c < CLASSES; ++c) value[c] = exponential(value[c]);
  }
  __device__ __forceinline__ Real e(int c) const { return value[c]; }
#else
  const Z& z;

  template <typename V> __device__ __forceinline__ Logits(const Arguments& a, const Z& z, const V& v) : z(z) {
    m = -infinity();
    EACH_CLASS(c) m = larger(m, z(c));
    if (SPREAD) EACH_CLASS(c) add(v(c), m - z(c));
  }
  __device__ __forceinline__ Real e(int c) const { return exponential(z(c) - m); }
#endif

  __device__ __forceinline__ Logits(const Arguments& a, const Z& z) : Logits(a, z, [](int) { return (Real)0; }) {}

  __device__ __forceinline__ void add(Real v, Real distance) {
    // No share of an impossible class is no loss: 0 * inf is not asked for.
    spread += SOFT && v == 0 ? (Real)0 : v * distance;
  }
};

// Whether what the sum of all e_c is rounded by is put right in its logarithm: 16 bits of a logit do not know of it.
#define EXACT_SUM (PIXEL && !NARROW)
// Whether e_y is chosen among the registers: without a pixel loss nothing else needs the target's logit.
#define SELECTED (FEW && !PIXEL)

// The softmax of one pixel, seen from its target class y: see src/loss/pixel.rs, whose names and formulas these are.
struct Softmax {
  Real distance, target, others, sum, inverse;

  // `z_y` is the target's logit: a run-time index would put the registers of all classes in local memory. What a kernel does not use of this
  // costs nothing.
  template <typename Z> __device__ __forceinline__ Softmax(const Logits<Z>& logits, const Arguments& a, int y, Real z_y) {
    distance = logits.m - z_y;
    target = SELECTED ? (Real)0 : exponential(-distance);
    sum = logits.e(0);
    others = y == 0 ? (Real)0 : sum;
    EACH_CLASS(c) {
      if (c == 0) continue;
      const Real e = logits.e(c);
      sum += e;
      if (c != y) others += e;
    }
    if (EXACT_SUM) sum = target + others;
    if (SELECTED) EACH_CLASS(c) target = c == y ? logits.e(c) : target;
    inverse = inverse_of(sum);
  }
  __device__ __forceinline__ Real log_sum() const {
    const Real rest = EXACT_SUM ? (others - (sum - target)) * inverse : (Real)0;
    return rest + logarithm_from_one(sum);
  }
  __device__ __forceinline__ Real probability() const { return target * inverse; }
  __device__ __forceinline__ Real complement() const { return others * inverse; }
};

// Whether `each_pixel` puts the gradient of pixels without a class right: it seldom has to, where `write` would ask at each element.
#define MASKED_LATER (CLASSES && SIZES == 0 && !SOFT)

// dL/dz_c of a pixel that does not count, or of a wrong label.
__device__ __forceinline__ Real gradient_without_class(int y) { return y == WRONG ? not_a_number() : (Real)0; }

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
    p = exponential(-s); // 1 - u would have no digits of its own where it is small
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
