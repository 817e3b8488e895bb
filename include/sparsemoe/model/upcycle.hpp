// SPDX-License-Identifier: Apache-2.0
// model/upcycle.hpp -- a sparse model from a dense one (Komatsuzaki et al. 2022): every expert starts as the dense
// feed-forward block it replaces, routers start fresh. Where the combine weights of a token sum to 1 (Gate::normalised,
// Gate::constant, nothing dropped) the sparse model gives the dense model's outputs at step 0; with Gate::probability
// they start smaller. Optimiser state is not carried over. Read next: model/weights.hpp.
#pragma once

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "sparsemoe/error.hpp"
#include "sparsemoe/model/sparse_names.hpp"
#include "sparsemoe/params.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// Fills `values` (the layout `to` of the sparse model, freshly initialised) from `dense` (the layout `from`): leaves
/// of the same name are copied, an expert's is the dense block's for each expert, gates stay as they are.
/// Throws Error, by name, for a leaf without a source, of another shape, or left over.
template <class M>
void upcycle(const std::vector<ParamInfo>& from, const std::vector<M>& dense, const std::vector<ParamInfo>& to,
             std::vector<M>& values) {
  std::map<std::string, const ParamInfo*> sources;
  std::map<std::string, bool> used;
  for (const ParamInfo& p : from) sources[p.name] = &p, used[p.name] = false;
  for (const ParamInfo& p : to) {
    if (p.role == Role::gate) continue;
    const std::string name = p.of_experts() ? dense_name(p.name) : p.name;
    const auto source = sources.find(name);
    require(source != sources.end(), "upcycle: ", p.name, " needs ", name, ", which the dense model does not have");
    const auto& s = source->second->shape;
    const index_t copies = p.of_experts() ? p.shape.batch : 1, size = s.size();
    require(size * copies == p.shape.size() && s.rows == p.shape.rows && s.cols == p.shape.cols, "upcycle: ", name,
            " of the dense model is ", s.batch, " x ", s.rows, " x ", s.cols, ", but ", p.name, " is ", p.shape.batch,
            " x ", p.shape.rows, " x ", p.shape.cols);
    for (index_t e = 0; e < copies; ++e)
      std::copy_n(dense.begin() + source->second->offset, size, values.begin() + p.offset + e * size);
    used[name] = true;
  }
  for (const auto& [name, was_used] : used)
    require(was_used, "upcycle: ", name, " of the dense model has no place in the sparse one");
}

}  // namespace sparsemoe::inline SPARSEMOE_ABI
