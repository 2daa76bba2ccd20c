// First pass: the partial sums of each block, and the loss of each pixel where it is asked for.
//
// Columns of the partial sums: the pixel loss and the number of wrong labels, then I_c, P_c and T_c with a region term, or of class indices
// T_c alone; of shares of classes at last the number of valid pixels. Sums are added up in a fixed order: the same bits on every run on one
// model of GPU.

enum { LOSS_COLUMN = 0, WRONG_COLUMN = 1, CLASS_COLUMNS = 2 };

// Columns of each class, and what follows them.
#define CLASS_PARTS (REGION ? 3 : SOFT ? 0 : 1)
#define VALID_COLUMN (CLASS_COLUMNS + CLASS_PARTS * a.classes)

__device__ __forceinline__ double* partial(const Arguments& a, const Way& way, int column) {
  const int columns = VALID_COLUMN + SOFT;
  return a.partials + ((int64)way.row * columns + column) * a.blocks + way.block;
}

#if SOFT
// The loss at a valid pixel with shares t of classes.
template <typename Z, typename Target>
__device__ __forceinline__ Real loss_at(const Arguments& a, const Logits<Z>& z, const Target& t, Real sum) {
  if (!PIXEL) return 0;
  Real mass = 0;
  EACH_CLASS(c) mass += class_mass(a, c, t(c));
  return z.spread + mass * logarithm_from_one(sum);
}
#else
// The loss at a pixel of class y, of any other what does not count; `weights` is their sum.
template <typename Z>
__device__ __forceinline__ Real loss_at(const Arguments& a, const Softmax& softmax, const Logits<Z>& z, int y, Real weights) {
  if (!PIXEL) return 0;
  const Real log_sum = softmax.log_sum();
  Real loss = pixel_loss(a, softmax, log_sum, weight_of(a, y < 0 ? 0 : y)).loss;
  // Label smoothing: the part that is spread over all classes, of which each has m - z_c + log_sum.
  if (SMOOTHING) loss += (Real)a.smoothing * (z.spread + weights * log_sum);
  return loss;
}
#endif

// Keep the loss of a pixel where it is asked for.
__device__ __forceinline__ void keep(const Arguments& a, int64 sample, int64 pixel, Real loss, bool wrong) {
  if (EACH_PIXEL) a.loss[offset(a.loss_strides, sample, pixel)] = wrong ? not_a_number() : loss;
}

#if !SOFT
// Add the loss of a pixel of class y, if that is one, and keep it where it is asked for. (Worked out for every pixel: a branch takes longer.)
template <typename Z>
__device__ __forceinline__ void add_loss(Real& total, const Arguments& a, const Softmax& softmax, const Logits<Z>& z, int y, Real weights,
                                         int64 sample, int64 pixel, bool inside) {
  const Real loss = loss_at(a, softmax, z, y, weights);
  if (y >= 0) total += loss;
  if (inside) keep(a, sample, pixel, y >= 0 ? loss : (Real)0, y == WRONG);
}
#endif

#if CLASSES
// Add up what every thread of the block has in its column of `slots`, in double, and write it as the block's partial sums.
template <int COUNT, typename Slot>
__device__ __forceinline__ void write_partials(const Arguments& a, const Way& way, const Slot (*slots)[THREADS], int first_column) {
  enum { WARPS = THREADS / 32, EACH = (COUNT + WARPS - 1) / WARPS };
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  double sums[EACH];
#pragma unroll
  for (int i = 0; i < EACH; ++i) {
    const int c = warp + i * WARPS;
    sums[i] = 0;
#pragma unroll
    for (int j = 0; j < THREADS; j += 32) sums[i] += c < COUNT ? (double)slots[c][lane + j] : 0.0;
  }
  warp_sums(sums);
#pragma unroll
  for (int i = 0; i < EACH; ++i) {
    const int c = warp + i * WARPS;
    if (lane == 0 && c < COUNT) *partial(a, way, first_column + c) = sums[i];
  }
}

// One slot a class for each thread, which so can add to the class of its pixel without choosing among registers.
#define SLOT(slots, c) slots[c][threadIdx.x]

