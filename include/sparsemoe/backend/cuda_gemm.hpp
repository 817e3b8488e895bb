// SPDX-License-Identifier: Apache-2.0
// backend/cuda_gemm.hpp -- matrix products by cuBLASLt: one function for every storage type, transposition and batch.
// 16-bit and float operands are summed in float (no TF32), double in double; partial sums are never rounded to 16 bits.
// cuBLASLt keeps its own cache of heuristics, so a plan is asked for at every call and nothing is kept here.
// Read next: backend/cuda.hpp.
#pragma once

#include <cublasLt.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <type_traits>

#include "sparsemoe/backend/cuda_check.hpp"
#include "sparsemoe/backend/gemm/library.hpp"
#include "sparsemoe/precision.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// The provider's name and promise, as in backend/gemm/. cuBLAS picks a kernel by shape, so a row's bits may depend on
/// how many rows there are; for one shape they are the same in every run.
struct CublasLt {
  static constexpr const char* name = "cublaslt";
  static constexpr bool row_invariant = false;
};

namespace gpu {

struct DestroyLt {
  void operator()(cublasLtContext* handle) const { cublasLtDestroy(handle); }  // a destructor reports nothing
};
using LtHandle = std::unique_ptr<cublasLtContext, DestroyLt>;

inline LtHandle make_lt_handle() {
  cublasLtHandle_t handle = nullptr;
  check(cublasLtCreate(&handle), "cublasLtCreate");
  return LtHandle(handle);
}

template <class T>
constexpr cudaDataType_t data_type() {
  if constexpr (std::is_same_v<T, double>) {
    return CUDA_R_64F;
  } else if constexpr (std::is_same_v<T, float>) {
    return CUDA_R_32F;
  } else if constexpr (std::is_same_v<T, bf16>) {
    return CUDA_R_16BF;
  } else {
    static_assert(std::is_same_v<T, fp16>, "cuda gemm: store double, float, bf16 or fp16");
    return CUDA_R_16F;
  }
}

/// Where and with what a product runs.
struct LtQueue {
  cublasLtHandle_t handle;
  cudaStream_t stream;
  void* workspace;
  std::size_t workspace_bytes;
};

inline cublasLtMatrixLayoutOpaque_t lt_layout(const ColumnMajorOperand& x, cudaDataType_t type, index_t count) {
  cublasLtMatrixLayoutOpaque_t layout;
  check(cublasLtMatrixLayoutInit(&layout, type, static_cast<std::uint64_t>(x.rows), static_cast<std::uint64_t>(x.cols),
                                 x.ld),
        "layout of ", x.rows, " x ", x.cols, " with leading dimension ", x.ld);
  if (count > 1) {
    const auto items = static_cast<std::int32_t>(count);
    const std::int64_t step = x.step;
    check(cublasLtMatrixLayoutSetAttribute(&layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &items, sizeof(items)),
          "batch of ", count);
    check(cublasLtMatrixLayoutSetAttribute(&layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &step, sizeof(step)),
          "batch step of ", step);
  }
  return layout;
}

/// Queues the product; false where cuBLASLt has no kernel for these types, sizes and alignments. m, n, k > 0.
inline bool lt_multiply(const LtQueue& queue, const ColumnMajorProduct& p, cudaDataType_t in, cudaDataType_t out,
                        double alpha, bool accumulate, void* c) {
  const bool wide = in == CUDA_R_64F;
  cublasLtMatmulDescOpaque_t product;
  check(
      cublasLtMatmulDescInit(&product, wide ? CUBLAS_COMPUTE_64F : CUBLAS_COMPUTE_32F, wide ? CUDA_R_64F : CUDA_R_32F),
      "product descriptor");
  const auto transpose = [&](cublasLtMatmulDescAttributes_t which, bool yes) {
    const std::int32_t op = yes ? CUBLAS_OP_T : CUBLAS_OP_N;
    check(cublasLtMatmulDescSetAttribute(&product, which, &op, sizeof(op)), "transposition");
  };
  transpose(CUBLASLT_MATMUL_DESC_TRANSA, p.first.transposed);
  transpose(CUBLASLT_MATMUL_DESC_TRANSB, p.second.transposed);
  cublasLtMatrixLayoutOpaque_t first = lt_layout(p.first, in, p.count), second = lt_layout(p.second, in, p.count),
                               result = lt_layout(p.out, out, p.count);

  cublasLtMatmulPreferenceOpaque_t preference;
  check(cublasLtMatmulPreferenceInit(&preference), "preference");
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t which, auto value) {
    check(cublasLtMatmulPreferenceSetAttribute(&preference, which, &value, sizeof(value)), "preference");
  };
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<std::uint64_t>(queue.workspace_bytes));
  prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
         static_cast<std::uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, p.first.alignment);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, p.second.alignment);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, p.out.alignment);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, p.out.alignment);

  cublasLtMatmulHeuristicResult_t found = {};
  int count = 0;
  const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(queue.handle, &product, &first, &second, &result,
                                                               &result, &preference, 1, &found, &count);
  if (status == CUBLAS_STATUS_NOT_SUPPORTED || (status == CUBLAS_STATUS_SUCCESS && count == 0)) return false;
  check(status, "cublasLtMatmulAlgoGetHeuristic for ", p.n, " x ", p.m, " x ", p.k);

  const float alpha_float = static_cast<float>(alpha), beta_float = accumulate ? 1.0f : 0.0f;
  const double beta = accumulate ? 1.0 : 0.0;
  check(cublasLtMatmul(queue.handle, &product, wide ? static_cast<const void*>(&alpha) : &alpha_float, p.first.data,
                       &first, p.second.data, &second, wide ? static_cast<const void*>(&beta) : &beta_float, c, &result,
                       c, &result, &found.algo, queue.workspace, queue.workspace_bytes, queue.stream),
        "cublasLtMatmul of ", p.n, " x ", p.m, " x ", p.k);
  return true;
}

}  // namespace gpu
}  // namespace sparsemoe::inline SPARSEMOE_ABI
