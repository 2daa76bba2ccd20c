// First pass: the partial sums of each block, and the loss of each pixel where it is asked for.
//
// Columns of the partial sums: the pixel loss and the number of wrong labels, then I_c, P_c and T_c with a region term,
// or T_c alone. Sums are added up in a fixed order: the same bits on every run on one model of GPU.

enum { LOSS_COLUMN = 0, WRONG_COLUMN = 1, CLASS_COLUMNS = 2 };

__device__ __forceinline__ double* partial(const Arguments& a, const Way& way, int column) {
#ifdef LABEL
  const int columns = CLASS_COLUMNS + (REGION ? 3 : 1) * a.classes;
#else
  const int columns = CLASS_COLUMNS + 3 * a.classes;
#endif
  return a.partials + ((int64)way.row * columns + column) * a.blocks + way.block;
}

// The loss at a valid pixel of class y; `weights` is their sum.
__device__ __forceinline__ Real loss_at(const Arguments& a, const Softmax& softmax, const Logits& z, int y, Real weights) {
  if (PIXEL == 0) return 0;
  const Real log_sum = softmax.log_sum();
  Real loss = pixel_loss(a, softmax, log_sum, weight_of(a, y)).loss;
  // Label smoothing: the part that is spread over all classes, of which each has m - z_c + log_sum.
  if (SMOOTHING) loss += (Real)a.smoothing * (z.spread + weights * log_sum);
  return loss;
}

#if CLASSES
// Add up what every thread of the block has in its column of `slots`, in double, and write it as the block's partial sums.
template <typename Slot>
__device__ __forceinline__ void write_partials(const Arguments& a, const Way& way, const Slot (*slots)[THREADS],
                                               int count, int first_column) {
  for (int c = threadIdx.x / 32; c < count; c += THREADS / 32) {
    double sum = 0;
    for (int i = threadIdx.x % 32; i < THREADS; i += 32) sum += (double)slots[c][i];
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) *partial(a, way, first_column + c) = sum;
  }
}

// One slot a class for each thread, which so can add to the class of its pixel without choosing among registers.
#define SLOT(slots, c) slots[c][threadIdx.x]

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) reduce(const Arguments a) {
#ifdef LABEL
  __shared__ Real sums[REGION ? CLASSES : 1][THREADS];  // I_c, then P_c, then the loss
  __shared__ unsigned counts[CLASSES][THREADS];         // T_c, then the wrong labels
  for (int c = 0; c < CLASSES; ++c) {
    if (REGION) SLOT(sums, c) = 0;
    SLOT(counts, c) = 0;
  }
  unsigned wrong = 0;
#else
  __shared__ Real sums[CLASSES][THREADS];
  Real intersection[CLASSES], truth[CLASSES];
  EACH_CLASS(c) intersection[c] = truth[c] = 0;
#endif
  // Of many doubles, registers hold the logits alone.
  enum { IN_SHARED = REGION && sizeof(Real) == 8 && CLASSES > 24 };
  __shared__ Real predictions[IN_SHARED ? CLASSES : 1][THREADS];
  Real registers[CLASSES];
  const auto prediction = [&](int c) -> Real& { return IN_SHARED ? SLOT(predictions, c) : registers[c]; };
  EACH_CLASS(c) prediction(c) = 0;
  const Real weights = weight_sum(a);
  Real total = 0;
  Way way(a);
  for (; way.more(); way.next(a)) {
    const Input* from = a.input + offset(a.input_strides, way.sample, way.pixel);
    Block<Input> block;
    block.load_from(from, a.input_strides);
#ifdef LABEL
    LABEL labels[WIDTH];
    load<LABEL, WIDTH>((const LABEL*)a.target + offset(a.target_strides, way.sample, way.pixel), labels);
#pragma unroll
    for (int k = 0; k < WIDTH; ++k) {
      const int y = decode(labels[k], a);
      const bool valid = y >= 0;
      const Input* logits = from + k * a.input_strides.pixel;
      const Logits z(a, block, k, valid);
      const Softmax softmax(z, a, y, valid ? to_real(load(logits + y * a.input_strides.channel)) : (Real)0);
      const Real loss = valid ? loss_at(a, softmax, z, y, weights) : (Real)0;
      total += loss;
      if (a.loss) {
        a.loss[offset(a.loss_strides, way.sample, way.pixel + k)] = y == WRONG ? not_a_number() : loss;
      }
      wrong += y == WRONG;
      if (valid) SLOT(counts, y) += 1;
      if (REGION) {
        const Real inverse = valid ? softmax.inverse : (Real)0;
        if (valid) SLOT(sums, y) += softmax.probability();
        EACH_CLASS(c) prediction(c) += z.e(c) * inverse;
      }
    }
#else
    Block<Real> target;
    target.load_from((const Real*)a.target + offset(a.target_strides, way.sample, way.pixel), a.target_strides);
#pragma unroll
    for (int k = 0; k < WIDTH; ++k) {
      const Logits z(a, block, k, true);
      Real sum = 0;
      EACH_CLASS(c) sum += z.e(c);
      const Real inverse = inverse_of(sum);
      EACH_CLASS(c) {
        const Real p = z.e(c) * inverse, t = target.at(c, k);
        intersection[c] += p * t;
        prediction(c) += p;
        truth[c] += t;
      }
    }
#endif
  }

#ifdef LABEL
  const int truth_column = CLASS_COLUMNS + (REGION ? 2 * CLASSES : 0);
  __syncthreads();
  if (REGION) write_partials(a, way, sums, CLASSES, CLASS_COLUMNS);
  write_partials(a, way, counts, CLASSES, truth_column);
  __syncthreads();
  if (REGION) {
    EACH_CLASS(c) SLOT(sums, c) = prediction(c);
    __syncthreads();
    write_partials(a, way, sums, CLASSES, CLASS_COLUMNS + CLASSES);
    __syncthreads();
  }
  SLOT(sums, 0) = total;
  SLOT(counts, 0) = wrong;
  __syncthreads();
  write_partials(a, way, sums, 1, LOSS_COLUMN);
  write_partials(a, way, counts, 1, WRONG_COLUMN);
#else
#pragma unroll
  for (int part = 0; part < 3; ++part) {
    EACH_CLASS(c) SLOT(sums, c) = part == 0 ? intersection[c] : part == 1 ? prediction(c) : truth[c];
    __syncthreads();
    write_partials(a, way, sums, CLASSES, CLASS_COLUMNS + part * CLASSES);
    __syncthreads();
  }
  if (threadIdx.x == 0) *partial(a, way, LOSS_COLUMN) = *partial(a, way, WRONG_COLUMN) = total;
#endif
}

