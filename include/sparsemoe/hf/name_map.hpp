// SPDX-License-Identifier: Apache-2.0
// hf/name_map.hpp -- one table says under which name and in which layout a family of checkpoints keeps each of our
// parameters; it is read in both directions. Read next: hf/checkpoint.hpp.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "sparsemoe/error.hpp"
#include "sparsemoe/params.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

namespace hf {

/// How their tensor holds our (in, out) matrix: (out, in) as torch.nn.Linear does, the same way round, or a vector.
enum class Layout { transposed, same, vector };

/// The name of one kind of parameter here and there. "{l}" stands for a layer's number, "{e}" for an expert's: our leaf
/// holds all experts, theirs are a tensor each.
struct NameRule {
  std::string ours, theirs;
  Layout layout = Layout::transposed;
};

/// Where else a file may keep a kind of parameter, if not under the name of its rule: a tensor each, or one tensor of
/// all experts (E, parts rows, cols), of whose rows ours are part number `part`.
struct OtherPlace {
  std::string ours, theirs;
  index_t part = 0, parts = 0;  // parts 0: a tensor each
};

struct NameMap {
  std::string family;  // for sentences: "T5"
  std::vector<NameRule> rules;
  std::vector<std::pair<std::string, std::string>> aliases = {};  // {a name, the name it repeats}: files may have both
  std::vector<std::string> unused = {};  // names that files may have and nothing reads; "*" at the start: any
  std::vector<OtherPlace> others = {};
};

/// One tensor of a checkpoint: item `item` of our leaf number `leaf`.
struct MappedTensor {
  std::size_t leaf = 0;
  index_t item = 0, rows = 0, cols = 0;  // ours
  std::string name;
  Layout layout = Layout::transposed;
  std::vector<std::int64_t> shape() const {
    if (layout == Layout::vector) return {rows * cols};
    return layout == Layout::same ? std::vector<std::int64_t>{rows, cols} : std::vector<std::int64_t>{cols, rows};
  }
  /// Where element i of theirs is in our item.
  index_t place(index_t i) const { return layout == Layout::transposed ? i % rows * cols + i / rows : i; }
};

namespace parts {

inline std::string replaced(std::string text, const std::string& what, const std::string& by) {
  const std::size_t at = text.find(what);
  if (at != std::string::npos) text.replace(at, what.size(), by);
  return text;
}
/// Whether `name` is `pattern` with digits for "{l}", which are put into `layer`.
inline bool matches(const std::string& pattern, const std::string& name, std::string& layer) {
  const std::size_t at = pattern.find("{l}");
  if (at == std::string::npos) return pattern == name;
  std::size_t end = at;
  while (end < name.size() && name[end] >= '0' && name[end] <= '9') ++end;
  layer = name.substr(std::min(at, name.size()), end - std::min(at, end));
  return !layer.empty() && name == replaced(pattern, "{l}", layer);
}

/// Whether nothing reads a tensor of that name: buffers that a model computes, which some writers save.
inline bool unused_name(const NameMap& map, const std::string& name) {
  for (const std::string& pattern : map.unused) {
    const bool end = pattern.starts_with("*");
    if (end ? name.ends_with(pattern.substr(1)) : name == pattern) return true;
  }
  return false;
}

}  // namespace parts

/// Every tensor of a checkpoint with these parameters, in their order. Throws Error for a parameter without a rule: the
/// family has no place for it.
inline std::vector<MappedTensor> map_names(const NameMap& map, const std::vector<ParamInfo>& list) {
  std::vector<MappedTensor> tensors;
  for (std::size_t leaf = 0; leaf < list.size(); ++leaf) {
    const ParamInfo& p = list[leaf];
    const NameRule* rule = nullptr;
    std::string layer;
    for (const NameRule& r : map.rules)
      if (parts::matches(r.ours, p.name, layer)) {
        rule = &r;
        break;
      }
    require(rule != nullptr, "hf: a ", map.family, " checkpoint has no place for parameter '", p.name, "'");
    const bool each = rule->theirs.find("{e}") != std::string::npos;
    require(each || p.shape.batch == 1, "hf: parameter '", p.name, "' holds ", p.shape.batch, " matrices, ", map.family,
            " one");
    for (index_t e = 0; e < p.shape.batch; ++e) {
      const std::string name = parts::replaced(parts::replaced(rule->theirs, "{l}", layer), "{e}", std::to_string(e));
      tensors.push_back({leaf, e, p.shape.rows, p.shape.cols, name, rule->layout});
    }
  }
  return tensors;
}

}  // namespace hf

}  // namespace sparsemoe::inline SPARSEMOE_ABI
