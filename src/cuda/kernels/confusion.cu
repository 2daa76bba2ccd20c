// The confusion matrix: adds the counts of (target, prediction) pairs to what is there. Counts are integers, so the order of the
// atomics does not matter.
//
// (C, C) counts, row = target, then how many labels are no class: of the target, and of the input where the target is not ignored.

#if CLASSES
enum { CELLS = CLASSES * CLASSES + 2 };
#endif

// What a thread counts. Most neighbours fall in one cell, so a run of equal pixels is added at once.
template <typename Add> struct Counter {
  const Arguments& a;
  const Add& add;
  int64 cell = 0;
  unsigned length = 0;

  __device__ __forceinline__ Counter(const Arguments& a, const Add& add) : a(a), add(add) {}
  __device__ __forceinline__ void count(int y, int prediction) {
    if (y == IGNORED) return;
    const int64 cells = (int64)a.classes * a.classes;
    int64 here = (int64)y * a.classes + prediction;
    if (prediction == WRONG) here = cells + 1;
    if (y == WRONG) here = cells;
    if (here != cell) finish();
    cell = here;
    ++length;
  }
  __device__ __forceinline__ void finish() {
    if (length) add(cell, length);
    length = 0;
  }
};

// The first largest of some values; nan counts as the largest.
struct Largest {
  Real value = -infinity();
  int at = 0;

  __device__ __forceinline__ void see(int c, Real x) {
    const bool larger = x > value || (x != x && value == value);
    value = larger ? x : value;
    at = larger ? c : at;
  }
};

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) confusion(const Arguments a) {
#if CLASSES
  // 32 bits do: of any tensor that fits a device, one block gets fewer than 2^32 pixels.
  __shared__ unsigned counts[CELLS];
  for (int i = threadIdx.x; i < CELLS; i += THREADS) counts[i] = 0;
  __syncthreads();
  const auto add = [&](int64 cell, unsigned length) { atomicAdd(&counts[cell], length); };
#else
  const auto add = [&](int64 cell, unsigned length) { atomicAdd(&a.counts[cell], (uint64)length); };
#endif
  Counter<decltype(add)> counter(a, add);
  for (Way way(a); way.more(); way.next(a)) {
    const Input* from = a.input + offset(a.input_strides, way.sample, way.pixel);
    LABEL labels[WIDTH];
    load<LABEL, WIDTH>((const LABEL*)a.target + offset(a.target_strides, way.sample, way.pixel), labels);
#if PREDICTED
    Input predicted[WIDTH];
    load<Input, WIDTH>(from, predicted);
#elif CLASSES
    Block<Input> block;
    block.load_from(from, a.input_strides);
#endif
#pragma unroll
    for (int k = 0; k < WIDTH; ++k) {
#if PREDICTED
      const int prediction = class_of(predicted[k], a);
#else
      Largest largest;
#if CLASSES
      EACH_CLASS(c) largest.see(c, to_real(block.at(c, k)));
#else
      EACH_CLASS(c) largest.see(c, to_real(load(from + c * a.input_strides.channel)));
#endif
      const int prediction = largest.at;
#endif
      counter.count(decode(labels[k], a), prediction);
    }
  }
  counter.finish();
#if CLASSES
  __syncthreads();
  for (int i = threadIdx.x; i < CELLS; i += THREADS) {
    if (counts[i]) atomicAdd(&a.counts[i], (uint64)counts[i]);
  }
#endif
}
