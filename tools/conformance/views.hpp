// SPDX-License-Identifier: Apache-2.0
// tools/conformance/views.hpp -- vectors seen as matrices.
#pragma once

#include <vector>

#include "sparsemoe/view.hpp"

namespace conformance {

using namespace sparsemoe;

template <class T>
Matrix<const T> constant(const std::vector<T>& v, index_t cols) {
  return {v.data(), static_cast<index_t>(v.size()) / cols, cols};
}
template <class T>
Matrix<T> writable(std::vector<T>& v, index_t cols) {
  return {v.data(), static_cast<index_t>(v.size()) / cols, cols};
}

}  // namespace conformance
