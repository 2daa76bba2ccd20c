// From partial sums to rows of sums, and from those to the loss and the coefficients of the gradient: src/loss/sums.rs in double precision
// on the device, so that nothing waits for the host. One block.
//
// A row of sums is [pixel loss, weight, valid, I_0.., P_0.., T_0..]. A wrong label makes its whole row nan, and so the loss.

enum { LEADING = 3, WARPS = THREADS / 32 };
// Partial sums that a thread asks for before it adds the first: one after another, each would wait for memory.
enum { AT_ONCE = 16 };

// Mirrored, field for field, by src/cuda/arguments.rs. Pointers that a loss does not need are null.
struct FinishArguments {
  double* partials;          // (rows, columns, blocks), see reduce.cu; its first block becomes the total. Null: the sums
                             // are there already
  double* sums;              // (rows, columns)
  Real* loss;                // (), null without a reduction
  Real* coefficients;        // (rows, 1 + 2 C), or (rows, 1) without a region term; for an incoming gradient of 1
  const Real* weight;        // (C)
  const Real* dice_weight;   // (C)
  double pixel_factor;       // lambda of the pixel term
  double region_factor;      // lambda of the region term
  double prediction_factor;  // a, b, h and s of the region term's ratio: `Ratio` of src/loss/sums.rs
  double target_factor;
  double intersection_factor;
  double smooth;
  int64 rows;
  int blocks, classes;
  int pixel;                 // 0 none, 1 cross entropy, 2 focal
  int region;                // 1: there is a region term
  int mean;                  // 1: the pixel losses are averaged
  int macro;                 // 1: average="macro"
  int include_background;
  int skip_absent;
  int soft;                  // 1: shares of classes
  int mean_over_pixels;      // 1: the mean of cross entropy divides by the number of valid pixels
};

// A table in memory of which shared memory has a copy if there is room: every step here waits for the one before.
enum { ROOM = 1024 };
__shared__ double column_room[ROOM], row_room[ROOM];

struct Table {
  double* memory;
  double (&room)[ROOM];
  int64 size;
  int64 stride = 1;  // in memory

  __device__ bool fits() const { return size <= ROOM; }
  __device__ double operator[](int64 i) const { return fits() ? room[i] : memory[i * stride]; }
  __device__ void set(int64 i, double value) const {
    memory[i * stride] = value;
    if (fits()) room[i] = value;
  }
};

// Columns of a row of sums, and of partial sums.
__device__ int row_columns(const FinishArguments& a) { return LEADING + (a.region ? 3 * a.classes : 0); }
__device__ int class_parts(const FinishArguments& a) { return a.region ? 3 : a.soft ? 0 : 1; }
__device__ int partial_columns(const FinishArguments& a) { return 2 + class_parts(a) * a.classes + a.soft; }

__device__ Table row_sums(const FinishArguments& a) { return {a.sums, row_room, a.rows * row_columns(a)}; }

// I, P and T.
struct Sums {
  double intersection, prediction, truth;
};

// One warp's view of one row. Every function gives the same value in all lanes.
struct Row {
  const FinishArguments& a;
  const Table sums;
  int64 first;
  int lane;

  __device__ Row(const FinishArguments& a, int64 row) : a(a), sums(row_sums(a)), first(row * row_columns(a)), lane(threadIdx.x % 32) {}
  __device__ double intersection(int c) const { return sums[first + LEADING + c]; }
  __device__ double prediction(int c) const { return sums[first + LEADING + a.classes + c]; }
  __device__ double truth(int c) const { return sums[first + LEADING + 2 * a.classes + c]; }
  __device__ void set(int i, double value) const { sums.set(first + i, value); }

