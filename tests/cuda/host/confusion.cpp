// Runs the kernel of the confusion matrix, compiled for the host, over one batch, and compares with a plain count.
#include "check.h"

#include <random>
#include <vector>

#include "number.cuh"
#include "pass.cuh"
#include "confusion.cu"

int main() {
  const int64 samples = 2, pixels = 5 * 64, classes = C, ignored = 100, wrong = 120;
  const int blocks = 2;
  std::mt19937 random(1);
  Buffer<LABEL> target(samples * pixels);
  std::vector<uint64> truth(classes * classes + 2), counts(truth.size());
  for (int64 i = 0; i < samples * pixels; ++i) {
    const LABEL same = i % 5 ? target.data[i - 1] : (LABEL)(random() % classes);
    target.data[i] = random() % 9 == 0 ? (LABEL)ignored : random() % 50 == 0 ? (LABEL)wrong : same;
  }
#if PREDICTED
  Buffer<Input> input(samples * pixels);
  for (int64 i = 0; i < samples * pixels; ++i) input.data[i] = (Input)(random() % 50 == 0 ? wrong : random() % classes);
  const Strides layout = {pixels, 0, 1};
  const auto predicted = [&](int64 n, int64 i) { return (int64)input.data[n * pixels + i]; };
#else
  Buffer<Input> input(samples * classes * pixels);
  // Few values, so that some are equal.
  for (int64 i = 0; i < samples * classes * pixels; ++i) input.data[i] = from_real<Input>((Real)(random() % 4));
  const Strides layout = CHANNELS_LAST ? Strides{classes * pixels, 1, classes} : Strides{classes * pixels, pixels, 1};
  const auto value = [&](int64 n, int64 c, int64 i) { return to_real(input.data[n * layout.sample + c * layout.channel + i * layout.pixel]); };
  const auto predicted = [&](int64 n, int64 i) {
    int64 at = 0;
    for (int64 c = 1; c < classes; ++c) at = value(n, c, i) > value(n, at, i) ? c : at;
    return at;
  };
#endif
  Arguments pass = {};
  pass.input = input.data;
  pass.target = target.data;
  pass.counts = counts.data();
  pass.input_strides = layout;
  pass.target_strides = {pixels, 0, 1};
  pass.samples = samples;
  pass.pixels = pixels;
  pass.step_samples = blocks * THREADS * WIDTH / pixels;
  pass.step_pixels = blocks * THREADS * WIDTH % pixels;
  pass.ignore_index = ignored;
  pass.rows = 1;
  pass.blocks = blocks;
  pass.classes = (int)classes;
  launch<Arguments, confusion>(blocks, pass);

  for (int64 n = 0; n < samples; ++n) {
    for (int64 i = 0; i < pixels; ++i) {
      const int64 y = target.data[n * pixels + i], prediction = predicted(n, i), cells = classes * classes;
      if (y != ignored) ++truth[y == wrong ? cells : prediction == wrong ? cells + 1 : y * classes + prediction];
    }
  }
  std::printf("%s\n", counts == truth ? "right" : "wrong");
  return counts == truth ? 0 : 1;
}
