// A CUDA runtime for a machine without a GPU: device memory is host memory, and launches are written down, not run.
// FlashInfer's host code runs over it as it is: its checks, its scheduler, its choice of kernels and their arguments.

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>

struct dim3 { unsigned x, y, z; };
struct LaunchConfig { dim3 grid, block; size_t shared_bytes; void *stream, *attributes; unsigned num_attributes; };

static std::map<const void*, std::string> names;
static std::string launches;

// The arguments of the attention kernel, `PagedParams`, are 384 bytes, with padding before a pointer and at the end.
static const size_t NUM_PARAMETER_BYTES = 381, PADDING_BEGIN = 364, PADDING_END = 368;

static void write_down(const void* function, dim3 grid, dim3 block, void** arguments, size_t shared_bytes) {
  char text[512];
  const std::string& name = names[function];
  snprintf(text, sizeof text, "%.200s|%u,%u,%u|%u,%u,%u|%zu|", name.c_str(), grid.x, grid.y, grid.z, block.x, block.y,
           block.z, shared_bytes);
  launches += text;
  if (name.find("BatchPrefillWithPagedKVCacheKernel") != std::string::npos) {
    for (size_t i = 0; i < NUM_PARAMETER_BYTES; ++i) {
      if (i >= PADDING_BEGIN && i < PADDING_END) continue;
      snprintf(text, sizeof text, "%02x", static_cast<unsigned char*>(arguments[0])[i]);
      launches += text;
    }
  }
  launches += "\n";
}

extern "C" {
const char* take_launches() {
  static std::string taken;
  taken.swap(launches);
  launches.clear();
  return taken.c_str();
}
void** __cudaRegisterFatBinary(void*) { return static_cast<void**>(calloc(1, 64)); }
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
void __cudaRegisterFunction(void**, const char* function, char*, const char* name, int, void*, void*, void*, void*,
                            int*) {
  names[function] = name;
}
void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}
int __cudaPopCallConfiguration(dim3*, dim3*, size_t*, void*) { return 0; }
int __cudaGetKernel(void** kernel, const void* function) { return *kernel = const_cast<void*>(function), 0; }
int __cudaLaunchKernel(void* kernel, dim3 grid, dim3 block, void** arguments, size_t shared_bytes, void*) {
  return write_down(kernel, grid, block, arguments, shared_bytes), 0;
}
int cudaLaunchKernel(const void* function, dim3 grid, dim3 block, void** arguments, size_t shared_bytes, void*) {
  return write_down(function, grid, block, arguments, shared_bytes), 0;
}
int cudaLaunchKernelExC(const LaunchConfig* config, const void* function, void** arguments) {
  return write_down(function, config->grid, config->block, arguments, config->shared_bytes), 0;
}
int cudaGetDevice(int* device) { return *device = 0; }
int cudaSetDevice(int) { return 0; }
int cudaFuncSetAttribute(const void*, int, int) { return 0; }
int cudaMemcpyAsync(void* target, const void* source, size_t size, int, void*) {
  return memcpy(target, source, size), 0;
}
int cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* num, const void*, int, size_t, unsigned) {
  return *num = 2, 0;
}
const char* cudaGetErrorName(int) { return "error"; }
const char* cudaGetErrorString(int) { return "error"; }
int cudaDeviceGetAttribute(int* value, int attribute, int) {
  // Multiprocessors, compute capability, shared memory of a multiprocessor and of a block: those of an H200.
  static const std::map<int, int> h200 = {{16, 132}, {75, 9}, {76, 0}, {81, 233472}, {97, 232448}};
  return *value = h200.at(attribute), 0;
}
}
