// Second pass: dL/dlogits, pixel by pixel.

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) gradient(const Arguments a) {
  const Way way(a);
  __shared__ Stage<true> stage;
  ask(a, way, stage);
#if CLASSES
  __shared__ Real coefficients[REGION ? 1 + 2 * CLASSES : 1];
  const Slopes slopes(a, way.row, coefficients);
#else
  const Slopes slopes(a, way.row);
#endif
#if SOFT
  each_pixel<true>(a, way, [&](const auto& z, const Shares& t, int64 sample, int64 pixel, bool inside, const auto& write) {
    if (inside) gradient_at(a, slopes, z, t, sample, pixel, write);
  });
#else
  each_pixel<true>(a, way, [&](const auto& z, int y, Real z_y, int64 sample, int64 pixel, bool inside, const auto& write) {
    if (inside) gradient_at(a, slopes, z, z_y, sample, pixel, y, write);
  }, &stage);
#endif
}
