// Runs the kernels for a target of another size than the logits (SIZES), compiled for the host, over one batch, and compares loss and gradient
// of cross entropy plus Dice with the plain formulas in double precision.
#include "check.h"

#include <memory>
#include <random>
#include <vector>

#include "number.cuh"
#include "pass.cuh"
#include "softmax.cuh"
#if SIZES == 1
#include "window.cuh"
#include "shares.cuh"
#else
#include "axis.cuh"
#endif
#include "stage.cuh"
#include "pixels.cuh"
#include "reduce.cu"
#include "slope.cuh"
#if SIZES == 1
#include "gradient.cu"
#else
#include "upsampled_gradient.cu"
#endif
#include "finish.h"

// One of the pixels of the map that a pixel of the loss depends on, and how much.
struct Source {
  int64 pixel;
  double share;
};

int main() {
  const int64 samples = 2, classes = C;
  const Size map = {6, 8}, full = {17, TALL ? 16 : 150};
  const int64 small = map.height * map.width, large = full.height * full.width;
  const int blocks = 3;
  const double lambda = 0.7, smooth = 1e-6;
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  Buffer<Input> input(samples * classes * small), gradient(samples * classes * small);
  Buffer<LABEL> target((samples * large + 63) / 64 * 64);
  for (int64 i = 0; i < samples * classes * small; ++i) input.data[i] = from_real<Input>(2 * normal(random));
  for (int64 i = 0; i < samples * large; ++i) target.data[i] = (LABEL)(random() % 3 == 0 ? 100 : random() % classes);
  Finish finishing(1, lambda, smooth, blocks, classes);
  std::unique_ptr<Real[]> owed(new Real[blocks * 3 * classes * (THREADS + THREADS / 32)]);

  Arguments pass = {};
  pass.input = input.data;
  pass.target = target.data;
  pass.partials = finishing.partials.get();
  pass.coefficients = finishing.coefficients.get();
  const Real one = 1;
  pass.incoming = &one;
  pass.gradient = gradient.data;
  pass.owed = owed.get();
  pass.input_strides = pass.gradient_strides = {classes * small, small, 1};
  pass.target_strides = {large, 0, 1};
  pass.samples = samples;
  pass.pixels = small;
  pass.step_samples = blocks * THREADS / small;
  pass.step_pixels = blocks * THREADS % small;
  pass.ignore_index = 100;
  pass.rows = 1;
  pass.blocks = blocks;
  pass.classes = (int)classes;
  pass.full = full;
  pass.map = map;
  // Corners are not aligned: index i lies at (i + 1/2) map / full - 1/2.
  pass.vertical = {map.height, full.height, 2 * map.height, map.height - full.height, 2 * full.height};
  pass.horizontal = {map.width, full.width, 2 * map.width, map.width - full.width, 2 * full.width};
  const auto cut = [&](const Size& size, int64 band, int64 strip) {
    pass.band = band, pass.bands = (size.height + band - 1) / band;
    pass.strip = strip, pass.strips = (size.width + strip - 1) / strip;
  };
  cut(full, 4, THREADS);
  launch<Arguments, reduce>(blocks, pass);
  launch<FinishArguments, finish>(1, finishing.arguments);
  cut(map, 4, TALL ? 3 : 1);
  launch<Arguments, ::gradient>(blocks, pass);

  // The pixels of the loss: their shares t of the classes, and what pixels of the map they are mixed of.
  std::vector<std::vector<Source>> parts;
  std::vector<std::vector<double>> shares;
  for (int64 n = 0; n < samples; ++n) {
    for (int64 i = 0; i < (SIZES == 1 ? small : large); ++i) {
      std::vector<double> t(classes);
      std::vector<Source> mix;
#if SIZES == 1
      const int64 y = i / map.width, x = i % map.width;
      double count = 0;
      for (int64 row = y * full.height / map.height; row * map.height < (y + 1) * full.height; ++row) {
        for (int64 column = x * full.width / map.width; column * map.width < (x + 1) * full.width; ++column) {
          const int64 label = target.data[n * large + row * full.width + column];
          if (label != 100) t[label] += 1, count += 1;
        }
      }
      for (double& share : t) share /= count;
      if (count == 0) continue;
      mix.push_back({n * classes * small + i, 1});
#else
      const int64 label = target.data[n * large + i];
      if (label == 100) continue;
      t[label] = 1;
      const auto at = [](double i, double from, double to) { return std::fmax((i + 0.5) * from / to - 0.5, 0); };
      const double y = at(i / full.width, map.height, full.height), x = at(i % full.width, map.width, full.width);
      for (int64 row = y; row < map.height && row < y + 1; ++row) {
        for (int64 column = x; column < map.width && column < x + 1; ++column) {
          const auto weight = [](double at, int64 i, int64 size) { return i < at && i + 1 == size ? 1 : 1 - std::fabs(at - i); };
          mix.push_back({n * classes * small + row * map.width + column, weight(y, row, map.height) * weight(x, column, map.width)});
        }
      }
#endif
      parts.push_back(mix);
      shares.push_back(t);
    }
  }
  // With I, P, T over all classes, Dice is (2 I + s) / (P + T + s), and dL/dI = -2 / D, dL/dP = N / D^2.
  std::vector<std::vector<double>> p(parts.size(), std::vector<double>(classes));
  double cross_entropy = 0, intersection = 0;
  for (size_t i = 0; i < parts.size(); ++i) {
    double sum = 0;
    for (int64 c = 0; c < classes; ++c) {
      double z = 0;
      for (const Source& part : parts[i]) z += part.share * (double)to_real(input.data[part.pixel + c * small]);
      sum += p[i][c] = std::exp(z);
    }
    for (int64 c = 0; c < classes; ++c) {
      p[i][c] /= sum;
      cross_entropy -= shares[i][c] * std::log(p[i][c]);
      intersection += shares[i][c] * p[i][c];
    }
  }
  const double valid = parts.size(), numerator = 2 * intersection + smooth, denominator = 2 * valid + smooth;
  const double truth = cross_entropy / valid + lambda * (1 - numerator / denominator);
  std::vector<double> expected(samples * classes * small);
  for (size_t i = 0; i < parts.size(); ++i) {
    double mean = 0;
    const auto slope = [&](int64 c) { return lambda * (numerator / denominator - 2 * shares[i][c]) / denominator; };
    for (int64 c = 0; c < classes; ++c) mean += p[i][c] * slope(c);
    for (int64 c = 0; c < classes; ++c) {
      const double g = (p[i][c] - shares[i][c]) / valid + p[i][c] * (slope(c) - mean);
      for (const Source& part : parts[i]) expected[part.pixel + c * small] += part.share * g;
    }
  }
  const double error = std::fabs(finishing.loss[0] - truth) / truth;
  double largest = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double off = std::fabs(expected[i] - (double)to_real(gradient.data[i])) * valid;
    largest = off > largest || off != off ? off : largest;
  }
  const bool right = error < 1e-5 && largest < (sizeof(Input) == 2 ? 1e-1 : 1e-4);
  std::printf("%s: loss off by %.1e, gradient by %.1e\n", right ? "right" : "wrong", error, largest);
  return right ? 0 : 1;
}
