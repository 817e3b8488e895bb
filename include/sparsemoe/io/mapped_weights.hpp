// SPDX-License-Identifier: Apache-2.0
// io/mapped_weights.hpp -- weights that are multiplied where they lie in their safetensors file. The file is mapped,
// the parameters of file form point into it, and the system reads the pages that are used and drops them when it needs
// room. Tensors may begin at any byte. Read next: weight_form.hpp, nn/moe.hpp for what is read ahead.
#pragma once

#include <string>
#include <type_traits>

#include "sparsemoe/io/weights.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// Keeps the mapping; it must outlive the model's use. The file must not change meanwhile (MappedFile).
class MappedWeights {
 public:
  /// Points every parameter of file form into `path`. Float is multiplied in the model's precision, each value rounded
  /// as it is read. Throws FileError if a tensor is missing, has another shape, or is neither of the model's storage
  /// type nor float.
  template <class Model>
  MappedWeights(Model& model, const std::filesystem::path& path) : file_(path, Access::map) {
    using S = typename Model::S;
    model.visit_weights([&](const std::string& name, auto& t, const Leaf& = {}) {
      if (t.form != WeightForm::file && t.form != WeightForm::file_float) return;
      const TensorInfo& info = file_.at(name);
      const bool own = info.dtype == dtype_of<S>();
      if (!own && info.dtype != DType::kF32)
        fail_file(path, "tensor '", name, "' is ", dtype_name(info.dtype), "; it can stay in its file only as ",
                  dtype_name(dtype_of<S>()), " or F32, which the model multiplies");
      file_.check(name, info.dtype, file_shape({nullptr, t.batch, t.rows, t.cols, t.rank, t.form}));
      t.form = own ? WeightForm::file : WeightForm::file_float;
      t.data = reinterpret_cast<const S*>(file_.data(info));
      bytes_ += info.bytes();
    });
  }
  /// Of the tensors pointed to.
  std::uint64_t bytes() const { return bytes_; }

 private:
  SafetensorsReader file_;
  std::uint64_t bytes_ = 0;
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI
