// Second pass: dL/dlogits from the coefficients of the row (see src/loss/sums.rs and src/cpu/kernel.rs).
//
//   dL/dz_c = K (p_c - y_c) + p_c (q_c - sum_j p_j q_j),    K = factor k, q_c = a_c y_c + b_c
//   for c = y, without cancellation: p_y (q_y (1 - p_y) - rest) - K (1 - p_y),    rest = sum_{j != y} p_j b_j
//   label smoothing e:  dL/dz_c += factor e/C (W p_c - w_c)

#if CLASSES
enum { COEFFICIENTS = REGION ? 1 + 2 * CLASSES : 1 };
#endif

#ifdef LABEL
// The gradient at one pixel of class y, class by class into `write`.
template <typename Write>
__device__ __forceinline__ void gradient_at(const Arguments& a, const Real* coefficients, const Logits& z, Real z_y,
                                            int64 sample, int64 pixel, int y, const Write& write) {
  const bool valid = y >= 0;
  const Real elsewhere = y == WRONG ? not_a_number() : (Real)0;
  const Softmax softmax(z, a, y, z_y);
  const Real* q = coefficients + 1;
  const Real* b = q + a.classes;
  Real slope = 0, factor = 0;
  if (PIXEL) {
    factor = coefficients[0];
    if (a.incoming) factor *= load(a.incoming + offset(a.incoming_strides, sample, pixel));
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
#else
// The same for a region term with a soft target: q_c = a_c t_c + b_c. q is shifted so that it is 0 for the most probable class: what
// is left is small where p is almost 1, without cancellation.
template <typename Target, typename Write>
__device__ __forceinline__ void gradient_at(const Arguments& a, const Real* coefficients, const Logits& z,
                                            const Target& target, const Write& write) {
  const Real* slope = coefficients + 1;
  const Real* b = slope + a.classes;
  const auto q = [&](int c) { return slope[c] * target(c) + b[c]; };
  Real sum = 0, origin = 0, mean = 0;
  EACH_CLASS(c) {
    const Real e = z.e(c);
    sum += e;
    origin = e == 1 ? q(c) : origin;
  }
  EACH_CLASS(c) mean += z.e(c) * (q(c) - origin);
  const Real inverse = inverse_of(sum);
  mean *= inverse;
  EACH_CLASS(c) write(c, z.e(c) * inverse * (q(c) - origin - mean));
}
#endif

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) gradient(const Arguments a) {
  Way way(a);
#if CLASSES
  __shared__ Real coefficients[COEFFICIENTS];
  for (int i = threadIdx.x; i < COEFFICIENTS; i += THREADS) {
    coefficients[i] = load(a.coefficients + (int64)way.row * COEFFICIENTS + i);
  }
  __syncthreads();
#else
  const Real* coefficients = a.coefficients + (int64)way.row * (REGION ? 1 + 2 * a.classes : 1);
#endif
  for (; way.more(); way.next(a)) {
    const Input* from = a.input + offset(a.input_strides, way.sample, way.pixel);
    Input* to = a.gradient + offset(a.gradient_strides, way.sample, way.pixel);
#if CLASSES
    Block<Input> block;
    block.load_from(from, a.input_strides);
#ifdef LABEL
    LABEL labels[WIDTH];
    load<LABEL, WIDTH>((const LABEL*)a.target + offset(a.target_strides, way.sample, way.pixel), labels);
#else
    Block<Real> target;
    target.load_from((const Real*)a.target + offset(a.target_strides, way.sample, way.pixel), a.target_strides);
#endif
#pragma unroll
    for (int k = 0; k < WIDTH; ++k) {
      // The logits of pixel k are no longer needed once `z` has them: the gradient takes their place.
      const auto write = [&](int c, Real g) { block.at(c, k) = from_real<Input>(g); };
#ifdef LABEL
      const int y = decode(labels[k], a);
      const Logits z(a, block, k, y >= 0);
      const Real z_y = y >= 0 ? to_real(load(from + k * a.input_strides.pixel + y * a.input_strides.channel)) : (Real)0;
      gradient_at(a, coefficients, z, z_y, way.sample, way.pixel + k, y, write);
#else
      const Logits z(a, block, k, true);
      gradient_at(a, coefficients, z, [&](int c) { return target.at(c, k); }, write);
#endif
    }
    block.store_to(to, a.gradient_strides);
#else
    const auto write = [&](int c, Real g) { to[c * a.gradient_strides.channel] = from_real<Input>(g); };
#ifdef LABEL
    const int y = decode(load((const LABEL*)a.target + offset(a.target_strides, way.sample, way.pixel)), a);
    const Logits z(a, from, y >= 0);
    gradient_at(a, coefficients, z, y >= 0 ? z.z(y) : (Real)0, way.sample, way.pixel, y, write);
#else
    const Real* target = (const Real*)a.target + offset(a.target_strides, way.sample, way.pixel);
    const Logits z(a, from, true);
    gradient_at(a, coefficients, z, [&](int c) { return load(target + c * a.target_strides.channel); }, write);
#endif
#endif
  }
}
