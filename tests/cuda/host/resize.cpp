// Runs the resizing kernels, compiled for the host, over one target, and compares with plain loops.
#include "check.h"

#include <random>
#include <vector>

#include "number.cuh"
#include "pass.cuh"
#include "window.cuh"
#include "resize.cu"

int main() {
  const int64 samples = 2, classes = C, ignored = 100, wrong = 120;
  const Size from = {16, 20}, to = {3, 16};  // windows overlap
  std::mt19937 random(1);
  Buffer<LABEL> target(samples * from.height * from.width);
  Buffer<int> labels(samples * to.height * to.width);
  std::vector<uint64> counts(classes);
  for (int64 i = 0; i < samples * from.height * from.width; ++i) {
    target.data[i] = (LABEL)(random() % 4 == 0 ? ignored : random() % 200 == 0 ? wrong : random() % classes);
    if (target.data[i] < classes) ++counts[target.data[i]];
  }
  ResizeArguments a = {};
  a.labels = labels.data;
  a.pass.full = from;
  a.pass.map = to;
  a.pass.target = target.data;
  a.pass.counts = counts.data();
  a.pass.target_strides = {from.height * from.width, 0, 1};
  a.pass.samples = samples;
  a.pass.pixels = to.height * to.width;
  a.pass.step_pixels = 2 * THREADS % a.pass.pixels;
  a.pass.step_samples = 2 * THREADS / a.pass.pixels;
  a.pass.ignore_index = ignored;
  a.pass.rows = 1;
  a.pass.blocks = 2;
  a.pass.classes = (int)classes;

  int errors = 0;
  const auto compare = [&](auto truth) {
    for (int64 i = 0; i < samples * to.height * to.width; ++i) {
      const LABEL* sample = target.data + i / (to.height * to.width) * from.height * from.width;
      errors += labels.data[i] != truth(sample, i / to.width % to.height, i % to.width);
    }
  };
  const auto meaning = [&](int64 label) { return label == ignored ? -1 : label >= classes ? -2 : (int)label; };
  launch<ResizeArguments, nearest>(2, a);
  compare([&](const LABEL* sample, int64 y, int64 x) {
    const int64 row = (2 * y + 1) * from.height / (2 * to.height), column = (2 * x + 1) * from.width / (2 * to.width);
    return meaning(sample[row * from.width + column]);
  });
  launch<ResizeArguments, majority>(2, a);
  compare([&](const LABEL* sample, int64 y, int64 x) {
    std::vector<uint64> here(classes);
    int winner = -1;
    for (int64 row = y * from.height / to.height; row * to.height < (y + 1) * from.height; ++row) {
      for (int64 column = x * from.width / to.width; column * to.width < (x + 1) * from.width; ++column) {
        const int label = meaning(sample[row * from.width + column]);
        if (label == -2) return -2;
        if (label >= 0) ++here[label];
      }
    }
    for (int c = 0; c < classes; ++c) {
      if (here[c] && (winner < 0 || here[c] > here[winner] || (here[c] == here[winner] && counts[c] <= counts[winner]))) winner = c;
    }
    return winner;
  });
  std::printf("%s: %d labels differ\n", errors ? "wrong" : "right", errors);
  return errors ? 1 : 0;
}
