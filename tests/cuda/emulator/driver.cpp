// A stand-in for NVIDIA's driver library, for machines without a GPU: device memory is the host's, streams run at once, and kernels are
// the PTX that the caller hands over. SONAME libcuda.so: a process that has loaded it gets it for dlopen("libcuda.so") too, while torch,
// which asks for libcuda.so.1, still sees no GPU.
//
// Environment: EMULATOR_CAPABILITY (99: newer than any NVRTC, so that PTX is asked for), EMULATOR_MULTIPROCESSORS (2), EMULATOR_SEED (order of
// blocks and warps), EMULATOR_LOG (a file that every call is written to), EMULATOR_CAPTURING (1: streams say that a graph is being captured).
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>

#include "machine.h"

#define API extern "C" __attribute__((visibility("default"))) int

namespace {

enum { SUCCESS = 0, INVALID_VALUE = 1, NOT_INITIALIZED = 3, INVALID_DEVICE = 101, INVALID_IMAGE = 200, INVALID_CONTEXT = 201, NO_BINARY_FOR_GPU = 209, INVALID_PTX = 218, NOT_FOUND = 500 };

constexpr int DEVICES = 256;  // tests that plant something take a fresh one each

struct Module {
  std::map<std::string, emulator::Kernel> kernels;
};
struct Context {
  int device;
};

std::mutex lock;
thread_local emulator::Memory memory;  // what this thread's launches may touch
Context contexts[DEVICES];
bool initialised = false;
thread_local Context* current = nullptr;
thread_local std::string last_error = "no error";

long setting(const char* name, long otherwise) {
  const char* value = std::getenv(name);
  return value && *value ? std::atol(value) : otherwise;
}

void record(const char* format, ...) {
  const char* path = std::getenv("EMULATOR_LOG");
  FILE* file = path && *path ? std::fopen(path, "a") : nullptr;
  if (!file) return;
  va_list list;
  va_start(list, format);
  std::vfprintf(file, format, list);
  va_end(list);
  std::fputc('\n', file);
  std::fclose(file);
}

int failed(int code, const std::string& why) {
  last_error = why;
  record("error %d: %s", code, why.c_str());
  return code;
}

}  // namespace

// --- for the tests ---

API emulator_allow(uint64_t address, uint64_t bytes) {
  memory.add(address, bytes);
  return SUCCESS;
}
API emulator_forget() {
  memory.clear();
  return SUCCESS;
}

// --- the driver ---

API cuInit(unsigned) {
  record("cuInit");
  if (setting("EMULATOR_NO_DEVICE", 0)) return failed(100, "no CUDA-capable device is detected");
  initialised = true;
  return SUCCESS;
}
API cuDriverGetVersion(int* version) { return *version = 13000, SUCCESS; }
API cuDeviceGetCount(int* count) { return *count = DEVICES, SUCCESS; }
API cuDeviceGet(int* device, int ordinal) {
  if (!initialised) return NOT_INITIALIZED;
  if (ordinal < 0 || ordinal >= DEVICES) return failed(INVALID_DEVICE, "invalid device ordinal");
  return *device = ordinal, SUCCESS;
}
API cuDeviceGetName(char* name, int size, int) { return std::snprintf(name, (size_t)size, "emulated, no GPU"), SUCCESS; }
API cuDeviceGetAttribute(int* value, int attribute, int) {
  const long capability = setting("EMULATOR_CAPABILITY", 990);
  switch (attribute) {
    case 16: *value = (int)setting("EMULATOR_MULTIPROCESSORS", 2); break;
    case 75: *value = (int)(capability / 10); break;
    case 76: *value = (int)(capability % 10); break;
    default: *value = 0;
  }
  return SUCCESS;
}
API cuDevicePrimaryCtxRetain(void** context, int device) {
  record("cuDevicePrimaryCtxRetain %d", device);
  contexts[device].device = device;
  return *context = &contexts[device], SUCCESS;
}
API cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
API cuStreamIsCapturing(void*, int* status) { return *status = (int)setting("EMULATOR_CAPTURING", 0), SUCCESS; }
API cuCtxGetCurrent(void** context) { return *context = current, SUCCESS; }
API cuCtxSetCurrent(void* context) { return current = (Context*)context, SUCCESS; }
API cuCtxSynchronize() { return record("cuCtxSynchronize"), SUCCESS; }
API cuStreamSynchronize(void*) { return record("cuStreamSynchronize"), SUCCESS; }
API cuMemAlloc_v2(uint64_t*, size_t) { return failed(INVALID_VALUE, "allocation outside of torch"); }

