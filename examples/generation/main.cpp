// SPDX-License-Identifier: Apache-2.0
// sparsemoe-generate -- runs a Hugging Face checkpoint (T5, Switch Transformer, NLLB-MoE, Mixtral) on lines of standard
// input.
//   echo "translate English to German: The house is small." | sparsemoe-generate --model t5-small --beam 4
//   echo "The house is small." | sparsemoe-generate --model nllb-moe --from eng_Latn --to fra_Latn
//   echo "17 4 2 1" | sparsemoe-generate --model any --ids
//   echo '{"text": "A prompt of\ntwo lines"}' | sparsemoe-generate --model mixtral --jsonl
// Read next: generate.hpp, docs/decoding.md.
#include <CLI/CLI.hpp>

#include "generate.hpp"
#include "sparsemoe/io/options.hpp"
#include "sparsemoe/io/run_main.hpp"

namespace {

int program(int argc, char** argv) {
  generation::GenerateOptions o;
  CLI::App app("Runs a Hugging Face checkpoint on lines of standard input", "sparsemoe-generate");
  app.add_option("--model", o.model, "Directory with config.json and model.safetensors or its shards")->required();
  app.add_option("--from", o.from, "Language of the input, as eng_Latn (NLLB)");
  app.add_option("--to", o.to, "Language of the output (NLLB)");
  app.add_flag("--ids", o.ids, "Requests and answers are ids of tokens; no tokenizer is read");
  app.add_flag("--tokenize", o.tokenize, "Print the ids of each line, and run no model");
  app.add_flag("--json", o.json, "Answers are rows of JSON, with scores");
  app.add_flag("--jsonl", o.jsonl, R"(Requests are rows of JSON, {"text": "..."} or {"ids": [1, 2]}; answers too)");
  app.add_flag("--strict", o.strict, "Bytes that are no UTF-8 are an error, not U+FFFD and a warning");
  app.add_option("--max-source", o.max_source,
                 "Most tokens of an input; longer ones are cut, with a warning; 0, the default: any")
      ->check(CLI::Range(std::int64_t{0}, std::int64_t{1} << 40));
  auto& s = o.search;
  const auto as_file = [&](CLI::Option* option) { return option->group("Search (defaults: generation_config.json)"); };
  as_file(app.add_option("--beam", s.beam, "Beams; 1: greedy"))->check(CLI::Range(1, 64));
  as_file(app.add_option("--nbest", s.nbest, "Outputs a line, as rows: line number, score, text"))
      ->check(CLI::Range(1, 64));
  as_file(app.add_option("--max-new-tokens", s.max_new_tokens, "Most tokens of an output, the end included (else 128)"))
      ->check(CLI::PositiveNumber);
  as_file(app.add_option("--min-new-tokens", s.min_new_tokens, "Tokens before an end may come"))
      ->check(CLI::NonNegativeNumber);
  as_file(app.add_option("--length-penalty", s.length_penalty, "Scores are over length to this power"));
  as_file(
      app.add_option("--repetition-penalty", s.repetition_penalty, "Above 1: tokens that were there come less often"))
      ->check(CLI::PositiveNumber);
  as_file(app.add_option("--early-stopping", s.stopping, generation::stopping_help))
      ->transform(CLI::CheckedTransformer(generation::stopping_names));
  as_file(app.add_option("--no-repeat-ngram", s.no_repeat_ngram, "No n-gram of this length twice; 0: any"))
      ->check(CLI::NonNegativeNumber);
  as_file(app.add_flag("--no-sampling", s.no_sampling, "Search even if the checkpoint samples (do_sample: true)"));
  app.add_option("--batch", o.batch, "Lines at once")->check(CLI::PositiveNumber);
  app.add_option("--threads", o.threads, "Threads; 0: all")->check(CLI::NonNegativeNumber);
  if (const auto status = sparsemoe::parse_arguments(app, argc, argv)) return *status;
  return generation::generate(o);
}

}  // namespace

int main(int argc, char** argv) { return sparsemoe::run_main("sparsemoe-generate", argc, argv, program); }
