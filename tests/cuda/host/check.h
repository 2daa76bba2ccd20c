// What the programs that run the kernels on the host have in common.
#pragma once
#include <cstdio>
#include <cstdlib>

#include "shim.h"

template <typename A, void (*KERNEL)(A)> void launch(unsigned grid, const A& arguments) {
  host::launch(grid, THREADS, [](const void* pointer) { KERNEL(*static_cast<const A*>(pointer)); }, &arguments);
}

// Exactly as many elements as asked for, so that AddressSanitizer sees the first one behind them; aligned as torch's memory is.
template <typename T> struct Buffer {
  T* data;
  explicit Buffer(size_t count) : data(static_cast<T*>(std::aligned_alloc(64, count * sizeof(T)))) {
    if (count * sizeof(T) % 64) std::fprintf(stderr, "sizes are multiples of 64 bytes here\n"), std::exit(2);
    std::memset(static_cast<void*>(data), 0xff, count * sizeof(T));
  }
  ~Buffer() { std::free(data); }
};
