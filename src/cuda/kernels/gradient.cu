// Second pass: dL/dlogits, pixel by pixel.

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) gradient(const Arguments a) {
  Way way(a);
#if CLASSES
  __shared__ Real coefficients[REGION ? 1 + 2 * CLASSES : 1];
  for (int i = threadIdx.x; i < COEFFICIENTS; i += THREADS) {
    coefficients[i] = load(a.coefficients + (int64)way.row * COEFFICIENTS + i);
  }
  __syncthreads();
#else
  const Real* coefficients = a.coefficients + (int64)way.row * COEFFICIENTS;
#endif
  for (; way.more(); way.next(a)) {
    const Input* from = a.input + offset(a.input_strides, way.sample, way.pixel);
    Input* to = a.gradient + offset(a.gradient_strides, way.sample, way.pixel);
#if CLASSES
    Block<Input> block;
    block.load_from(from, a.input_strides);
#ifndef LABEL
    Block<Real> target;
    target.load_from((const Real*)a.target + offset(a.target_strides, way.sample, way.pixel), a.target_strides);
#elif !SOFT
    LABEL labels[WIDTH];
    load<LABEL, WIDTH>((const LABEL*)a.target + offset(a.target_strides, way.sample, way.pixel), labels);
#endif
#pragma unroll
    for (int k = 0; k < WIDTH; ++k) {
      // The logits of pixel k are no longer needed once the exponentials are there: the gradient takes their place.
      const auto write = [&](int c, Real g) { block.at(c, k) = from_real<Input>(g); };
#if SOFT
#ifdef LABEL
      const Shares t(a, way.sample, way.pixel + k);
#else
      const Shares t{target, k};
#endif
      const auto z = [&](int c) { return t.valid ? to_real(block.at(c, k)) : (Real)0; };
      gradient_at(a, coefficients, Logits(a, z), t, way.sample, way.pixel + k, write);
#else
      const int y = decode(labels[k], a);
      const auto z = [&](int c) { return y >= 0 ? to_real(block.at(c, k)) : (Real)0; };
      const Logits logits(a, z);  // before z_y: registers
      const Real z_y = y >= 0 ? to_real(load(from + k * a.input_strides.pixel + y * a.input_strides.channel)) : (Real)0;
      gradient_at(a, coefficients, logits, z_y, way.sample, way.pixel + k, y, write);
#endif
    }
    block.store_to(to, a.gradient_strides);
#else
    const int64 stride = a.input_strides.channel;
    const auto write = [&](int c, Real g) { to[c * a.gradient_strides.channel] = from_real<Input>(g); };
#if SOFT
#ifdef LABEL
    const Shares t(a, way.sample, way.pixel);
#else
    const Shares t{(const Real*)a.target + offset(a.target_strides, way.sample, way.pixel), a.target_strides.channel, true};
#endif
    const auto z = [&](int c) { return t.valid ? to_real(load(from + c * stride)) : (Real)0; };
    gradient_at(a, coefficients, Logits(a, z), t, way.sample, way.pixel, write);
#else
    const int y = decode(load((const LABEL*)a.target + offset(a.target_strides, way.sample, way.pixel)), a);
    const auto z = [&](int c) { return y >= 0 ? to_real(load(from + c * stride)) : (Real)0; };
    gradient_at(a, coefficients, Logits(a, z), y >= 0 ? z(y) : (Real)0, way.sample, way.pixel, y, write);
#endif
#endif
  }
}
