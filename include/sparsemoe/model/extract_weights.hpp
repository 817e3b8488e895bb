// SPDX-License-Identifier: Apache-2.0
// model/extract_weights.hpp -- the weights of a planned sub-network, leaf by leaf from those of the model: copied,
// expert rows and gate columns left out, or the experts of a task folded into one dense block:
//   wi = [wi_a | wi_b], wo = [w_a wo_a ; w_b wo_b], bi = [bi_a | bi_b], bo = w_a bo_a + w_b bo_b.
// Read next: model/sparse_names.hpp, io/weights.hpp.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "sparsemoe/model/extract.hpp"
#include "sparsemoe/model/sparse_names.hpp"
#include "sparsemoe/model/weights.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// One leaf of a sub-network, and what it is made of.
struct ExtractedLeaf {
  enum class Kind { copy, table, columns, experts, fold_in, fold_out, fold_out_bias };
  ParamInfo info;    // in the sub-network
  ParamInfo source;  // in the model; none for a table that the model does not have
  Kind kind = Kind::copy;
  index_t choices = 0;  // experts that are folded
  LayerPlan layer;

  /// True if it is an expert's, or was before experts were folded.
  bool of_experts() const { return kind != Kind::table && kind != Kind::columns && source.of_experts(); }
};

/// The leaves of the sub-network in the model's order, laid out anew. `list` are the model's.
/// Throws Error naming a leaf whose extents are not those of the plan.
inline std::vector<ExtractedLeaf> extracted_leaves(const std::vector<ParamInfo>& list,
                                                   const std::vector<StackPlan>& plans) {
  using Kind = ExtractedLeaf::Kind;
  std::vector<ExtractedLeaf> out;
  index_t offset = 0;
  const auto add = [&](ExtractedLeaf leaf) {
    leaf.info.offset = offset;
    offset += reserved(leaf.info.shape, leaf.info.init);
    out.push_back(std::move(leaf));
  };
  for (const ParamInfo& p : list) {
    const StackPlan* stack = nullptr;
    const LayerPlan* layer = nullptr;
    const bool sparse = p.role == Role::gate || p.of_experts();
    for (const auto& plan : plans) {
      if (!sparse || plan.stack != p.stack || plan.find(p.layer) == nullptr) continue;
      stack = &plan;
      layer = plan.find(p.layer);
    }
    if (layer == nullptr) {
      add({p, p, Kind::copy, 0, {}});
      continue;
    }
    const auto expect = [&](bool ok) {
      require(ok, "extract: the extents of '", p.name, "' (", p.shape.batch, ", ", p.shape.rows, ", ", p.shape.cols,
              ") are not those of a layer of ", layer->experts, " experts");
    };
    const auto kept = static_cast<index_t>(layer->kept.size());
    const index_t tasks = kept > 0 ? static_cast<index_t>(layer->table.size()) / kept : 0;
    const bool folded = stack->routing == SubRouting::folded;
    ParamInfo info = p;
    if (p.role == Role::gate) {
      expect(p.shape.rank == 2 && p.shape.cols == layer->experts);
      if (stack->routing == SubRouting::gate) {
        info.shape = matrix_of<float>(p.shape.rows, kept);
        add({info, p, Kind::columns, 0, *layer});
      } else if (stack->routing == SubRouting::table) {
        info.shape = matrix_of<float>(tasks, kept);
        add({info, p, Kind::table, 0, *layer});
      }
      continue;
    }
    expect(p.shape.rank == 3 && p.shape.batch == layer->experts);
    const auto gate_beside = [&](const ParamInfo& q) {
      return q.role == Role::gate && q.stack == p.stack && q.layer == p.layer;
    };
    const std::string leaf = p.name.substr(p.name.rfind('.') + 1);
    if (leaf == "wi" && stack->routing == SubRouting::table && std::none_of(list.begin(), list.end(), gate_beside)) {
      // A rule without parameters becomes a table, which stands before the experts.
      Leaf gate_leaf(Init::normal(0.1).in_router_precision(), Role::gate);
      gate_leaf.stack = p.stack;
      gate_leaf.layer = p.layer;
      add({param_info(gate_name(p.name), 0, matrix_of<float>(tasks, kept), gate_leaf), {}, Kind::table, 0, *layer});
    }
    if (!folded) {
      info.shape.batch = kept;
      add({info, p, Kind::experts, 0, *layer});
      continue;
    }
    info.name = dense_name(p.name);
    info.role = Role::dense;
    info.shape.batch = 1;
    const index_t k = stack->choices;
    if (leaf == "wo") info.shape.rows *= k;
    if (leaf == "wi" || leaf == "wg" || leaf == "bi") info.shape.cols *= k;
    add({info, p, leaf == "wo" ? Kind::fold_out : leaf == "bo" ? Kind::fold_out_bias : Kind::fold_in, k, *layer});
  }
  return out;
}