  // How much class c weighs in the region term: 0 leaves it out.
  __device__ double weight(int c) const {
    if (c == 0 && !a.include_background) return 0;
    if (a.macro && a.skip_absent && truth(c) == 0) return 0;
    return a.dice_weight ? (double)a.dice_weight[c] : 1.0;
  }
  template <typename F> __device__ double over_classes(const F& f) const {
    double sum = 0;
#pragma unroll 1
    for (int c = lane; c < a.classes; c += 32) sum += f(c);
    return warp_sum(sum);
  }
  __device__ double weights() const { return over_classes([&](int c) { return weight(c); }); }
  __device__ Sums of(int c) const { return {intersection(c), prediction(c), truth(c)}; }
  // The weighted sums over the classes that a micro average is the ratio of.
  __device__ Sums micro() const {
    double all[3] = {0, 0, 0};
#pragma unroll 1
    for (int c = lane; c < a.classes; c += 32) {
      const double w = weight(c);
      all[0] += w * intersection(c);
      all[1] += w * prediction(c);
      all[2] += w * truth(c);
    }
    warp_sums(all);
    return {all[0], all[1], all[2]};
  }
};

// The region term is 1 - N / D, of N = 2 I + s and D = a P + b T + h I + s.
__device__ double numerator(const FinishArguments& a, const Sums& sums) {
  return 2 * sums.intersection + a.smooth;
}
__device__ double denominator(const FinishArguments& a, const Sums& sums) {
  return a.prediction_factor * sums.prediction + a.target_factor * sums.truth +
         a.intersection_factor * sums.intersection + a.smooth;
}

// Nothing in either counts as a perfect match.
__device__ double ratio_loss(const FinishArguments& a, const Sums& sums) {
  const double d = denominator(a, sums);
  return d == 0 ? 0.0 : 1 - numerator(a, sums) / d;
}

__device__ double region_loss(const Row& row) {
  if (!row.a.macro) return ratio_loss(row.a, row.micro());
  const double weights = row.weights();
  if (weights == 0) return 0;
  const double sum = row.over_classes([&](int c) {
    const double w = row.weight(c);
    return w == 0 ? 0.0 : w * ratio_loss(row.a, row.of(c));
  });
  return sum / weights;
}

// The leading columns, each summed over all rows by one warp.
struct Totals {
  double loss, weight, valid;

  __device__ explicit Totals(const FinishArguments& a) {
    const Table sums = row_sums(a);
    const int columns = row_columns(a);
    double all[LEADING] = {0, 0, 0};
#pragma unroll 1
    for (int64 row = threadIdx.x % 32; row < a.rows; row += 32) {
#pragma unroll
      for (int i = 0; i < LEADING; ++i) all[i] += sums[row * columns + i];
    }
    warp_sums(all);
    loss = all[0], weight = all[1], valid = all[2];
  }
  // What the sum of pixel losses is multiplied with.
  __device__ double pixel_factor(const FinishArguments& a) const {
    if (a.pixel == 0) return 0;
    if (!a.mean) return a.pixel_factor;
    const double denominator = a.pixel == 1 ? weight : valid;
    return denominator == 0 ? 0.0 : a.pixel_factor / denominator;
  }
};

// The partial sums of all blocks, added up, as rows of sums.
__device__ void add_up(const FinishArguments& a) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int parts = class_parts(a), from = partial_columns(a);
  const Table totals = {a.partials, column_room, a.rows * from, a.blocks};

#pragma unroll 1
  for (int64 column = warp; column < totals.size; column += WARPS) {
    double* partials = a.partials + column * a.blocks;
    double sum = 0;
#pragma unroll 1
    for (int first = lane; first < a.blocks; first += 32 * AT_ONCE) {
      double some[AT_ONCE];
#pragma unroll
      for (int i = 0; i < AT_ONCE; ++i) some[i] = first + 32 * i < a.blocks ? partials[first + 32 * i] : 0;
#pragma unroll
      for (int i = 0; i < AT_ONCE; ++i) sum += some[i];
    }
    sum = warp_sum(sum);
    if (lane == 0) totals.set(column, sum);
  }
  __syncthreads();

