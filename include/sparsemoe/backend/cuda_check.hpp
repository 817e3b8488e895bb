// SPDX-License-Identifier: Apache-2.0
// backend/cuda_check.hpp -- every CUDA and cuBLAS status becomes an Error that says the call, the reason and a remedy.
// Kernels run later than their launch: the call named may be the first that noticed. Read next: backend/cuda.hpp.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include "sparsemoe/error.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {
namespace gpu {

/// What a user can do about it.
inline const char* remedy(cudaError_t status) {
  switch (status) {
    case cudaErrorNoDevice:
      return "no GPU is visible: look at nvidia-smi and CUDA_VISIBLE_DEVICES, or use the CPU backend";
    case cudaErrorInsufficientDriver:
      return "there is no NVIDIA driver, or it is older than this program's CUDA: update it, or use the CPU backend";
    case cudaErrorInvalidDevice: return "there is no such GPU: the first is 0; CUDA_VISIBLE_DEVICES hides the others";
    case cudaErrorMemoryAllocation: return "the GPU is full: smaller batches, a smaller model, or another GPU";
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorUnsupportedPtxVersion:
      return "compiled for another GPU: set -arch (nvcc) or CMAKE_CUDA_ARCHITECTURES (CMake) to this one";
    case cudaErrorDevicesUnavailable: return "the GPU is busy or in exclusive mode: wait, or use another one";
    case cudaErrorIllegalAddress:
    case cudaErrorMisalignedAddress:
    case cudaErrorLaunchFailure:
      return "a kernel failed, maybe an earlier one: run compute-sanitizer, or set CUDA_LAUNCH_BLOCKING=1";
    default: return "set CUDA_LAUNCH_BLOCKING=1 to see whether this call or an earlier kernel is at fault";
  }
}

/// Throws Error unless the call succeeded: check(cudaMalloc(&p, n), "cudaMalloc of ", n, " bytes").
template <class... Call>
void check(cudaError_t status, const Call&... call) {
  if (status == cudaSuccess) return;
  fail("CUDA: ", call..., ": ", cudaGetErrorString(status), " (", cudaGetErrorName(status), "); ", remedy(status));
}
template <class... Call>
void check(cublasStatus_t status, const Call&... call) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  const char* advice =
      status == CUBLAS_STATUS_NOT_INITIALIZED || status == CUBLAS_STATUS_ALLOC_FAILED
          ? "; is the GPU's memory full, or the driver older than the CUDA toolkit?"
          : (status == CUBLAS_STATUS_EXECUTION_FAILED ? "; a kernel failed, maybe an earlier one: run compute-sanitizer"
                                                      : "");
  fail("cuBLAS: ", call..., ": ", cublasLtGetStatusString(status), " (", cublasLtGetStatusName(status), ")", advice);
}

/// The number of GPUs this process can use; 0 where there is no driver.
inline int device_count() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

}  // namespace gpu
}  // namespace sparsemoe::inline SPARSEMOE_ABI
