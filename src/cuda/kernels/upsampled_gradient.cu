// Second pass under upsampled logits: src/cpu/upsample.rs, whose names these are.
//
// A block owns a rectangle of the map, `band` rows by `strip` columns. Its threads go down the columns of the target that touch it, one
// each, and keep what the row above and the row below are owed. When a row has had its turn, the columns are folded into its own. Full-size
// pixels between two rectangles are visited by both, so that no two blocks write one element.

// Rows of a band that is gone through several times, because one column of the map is touched by more than THREADS of the target.
// cuda/upsample.rs: MAX_ROWS.
enum { MAX_ROWS = 16 };

// One element more for each 32: threads that read 4 or 8 apart then meet in fewer banks.
enum { PADDED = THREADS + THREADS / 32 };
__device__ __forceinline__ int padded(int i) { return i + i / 32; }

// Where a thread keeps what its column is owed: few classes in registers, more in shared memory, any number in memory of the caller.
enum { IN_REGISTERS = CLASSES > 0 && CLASSES * sizeof(Real) <= 64 };

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) gradient(const Arguments a) {
  const int thread = threadIdx.x, row_of_sums = blockIdx.x / a.blocks;
#if CLASSES
  __shared__ Real coefficients[REGION ? 1 + 2 * CLASSES : 1];
  const Slopes slopes(a, row_of_sums, coefficients);
  Real above_registers[IN_REGISTERS ? CLASSES : 1], below_registers[IN_REGISTERS ? CLASSES : 1];
  __shared__ Real memory[(IN_REGISTERS ? 1 : 2) * CLASSES * PADDED], carried[CLASSES * MAX_ROWS];
#else
  const Slopes slopes(a, row_of_sums);
  Real above_registers[1], below_registers[1];
  Real* memory = a.owed + (int64)blockIdx.x * 3 * a.classes * PADDED;  // (3, C, PADDED): two for this, the last more than enough for
  Real* carried = memory + (int64)2 * a.classes * PADDED;              // (C, MAX_ROWS)
#endif
  // What the rows above and below are owed by the thread's column; (C, PADDED) of all threads in memory.
  Real *above_memory = memory, *below_memory = memory + (int64)a.classes * PADDED;
  const auto above = [&](int c) -> Real& { return IN_REGISTERS ? above_registers[c] : above_memory[c * PADDED + padded(thread)]; };
  const auto below = [&](int c) -> Real& { return IN_REGISTERS ? below_registers[c] : below_memory[c * PADDED + padded(thread)]; };
  __shared__ Real shares[PADDED];
  __shared__ int64 starts[THREADS / 2 + 2];  // of the strip's columns, and of one on either side

  for (int64 index = blockIdx.x % a.blocks; index < parts_of_a_row(a); index += a.blocks) {
    const Part part(a, row_of_sums, index);
    const int64 top = part.band * a.band, bottom = smaller(top + a.band, a.map.height);
    const int64 left = part.strip * a.strip, right = smaller(left + a.strip, a.map.width);
    const int columns = (int)(right - left);
    const LABEL* labels = (const LABEL*)a.target + offset(a.target_strides, part.sample, 0);
    for (int i = thread; i < columns + 2; i += THREADS) starts[i] = start(a.horizontal, left - 1 + i);
    const int64 begin = start(a.horizontal, left - 1), end = start(a.horizontal, right);
    int64 from = begin;
    do {  // once, even where no column of the target touches the strip
      Column column(a, part.sample, from + thread);
      const bool inside = from + thread < end;
      shares[padded(thread)] = column.share;
      EACH_CLASS(c) above(c) = below(c) = 0;
      const int64 first = top > 0 ? top - 1 : 0;
      int64 y = start(a.vertical, first);
      Tap tap(a.vertical, y);
      for (int64 row = first; row < bottom; ++row) {
        for (; y < a.full.height && tap.first == row; tap.next(a.vertical), ++y) {
          column.move(tap);
          const int64 pixel = y * a.full.width + from + thread;
          const int label = inside ? decode(load(labels + pixel * a.target_strides.pixel), a) : IGNORED;
          if (label == IGNORED) continue;
          const auto z = [&](int c) { return label >= 0 ? column(c) : (Real)0; };
          const Logits logits(a, z);
          const Real z_y = label >= 0 ? column.of(label) : (Real)0;
          gradient_at(a, slopes, logits, z_y, part.sample, pixel, label, [&](int c, Real g) {
            above(c) += (1 - column.share_below) * g;
            below(c) += column.share_below * g;
          });
        }
        if (row >= top) {
          if (IN_REGISTERS) {
            __syncthreads();  // the row before has been folded
            EACH_CLASS(c) memory[c * PADDED + padded(thread)] = above(c);
          }
          __syncthreads();
          const Real* folding = IN_REGISTERS ? memory : above_memory;
          for (int pair = thread; pair < columns * a.classes; pair += THREADS) {
            const int c = pair / columns, i = pair % columns;
            // The columns of the target around the map's: to the left of it they have a share of it, to the right what that leaves.
            const auto slot = [&](int64 x) { return (int)(x < from ? 0 : x > from + THREADS ? THREADS : x - from); };
            const int turn = slot(starts[i + 1]), stop = slot(starts[i + 2]);
            Real sum = 0;
            for (int x = slot(starts[i]); x < turn; ++x) sum += shares[padded(x)] * folding[c * PADDED + padded(x)];
            for (int x = turn; x < stop; ++x) sum += (1 - shares[padded(x)]) * folding[c * PADDED + padded(x)];
            // Only a strip of one column comes here several times.
            Real& before = carried[c * MAX_ROWS + (row - top) % MAX_ROWS];
            if (from > begin) sum += before;
            if (from + THREADS < end) {
              before = sum;
            } else {
              a.gradient[offset(a.gradient_strides, part.sample, row * a.map.width + left + i) + c * a.gradient_strides.channel] =
                  from_real<Input>(sum);
            }
          }
          if (!IN_REGISTERS) __syncthreads();
        }
        if (IN_REGISTERS) {
          EACH_CLASS(c) above(c) = below(c);
        } else {
          Real* done = above_memory;
          above_memory = below_memory;
          below_memory = done;
        }
        EACH_CLASS(c) below(c) = 0;
      }
      from += THREADS;
      __syncthreads();
    } while (from < end);
  }
}