#else  // any number of classes: a block is one warp, and adds to its own partial sums as it goes

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) reduce(const Arguments a) {
  const int lane = threadIdx.x;
  Way way(a);
#ifdef LABEL
  const int parts = REGION ? 3 : 1;
#else
  const int parts = 3;
#endif
  const auto add = [&](int column, double value) {
    if (lane == 0) *partial(a, way, column) += value;
  };
  for (int column = lane; column < CLASS_COLUMNS + parts * a.classes; column += THREADS) *partial(a, way, column) = 0;
  __syncwarp();
  const Real weights = weight_sum(a);
  Real total = 0;
  // All lanes stay in the loop until the last is done: they add up together.
  for (; __any_sync(0xffffffffu, way.more()); way.next(a)) {
    const bool inside = way.more();
    const Input* from = a.input + offset(a.input_strides, way.sample, way.pixel);
#ifdef LABEL
    const LABEL* label = (const LABEL*)a.target + offset(a.target_strides, way.sample, way.pixel);
    const int y = inside ? decode(load(label), a) : IGNORED;
    const bool valid = y >= 0;
    const Logits z(a, from, valid);
    const Softmax softmax(z, a, y, valid ? z.z(y) : (Real)0);
    const Real loss = valid ? loss_at(a, softmax, z, y, weights) : (Real)0;
    total += loss;
    if (a.loss && inside) {
      a.loss[offset(a.loss_strides, way.sample, way.pixel)] = y == WRONG ? not_a_number() : loss;
    }
    const unsigned wrong = __ballot_sync(0xffffffffu, y == WRONG);
    if (wrong) add(WRONG_COLUMN, __popc(wrong));
    const Real inverse = valid ? softmax.inverse : (Real)0;
    for (int c = 0; c < a.classes; ++c) {
      const unsigned there = __ballot_sync(0xffffffffu, y == c);
      if (there) add(CLASS_COLUMNS + (REGION ? 2 * a.classes : 0) + c, __popc(there));
      if (REGION) {
        const Real p = z.e(c) * inverse;
        add(CLASS_COLUMNS + a.classes + c, warp_sum(p));
        if (there) add(CLASS_COLUMNS + c, warp_sum(y == c ? p : (Real)0));
      }
    }
#else
    const Real* target = (const Real*)a.target + offset(a.target_strides, way.sample, way.pixel);
    const Logits z(a, from, inside);
    Real sum = 0;
    for (int c = 0; c < a.classes; ++c) sum += z.e(c);
    const Real inverse = inside ? inverse_of(sum) : (Real)0;
    for (int c = 0; c < a.classes; ++c) {
      const Real p = z.e(c) * inverse, t = inside ? load(target + c * a.target_strides.channel) : (Real)0;
      add(CLASS_COLUMNS + c, warp_sum(p * t));
      add(CLASS_COLUMNS + a.classes + c, warp_sum(p));
      add(CLASS_COLUMNS + 2 * a.classes + c, warp_sum(t));
    }
#endif
  }
  add(LOSS_COLUMN, warp_sum((double)total));
}
#endif
