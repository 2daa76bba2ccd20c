// The engine of shim.h. Compiled without -fsanitize, so that its bookkeeping is invisible to the race detector; SANITIZE_THREAD and
// SANITIZE_ADDRESS say what the kernels are compiled with. HOST_SEED orders the warps and their lanes.
#include <ucontext.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <random>
#include <vector>

#include "shim.h"

#ifdef SANITIZE_THREAD
#include <sanitizer/tsan_interface.h>
#define TSAN(...) __VA_ARGS__
#else
#define TSAN(...)
#endif
#ifdef SANITIZE_ADDRESS
#include <sanitizer/common_interface_defs.h>
#define ASAN(...) __VA_ARGS__
#else
#define ASAN(...)
#endif

extern "C" char __start_emulated_shared[] __attribute__((weak));
extern "C" char __stop_emulated_shared[] __attribute__((weak));

namespace host {
namespace {

enum State { READY, AT_BARRIER, IN_WARP, DONE };

struct Fiber {
  Index index{};
  State state = READY;
  ucontext_t context{};
  std::vector<char> stack = std::vector<char>(256 << 10);
  void *tsan = nullptr, *fake_stack = nullptr;
};

struct Warp {
  int arrived = 0, size = 0;
  unsigned generation = 0;
  uint64_t in[32]{}, out[32]{};
  char token[2]{};  // for the race detector: what __syncwarp() orders
};

std::vector<Fiber> fibers;
std::vector<Warp> warps;
Fiber* now = nullptr;
ucontext_t scheduler;
void *scheduler_tsan = nullptr, *scheduler_fake_stack = nullptr;
const void* scheduler_stack = nullptr;
size_t scheduler_stack_size = 0;
Index block;
unsigned barriers = 0;
// Two tokens in turn: a thread that runs ahead to the next barrier must not lend its clock to one that still leaves this one.
char launch_token, end_token, barrier_token[2];
void (*entry)(const void*);
const void* entry_arguments;

[[noreturn]] void die(const char* what) {
  std::fprintf(stderr, "host engine: %s (block %u, thread %u)\n", what, block.x, now ? now->index.x : 0);
  std::_Exit(3);
}

void leave() {
  Fiber* me = now;
  ASAN(__sanitizer_start_switch_fiber(me->state == DONE ? nullptr : &me->fake_stack, scheduler_stack, scheduler_stack_size);)
  TSAN(__tsan_switch_to_fiber(scheduler_tsan, __tsan_switch_to_fiber_no_sync);)
  swapcontext(&me->context, &scheduler);
  ASAN(__sanitizer_finish_switch_fiber(me->fake_stack, &scheduler_stack, &scheduler_stack_size);)
}

void enter(Fiber& fiber) {
  now = &fiber;
  ASAN(__sanitizer_start_switch_fiber(&scheduler_fake_stack, fiber.stack.data(), fiber.stack.size());)
  TSAN(__tsan_switch_to_fiber(fiber.tsan, __tsan_switch_to_fiber_no_sync);)
  swapcontext(&scheduler, &fiber.context);
  ASAN(__sanitizer_finish_switch_fiber(scheduler_fake_stack, nullptr, nullptr);)
  now = nullptr;
}

void body() {
  ASAN(__sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_stack_size);)
  TSAN(__tsan_acquire(&launch_token);)
  entry(entry_arguments);
  TSAN(__tsan_release(&end_token);)
  now->state = DONE;
  leave();
}

void run_block(std::mt19937_64& random, bool shuffled) {
  for (char* p = __start_emulated_shared; p && p < __stop_emulated_shared; ++p) *(volatile char*)p = (char)0xff;
  for (auto& warp : warps) warp.arrived = 0;
  for (auto& fiber : fibers) {
    fiber.state = READY;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.data();
    fiber.context.uc_stack.ss_size = fiber.stack.size();
    fiber.context.uc_link = &scheduler;
    makecontext(&fiber.context, body, 0);
    TSAN(fiber.tsan = __tsan_create_fiber(0);)
  }
  std::vector<size_t> order(warps.size());
  std::iota(order.begin(), order.end(), 0);
  for (;;) {
    if (shuffled) std::shuffle(order.begin(), order.end(), random);
    bool progress = false;
    for (const size_t number : order) {
      const bool backwards = shuffled && random() % 2;
      for (bool again = true; again;) {
        again = false;
        for (int i = 0; i < warps[number].size; ++i) {
          Fiber& fiber = fibers[number * 32 + (backwards ? warps[number].size - 1 - i : i)];
          if (fiber.state == READY) {
            enter(fiber);
            progress = again = true;
          }
        }
      }
    }
    const auto count = [&](State state) {
      return std::count_if(fibers.begin(), fibers.end(), [&](const Fiber& fiber) { return fiber.state == state; });
    };
    if (count(DONE) == (long)fibers.size()) break;
    if (count(AT_BARRIER) == (long)fibers.size()) {
      for (auto& fiber : fibers) fiber.state = READY;
      ++barriers;
      progress = true;
    }
    if (!progress) die("deadlock: a barrier or a warp-wide instruction that some threads never reach");
  }
  TSAN(for (auto& fiber : fibers) __tsan_destroy_fiber(fiber.tsan);)
}

// All lanes of the warp meet. Only where `orders`, as __syncwarp() does and a shuffle does not, is memory ordered.
Warp& meet(uint64_t value, bool orders) {
  Warp& warp = warps[now->index.x / 32];
  warp.in[lane()] = value;
  char* token = &warp.token[warp.generation & 1];
  (void)token, (void)orders;
  TSAN(if (orders) __tsan_release(token);)
  now->state = IN_WARP;
  if (++warp.arrived == warp.size) {
    std::copy_n(warp.in, 32, warp.out);
    warp.arrived = 0;
    ++warp.generation;
    for (int i = 0; i < warp.size; ++i) fibers[now->index.x / 32 * 32 + i].state = READY;
  } else {
    leave();
  }
  TSAN(if (orders) __tsan_acquire(token);)
  return warp;
}

}  // namespace

