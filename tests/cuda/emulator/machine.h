// The machine: blocks one after another, warps of 32 lanes, shared memory, and a shadow of memory that finds what a GPU would let pass.
#pragma once
#include <array>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "ptx.h"

namespace emulator {

// A fault of a kernel, with the code that the driver would give.
struct Fault : std::runtime_error {
  int code;
  Fault(int code, const std::string& what) : std::runtime_error(what), code(code) {}
};
enum { ILLEGAL_ADDRESS = 700, MISALIGNED_ADDRESS = 716, LAUNCH_FAILED = 719 };

// Atomic accesses do not race with each other, only with plain ones.
enum class Access : uint8_t { READ, WRITE, ATOMIC };

// Who last wrote and read a byte, and between which barriers.
struct Cell {
  int writer = -1, reader = -1;  // thread, counted through all blocks
  uint32_t write_block = 0, write_warp = 0, read_block = 0, read_warp = 0;  // epochs
  bool several_readers = false;
  bool atomic = false;            // how it was last written
  bool several_writers = false, several_blocks = false;  // atomically, with no barrier in between
  bool under_way = false;         // an asynchronous copy will write it
};

// An asynchronous copy that its thread has not waited for.
struct Copy {
  uint32_t to;          // in shared memory
  const uint8_t* from;
  uint32_t bytes;
};

// Memory that kernels may touch: what tensors occupy. Reads elsewhere are faults.
struct Region {
  uint64_t begin, end;
  std::vector<Cell> shadow;  // made at the first write of a launch
};

class Memory {
 public:
  void add(uint64_t begin, uint64_t bytes);
  void clear() { regions_.clear(); }
  // The region that holds all of it, or a fault.
  Region& find(uint64_t address, uint64_t bytes, bool write);
  void forget_accesses();

 private:
  std::vector<Region> regions_;  // disjoint, sorted
  size_t last_ = 0;
};

struct Launch;

struct Warp {
  Launch* launch;
  const Kernel* kernel;
  int number = 0;                // in its block
  uint32_t epoch = 0;            // __syncwarp() so far
  bool waited = false;           // for the kernel before
  std::array<int, 32> pc{};      // next instruction of each lane
  uint32_t alive = 0, at_barrier = 0, waiting = 0;  // waiting: for the other lanes of a warp-wide instruction
  int now = 0;                   // the instruction being done
  std::vector<std::array<uint64_t, 32>> registers;
  std::array<std::vector<Copy>, 32> copies;

  void run();  // until every lane has ended or waits for a barrier
};

struct Launch {
  Memory* memory = nullptr;
  const Kernel* kernel = nullptr;
  const uint8_t* params = nullptr;
  bool early = false;            // it may start before the kernel before it is done
  uint32_t grid = 1, threads = 1, block = 0;
  uint32_t epoch = 0;            // barriers of this block so far
  std::vector<uint8_t> shared;
  std::vector<Cell> shared_shadow;
  std::vector<Warp> warps;

  // Check an access, and give the address on the host.
  uint8_t* reach(Warp& warp, int lane, Space space, uint64_t address, uint32_t bytes, Access access);
  [[noreturn]] void fault(const Warp& warp, int lane, int code, const std::string& what) const;
};

// Run a kernel on a one-dimensional grid. `seed` orders blocks and warps; 0 is the natural order.
void run(const Kernel& kernel, uint32_t grid, uint32_t threads, const std::vector<uint8_t>& params, Memory& memory, uint64_t seed, bool early);

}  // namespace emulator
