// PTX text as data: kernels, their instructions and operands. What is not understood is an error, never skipped.
#pragma once
#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

namespace emulator {

struct Warp;
struct Instruction;

// Does one instruction for the lanes of `mask`.
using Handler = void (*)(Warp&, const Instruction&, uint32_t mask);

enum class Kind : uint8_t { PLAIN, BRANCH, EXIT, BARRIER, WARP_SYNC };
enum class Space : uint8_t { GENERIC, GLOBAL, SHARED, PARAM };

struct Instruction {
  Handler handler = nullptr;
  Kind kind = Kind::PLAIN;
  Space space = Space::GENERIC;
  uint8_t bytes = 0;        // of one element of a load or store
  uint8_t count = 1;        // elements of a vector load or store, parts of a packed move
  bool negated = false;     // @!%p
  int guard = -1;           // register of the predicate
  int target = -1;          // branch: the index of an instruction
  int64_t offset = 0;       // load, store: added to the address
  std::vector<int> to, from;  // registers; constants and special registers have numbers of their own
  std::string text;
};

struct Kernel {
  std::string name;
  std::vector<Instruction> code;
  std::vector<std::pair<int, uint64_t>> constants;      // register, value
  std::vector<std::pair<int, std::string>> specials;    // register, name such as %tid.x
  int registers = 0;
  int param_bytes = 0, shared_bytes = 0;
};

// All kernels of a module. Throws std::runtime_error with the line that it does not understand.
std::map<std::string, Kernel> parse(const std::string& ptx);

// What does an instruction: its name without the parts that change nothing here. Null if it is not known. (instructions.cpp)
Handler find_handler(const std::string& name);

}  // namespace emulator