#if FEW && !SOFT
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) reduce(const Arguments a) {
  let_kernel_behind_start();
  // All columns of the thread, in the order of the partial sums. Numbers of pixels are exact: a thread has fewer than 2^24.
  enum { TRUTH = CLASS_COLUMNS + (CLASS_PARTS - 1) * CLASSES, COLUMNS = TRUTH + CLASSES };
  // The next pixels, and once the last of them have been taken, what all threads have found. Of 32 bits no pixels: that took 1 % longer.
  union Room {
    Stage<NARROW> stage;
    Real slots[COLUMNS][THREADS];
  };
  __shared__ Room room;
  Real own[COLUMNS];
#pragma unroll
  for (int i = 0; i < COLUMNS; ++i) own[i] = 0;
  const Way way(a);
  ask(a, way, room.stage);
  load_weights(a);
  const Real weights = weight_sum(a);
  each_pixel<false>(a, way, [&](const auto& z, int y, Real z_y, int64 sample, int64 pixel, bool inside, const auto&...) {
    const bool valid = y >= 0;
    const Softmax softmax(z, a, y, z_y);
    add_loss(own[LOSS_COLUMN], a, softmax, z, y, weights, sample, pixel, inside);
    if (y == WRONG) own[WRONG_COLUMN] += 1;
    EACH_CLASS(c) {
      if (c == y) own[TRUTH + c] += 1;
      if (REGION && c == y) own[CLASS_COLUMNS + c] += z.e(c) * softmax.inverse;
      if (REGION && valid) own[CLASS_COLUMNS + CLASSES + c] += z.e(c) * softmax.inverse;
    }
  }, &room.stage);
  if (Stage<NARROW>::USED) __syncthreads();
#pragma unroll
  for (int i = 0; i < COLUMNS; ++i) SLOT(room.slots, i) = own[i];
  __syncthreads();
  write_partials<COLUMNS>(a, way, room.slots, 0);
}
#else
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) reduce(const Arguments a) {
  let_kernel_behind_start();
  __shared__ Real sums[REGION || SOFT ? CLASSES : 1][THREADS];  // I_c, then P_c, then the rest
#if SOFT
  Real intersection[CLASSES], truth[CLASSES];
  EACH_CLASS(c) intersection[c] = truth[c] = 0;
  Real valid_pixels = 0, wrong_pixels = 0;
#else
  __shared__ unsigned counts[CLASSES][THREADS];  // T_c, then the wrong labels
  for (int c = 0; c < CLASSES; ++c) {
    if (REGION) SLOT(sums, c) = 0;
    SLOT(counts, c) = 0;
  }
  unsigned wrong_pixels = 0;
#endif
  // Of many doubles, registers hold the logits alone.
  enum { IN_SHARED = REGION && sizeof(Real) == 8 && CLASSES > 24 };
  __shared__ Real predictions[IN_SHARED ? CLASSES : 1][THREADS];
  Real registers[CLASSES];
  const auto prediction = [&](int c) -> Real& { return IN_SHARED ? SLOT(predictions, c) : registers[c]; };
  EACH_CLASS(c) prediction(c) = 0;
  load_weights(a);
  const Real weights = weight_sum(a);
  Real total = 0;
  const Way way(a);

#if SOFT
  each_pixel<false>(a, way, [&](const auto& z, const Shares& t, int64 sample, int64 pixel, bool inside, const auto&...) {
    Real sum = 0;
    EACH_CLASS(c) sum += z.e(c);
    const Real loss = t.valid ? loss_at(a, z, t, sum) : (Real)0;
    total += loss;
    if (inside) keep(a, sample, pixel, loss, t.wrong);
    valid_pixels += t.valid;
    wrong_pixels += t.wrong;
    if (!REGION) return;
    const Real inverse = t.valid ? inverse_of(sum) : (Real)0;
    EACH_CLASS(c) {
      const Real p = z.e(c) * inverse, share = t(c);
      intersection[c] += p * share;
      prediction(c) += p;
      truth[c] += share;
    }
  });
#else
  each_pixel<false>(a, way, [&](const auto& z, int y, Real z_y, int64 sample, int64 pixel, bool inside, const auto&...) {
    const bool valid = y >= 0;
    const Softmax softmax(z, a, y, z_y);
    add_loss(total, a, softmax, z, y, weights, sample, pixel, inside);
    wrong_pixels += y == WRONG;
    if (valid) SLOT(counts, y) += 1;
    if (!REGION) return;
    if (valid) SLOT(sums, y) += softmax.probability();
    EACH_CLASS(c) {
      if (valid) prediction(c) += z.e(c) * softmax.inverse;
    }
  });
#endif

#if SOFT
  // The block's sum of what each thread has.
  const auto write_column = [&](Real value, int column) {
    SLOT(sums, 0) = value;
    __syncthreads();
    write_partials<1>(a, way, sums, column);
    __syncthreads();
  };
#pragma unroll
  for (int part = 0; part < CLASS_PARTS; ++part) {
    EACH_CLASS(c) SLOT(sums, c) = part == 0 ? intersection[c] : part == 1 ? prediction(c) : truth[c];
    __syncthreads();
    write_partials<CLASSES>(a, way, sums, CLASS_COLUMNS + part * CLASSES);
    __syncthreads();
  }
  write_column(total, LOSS_COLUMN);
  write_column(wrong_pixels, WRONG_COLUMN);
  write_column(valid_pixels, VALID_COLUMN);
#else
  const int truth_column = CLASS_COLUMNS + (CLASS_PARTS - 1) * CLASSES;
  __syncthreads();
  if (REGION) write_partials<CLASSES>(a, way, sums, CLASS_COLUMNS);
  write_partials<CLASSES>(a, way, counts, truth_column);
  __syncthreads();
  if (REGION) {
    EACH_CLASS(c) SLOT(sums, c) = prediction(c);
    __syncthreads();
    write_partials<CLASSES>(a, way, sums, CLASS_COLUMNS + CLASSES);
    __syncthreads();
  }
  SLOT(sums, 0) = total;
  SLOT(counts, 0) = wrong_pixels;
  __syncthreads();
  write_partials<1>(a, way, sums, LOSS_COLUMN);
  write_partials<1>(a, way, counts, WRONG_COLUMN);
#endif
}
#endif

