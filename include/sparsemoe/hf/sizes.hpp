// SPDX-License-Identifier: Apache-2.0
// hf/sizes.hpp -- what a config.json asks for against what lies beside it, before anything of that size is allocated;
// and whether a checkpoint has an output head of its own. Read next: hf/tensors.hpp, hf/t5.hpp.
#pragma once

#include <string>
#include <vector>

#include "sparsemoe/hf/config.hpp"
#include "sparsemoe/hf/tensors.hpp"
#include "sparsemoe/io/short_text.hpp"
#include "sparsemoe/model/stack.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

namespace hf {

/// The numbers in the matrices of a stack, without biases and norms: what it has at least. No product overflows.
inline double matrix_parameters(const StackConfig& s, bool gated, bool cross_attention) {
  const auto real = [](index_t n) { return static_cast<double>(n); };
  const double width = real(s.width), inner = real(s.heads) * real(s.head_width);
  const double kv = real(s.kv_heads > 0 ? s.kv_heads : s.heads) * real(s.head_width);
  double sum = 0;
  for (index_t l = 0; l < s.layers; ++l) {
    const double experts = real(s.experts_in(l));
    sum += 2 * width * (inner + kv) + (cross_attention ? 4 * width * inner : 0);
    sum += (experts > 0 ? experts : 1) * (gated ? 3 : 2) * width * real(s.hidden_in(l)) + experts * width;
  }
  return sum + real(s.position_tables()) * real(s.buckets) * real(s.heads);
}

/// Throws FileError if the files hold so many fewer numbers than the model has at least that it would take more memory
/// than them and a little. A missing tensor of a few is named by load().
inline void check_size(const Config& config, const Tensors& tensors, double parameters) {
  const double held = tensors.elements();
  if (parameters > held + static_cast<double>(kSpareMemory / sizeof(float)))
    fail_file(config.path(), "describes a model of at least ", short_number(parameters),
              " parameters, the tensors beside it hold ", short_number(held));
}

/// Where a family's files may keep the table of the embedding and that of the output head.
struct HeadNames {
  std::string head;
  std::vector<std::string> embedding;
};
/// Whether the output head has a table of its own: transformers 5 writes tie_word_embeddings true for T5 1.1 too, and
/// reads the files to know. A head with the embedding's bytes is tied, unless config.json says that it is not.
inline bool own_head(const Tensors& tensors, const HeadNames& names, bool said_tied) {
  const Tensors::Located head = tensors.find(names.head);
  if (head.info == nullptr) return false;
  if (!said_tied) return true;
  for (const std::string& name : names.embedding)
    if (const Tensors::Located table = tensors.find(name); table.info != nullptr) return !same_tensor(head, table);
  return false;
}

}  // namespace hf

}  // namespace sparsemoe::inline SPARSEMOE_ABI
