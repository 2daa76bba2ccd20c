// Numbers: the types of memory and of the computation, and loads of up to 128 bits.
//
// Every kernel is compiled for one loss, or for the operands of one confusion matrix. The host defines
//   REAL           the type of the computation: float or double
//   INPUT          the type of the logits: float, double, Half or BFloat16; with PREDICTED, of labels
//   LABEL          the type of class indices; for soft targets it is not defined
//   SIZES          0 as many pixels of the target as of the logits; 1 shares of classes in windows of a larger target ("area");
//                  2 logits upsampled to the target's size
//   CLASSES        C, whose values then live in registers; 0: any C, read again wherever it is needed
//   FEW            1: what belongs to the class of a pixel is chosen among registers, by a comparison for each class; 0: memory is asked for it
//   WIDTH          pixels that a thread takes at a time
//   CHANNELS_LAST  1: with WIDTH > 1, the classes of a pixel lie side by side; 0: the pixels of a class do
//   THREADS        threads a block
//   BLOCKS         blocks that a multiprocessor must hold: with THREADS it bounds the registers of a thread
//   PIXEL          the pixel term: 0 none, 1 cross entropy, 2 focal
//   POWER          gamma: 0, 1 or 2; -1 is any other
//   WEIGHTED_PT    1: pt = "weighted_ce"
//   SMOOTHING      1: label smoothing
//   REGION         1: there is a region term (Dice, Tversky)
//   PREDICTED      1: the input of a confusion matrix is labels, not logits
//   EACH_PIXEL     1: the loss of each pixel is asked for, or has an incoming gradient of its own

typedef long long int64;
typedef unsigned long long uint64;

// NVRTC has no headers, so the two 16-bit types are their bits.
struct Half { unsigned short bits; };
struct BFloat16 { unsigned short bits; };

typedef REAL Real;
typedef INPUT Input;
// Whether the logits have 16 bits.
enum { NARROW = sizeof(Input) == 2 };

#ifdef __CUDACC__
__device__ __forceinline__ float to_float(Half x) {
  float wide;
  asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(x.bits));
  return wide;
}
__device__ __forceinline__ Half to_half(float x) {
  Half narrow;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(narrow.bits) : "f"(x));
  return narrow;
}
__device__ __forceinline__ float exp2_of(float x) {
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
  return power;
}
__device__ __forceinline__ float log2_of(float x) {
  float power;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
  return power;
}
__device__ __forceinline__ float reciprocal(float x) {
  float inverse;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(x));
  return inverse;
}
// Whether memory can be copied to shared memory while the thread goes on.
#define COPIES_BEHIND (__CUDA_ARCH__ >= 800)
// Copy 4, 8 or 16 bytes so. NEAR: by way of the first cache, where copies that share a sector meet; else 16 bytes go past it.
template <int BYTES, bool NEAR> __device__ __forceinline__ void copy_behind(void* to, const void* from) {
#if COPIES_BEHIND
  const unsigned place = (unsigned)__cvta_generic_to_shared(to);
  if (BYTES == 16 && !NEAR) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(place), "l"(from) : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(place), "l"(from), "n"(BYTES) : "memory");
  }
#endif
}
// Until all that this thread has asked for is there.
__device__ __forceinline__ void wait_for_copies() {
#if COPIES_BEHIND
  asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}
