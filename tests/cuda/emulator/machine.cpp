#include "machine.h"

#include <algorithm>
#include <numeric>
#include <random>
#include <sstream>

namespace emulator {

void Memory::add(uint64_t begin, uint64_t bytes) {
  if (!bytes) return;
  Region fresh{begin, begin + bytes, {}};
  // Views of one tensor overlap: they become one region.
  std::vector<Region> kept;
  for (auto& region : regions_) {
    if (region.end < fresh.begin || fresh.end < region.begin) {
      kept.push_back(std::move(region));
    } else {
      fresh.begin = std::min(fresh.begin, region.begin);
      fresh.end = std::max(fresh.end, region.end);
    }
  }
  kept.push_back(std::move(fresh));
  std::sort(kept.begin(), kept.end(), [](const Region& a, const Region& b) { return a.begin < b.begin; });
  regions_ = std::move(kept);
  last_ = 0;
}

Region& Memory::find(uint64_t address, uint64_t bytes, bool write) {
  const auto holds = [&](const Region& region) { return region.begin <= address && address + bytes <= region.end; };
  if (!(last_ < regions_.size() && holds(regions_[last_]))) {
    const auto above = std::upper_bound(regions_.begin(), regions_.end(), address,
                                        [](uint64_t at, const Region& region) { return at < region.begin; });
    if (above == regions_.begin() || !holds(above[-1])) {
      throw Fault(ILLEGAL_ADDRESS, std::string(write ? "write" : "read") + " outside of every tensor");
    }
    last_ = (size_t)(above - regions_.begin()) - 1;
  }
  return regions_[last_];
}

void Memory::forget_accesses() {
  for (auto& region : regions_) region.shadow = {};
}

namespace {

// Whether two accesses of different threads, one of them a write, were without a barrier in between.
bool unordered(int other, uint32_t block_epoch, uint32_t warp_epoch, int me, uint32_t threads, const Launch& launch, const Warp& warp) {
  if (other < 0 || other == me) return false;
  if (other / threads != me / threads) return true;  // blocks run at the same time
  if (block_epoch != launch.epoch) return false;
  const bool same_warp = other % threads / 32 == me % threads / 32;
  return !(same_warp && warp_epoch < warp.epoch);
}

}  // namespace

void Launch::fault(const Warp& warp, int lane, int code, const std::string& what) const {
  std::ostringstream text;
  text << what << " in " << kernel->name << ", block " << block << ", thread " << warp.number * 32 + lane << ": " << kernel->code[warp.now].text;
  throw Fault(code, text.str());
}

uint8_t* Launch::reach(Warp& warp, int lane, Space space, uint64_t address, uint32_t bytes, Access access) {
  const bool write = access != Access::READ, atomic = access == Access::ATOMIC;
  if (address % bytes) fault(warp, lane, MISALIGNED_ADDRESS, "misaligned address");
  Cell* cells = nullptr;
  uint8_t* host;
  if (space == Space::SHARED) {
    if (address + bytes > shared.size()) fault(warp, lane, ILLEGAL_ADDRESS, "access outside of shared memory");
    host = shared.data() + address;
    cells = shared_shadow.data() + address;
  } else {
    if (early && !warp.waited) fault(warp, lane, LAUNCH_FAILED, "memory is touched before griddepcontrol.wait");
    try {
      Region& region = memory->find(address, bytes, write);
      if (write && region.shadow.empty()) region.shadow.resize(region.end - region.begin);
      if (!region.shadow.empty()) cells = region.shadow.data() + (address - region.begin);
    } catch (const Fault& found) {
      fault(warp, lane, found.code, found.what());
    }
    host = (uint8_t*)address;
  }
  if (!cells) return host;
  const int me = (int)(block * threads) + warp.number * 32 + lane;
  for (uint32_t i = 0; i < bytes; ++i) {
    Cell& cell = cells[i];
    if (cell.under_way) fault(warp, lane, LAUNCH_FAILED, "race: an asynchronous copy to shared memory is under way");
    if (access != Access::WRITE && space == Space::SHARED && cell.writer < 0) fault(warp, lane, LAUNCH_FAILED, "read of uninitialised shared memory");
    const bool several = cell.several_blocks || (cell.several_writers && cell.write_block == epoch);
    const bool after_another = several || unordered(cell.writer, cell.write_block, cell.write_warp, me, threads, *this, warp);
    if (after_another && !(atomic && cell.atomic)) {
      fault(warp, lane, LAUNCH_FAILED, std::string("race: ") + (write ? "write" : "read") + " without a barrier after a write of thread " + std::to_string(cell.writer % threads) + " of block " + std::to_string(cell.writer / threads));
    }
    if (write) {
      const bool others = cell.several_readers && cell.read_block == epoch;
      if (others || unordered(cell.reader, cell.read_block, cell.read_warp, me, threads, *this, warp)) {
        fault(warp, lane, LAUNCH_FAILED, "race: write without a barrier after a read of thread " + std::to_string(cell.reader % threads));
      }
      const bool several_blocks = after_another && (cell.several_blocks || cell.writer / threads != me / threads);
      cell = {me, -1, epoch, warp.epoch, 0, 0, false, atomic, after_another, several_blocks};
    } else {
      const bool again = cell.reader >= 0 && cell.read_block == epoch && cell.read_warp == warp.epoch;
      cell.several_readers = again && (cell.several_readers || cell.reader != me);
      cell.reader = me;
      cell.read_block = epoch;
      cell.read_warp = warp.epoch;
    }
  }
  return host;
}

// Lanes run together as long as they are at the same instruction. The group that is furthest behind goes first, so that lanes which
// parted at a branch meet again where the branches do.
void Warp::run() {
  const auto& code = kernel->code;
  for (;;) {
    const uint32_t ready = alive & ~at_barrier & ~waiting;
    if (!ready) {
      if (!waiting) return;
      now = pc[__builtin_ctz(waiting)];
      launch->fault(*this, __builtin_ctz(waiting), LAUNCH_FAILED, "deadlock: a lane that the mask names never came");
    }
    int at = INT32_MAX, behind = INT32_MAX;  // this group's place, and the next one's
    for (uint32_t m = ready; m; m &= m - 1) at = std::min(at, pc[__builtin_ctz(m)]);
    uint32_t group = 0;
    for (uint32_t m = ready; m; m &= m - 1) {
      const int lane = __builtin_ctz(m);
      if (pc[lane] == at) {
        group |= 1u << lane;
      } else {
        behind = std::min(behind, pc[lane]);
      }
    }
    const auto move = [&](uint32_t lanes, int to) {
      for (uint32_t m = lanes; m; m &= m - 1) pc[__builtin_ctz(m)] = to;
    };
    while (at < behind) {
      if (at >= (int)code.size()) throw Fault(LAUNCH_FAILED, "ran off the end of " + kernel->name);
      const Instruction& instruction = code[at];
      now = at;
      uint32_t mask = group;
      if (instruction.guard >= 0) {
        const auto& guard = registers[instruction.guard];
        for (uint32_t m = group; m; m &= m - 1) {
          const int lane = __builtin_ctz(m);
          if ((guard[lane] != 0) == instruction.negated) mask &= ~(1u << lane);
        }
      }
      if (instruction.kind == Kind::PLAIN) {
        if (mask) instruction.handler(*this, instruction, mask);
        ++at;
        continue;
      }
      if (instruction.kind == Kind::BRANCH) {
        if (mask == group) {
          at = instruction.target;
          continue;
        }
        move(mask, instruction.target);
        move(group & ~mask, at + 1);
        group = 0;
        break;
      }
      if (instruction.kind == Kind::EXIT) {
        for (uint32_t m = mask; m; m &= m - 1) {
          const int lane = __builtin_ctz(m);
          if (!copies[lane].empty()) launch->fault(*this, lane, LAUNCH_FAILED, "a thread ends while its copy is under way");
        }
        alive &= ~mask;
        move(group & ~mask, at + 1);
      } else if (instruction.kind == Kind::BARRIER) {
        if (mask != group) launch->fault(*this, __builtin_ctz(group), LAUNCH_FAILED, "a barrier under a predicate that differs");
        move(group, at);
        at_barrier |= group;
      } else {
        // The last source is the mask; all lanes that it names and that still live must come here.
        const int first = __builtin_ctz(group);
        const auto& masks = registers[instruction.from.back()];
        const uint32_t named = (uint32_t)masks[first];
        move(group, at);
        uint32_t here = group;
        for (uint32_t m = waiting; m; m &= m - 1) {
          if (pc[__builtin_ctz(m)] == at) here |= 1u << __builtin_ctz(m);
        }
        for (uint32_t m = group; m; m &= m - 1) {
          const int lane = __builtin_ctz(m);
          if ((uint32_t)masks[lane] != named) launch->fault(*this, lane, LAUNCH_FAILED, "lanes name different masks");
          if (!(named >> lane & 1)) launch->fault(*this, lane, LAUNCH_FAILED, "a lane that its mask does not name");
        }
        waiting |= group;
        if ((here & named & alive) == (named & alive)) {
          waiting &= ~named;
          instruction.handler(*this, instruction, named & alive);
          move(named & alive, at + 1);
        }
      }
      group = 0;
      break;
    }
    move(group, at);
  }
}

void run(const Kernel& kernel, uint32_t grid, uint32_t threads, const std::vector<uint8_t>& params, Memory& memory, uint64_t seed, bool early) {
  std::mt19937_64 random(seed);
  const auto order = [&](size_t count) {
    std::vector<uint32_t> list(count);
    std::iota(list.begin(), list.end(), 0u);
    if (seed) std::shuffle(list.begin(), list.end(), random);
    return list;
  };
  memory.forget_accesses();
  Launch launch;
  launch.memory = &memory;
  launch.kernel = &kernel;
  launch.params = params.data();
  launch.grid = grid;
  launch.early = early;
  launch.threads = threads;
  launch.warps.resize((threads + 31) / 32);
  for (auto& warp : launch.warps) {
    warp.launch = &launch;
    warp.kernel = &kernel;
    warp.number = (int)(&warp - launch.warps.data());
    warp.registers.resize((size_t)kernel.registers);
    for (const auto& [number, value] : kernel.constants) warp.registers[number].fill(value);
  }
  for (const uint32_t block : order(grid)) {
    launch.block = block;
    launch.epoch = 0;
    launch.shared.assign((size_t)kernel.shared_bytes, 0xff);  // nan
    launch.shared_shadow.assign((size_t)kernel.shared_bytes, {});
    for (auto& warp : launch.warps) {
      const uint32_t lanes = std::min(32u, threads - (uint32_t)warp.number * 32);
      warp.alive = lanes == 32 ? ~0u : (1u << lanes) - 1;
      warp.at_barrier = warp.waiting = warp.epoch = 0;
      warp.waited = false;
      for (auto& copies : warp.copies) copies.clear();
      warp.pc.fill(0);
      for (const auto& [number, name] : kernel.specials) {
        for (uint32_t lane = 0; lane < 32; ++lane) {
          const bool x = name.size() < 2 || name.substr(name.size() - 2) == ".x" || name == "%laneid";
          uint64_t value;
          if (name == "%laneid") value = lane;
          else if (name.rfind("%tid", 0) == 0) value = x ? (uint64_t)warp.number * 32 + lane : 0;
          else if (name.rfind("%ntid", 0) == 0) value = x ? threads : 1;
          else if (name.rfind("%ctaid", 0) == 0) value = x ? block : 0;
          else value = x ? grid : 1;
          warp.registers[number][lane] = value;
        }
      }
    }
    for (;;) {
      for (const uint32_t number : order(launch.warps.size())) launch.warps[number].run();
      uint32_t waiting = 0, place = UINT32_MAX;
      for (auto& warp : launch.warps) {
        for (uint32_t m = warp.at_barrier; m; m &= m - 1) {
          const auto at = (uint32_t)warp.pc[__builtin_ctz(m)];
          warp.now = (int)at;
          if (place != UINT32_MAX && place != at) launch.fault(warp, __builtin_ctz(m), LAUNCH_FAILED, "threads wait at different barriers");
          place = at;
          ++waiting;
        }
      }
      if (!waiting) break;
      if (waiting != threads) {
        for (auto& warp : launch.warps) {
          if (warp.at_barrier) launch.fault(warp, __builtin_ctz(warp.at_barrier), LAUNCH_FAILED, "a barrier that other threads have left behind");
        }
      }
      ++launch.epoch;
      for (auto& warp : launch.warps) {
        warp.pc.fill((int)place + 1);
        warp.at_barrier = 0;
      }
    }
  }
}

}  // namespace emulator
