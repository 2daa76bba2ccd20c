// The gradient at one pixel, from the coefficients of its row (see src/loss/sums.rs and src/cpu/kernel.rs).
//
//   dL/dz_c = K (p_c - y_c) + p_c (q_c - sum_j p_j q_j),    K = factor k, q_c = a_c y_c + b_c
//   for c = y, without cancellation: p_y (q_y (1 - p_y) - rest) - K (1 - p_y),    rest = sum_{j != y} p_j b_j
//   label smoothing e:  dL/dz_c += factor e/C (W p_c - w_c)
//   shares t:           dL/dz_c = factor (p_c sum_j v_j - v_c) + p_c (q_c - sum_j p_j q_j),    q_c = a_c t_c + b_c, v_c as in shares.cuh

#define COEFFICIENTS (REGION ? 1 + 2 * a.classes : 1)

// The factor of the pixel term at a pixel.
__device__ __forceinline__ Real factor_at(const Arguments& a, const Real* coefficients, int64 sample, int64 pixel) {
  const Real factor = coefficients[0];
  return a.incoming ? factor * load(a.incoming + offset(a.incoming_strides, sample, pixel)) : factor;
}

#if SOFT
// q is shifted so that it is 0 for the most probable class: what is left is small where p is almost 1, without cancellation.
template <typename Z, typename Write>
__device__ __forceinline__ void gradient_at(const Arguments& a, const Real* coefficients, const Logits<Z>& z, const Shares& t,
                                            int64 sample, int64 pixel, const Write& write) {
  const Real elsewhere = t.wrong ? not_a_number() : (Real)0;
  const Real* slope = coefficients + 1;
  const Real* b = slope + a.classes;
  const auto q = [&](int c) { return slope[c] * t(c) + b[c]; };
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
  if (PIXEL) factor = factor_at(a, coefficients, sample, pixel);
  EACH_CLASS(c) {
    const Real p = z.e(c) * inverse;
    Real g = REGION ? p * (q(c) - origin - mean) : (Real)0;
    if (PIXEL) g += factor * (p * mass - class_mass(a, c, t(c)));
    write(c, t.valid ? g : elsewhere);
  }
}
#else
template <typename Z, typename Write>
__device__ __forceinline__ void gradient_at(const Arguments& a, const Real* coefficients, const Logits<Z>& z, Real z_y,
                                            int64 sample, int64 pixel, int y, const Write& write) {
  const bool valid = y >= 0;
  const Real elsewhere = y == WRONG ? not_a_number() : (Real)0;
  const Softmax softmax(z, a, y, z_y);
  const Real* q = coefficients + 1;
  const Real* b = q + a.classes;
  Real slope = 0, factor = 0;
  if (PIXEL) {
    factor = factor_at(a, coefficients, sample, pixel);
    slope = factor * pixel_loss(a, softmax, softmax.log_sum(), valid ? weight_of(a, y) : (Real)1).slope;
  }
  Real base = slope, at_target = -(slope * softmax.complement());
  if (REGION) {
    const Real q_y = valid ? q[y] : (Real)0;
    Real rest = 0;
    EACH_CLASS(c) rest += c == y ? (Real)0 : z.e(c) * softmax.inverse * b[c];
    base -= q_y * softmax.probability() + rest;
    at_target += softmax.probability() * (q_y * softmax.complement() - rest);
  }
  const Real weights = weight_sum(a);
  EACH_CLASS(c) {
    const Real p = z.e(c) * softmax.inverse;
    Real g = c == y ? at_target : p * (REGION ? base + b[c] : base);
    if (SMOOTHING) g += factor * (Real)a.smoothing * (weights * p - weight_of(a, c));
    write(c, valid ? g : elsewhere);
  }
}
#endif
