// config.hpp -- version, ABI namespace and host/device markers. The only file with compiler #ifs.
// Every name of the library lives in sparsemoe::SPARSEMOE_ABI, an inline namespace that differs between host and CUDA
// translation units: passing one of our types from a .cpp to a .cu is a link error that names the type, not a crash.
// Read next: concepts.hpp.
#pragma once

#define SPARSEMOE_VERSION_MAJOR 0
#define SPARSEMOE_VERSION_MINOR 1
#define SPARSEMOE_VERSION_PATCH 0
#define SPARSEMOE_VERSION "0.1.0"

#if defined(__CUDACC__)
#define SPARSEMOE_ABI v0_cuda
#define SPARSEMOE_HD __host__ __device__  // runs on either side
#define SPARSEMOE_IS_CUDA 1
#else
#define SPARSEMOE_ABI v0_host
#define SPARSEMOE_HD
#define SPARSEMOE_IS_CUDA 0
#endif

#if defined(__CUDA_ARCH__)
#define SPARSEMOE_ON_DEVICE 1  // this pass makes device code
#else
#define SPARSEMOE_ON_DEVICE 0
#endif
