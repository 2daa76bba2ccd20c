// What all passes over the pixels have in common: their arguments, the way over the pixels, and the values of some of them.

struct Strides {
  int64 sample, channel, pixel;  // in elements
};

struct Size {
  int64 height, width;
};

// How positions along one axis of the target map to the logits: index i lies at (step i + begin) / divisor. See axis.cuh.
struct Axis {
  int64 map, full;  // elements of the logits and of the target
  int64 step, begin, divisor;
};

// Whether the target is a share of each class.
#ifdef LABEL
#define SOFT (SIZES == 1)
#else
#define SOFT 1
#endif

// Mirrored, field for field, by src/cuda/arguments.rs. Pointers that a loss does not need are null.
struct Arguments {
  const Input* input;          // (N, C, pixels)
  const void* target;          // (N, pixels of the target) of LABEL, or (N, C, pixels) of Real
  const Real* weight;          // (C)
  Real* loss;                  // reduce: (N, pixels)
  double* partials;            // reduce: (rows, columns, blocks a row), see reduce.cu
  const Real* incoming;        // gradient: (N, pixels), or one number
  const Real* coefficients;    // gradient: (rows, 1 + 2 C): the factor of the pixel term, q_c at the target, b_c; all for an incoming gradient of 1
  Input* gradient;             // gradient: (N, C, pixels)
  uint64* counts;              // confusion: (C C + 2)
  Real* owed;                  // gradient of any number of classes, upsampled: see upsampled_gradient.cu
  Strides input_strides, target_strides, loss_strides, incoming_strides, gradient_strides;
  int64 samples, pixels;
  int64 step_samples, step_pixels;  // from a thread's pixel to its next: all threads of a row
  int64 ignore_index;
  double gamma;
  double smoothing;            // the share of each class: label_smoothing / C
  int rows;                    // rows of sums: N or 1
  int blocks;                  // blocks a row
  int classes;
  // Where target and logits differ in size, and at the same pixels have the same stride:
  Size full, map;              // of the target and of the logits
  Axis vertical, horizontal;   // upsampled: rows and columns
  int64 bands, strips;         // upsampled: into how many parts of rows and columns a sample is cut,
  int64 band, strip;           // and the rows and columns of each: of the target in reduce, of the logits in gradient
};

// A label that does not count, and one that is no class.
enum { IGNORED = -1, WRONG = -2 };

template <typename T> __device__ __forceinline__ int class_of(T label, const Arguments& a) {
  const bool known = sizeof(T) == 8 ? (uint64)label < (uint64)a.classes : (unsigned)(int)label < (unsigned)a.classes;
  return known ? (int)label : WRONG;
}

// The class of a target's label. (Comparisons of 32 bits take half as many instructions.)
template <typename T> __device__ __forceinline__ int decode(T label, const Arguments& a) {
  const int narrow = (int)a.ignore_index;
  const bool ignored = sizeof(T) == 8 ? (int64)label == a.ignore_index : (int)label == narrow && narrow == a.ignore_index;
  return ignored ? IGNORED : class_of(label, a);
}

// The way of one thread over the pixels of its row, WIDTH at a time and without a division inside the loop.
struct Way {
  int row, block;
  int64 sample, pixel, end;

  __device__ __forceinline__ explicit Way(const Arguments& a) {
    row = blockIdx.x / a.blocks;
    block = blockIdx.x - row * a.blocks;
    const int64 samples = a.samples / a.rows;
    const int64 first = ((int64)block * THREADS + threadIdx.x) * WIDTH;
    const int64 begin = row * samples;
    end = begin + samples;
    sample = begin + first / a.pixels;
    pixel = first % a.pixels;
  }
  __device__ __forceinline__ bool more() const { return sample < end; }
  __device__ __forceinline__ void next(const Arguments& a) {
    sample += a.step_samples;
    pixel += a.step_pixels;
    if (pixel >= a.pixels) {
      pixel -= a.pixels;
      ++sample;
    }
  }
};

__device__ __forceinline__ int64 offset(const Strides& s, int64 sample, int64 pixel) {
  return sample * s.sample + pixel * s.pixel;
}

// What lies at the pixels that a way comes to.
__device__ __forceinline__ const Input* logits_at(const Arguments& a, const Way& way) {
  return a.input + offset(a.input_strides, way.sample, way.pixel);
}
#ifdef LABEL
__device__ __forceinline__ const LABEL* labels_at(const Arguments& a, const Way& way) {
  return (const LABEL*)a.target + offset(a.target_strides, way.sample, way.pixel);
}
#endif

#if CLASSES
// The values of WIDTH pixels and all classes, in registers.
template <typename T> struct Block {
  T value[CLASSES][WIDTH];  // planar: [class][pixel]; channels_last: in the order of memory, whole vectors at a time

  // Where value[c] lies, from the first one on.
  static __device__ __forceinline__ int64 place(int c, const Strides& s) { return CHANNELS_LAST ? (int64)(c * WIDTH) : c * s.channel; }
  __device__ __forceinline__ void load_from(const T* from, const Strides& s) {
#pragma unroll
    for (int c = 0; c < CLASSES; ++c) load<T, WIDTH>(from + place(c, s), value[c]);
  }
  __device__ __forceinline__ void store_to(T* to, const Strides& s) const {
#pragma unroll
    for (int c = 0; c < CLASSES; ++c) store<T, WIDTH>(to + place(c, s), value[c]);
  }
  __device__ __forceinline__ T& at(int c, int k) {
    const int flat = k * CLASSES + c;
    return CHANNELS_LAST ? value[flat / WIDTH][flat % WIDTH] : value[c][k];
  }
};
#define EACH_CLASS(c) _Pragma("unroll") for (int c = 0; c < CLASSES; ++c)
#else
#define EACH_CLASS(c) for (int c = 0; c < a.classes; ++c)
#endif
