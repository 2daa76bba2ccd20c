// The pixels that a thread takes next, on their way into shared memory while it works on those before: until it takes them they occupy no
// registers, and memory is not left waiting. Each thread has places of its own, which no other touches, so there is no barrier. What it has
// read there comes before what a copy that it starts later writes there, as in the pipelines of one thread that CUDA's library has.

// N numbers of every thread. APART: those of one thread and of the next do not follow each other in memory.
template <typename T, int N, bool APART> struct Places {
  typedef Packed<T, N> P;
  enum { PIECES = N / P::SIZE };
  decltype(P::piece) piece[PIECES][THREADS];

  __device__ __forceinline__ void ask(const T* from) {
#pragma unroll
    for (int i = 0; i < PIECES; ++i) copy_behind<P::BYTES, APART || PIECES != 1>(&piece[i][threadIdx.x], from + i * P::SIZE);
  }
  __device__ __forceinline__ void take(T (&to)[N]) const {
#pragma unroll
    for (int i = 0; i < PIECES; ++i) {
      P packed;
      packed.piece = piece[i][threadIdx.x];
      packed.unpack(to + i * P::SIZE);
    }
  }
};

template <bool> struct StageIf {
  enum { USED = 0 };
};

#if MASKED_LATER
// Only whole vectors of logits, with which the copies of labels have 4, 8 or 16 bytes, too. Doubles, which few use, stay as they are, and so
// does what would leave a multiprocessor of 100 KB no room for its BLOCKS, of which each takes 1 KB for itself, and some for weights and coefficients.
enum {
  PLACES = (CLASSES * WIDTH * sizeof(Input) + WIDTH * sizeof(LABEL)) * THREADS,
  HAVE_ROOM = (PLACES + 1024 + 128) * BLOCKS <= 100 << 10,
  CAN_STAGE = COPIES_BEHIND && FEW && HAVE_ROOM && sizeof(Input) <= 4 && WIDTH * sizeof(Input) == 16
};

template <> struct StageIf<true> {
  enum { USED = 1 };
  Places<Input, WIDTH, CHANNELS_LAST> logits[CLASSES];
  Places<LABEL, WIDTH, false> labels;

  // Ask for pixels; those before have been taken.
  __device__ __forceinline__ void ask(const Input* from, const LABEL* target, const Strides& s) {
#pragma unroll
    for (int c = 0; c < CLASSES; ++c) logits[c].ask(from + Block<Input>::place(c, s));
    labels.ask(target);
  }
  // Wait for them.
  __device__ __forceinline__ void take(Block<Input>& block, LABEL (&target)[WIDTH]) const {
    wait_for_copies();
#pragma unroll
    for (int c = 0; c < CLASSES; ++c) logits[c].take(block.value[c]);
    labels.take(target);
  }
};
#else
enum { CAN_STAGE = 0 };
#endif

template <bool WANTED> using Stage = StageIf<WANTED && CAN_STAGE>;

// Ask for the pixels that the way comes to, if there are any: the first ones before `each_pixel`, as soon as can be.
template <typename Kind> __device__ __forceinline__ void ask(const Arguments& a, const Way& way, Kind& stage) {
#if MASKED_LATER
  if constexpr (Kind::USED) {
    if (way.more()) stage.ask(logits_at(a, way), labels_at(a, way), a.input_strides);
  }
#endif
}
