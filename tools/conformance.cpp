// conformance.cpp -- sparsemoe-conformance DIR: runs our code on the golden cases listed in DIR/manifest.json.
//   sparsemoe-conformance tests/data/goldens
// prints a line for each case: its worst error as a part of the pass mark (above 1 fails), and the sum. Cases are run
// in double and in float, each at its own mark. Kinds we cannot run are counted as skipped.
#include <cstdio>
#include <functional>
#include <iostream>
#include <nlohmann/json.hpp>

#include "conformance/expert_choice.hpp"
#include "conformance/layers.hpp"
#include "conformance/models.hpp"
#include "conformance/multi_hash.hpp"
#include "conformance/noisy.hpp"
#include "conformance/optim.hpp"
#include "conformance/routing.hpp"
#include "conformance/switch_layers.hpp"
#include "conformance/top_k_blocks.hpp"
#include "sparsemoe/io/options.hpp"
#include "sparsemoe/io/run_main.hpp"

namespace conformance {

struct Kind {
  std::function<void(Run<Fp64>&)> wide;
  std::function<void(Run<Fp32>&)> narrow;
};
#define SPARSEMOE_KIND(name, function)       \
  {                                          \
    name, { function<Fp64>, function<Fp32> } \
  }
const std::map<std::string, Kind>& kinds() {
  static const std::map<std::string, Kind> all = {
      SPARSEMOE_KIND("layer/rms_norm", rms_norm_case),
      SPARSEMOE_KIND("layer/layer_norm", layer_norm_case),
      SPARSEMOE_KIND("layer/ffn", feed_forward_case),
      SPARSEMOE_KIND("layer/activation", activation_case),
      SPARSEMOE_KIND("layer/cross_entropy", cross_entropy_case),
      SPARSEMOE_KIND("layer/t5_attention", attention_case),
      SPARSEMOE_KIND("layer/nllb_attention", attention_case),
      SPARSEMOE_KIND("layer/rope_gqa_attention", rotary_attention_case),
      SPARSEMOE_KIND("layer/t5_relative_buckets", buckets_case),
      SPARSEMOE_KIND("layer/sinusoidal_positions", sinusoid_case),
      SPARSEMOE_KIND("layer/mixtral_block", mixtral_case),
      SPARSEMOE_KIND("layer/nllb_sparse_mlp", nllb_block_case),
      SPARSEMOE_KIND("layer/nllb_top2_router", nllb_router_case),
      SPARSEMOE_KIND("layer/switch_top1_router", switch_router_case),
      SPARSEMOE_KIND("layer/switch_sparse_mlp", switch_mlp_case),
      SPARSEMOE_KIND("layer/router_loss", router_loss_case),
      SPARSEMOE_KIND("model/t5", t5_model_case),
      SPARSEMOE_KIND("generate/t5", t5_generate_case),
      SPARSEMOE_KIND("model/switch", switch_model_case),
      SPARSEMOE_KIND("generate/switch", switch_generate_case),
      SPARSEMOE_KIND("model/nllb", nllb_model_case),
      SPARSEMOE_KIND("generate/nllb", nllb_generate_case),
      SPARSEMOE_KIND("model/mixtral", mixtral_model_case),
      SPARSEMOE_KIND("generate/mixtral", mixtral_generate_case),
      SPARSEMOE_KIND("routing/switch_paper", switch_case),
      SPARSEMOE_KIND("routing/gshard_top2", gshard_case),
      SPARSEMOE_KIND("routing/noisy_top_k", noisy_case),
      SPARSEMOE_KIND("routing/hierarchical_noisy_top_k", hierarchical_case),
      SPARSEMOE_KIND("routing/expert_choice", expert_choice_case),
      SPARSEMOE_KIND("routing/multi_hash", multi_hash_case),
      SPARSEMOE_KIND("routing/hash", hash_case),
      SPARSEMOE_KIND("routing/balanced_hash", balanced_hash_case),
      SPARSEMOE_KIND("optimizer/adafactor", adafactor_case),
      SPARSEMOE_KIND("optimizer/adam", adam_case),
      SPARSEMOE_KIND("optimizer/adamw", adam_case),
      SPARSEMOE_KIND("optimizer/hf_adamw", adam_case),
      SPARSEMOE_KIND("optimizer/sgd", sgd_case),
      SPARSEMOE_KIND("optimizer/adagrad", adagrad_case),
      SPARSEMOE_KIND("optimizer/clip_grad_norm", clip_case),
      SPARSEMOE_KIND("schedule/constant_with_warmup", schedule_case),
      SPARSEMOE_KIND("schedule/cosine", schedule_case),
      SPARSEMOE_KIND("schedule/cosine_restarts", schedule_case),
      SPARSEMOE_KIND("schedule/inverse_sqrt", schedule_case),
      SPARSEMOE_KIND("schedule/linear", schedule_case),
      SPARSEMOE_KIND("schedule/polynomial", schedule_case),
      SPARSEMOE_KIND("schedule/t5_rsqrt", schedule_case),
  };
  return all;
}

std::string text(const char* precision, const Score& s) {
  char line[200];
  std::snprintf(line, sizeof line, "%s %.3g of the mark (%.2g <= %.2g, %s)", precision, s.ratio, s.difference, s.mark,
                s.at.c_str());
  return line;
}

int run_directory(const std::filesystem::path& folder) {
  const auto path = folder / "manifest.json";
  const json manifest = json::parse(sparsemoe::read_file(path), nullptr, false);
  if (manifest.is_discarded()) sparsemoe::fail_file(path, "is not valid JSON");
  int passed = 0, failed = 0, skipped = 0;
  std::map<std::string, int> unknown;
  for (const json& entry : manifest.at("cases")) {
    const std::string id = entry.at("id"), kind = entry.at("kind");
    const auto known = kinds().find(kind);
    if (known == kinds().end()) {
      ++skipped, ++unknown[kind];
      continue;
    }
    try {
      const Case c(folder, entry);
      Score wide, narrow;
      Run<Fp64> in_double{c, wide};
      known->second.wide(in_double);
      Run<Fp32> in_float{c, narrow};
      known->second.narrow(in_float);
      const bool ok = wide.ratio <= 1 && narrow.ratio <= 1 && !wide.compared.empty();
      ++(ok ? passed : failed);
      std::string left;
      for (const auto& name : c.results())
        if (wide.compared.count(name) == 0) left += (left.empty() ? "; not compared: " : ", ") + name;
      std::cout << (ok ? "ok      " : "FAILED  ") << id << ": " << text("fp64", wide) << ", " << text("fp32", narrow)
                << ", " << wide.compared.size() << " tensors" << left << "\n";
    } catch (const Skip& skip) {
      ++skipped;
      std::cout << "skipped " << id << ": " << skip.reason << "\n";
    } catch (const std::exception& e) {
      ++failed;
      std::cout << "FAILED  " << id << ": " << e.what() << "\n";
    }
  }
  for (const auto& [kind, n] : unknown) std::cout << "skipped " << n << " of kind " << kind << ": not supported\n";
  std::cout << passed << " passed, " << failed << " failed, " << skipped << " skipped\n";
  return failed == 0 && passed > 0 ? 0 : 1;
}

int program(int argc, char** argv) {
  CLI::App app("Runs this library on the golden cases of a directory and says how far it is from each",
               "sparsemoe-conformance");
  std::string folder;
  app.add_option("dir", folder, "Directory with a manifest.json")->required();
  if (const auto status = sparsemoe::parse_arguments(app, argc, argv)) return *status;
  return run_directory(folder);
}

}  // namespace conformance

int main(int argc, char** argv) {
  return sparsemoe::run_main("sparsemoe-conformance", argc, argv, conformance::program);
}