#else  // any number of classes: a block is one warp, and adds to its own partial sums as it goes

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) reduce(const Arguments a) {
  let_kernel_behind_start();
  const int lane = threadIdx.x;
  const Way way(a);
  const auto add = [&](int column, double value) {
    if (lane == 0) *partial(a, way, column) += value;
  };
  const auto add_count = [&](int column, bool holds) {
    const unsigned lanes = __ballot_sync(0xffffffffu, holds);
    if (lanes) add(column, __popc(lanes));
    return lanes;
  };
  for (int column = lane; column < VALID_COLUMN + SOFT; column += THREADS) *partial(a, way, column) = 0;
  __syncwarp();
  const Real weights = weight_sum(a);
  Real total = 0;
#if SOFT
  each_pixel<false>(a, way, [&](const auto& z, const Shares& t, int64 sample, int64 pixel, bool inside, const auto&...) {
    Real sum = 0;
    for (int c = 0; c < a.classes; ++c) sum += z.e(c);
    const Real loss = t.valid ? loss_at(a, z, t, sum) : (Real)0;
    total += loss;
    if (inside) keep(a, sample, pixel, loss, t.wrong);
    add_count(VALID_COLUMN, t.valid);
    add_count(WRONG_COLUMN, t.wrong);
    if (!REGION) return;
    const Real inverse = t.valid ? inverse_of(sum) : (Real)0;
    for (int c = 0; c < a.classes; ++c) {
      const Real p = z.e(c) * inverse, share = t(c);
      add(CLASS_COLUMNS + c, warp_sum(p * share));
      add(CLASS_COLUMNS + a.classes + c, warp_sum(p));
      add(CLASS_COLUMNS + 2 * a.classes + c, warp_sum(share));
    }
  });
#else
  each_pixel<false>(a, way, [&](const auto& z, int y, Real z_y, int64 sample, int64 pixel, bool inside, const auto&...) {
    const bool valid = y >= 0;
    const Softmax softmax(z, a, y, z_y);
    add_loss(total, a, softmax, z, y, weights, sample, pixel, inside);
    add_count(WRONG_COLUMN, y == WRONG);
    const Real inverse = valid ? softmax.inverse : (Real)0;
    for (int c = 0; c < a.classes; ++c) {
      const unsigned there = add_count(CLASS_COLUMNS + (CLASS_PARTS - 1) * a.classes + c, y == c);
      if (!REGION) continue;
      const Real p = z.e(c) * inverse;
      add(CLASS_COLUMNS + a.classes + c, warp_sum(p));
      if (there) add(CLASS_COLUMNS + c, warp_sum(y == c ? p : (Real)0));
    }
  });
#endif
  add(LOSS_COLUMN, warp_sum((double)total));
}
#endif
