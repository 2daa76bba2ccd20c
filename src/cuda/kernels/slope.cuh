// The gradient at one pixel, from the coefficients of its row (see src/loss/sums.rs and src/cpu/kernel.rs).
//
//   dL/dz_c = K (p_c - y_c) + p_c (q_c - sum_j p_j q_j),    K = factor k, q_c = a_c y_c + b_c
//   for c = y, without cancellation: p_y (q_y (1 - p_y) - rest) - K (1 - p_y),    rest = sum_{j != y} p_j b_j
//   label smoothing e:  dL/dz_c += factor e/C (W p_c - w_c)
//   shares t:           dL/dz_c = factor (p_c sum_j v_j - v_c) + p_c (q_c - sum_j p_j q_j),    q_c = a_c t_c + b_c, v_c as in shares.cuh

#define COEFFICIENTS (REGION ? 1 + 2 * a.classes : 1)

// The coefficients of a row, for the incoming gradient of the loss if there is one for all pixels. Where classes live in registers, they are in
// shared memory, which all threads of the block fill; of few classes, b_c in registers.
struct Slopes {
  enum { IN_REGISTERS = FEW && REGION && SIZES == 0 };
#if CLASSES
  const Real* coefficients;
  Real own[IN_REGISTERS ? CLASSES : 1];

  __device__ __forceinline__ Slopes(const Arguments& a, int row, Real (&shared)[REGION ? 1 + 2 * CLASSES : 1]) : coefficients(shared) {
    const Real scale = EACH_PIXEL ? (Real)1 : load(a.incoming);
    const Real* from = a.coefficients + (int64)row * COEFFICIENTS;
    for (int i = threadIdx.x; i < COEFFICIENTS; i += THREADS) shared[i] = scale * load(from + i);
    load_weights(a);  // and a barrier for both
    if (IN_REGISTERS) EACH_CLASS(c) own[c] = shared[1 + CLASSES + c];
  }
  __device__ __forceinline__ Real factor() const { return coefficients[0]; }
  __device__ __forceinline__ Real q(int c) const { return coefficients[1 + c]; }
  __device__ __forceinline__ Real b(int c) const { return IN_REGISTERS ? own[c] : coefficients[1 + CLASSES + c]; }
#else
  const Real *coefficients, *last;
  Real scale;

  __device__ __forceinline__ Slopes(const Arguments& a, int row)
      : coefficients(a.coefficients + (int64)row * COEFFICIENTS), last(coefficients + 1 + a.classes), scale(EACH_PIXEL ? (Real)1 : load(a.incoming)) {}
  __device__ __forceinline__ Real factor() const { return scale * coefficients[0]; }
  __device__ __forceinline__ Real q(int c) const { return scale * coefficients[1 + c]; }
  __device__ __forceinline__ Real b(int c) const { return scale * last[c]; }
#endif
};

// The factor of the pixel term at a pixel.
__device__ __forceinline__ Real factor_at(const Arguments& a, const Slopes& slopes, int64 sample, int64 pixel) {
  return EACH_PIXEL ? slopes.factor() * load(a.incoming + offset(a.incoming_strides, sample, pixel)) : slopes.factor();
}

#if SOFT
// q is shifted so that it is 0 for the most probable class: what is left is small where p is almost 1, without cancellation.
template <typename Z, typename Write>
__device__ __forceinline__ void gradient_at(const Arguments& a, const Slopes& slopes, const Logits<Z>& z, const Shares& t,
                                            int64 sample, int64 pixel, const Write& write) {
  const Real elsewhere = t.wrong ? not_a_number() : (Real)0;
  const auto q = [&](int c) { return slopes.q(c) * t(c) + slopes.b(c); };
  Real sum = 0, origin = 0, mean = 0, mass = 0, factor = 0;
  EACH_CLASS(c) {
    const Real e = z.e(c);
    sum += e;
    if (REGION) origin = e == 1 ? q(c) : origin;
    if (PIXEL) mass += class_mass(a, c, t(c));
  }
  const Real inverse = inverse_of(sum);
  if (REGION) {
    EACH_CLASS(c) mean += z.e(c) * (q(c) - origin);
    mean *= inverse;
  }
  if (PIXEL) factor = factor_at(a, slopes, sample, pixel);
  EACH_CLASS(c) {
    const Real p = z.e(c) * inverse;
    Real g = REGION ? p * (q(c) - origin - mean) : (Real)0;
    if (PIXEL) g += factor * (p * mass - class_mass(a, c, t(c)));
    write(c, t.valid ? g : elsewhere);
  }
}
#else
template <typename Z, typename Write>
__device__ __forceinline__ void gradient_at(const Arguments& a, const Slopes& slopes, const Logits<Z>& z, Real z_y,
                                            int64 sample, int64 pixel, int y, const Write& write) {
  const bool valid = y >= 0;
  const Real elsewhere = gradient_without_class(y);
  const Softmax softmax(z, a, y, z_y);
  Real slope = 0, factor = 0;
  if (PIXEL) {
    factor = factor_at(a, slopes, sample, pixel);
    slope = factor * pixel_loss(a, softmax, softmax.log_sum(), weight_of(a, valid ? y : 0)).slope;
  }
  Real base = slope, at_target = -(slope * softmax.complement());
  if (REGION) {
    const Real q_y = slopes.q(valid ? y : 0);
    Real rest = 0;
    EACH_CLASS(c) {
      if (c != y) rest += z.e(c) * slopes.b(c);
    }
    rest *= softmax.inverse;
    base -= q_y * softmax.probability() + rest;
    at_target += softmax.probability() * (q_y * softmax.complement() - rest);
  }
  base *= softmax.inverse;
  const Real weights = weight_sum(a);
  EACH_CLASS(c) {
    const Real e = z.e(c);
    Real g = c == y ? at_target : e * (REGION ? slopes.b(c) * softmax.inverse + base : base);
    if (SMOOTHING) g += factor * (Real)a.smoothing * (weights * (e * softmax.inverse) - weight_of(a, c));
    write(c, MASKED_LATER || valid ? g : elsewhere);
  }
}
#endif
