// Runs the kernels, compiled for the host, over one batch, and compares loss and gradient with the plain formulas in double precision.
#include "check.h"

#include <memory>
#include <random>
#include <vector>

#include "number.cuh"
#include "pass.cuh"
#include "softmax.cuh"
#include "stage.cuh"
#include "pixels.cuh"
#include "reduce.cu"
#include "slope.cuh"
#include "gradient.cu"
#include "finish.h"

int main() {
  const int64 samples = 2, pixels = 20 * 64, classes = C;  // several turns of all blocks
  const int blocks = 2;
  const double gamma = 2, lambda = 0.7, smooth = 1e-6;
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  Buffer<Input> input(samples * classes * pixels), gradient(samples * classes * pixels);
  Buffer<LABEL> target(samples * pixels);
  for (int64 i = 0; i < samples * classes * pixels; ++i) input.data[i] = from_real<Input>(2 * normal(random));
  for (int64 i = 0; i < samples * pixels; ++i) target.data[i] = (LABEL)(random() % 7 == 0 ? 100 : random() % classes);
  Finish finishing(2, lambda, smooth, blocks, classes);
  const Strides planar = {classes * pixels, pixels, 1}, last = {classes * pixels, 1, classes};
  const Strides layout = CHANNELS_LAST ? last : planar;

  Arguments pass = {};
  pass.input = input.data;
  pass.target = target.data;
  pass.partials = finishing.partials.get();
  pass.coefficients = finishing.coefficients.get();
  const Real one = 1;
  pass.incoming = &one;
  pass.gradient = gradient.data;
  pass.input_strides = pass.gradient_strides = layout;
  pass.target_strides = {pixels, 0, 1};
  pass.samples = samples;
  pass.pixels = pixels;
  pass.step_samples = blocks * THREADS * WIDTH / pixels;
  pass.step_pixels = blocks * THREADS * WIDTH % pixels;
  pass.ignore_index = 100;
  pass.gamma = gamma;
  pass.rows = 1;
  pass.blocks = blocks;
  pass.classes = (int)classes;
  launch<Arguments, reduce>(blocks, pass);
  launch<FinishArguments, finish>(1, finishing.arguments);
  launch<Arguments, ::gradient>(blocks, pass);

  // The plain formulas: with I, P, T over all classes, Dice is (2 I + s) / (P + T + s), and dL/dI = -2 / D, dL/dP = N / D^2.
  const auto at = [&](int64 n, int64 c, int64 i) { return n * layout.sample + c * layout.channel + i * layout.pixel; };
  std::vector<double> p((size_t)(samples * classes * pixels));
  double focal = 0, intersection = 0, prediction = 0, valid = 0;
  for (int64 n = 0; n < samples; ++n) {
    for (int64 i = 0; i < pixels; ++i) {
      const int64 y = target.data[n * pixels + i];
      double sum = 0;
      for (int64 c = 0; c < classes; ++c) sum += std::exp((double)to_real(input.data[at(n, c, i)]));
      for (int64 c = 0; c < classes; ++c) p[at(n, c, i)] = std::exp((double)to_real(input.data[at(n, c, i)])) / sum;
      if (y == 100) continue;
      const double q = p[at(n, y, i)];
      focal -= std::pow(1 - q, gamma) * std::log(q);
      intersection += q;
      prediction += 1;
      valid += 1;
    }
  }
  const double numerator = 2 * intersection + smooth, denominator = prediction + valid + smooth;
  const double truth = focal / valid + lambda * (1 - numerator / denominator);
  double error = std::fabs(finishing.loss[0] - truth) / truth, largest = 0;
  for (int64 n = 0; n < samples; ++n) {
    for (int64 i = 0; i < pixels; ++i) {
      const int64 y = target.data[n * pixels + i];
      const double q = y == 100 ? 0 : p[at(n, y, i)];
      const double slope = y == 100 ? 0 : (gamma * std::pow(1 - q, gamma - 1) * q * -std::log(q) + std::pow(1 - q, gamma)) / valid;
      for (int64 c = 0; c < classes; ++c) {
        const double one = c == y ? 1 : 0, pc = p[at(n, c, i)];
        const double dice = y == 100 ? 0 : -2 * lambda / denominator * pc * (one - q);
        const double g = y == 100 ? 0 : slope * (pc - one) + dice;
        const double off = std::fabs(g - (double)to_real(gradient.data[at(n, c, i)])) * valid;
        largest = off > largest || off != off ? off : largest;
      }
    }
  }
  const bool right = error < 1e-5 && largest < (sizeof(Input) == 2 ? 1e-2 : 1e-5);
  std::printf("%s: loss off by %.1e, gradient by %.1e\n", right ? "right" : "wrong", error, largest);
  return right ? 0 : 1;
}