/// Computes a leaf of the sub-network into `to` (its extents). read(source, first, count, M* to) gives elements
/// [first, first + count) of a leaf of the model in the master's type M, in which products are formed too.
template <class M, class Read>
void extract_leaf(const ExtractedLeaf& leaf, Read&& read, M* to) {
  using Kind = ExtractedLeaf::Kind;
  const auto& from = leaf.source.shape;
  const auto& plan = leaf.layer;
  const index_t slice = from.rows * from.cols;
  const auto expert_of = [&](index_t k) {
    return plan.kept[static_cast<std::size_t>(plan.chosen[static_cast<std::size_t>(k)])];
  };
  switch (leaf.kind) {
    case Kind::copy: read(leaf.source, index_t(0), from.size(), to); break;
    case Kind::table:
      for (std::size_t i = 0; i < plan.table.size(); ++i) to[i] = static_cast<M>(plan.table[i]);
      break;
    case Kind::columns: {
      std::vector<M> row(static_cast<std::size_t>(from.cols));
      for (index_t r = 0; r < from.rows; ++r) {
        read(leaf.source, r * from.cols, from.cols, row.data());
        for (const index_t e : plan.kept) *to++ = row[static_cast<std::size_t>(e)];
      }
      break;
    }
    case Kind::experts:
      for (const index_t e : plan.kept) read(leaf.source, e * slice, slice, to), to += slice;
      break;
    case Kind::fold_in: {
      std::vector<M> block(static_cast<std::size_t>(slice));
      for (index_t k = 0; k < leaf.choices; ++k) {
        read(leaf.source, expert_of(k) * slice, slice, block.data());
        for (index_t r = 0; r < from.rows; ++r)
          std::copy_n(block.data() + r * from.cols, from.cols, to + (r * leaf.choices + k) * from.cols);
      }
      break;
    }
    case Kind::fold_out:
    case Kind::fold_out_bias: {
      const bool sum = leaf.kind == Kind::fold_out_bias;
      std::vector<M> block(static_cast<std::size_t>(slice));
      if (sum) std::fill_n(to, slice, M(0));
      for (index_t k = 0; k < leaf.choices; ++k) {
        read(leaf.source, expert_of(k) * slice, slice, block.data());
        const M w = static_cast<M>(plan.weight[static_cast<std::size_t>(k)]);
        for (index_t i = 0; i < slice; ++i) {
          const M v = w * block[static_cast<std::size_t>(i)];
          if (sum)
            to[i] += v;
          else
            to[k * slice + i] = v;
        }
      }
      break;
    }
  }
}

/// The plan of a stack whose weights are in memory: the model's masters, or its storage widened. The table of a router
/// is kept in the router's precision whatever the storage is.
template <class Router, class P, class B>
StackPlan plan_stack(typename B::Context& ctx, const Weights<P, B>& weights, InStack stack, const StackConfig& config,
                     const std::vector<index_t>& tasks, Fold fold) {
  using R = typename P::router;
  const auto host = weights.get(ctx);
  return plan_stack<Router, R>(stack, config, tasks, fold, [&](index_t layer, index_t count, R* to) {
    for (const auto& p : weights.list())
      if (p.role == Role::gate && p.stack == stack && p.layer == layer && p.shape.size() == count) {
        for (index_t i = 0; i < count; ++i) to[i] = static_cast<R>(host[static_cast<std::size_t>(p.offset + i)]);
        return;
      }
    fail("extract: the model has no table of ", count, " logits in layer ", layer);
  });
}

/// Sets every weight of the sub-network `to` from those of the model `from`. Throws Error naming the first leaf that is
/// missing or of other extents; `to` is then as it was.
template <class P, class B>
void extract_weights(typename B::Context& ctx, const Weights<P, B>& from, const std::vector<StackPlan>& plans,
                     Weights<P, B>& to) {
  using M = typename P::master;
  const auto leaves = extracted_leaves(from.list(), plans);
  require(leaves.size() == to.list().size(), "extract: the sub-network has ", to.list().size(),
          " leaves, the plan gives ", leaves.size());
  const std::vector<M> host = from.get(ctx);
  std::vector<M> out(static_cast<std::size_t>(to.total()), M(0));
  for (std::size_t i = 0; i < leaves.size(); ++i) {
    const ParamInfo &made = leaves[i].info, &wanted = to.list()[i];
    require(made.name == wanted.name && made.offset == wanted.offset && made.shape.batch == wanted.shape.batch &&
                made.shape.rows == wanted.shape.rows && made.shape.cols == wanted.shape.cols,
            "extract: the sub-network has '", wanted.name, "' (", wanted.shape.batch, ", ", wanted.shape.rows, ", ",
            wanted.shape.cols, ") where the plan gives '", made.name, "' (", made.shape.batch, ", ", made.shape.rows,
            ", ", made.shape.cols, ")");
    extract_leaf<M>(
        leaves[i],
        [&](const ParamInfo& p, index_t first, index_t count, M* target) {
          std::copy_n(host.data() + p.offset + first, count, target);
        },
        out.data() + made.offset);
  }
  to.set(ctx, out);
}

}  // namespace sparsemoe::inline SPARSEMOE_ABI
