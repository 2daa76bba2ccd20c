// Labels for a map of logits of another size than the target's: src/cpu/resize.rs, one thread a pixel of the map.

#define CHUNK (CLASSES ? CLASSES : 32)  // classes that are counted at a time

// Mirrored, field for field, by src/cuda/arguments.rs.
struct ResizeArguments {
  Arguments pass;  // the pixels are the map's; counts: majority: (C), pixels of each class in the batch
  int* labels;     // (N, pixels), contiguous
};

// The index that nearest-exact picks: floor((i + 0.5) from / to), with torch's single-precision scale.
__device__ __forceinline__ int64 nearest_index(int64 i, int64 from, int64 to) {
  const float scale = (float)from / (float)to;
  const int64 index = (int64)(float)(((double)i + 0.5) * (double)scale);
  return index < from ? index : from - 1;
}

// Keeps what pick(sample, pixel) gives for each of the thread's pixels.
template <typename Pick> __device__ __forceinline__ void each_pixel(const ResizeArguments& a, const Pick& pick) {
  const Arguments& pass = a.pass;
  for (Way way(pass); way.more(); way.next(pass)) {
    a.labels[way.sample * pass.pixels + way.pixel] = pick(way.sample, way.pixel);
  }
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) nearest(const ResizeArguments a) {
  const Arguments& pass = a.pass;
  each_pixel(a, [&](int64 sample, int64 pixel) {
    const int64 y = pixel / pass.map.width, x = pixel - y * pass.map.width;
    const int64 row = nearest_index(y, pass.full.height, pass.map.height);
    const int64 column = nearest_index(x, pass.full.width, pass.map.width);
    const LABEL* target = (const LABEL*)pass.target + offset(pass.target_strides, sample, row * pass.full.width + column);
    return decode(load(target), pass);
  });
}

// The most frequent class of the window; of several, the one with the fewest pixels in the batch, then the last. A wrong label
// anywhere in the window stays one.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) majority(const ResizeArguments a) {
  const Arguments& pass = a.pass;
  each_pixel(a, [&](int64 sample, int64 pixel) {
    const Labels window(pass, sample, pixel);
    int winner = IGNORED;
    unsigned most = 0;
    bool wrong = false;
    for (int first = 0; first < pass.classes; first += CHUNK) {
      unsigned counts[CHUNK];
#pragma unroll
      for (int c = 0; c < CHUNK; ++c) counts[c] = 0;
      window.each(pass, [&](int found) {
        wrong |= found == WRONG;
#pragma unroll
        for (int c = 0; c < CHUNK; ++c) counts[c] += found == first + c;
      });
#pragma unroll
      for (int c = 0; c < CHUNK; ++c) {
        const bool tie = counts[c] && counts[c] == most && pass.counts[first + c] <= pass.counts[winner];
        winner = tie || counts[c] > most ? first + c : winner;
        most = counts[c] > most ? counts[c] : most;
      }
    }
    return wrong ? WRONG : winner;
  });
}
