// Targets with a share t_c for each class: src/cpu/kernel/soft.rs, whose formulas these are.
//
//   cross entropy:  L = sum_c v_c (m - z_c + log sum e),   v_c = w_c ((1 - e) t_c + e / C),   e: label smoothing
//   region term:    I = sum p t,  P = sum p,  T = sum t

// v_c.
__device__ __forceinline__ Real class_mass(const Arguments& a, int c, Real t) {
  if (SMOOTHING) t = (Real)(1 - a.smoothing * a.classes) * t + (Real)a.smoothing;
  return weight_of(a, c) * t;
}

#ifdef LABEL
// The shares of classes among the valid pixels of the window behind a pixel; all 0 without a valid one. A wrong label in it is found.
struct Shares {
  bool valid, wrong = false;
#if CLASSES
  Real value[CLASSES];

  __device__ __forceinline__ Shares(const Arguments& a, int64 sample, int64 pixel) {
    unsigned counts[CLASSES], all = 0;
    EACH_CLASS(c) counts[c] = 0;
    Labels(a, sample, pixel).each(a, [&](int found) {
      wrong |= found == WRONG;
      EACH_CLASS(c) counts[c] += found == c;
    });
    EACH_CLASS(c) all += counts[c];
    valid = all && !wrong;
    const Real scale = valid ? 1 / (Real)all : (Real)0;
    EACH_CLASS(c) value[c] = (Real)counts[c] * scale;
  }
  __device__ __forceinline__ Real operator()(int c) const { return value[c]; }
#else
  const Arguments& a;
  Labels window;
  Real scale;

  __device__ __forceinline__ Shares(const Arguments& a, int64 sample, int64 pixel) : a(a), window(a, sample, pixel) {
    unsigned all = 0;
    window.each(a, [&](int found) {
      wrong |= found == WRONG;
      all += found >= 0;
    });
    valid = all && !wrong;
    scale = valid ? 1 / (Real)all : (Real)0;
  }
  __device__ __forceinline__ Real operator()(int c) const {
    unsigned count = 0;
    if (valid) window.each(a, [&](int found) { count += found == c; });
    return (Real)count * scale;
  }
#endif
};
#elif CLASSES
// Those that the caller gave, pixel k of a block.
struct Shares {
  Block<Real>& block;
  int k;
  static const bool valid = true, wrong = false;
  __device__ __forceinline__ Real operator()(int c) const { return block.at(c, k); }
};
#else
struct Shares {
  const Real* from;
  int64 stride;
  bool valid;  // whether there is a pixel
  static const bool wrong = false;
  __device__ __forceinline__ Real operator()(int c) const { return valid ? load(from + c * stride) : (Real)0; }
};
#endif
