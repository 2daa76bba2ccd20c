// CUDA C++ for a host compiler: a fiber for each thread of a block, blocks one after another. The kernels are compiled with this under
// AddressSanitizer, UndefinedBehaviorSanitizer or ThreadSanitizer; the engine (engine.cpp) without.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#ifdef __SANITIZE_ADDRESS__
#define __shared__ static  // a plain variable has guards round it
#else
#define __shared__ static __attribute__((section("emulated_shared")))  // filled with nan before each block
#endif

struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};

namespace host {
struct Index {
  unsigned x;
};
const Index& thread_index();
const Index& block_index();
void sync_block();
void sync_warp();
// Every lane of the warp gives a value; gives that of lane `from`.
uint64_t exchange(uint64_t value, int from);
uint32_t ballot(bool value);
int lane();
// Calls kernel(arguments) in every thread of every block.
void launch(unsigned grid, unsigned threads, void (*kernel)(const void*), const void* arguments);
// What each thread of the block has asked for. It comes when the thread waits for it, and not before.
struct Copy {
  void* to;
  const void* from;
  size_t bytes;
};
inline std::vector<Copy> copies[1024];
inline void copy_behind(void* to, const void* from, size_t bytes) { copies[thread_index().x].push_back({to, from, bytes}); }
inline void wait_for_copies() {
  for (const Copy& copy : copies[thread_index().x]) std::memcpy(copy.to, copy.from, copy.bytes);
  copies[thread_index().x].clear();
}
}  // namespace host

#define threadIdx (host::thread_index())
#define blockIdx (host::block_index())
#define __syncthreads() host::sync_block()
#define __syncwarp() host::sync_warp()
#define __ballot_sync(mask, value) host::ballot(value)
#define __any_sync(mask, value) (host::ballot(value) != 0)

template <typename T> T __shfl_xor_sync(unsigned, T value, int offset) {
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  bits = host::exchange(bits, host::lane() ^ offset);
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
template <typename T> T __ldg(const T* from) { return *from; }
template <typename T> void __stwb(T* to, T value) { *to = value; }
template <typename T> T atomicAdd(T* at, T value) { return __atomic_fetch_add(at, value, __ATOMIC_RELAXED); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline float __uint_as_float(unsigned x) {
  float y;
  std::memcpy(&y, &x, sizeof y);
  return y;
}
inline float __int_as_float(int x) { return __uint_as_float((unsigned)x); }
inline unsigned __float_as_uint(float x) {
  unsigned y;
  std::memcpy(&y, &x, sizeof y);
  return y;
}
