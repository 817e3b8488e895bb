// SPDX-License-Identifier: Apache-2.0
// commands/translate.cpp -- the command `translate`.
#include "../translate.hpp"

#include <memory>

#include "../command.hpp"
#include "../selection.hpp"

namespace nmt {

Command translate_command(const Words& /*words*/) {
  const auto o = std::make_shared<TranslateOptions>();
  const auto add = [o](CLI::App& command) {
    add_option_list(
        command,
        {{.name = "--model", .to = &o->model, .help = "Run or checkpoint", .given = Given::always},
         {.name = "--from", .to = &o->from, .help = "Language of the input", .value = Default::said},
         {.name = "--to", .to = &o->to, .help = "Language of the output", .given = Given::always},
         {.name = "--batch",
          .to = &o->batch,
          .help = "Lines decoded together",
          .value = Default::said,
          .range = {{1, 4096}}},
         {.name = "--max-length",
          .to = &o->max_length,
          .help = "Most tokens of an output; default: 256",
          .range = {{1, 100000}}},
         {.name = "--max-source",
          .to = &o->max_source,
          .help = "Most tokens of an input; longer ones are cut, with a warning; default: 1024 (of Hugging Face "
                  "checkpoints: any)",
          .range = {{8, 100000}}},
         {.name = "--beam", .to = &o->search.beam, .help = "Beams; 1: greedy, the default", .range = {{1, 64}}},
         {.name = "--nbest",
          .to = &o->search.nbest,
          .help = "Translations a line, as rows: line number, score, text; default: 1",
          .range = {{1, 64}}},
         {.name = "--length-penalty",
          .to = &o->search.length_penalty,
          .help = "A score is the summed log-probability over (number of tokens)^this; default: 1",
          .range = {{-10, 10}}},
         {.name = "--early-stopping",
          .to = &o->search.stopping,
          .help = generation::stopping_help,
          .names = &generation::stopping_names},
         {.name = "--no-repeat-ngram",
          .to = &o->search.no_repeat_ngram,
          .help = "No n-gram of so many tokens twice in a translation; 0, the default: any",
          .range = {{0, 1000}}}});
    add_option_list(command, expert_options(o->experts));
    add_option_list(
        command,
        {{.name = "--json",
          .to = &o->json,
          .help = "A row of JSON a line: line, source, and outputs with text, score and ended"},
         {.name = "--jsonl", .to = &o->jsonl, .help = "Input too is a row of JSON a line: {\"text\": \"...\"}"},
         {.name = "--strict",
          .to = &o->strict,
          .help = "Bytes that are no UTF-8 are an error; by default they are replaced, with a warning"},
         threads_option(o->threads)});
  };
  return {"translate", "Translate standard input line by line", add, [o] { return translate(*o); }};
}

}  // namespace nmt
