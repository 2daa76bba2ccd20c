// Labels for a map of logits of another size than the target's: src/cpu/resize.rs, one thread a pixel of the map.

#define CHUNK (CLASSES ? CLASSES : 32)  // classes that are counted at a time

struct Size {
  int64 height, width;
};

// Mirrored, field for field, by src/cuda/arguments.rs.
struct ResizeArguments {
  Arguments pass;  // the pixels are the map's; counts: majority: (C), pixels of each class in the batch
  int* labels;     // (N, pixels), contiguous
  Size from, to;
};

// The index that nearest-exact picks: floor((i + 0.5) from / to), with torch's single-precision scale.
__device__ __forceinline__ int64 nearest_index(int64 i, int64 from, int64 to) {
  const float scale = (float)from / (float)to;
  const int64 index = (int64)(float)(((double)i + 0.5) * (double)scale);
  return index < from ? index : from - 1;
}

// The window of adaptive pooling: floor(i from / to) to ceil((i + 1) from / to).
struct Window {
  int64 begin, end;
  __device__ __forceinline__ Window(int64 i, int64 from, int64 to) : begin(i * from / to), end(((i + 1) * from + to - 1) / to) {}
};

// Keeps what pick(y, x, the label at (row, column)) gives for each of the thread's pixels.
template <typename Pick> __device__ __forceinline__ void each_pixel(const ResizeArguments& a, const Pick& pick) {
  const Arguments& pass = a.pass;
  for (Way way(pass); way.more(); way.next(pass)) {
    const int64 y = way.pixel / a.to.width, x = way.pixel - y * a.to.width;
    const LABEL* target = (const LABEL*)pass.target + offset(pass.target_strides, way.sample, 0);
    const auto label = [&](int64 row, int64 column) {
      return decode(load(target + (row * a.from.width + column) * pass.target_strides.pixel), pass);
    };
    a.labels[way.sample * pass.pixels + way.pixel] = pick(y, x, label);
  }
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) nearest(const ResizeArguments a) {
  each_pixel(a, [&](int64 y, int64 x, const auto& label) {
    return label(nearest_index(y, a.from.height, a.to.height), nearest_index(x, a.from.width, a.to.width));
  });
}

// The most frequent class of the window; of several, the one with the fewest pixels in the batch, then the last. A wrong label
// anywhere in the window stays one.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) majority(const ResizeArguments a) {
  each_pixel(a, [&](int64 y, int64 x, const auto& label) {
    const Window rows(y, a.from.height, a.to.height), columns(x, a.from.width, a.to.width);
    int winner = IGNORED;
    unsigned most = 0;
    bool wrong = false;
    for (int first = 0; first < a.pass.classes; first += CHUNK) {
      unsigned counts[CHUNK];
#pragma unroll
      for (int c = 0; c < CHUNK; ++c) counts[c] = 0;
      for (int64 row = rows.begin; row < rows.end; ++row) {
        for (int64 column = columns.begin; column < columns.end; ++column) {
          const int found = label(row, column);
          wrong |= found == WRONG;
#pragma unroll
          for (int c = 0; c < CHUNK; ++c) counts[c] += found == first + c;
        }
      }
#pragma unroll
      for (int c = 0; c < CHUNK; ++c) {
        const bool tie = counts[c] && counts[c] == most && a.pass.counts[first + c] <= a.pass.counts[winner];
        winner = tie || counts[c] > most ? first + c : winner;
        most = counts[c] > most ? counts[c] : most;
      }
    }
    return wrong ? WRONG : winner;
  });
}