API cuModuleLoadData(void** module, const void* image) {
  if (!current) return failed(INVALID_CONTEXT, "no current context");
  if (!std::memcmp(image, "\x7f" "ELF", 4)) {
    record("cuModuleLoadData cubin");
    return failed(NO_BINARY_FOR_GPU, "machine code does not run here");
  }
  record("cuModuleLoadData ptx");
  if (!std::strstr((const char*)image, ".version")) return failed(INVALID_IMAGE, "neither PTX nor a cubin");
  try {
    *module = new Module{emulator::parse((const char*)image)};
  } catch (const std::exception& error) {
    return failed(INVALID_PTX, error.what());
  }
  return SUCCESS;
}
API cuModuleUnload(void* module) { return delete (Module*)module, SUCCESS; }
API cuModuleGetFunction(void** function, void* module, const char* name) {
  auto& kernels = ((Module*)module)->kernels;
  const auto found = kernels.find(name);
  if (found == kernels.end()) return failed(NOT_FOUND, std::string("no kernel ") + name);
  return *function = &found->second, SUCCESS;
}
API cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, void*, int, size_t, unsigned) { return *blocks = 2, SUCCESS; }

// CUlaunchConfig and CUlaunchAttribute of the driver.
struct Attribute {
  int id;
  char padding[4];
  union {
    char bytes[64];
    int allowed;
  };
};
struct Configuration {
  unsigned gx, gy, gz, bx, by, bz, shared;
  void* stream;
  const Attribute* attributes;
  unsigned attribute_count;
};

API cuLaunchKernelEx(const Configuration* configuration, void* function, void** params, void**) {
  if (!current) return failed(INVALID_CONTEXT, "no current context");
  const auto& kernel = *(emulator::Kernel*)function;
  const auto& [gx, gy, gz, bx, by, bz, shared, stream, attributes, attribute_count] = *configuration;
  bool early = false;
  for (unsigned i = 0; i < attribute_count; ++i) {
    if (attributes[i].id != 6) return failed(INVALID_VALUE, "launch attribute");  // programmatic stream serialization
    early = attributes[i].allowed;
  }
  record("cuLaunchKernelEx %s device %d grid %u block %u%s stream %p", kernel.name.c_str(), current->device, gx, bx, early ? " early" : "", stream);
  if (!gx || gy != 1 || gz != 1 || !bx || bx > 1024 || by != 1 || bz != 1 || shared) return failed(INVALID_VALUE, "launch configuration");
  // One structure by value: the only kind of parameter list that this project has.
  const auto* from = (const uint8_t*)params[0];
  const std::vector<uint8_t> copy(from, from + kernel.param_bytes);
  std::lock_guard guard(lock);
  try {
    emulator::run(kernel, gx, bx, copy, memory, (uint64_t)setting("EMULATOR_SEED", 0), early);
  } catch (const emulator::Fault& fault) {
    return failed(fault.code, fault.what());
  }
  return SUCCESS;
}
API cuGetErrorName(int code, const char** name) {
  switch (code) {
    case 100: *name = "CUDA_ERROR_NO_DEVICE"; break;
    case 101: *name = "CUDA_ERROR_INVALID_DEVICE"; break;
    case 209: *name = "CUDA_ERROR_NO_BINARY_FOR_GPU"; break;
    case 218: *name = "CUDA_ERROR_INVALID_PTX"; break;
    case 700: *name = "CUDA_ERROR_ILLEGAL_ADDRESS"; break;
    case 716: *name = "CUDA_ERROR_MISALIGNED_ADDRESS"; break;
    case 719: *name = "CUDA_ERROR_LAUNCH_FAILED"; break;
    default: *name = "CUDA_ERROR_UNKNOWN";
  }
  return SUCCESS;
}
API cuGetErrorString(int, const char** text) { return *text = last_error.c_str(), SUCCESS; }