#pragma unroll 1
  for (int64 r = warp; r < a.rows; r += WARPS) {
    const auto column = [&](int i) { return totals[r * from + i]; };
    const Row row(a, r);
    const double nan = not_a_number();
    const bool wrong = column(1) != 0;
    // Of shares of classes the number of valid pixels is a column of its own, and their mean does not ask for weights.
    double pixels[2] = {0, 0};  // of classes, and by their weights
    if (!a.soft || !a.mean_over_pixels) {
#pragma unroll 1
      for (int c = lane; c < a.classes; c += 32) {
        const double count = column(2 + (parts - 1) * a.classes + c);
        pixels[0] += count;
        pixels[1] += (a.weight ? (double)a.weight[c] : 1.0) * count;
      }
    }
    warp_sums(pixels);
    const double valid = a.soft ? column(2 + parts * a.classes) : pixels[0];
    const double weight = a.mean_over_pixels ? valid : pixels[1];
    if (lane == 0) {
      row.set(0, wrong ? nan : column(0));
      row.set(1, wrong ? nan : weight);
      row.set(2, wrong ? nan : valid);
    }
    if (a.region) {
#pragma unroll 1
      for (int i = lane; i < 3 * a.classes; i += 32) row.set(LEADING + i, wrong ? nan : column(2 + i));
    }
  }
}

// (dL/dI, dL/dP) of w times the region term: w (h N - 2 D) / D^2 and w a N / D^2. Without a target pixel dL/dI is multiplied by
// y = 0 everywhere, and must not be beyond any number.
struct Pair {
  double intersection, prediction;
};

__device__ Pair ratio_gradient(const FinishArguments& a, double w, const Sums& sums) {
  const double d = denominator(a, sums);
  if (w == 0 || d == 0) return {0, 0};
  const double slope = w * (numerator(a, sums) / d) / d;
  return {sums.truth == 0 ? 0 : a.intersection_factor * slope - 2 * w / d, a.prediction_factor * slope};
}

// The coefficients of the gradient of a row, by one warp.
__device__ void write_coefficients(const FinishArguments& a, const Row& row, double pixel, Real* to) {
  if (row.lane == 0) to[0] = (Real)pixel;
  if (!a.region) return;
  const double factor = a.region_factor / (double)a.rows;
  const Sums micro = a.macro ? Sums{0, 0, 0} : row.micro();
  const double weights = a.macro ? row.weights() : 1;
#pragma unroll 1
  for (int c = row.lane; c < a.classes; c += 32) {
    const double w = row.weight(c);
    Pair pair = {0, 0};
    if (w != 0) pair = ratio_gradient(a, factor * w / weights, a.macro ? row.of(c) : micro);
    // At the target of a class index y_c is 1, so that q_c is a_c + b_c; a soft target multiplies a_c.
    to[1 + c] = (Real)(a.soft ? pair.intersection : pair.intersection + pair.prediction);
    to[1 + a.classes + c] = (Real)pair.prediction;
  }
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) finish(const FinishArguments a) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  wait_for_kernel_before();
  if (a.partials) {
    add_up(a);
  } else {
    const Table sums = row_sums(a);
#pragma unroll 1
    for (int64 i = threadIdx.x; i < sums.size; i += THREADS) sums.set(i, sums.memory[i]);
  }
  __syncthreads();

  const Totals totals(a);
  const double factor = totals.pixel_factor(a);
  // From the last warp down, since the loss of a few rows is the work of the first.
#pragma unroll 1
  for (int64 r = WARPS - 1 - warp; r < a.rows; r += WARPS) {
    write_coefficients(a, Row(a, r), factor, a.coefficients + r * (a.region ? 1 + 2 * a.classes : 1));
  }
  if (!a.loss) return;

  __shared__ double region[WARPS];
  double sum = 0;
  if (a.region) {
#pragma unroll 1
    for (int64 r = warp; r < a.rows; r += WARPS) sum += region_loss(Row(a, r));
  }
  if (lane == 0) region[warp] = sum;
  __syncthreads();
  if (warp != 0) return;
  const double all = a.region ? warp_sum(lane < WARPS ? region[lane] : 0.0) : 0;
  if (lane != 0) return;
  double loss = factor == 0 ? 0 : factor * totals.loss;
  if (a.region && a.rows > 0) loss += a.region_factor * all / (double)a.rows;
  *a.loss = (Real)loss;
}
