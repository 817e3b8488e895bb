// sparsemoe-generate -- runs a Hugging Face checkpoint (T5, Switch Transformer, NLLB-MoE, Mixtral) on lines of standard
// input.
//   echo "translate English to German: The house is small." | sparsemoe-generate --model t5-small --beam 4
//   echo "The house is small." | sparsemoe-generate --model nllb-moe --from eng_Latn --to fra_Latn
//   echo "17 4 2 1" | sparsemoe-generate --model any --ids
// Read next: generate.hpp.
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
  app.add_flag("--ids", o.ids, "Lines are ids of tokens, in and out; no tokenizer is read");
  app.add_flag("--tokenize", o.tokenize, "Print the ids of each line, and run no model");
  app.add_flag("--json", o.json, "One JSON object a line, with scores");
  app.add_option("--beam", o.beam, "Beams")->check(CLI::PositiveNumber);
  app.add_option("--nbest", o.nbest, "Outputs a line")->check(CLI::PositiveNumber);
  app.add_option("--max-new-tokens", o.max_new_tokens, "Most tokens of an output")->check(CLI::PositiveNumber);
  app.add_option("--length-penalty", o.length_penalty, "Scores are over length to this power");
  app.add_option("--early-stopping", o.stopping, generation::stopping_help)
      ->transform(CLI::CheckedTransformer(generation::stopping_names));
  app.add_option("--no-repeat-ngram", o.no_repeat_ngram, "No n-gram of this length twice; 0: any")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--batch", o.batch, "Lines at once")->check(CLI::PositiveNumber);
  app.add_option("--threads", o.threads, "Threads; 0: all")->check(CLI::NonNegativeNumber);
  if (const auto status = sparsemoe::parse_arguments(app, argc, argv)) return *status;
  return generation::generate(o);
}

}  // namespace

int main(int argc, char** argv) { return sparsemoe::run_main("sparsemoe-generate", argc, argv, program); }
