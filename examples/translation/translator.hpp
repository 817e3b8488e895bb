// SPDX-License-Identifier: Apache-2.0
// translator.hpp -- the one virtual edge of the program: precision and routers are chosen by name at run time, and
// everything behind this interface is static. Data passes in host memory; a call is a whole batch.
// Read next: translator_of.hpp for what stands behind it, train.hpp and translate.hpp for the callers.
#pragma once

#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "settings.hpp"
#include "sparsemoe/infer/greedy.hpp"
#include "sparsemoe/infer/int8.hpp"
#include "sparsemoe/io/short_text.hpp"
#include "sparsemoe/model/stack.hpp"
#include "sparsemoe/nn/loss.hpp"
#include "sparsemoe/train/update.hpp"

namespace nmt {

/// A padded batch on the host. Decoder inputs start with the begin id, labels end with the end id; padding is -1 there.
struct HostBatch {
  std::int64_t rows = 0, source_length = 0, target_length = 0;
  std::vector<std::int32_t> source, target, labels, task;
  std::vector<std::uint8_t> source_valid, target_valid;
  std::int64_t label_tokens = 0;
};

/// One sparse layer of the last batch, with its stack's name.
struct NamedStatistics {
  std::string stack, router;
  sparsemoe::LayerStatistics layer;
};

class Translator;

/// A teacher's distribution in the loss (sparsemoe/nn/distill.hpp): its share of it, and the temperature.
struct SoftTarget {
  Translator* teacher = nullptr;
  double share = 0.25, temperature = 1;
};

class Translator {
 public:
  virtual ~Translator() = default;

  /// Forward and backward of a batch. gradient_scale multiplies the summed cross entropy, routing_scale the routing
  /// losses; 0 and 0: forward only, in evaluation mode.
  /// `stream` numbers the batch for everything random in it.
  virtual sparsemoe::LossSums loss(const HostBatch& batch, double gradient_scale, double routing_scale,
                                   std::uint64_t stream) = 0;
  /// The same with a teacher, which reads the batch in evaluation mode. It has the same vocabulary and tasks.
  virtual sparsemoe::LossSums distill(const HostBatch& batch, double gradient_scale, double routing_scale,
                                      std::uint64_t stream, const SoftTarget& soft) = 0;
  /// As a teacher: reads a batch in evaluation mode, and gives the logits (count, vocabulary) of target positions
  /// [first, first + count), until the next call of anything else.
  virtual void read(const HostBatch& batch) = 0;
  virtual void read_logits(std::int64_t first, std::int64_t count, float* logits) = 0;
  /// Of the batch of the last loss().
  virtual const std::vector<NamedStatistics>& statistics() const = 0;
  /// The end of a step whose mean loss was `loss`.
  virtual sparsemoe::UpdateResult update(double learning_rate, double loss) = 0;
  /// Whether the weights are worth keeping: reads a batch as a step would, moves nothing, and returns what of its loss
  /// or gradient is not finite, or "".
  virtual std::string probe(const HostBatch& batch, std::uint64_t stream) = 0;
  /// Steps made and skipped so far.
  virtual std::int64_t step() const = 0;
  virtual std::int64_t skipped() const = 0;
  /// Outputs of a search over a batch of sources, best first; the ids of `options` are the model's own.
  virtual sparsemoe::SearchResult search(const HostBatch& batch, const sparsemoe::SearchOptions& options) = 0;

  /// Decodes a batch step by step with kept keys and values, but feeds back the batch's own targets, so that every
  /// model decodes the same tokens. Returns how many steps named the next target as the best. With `steps`, also what
  /// the decoder's sparse layers did at each step (which takes time).
  virtual std::int64_t replay(const HostBatch& batch, std::vector<std::vector<NamedStatistics>>* steps) = 0;

  /// model.safetensors; and with `training` trainer.safetensors, the updater's state returned as three numbers.
  virtual void save(const std::filesystem::path& directory, bool training) = 0;
  virtual void load(const std::filesystem::path& directory, bool training) = 0;
  /// Takes over the parameters that another model's model.safetensors has under the same name; returns how many.
  virtual std::int64_t load_shared(const std::filesystem::path& weights) = 0;
  /// Starts from a dense model's model.safetensors (sparsemoe/model/upcycle.hpp).
  virtual void upcycle(const std::filesystem::path& weights) = 0;
  struct TrainerNumbers {
    std::int64_t step = 0, skipped = 0, good = 0;
    double loss_scale = 1;
  };
  virtual TrainerNumbers numbers() const = 0;
  virtual void set_numbers(const TrainerNumbers& numbers) = 0;
  virtual void set_hash_tables(const std::vector<std::int32_t>& table) = 0;
  virtual std::int64_t parameters() const = 0;
  /// What the expert matrices take in memory (infer/int8.hpp).
  virtual sparsemoe::ExpertBytes expert_bytes() const = 0;
};

/// Everything the factory needs. `banned` ids are never produced; `bytes` are those of data.hpp's byte_pieces().
struct TranslatorRequest {
  ModelFile file;
  bool training = false;
  OptimiserKind optimiser = OptimiserKind::adamw;
  double beta1 = 0.9, beta2 = 0.98, weight_decay = 0, clip = 1;
  std::uint64_t seed = 1;
  std::int64_t threads = 0;
  std::vector<std::uint8_t> banned;
  std::vector<std::int16_t> bytes;
  sparsemoe::WeightForm experts = sparsemoe::WeightForm::plain;  // of the expert matrices; another one only to infer
};

std::unique_ptr<Translator> make_fp32_translator(const TranslatorRequest& request);
std::unique_ptr<Translator> make_bf16_translator(const TranslatorRequest& request);
/// The model's leaves in order, without room for them.
std::vector<sparsemoe::ParamInfo> model_leaves(const ModelFile& file);

/// Throws Error for settings that make no sense or a model that this machine's memory cannot hold.
inline std::unique_ptr<Translator> make_translator(const TranslatorRequest& request) {
  request.file.check();
  const double parameters = request.file.matrix_parameters();
  const double needed =
      parameters * (request.training ? 12 : 4);  // at least: weights, gradients, moments; no activations
  const double memory = static_cast<double>(::sysconf(_SC_PHYS_PAGES)) * static_cast<double>(::sysconf(_SC_PAGESIZE));
  sparsemoe::require(needed <= memory, "the model has more than ", sparsemoe::short_number(parameters),
                     " parameters, which take more than ", sparsemoe::short_number(needed), "B; this machine has ",
                     sparsemoe::short_number(memory), "B of memory");
  return request.file.model.precision == "fp32" ? make_fp32_translator(request) : make_bf16_translator(request);
}

}  // namespace nmt