// The kernel behind this one on the stream may start its blocks, once all of these have come so far: it is launched for that, and waits.
__device__ __forceinline__ void let_kernel_behind_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}
// Until the kernel before is done and what it wrote is to be seen. Before that, no memory is touched.
__device__ __forceinline__ void wait_for_kernel_before() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
#else  // a host compiler with sanitizers: see tests/cuda/host
#define COPIES_BEHIND 1
template <int BYTES, bool> inline void copy_behind(void* to, const void* from) { host::copy_behind(to, from, BYTES); }
inline void wait_for_copies() { host::wait_for_copies(); }
inline void let_kernel_behind_start() {}
inline void wait_for_kernel_before() {}
inline float to_float(Half x) {
  _Float16 narrow;
  __builtin_memcpy(&narrow, &x, sizeof x);
  return (float)narrow;
}
inline Half to_half(float x) {
  const _Float16 narrow = (_Float16)x;
  Half bits;
  __builtin_memcpy(&bits, &narrow, sizeof bits);
  return bits;
}
inline float exp2_of(float x) { return __builtin_exp2f(x); }
inline float log2_of(float x) { return __builtin_log2f(x); }
inline float reciprocal(float x) { return 1 / x; }
#endif

__device__ __forceinline__ float to_float(BFloat16 x) { return __uint_as_float((unsigned)x.bits << 16); }
__device__ __forceinline__ BFloat16 to_bfloat16(float x) {
  BFloat16 narrow;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(narrow.bits) : "f"(x));
#else
  const unsigned bits = __float_as_uint(x);
  // Round to nearest, ties to even; a nan stays one, whatever its payload.
  const unsigned rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  narrow.bits = (unsigned short)(x != x ? 0x7fc0u : rounded);
#endif
  return narrow;
}

__device__ __forceinline__ Real to_real(float x) { return (Real)x; }
__device__ __forceinline__ Real to_real(double x) { return (Real)x; }
__device__ __forceinline__ Real to_real(Half x) { return (Real)to_float(x); }
__device__ __forceinline__ Real to_real(BFloat16 x) { return (Real)to_float(x); }

template <typename T> __device__ __forceinline__ T from_real(Real x);
template <> __device__ __forceinline__ float from_real<float>(Real x) { return (float)x; }
template <> __device__ __forceinline__ double from_real<double>(Real x) { return (double)x; }
template <> __device__ __forceinline__ Half from_real<Half>(Real x) { return to_half((float)x); }
template <> __device__ __forceinline__ BFloat16 from_real<BFloat16>(Real x) { return to_bfloat16((float)x); }

// One name for both types of the computation. Here x <= 0 in exp, and 1 <= x in inverse_of.
//
// exp(x) = 2^(x log2 e). Rounding x log2 e is off by as much, beside x, as rounding z - max z was that x came from, and the
// instruction by 2 ulp: what expf does more, 6 instructions, is lost in that.
__device__ __forceinline__ float exponential(float x) { return exp2_of(x * 1.44269504f); }
__device__ __forceinline__ double exponential(double x) { return exp(x); }
__device__ __forceinline__ float logarithm(float x) { return logf(x); }
__device__ __forceinline__ double logarithm(double x) { return log(x); }
// log(x) for 1 <= x < 2^126 or nan, which so needs no care for 0, denormals and inf. x = 2^n (1 + f) with |f| <= 1/3, and f is a nan where x is;
// log(1 + f) = f + f^2 (-1/2 + f P(f)), P fitted to the least relative error, in all 1 ulp. Of 16-bit logits the instruction is enough, which
// is off by at most 2^-22: 15 instructions of some 90 a pixel.
__device__ __forceinline__ float logarithm_from_one(float x) {
  if (NARROW) return log2_of(x) * 0.69314718f;
  const int power = ((int)__float_as_uint(x) - 0x3f2aaaab) & (int)0xff800000;  // n, where a float has its exponent
  const float f = fmaf(x, __int_as_float(0x3f800000 - power), -1.0f);
  float p = 0.13820136f;
  p = fmaf(p, f, -0.15122190f);
  p = fmaf(p, f, 0.14042328f);
  p = fmaf(p, f, -0.16472325f);
  p = fmaf(p, f, 0.20007919f);
  p = fmaf(p, f, -0.25004238f);
  p = fmaf(p, f, 0.33333266f);
  p = fmaf(p, f, -0.5f);
  return fmaf((float)power, 0.69314718f / (1 << 23), fmaf(p * f, f, f));
}
__device__ __forceinline__ double logarithm_from_one(double x) { return log(x); }
__device__ __forceinline__ float exponential_minus_one(float x) { return expm1f(x); }
__device__ __forceinline__ double exponential_minus_one(double x) { return expm1(x); }
// fmaf, fmin and fmax ignore a nan; exp(nan - m) brings it back.
__device__ __forceinline__ float larger(float a, float b) { return fmaxf(a, b); }
__device__ __forceinline__ double larger(double a, double b) { return fmax(a, b); }
// A full division is a call; for 1 <= x < 2^126 this is as good to 1 ulp.
__device__ __forceinline__ float inverse_of(float x) { return reciprocal(x); }
__device__ __forceinline__ double inverse_of(double x) { return 1.0 / x; }

__device__ __forceinline__ Real infinity() { return (Real)__int_as_float(0x7f800000); }
__device__ __forceinline__ Real not_a_number() { return (Real)__int_as_float(0x7fc00000); }

// N numbers side by side, moved in pieces of at most 128 bits. What is loaded so is not written by the same kernel.
template <int BYTES> struct Piece { typedef uint4 Type; };
template <> struct Piece<8> { typedef uint2 Type; };
template <> struct Piece<4> { typedef unsigned Type; };
template <> struct Piece<2> { typedef unsigned short Type; };
template <> struct Piece<1> { typedef unsigned char Type; };

template <typename T, int N> union Packed {
  enum { BYTES = sizeof(T) * N > 16 ? 16 : sizeof(T) * N, SIZE = BYTES / sizeof(T) };
  typename Piece<BYTES>::Type piece;
  T at[SIZE];
  unsigned words[(BYTES + 3) / 4];
  __device__ __forceinline__ Packed() {}
  // Of 16 bits, half a word by shifts: the upper half of it then becomes a float in one instruction.
  __device__ __forceinline__ T get(int i) const {
    if (sizeof(T) != 2 || BYTES < 4) return at[i];
    union { unsigned short bits; T value; } half = {(unsigned short)(words[i / 2] >> 16 * (i % 2))};
    return half.value;
  }
  __device__ __forceinline__ void unpack(T* to) const {
#pragma unroll
    for (int i = 0; i < SIZE; ++i) to[i] = get(i);
  }
};

template <typename T, int N> __device__ __forceinline__ void load(const T* from, T (&to)[N]) {
  typedef Packed<T, N> P;
#pragma unroll
  for (int i = 0; i < N; i += P::SIZE) {
    P packed;
    packed.piece = __ldg(reinterpret_cast<const decltype(packed.piece)*>(from + i));
    packed.unpack(to + i);
  }
}

template <typename T> __device__ __forceinline__ T load(const T* from) {
  T to[1];
  load<T, 1>(from, to);
  return to[0];
}

template <typename T, int N> __device__ __forceinline__ void store(T* to, const T (&from)[N]) {
  typedef Packed<T, N> P;
#pragma unroll
  for (int i = 0; i < N; i += P::SIZE) {
    P packed;
#pragma unroll
    for (int j = 0; j < P::SIZE; ++j) packed.at[j] = from[i + j];
    // Plain assignments the compiler takes apart into single words.
    __stwb(reinterpret_cast<decltype(packed.piece)*>(to + i), packed.piece);
  }
}

// Sums over the lanes of a warp, the same bits in each of them: side by side, since one after another each would wait for all of its steps.
template <typename T, int N> __device__ __forceinline__ void warp_sums(T (&x)[N]) {
#pragma unroll
  for (int offset = 16; offset > 0; offset >>= 1) {
#pragma unroll
    for (int i = 0; i < N; ++i) x[i] += __shfl_xor_sync(0xffffffffu, x[i], offset);
  }
}
template <typename T> __device__ __forceinline__ T warp_sum(T x) {
  T sum[1] = {x};
  warp_sums(sum);
  return sum[0];
}