const Index& thread_index() { return now->index; }
const Index& block_index() { return block; }
int lane() { return (int)(now->index.x % 32); }
void sync_warp() { meet(0, true); }
uint64_t exchange(uint64_t value, int from) { return meet(value, false).out[from & 31]; }
uint32_t ballot(bool value) {
  const Warp& warp = meet(value, false);
  uint32_t bits = 0;
  for (int i = 0; i < warp.size; ++i) bits |= (uint32_t)(warp.out[i] != 0) << i;
  return bits;
}
void sync_block() {
  char* token = &barrier_token[barriers & 1];
  (void)token;
  TSAN(__tsan_release(token);)
  now->state = AT_BARRIER;
  leave();
  TSAN(__tsan_acquire(token);)
}

void launch(unsigned grid, unsigned threads, void (*kernel)(const void*), const void* arguments) {
  entry = kernel;
  entry_arguments = arguments;
  const char* seed = std::getenv("HOST_SEED");
  std::mt19937_64 random(seed ? std::strtoull(seed, nullptr, 10) : 0);
  if (fibers.size() != threads) fibers = std::vector<Fiber>(threads);
  warps.assign((threads + 31) / 32, {});
  for (unsigned i = 0; i < threads; ++i) {
    fibers[i].index.x = i;
    warps[i / 32].size = (int)std::min(32u, threads - i / 32 * 32);
  }
  TSAN(scheduler_tsan = __tsan_get_current_fiber();)
  TSAN(__tsan_release(&launch_token);)
  for (unsigned number = 0; number < grid; ++number) {
    block.x = number;
    run_block(random, seed != nullptr);
    TSAN(__tsan_acquire(&end_token); __tsan_release(&launch_token);)
  }
}

}  // namespace host
