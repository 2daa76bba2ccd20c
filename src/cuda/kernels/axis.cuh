// Bilinear upsampling, as F.interpolate has it: an index of the target lies between two neighbours of the map, its taps. In whole numbers,
// so that every position is exact.

// Where index i lies: rest / divisor of the way from `first` to its neighbour. Before the first element there is no way to go.
struct Tap {
  int64 first, rest;

  __device__ __forceinline__ Tap(const Axis& axis, int64 i) : first(0), rest(axis.step * i + axis.begin) {
    if (rest > 0) {
      first = rest / axis.divisor;
      rest -= first * axis.divisor;
    }
  }
  __device__ __forceinline__ void next(const Axis& axis) {
    rest += axis.step;
    while (rest >= axis.divisor) {
      rest -= axis.divisor;
      ++first;
    }
  }
  // How much of the neighbour there is; the last element has none.
  __device__ __forceinline__ Real share(const Axis& axis) const {
    return rest > 0 && first + 1 < axis.map ? (Real)rest / (Real)axis.divisor : (Real)0;
  }
};

// The first index of the target whose first tap is element i of the map or a later one.
__device__ __forceinline__ int64 start(const Axis& axis, int64 i) {
  if (i <= 0) return 0;
  if (i >= axis.map || axis.step == 0) return axis.full;
  const int64 index = (i * axis.divisor - axis.begin + axis.step - 1) / axis.step;
  return index < axis.full ? index : axis.full;
}

// One of the parts that a sample is cut into: all blocks of a row take them in turn.
struct Part {
  int64 sample, band, strip;
  __device__ __forceinline__ Part(const Arguments& a, int row, int64 index) {
    const int64 parts = a.bands * a.strips;
    sample = row * (a.samples / a.rows) + index / parts;
    band = index % parts / a.strips;
    strip = index % a.strips;
  }
};
__device__ __forceinline__ int64 parts_of_a_row(const Arguments& a) { return a.samples / a.rows * a.bands * a.strips; }

__device__ __forceinline__ int64 smaller(int64 a, int64 b) { return a < b ? a : b; }

// The upsampled logits of one column of the target, row by row. Their registers hold the two rows of the map in use, brought to the column.
struct Column {
  const Arguments& a;
  const Input* from;
  int64 neighbour;  // elements from the first tap to the second
  Real share, share_below;
  int64 row = -2, row_below;
#if CLASSES
  Real above[CLASSES], below[CLASSES];
#endif

  __device__ __forceinline__ Column(const Arguments& a, int64 sample, int64 x) : a(a) {
    const Tap tap(a.horizontal, smaller(x, a.full.width - 1));
    from = a.input + offset(a.input_strides, sample, tap.first);
    neighbour = tap.first + 1 < a.map.width ? a.input_strides.pixel : 0;
    share = tap.share(a.horizontal);
  }

  // Row `row` of the map at the column.
  __device__ __forceinline__ Real mixed(int64 row, int c) const {
    const Input* left = from + row * a.map.width * a.input_strides.pixel + c * a.input_strides.channel;
    return (1 - share) * to_real(load(left)) + share * to_real(load(left + neighbour));
  }

  // Go to a row of the target.
  __device__ __forceinline__ void move(const Tap& tap) {
    share_below = tap.share(a.vertical);
    if (tap.first == row) return;
    row_below = smaller(tap.first + 1, a.map.height - 1);
#if CLASSES
    const bool follows = tap.first == row + 1;
    EACH_CLASS(c) above[c] = follows ? below[c] : mixed(tap.first, c);
    EACH_CLASS(c) below[c] = mixed(row_below, c);
#endif
    row = tap.first;
  }

  // The logit of class c there.
  __device__ __forceinline__ Real operator()(int c) const {
#if CLASSES
    return (1 - share_below) * above[c] + share_below * below[c];
#else
    return (1 - share_below) * mixed(row, c) + share_below * mixed(row_below, c);
#endif
  }

  // That of the target's class.
  __device__ __forceinline__ Real of(int y) const {
#if CLASSES
    Real z_y = 0;
    EACH_CLASS(c) z_y = c == y ? (*this)(c) : z_y;
    return z_y;
#else
    return (*this)(y);
#endif
  }
};
