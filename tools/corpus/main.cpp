// SPDX-License-Identifier: Apache-2.0
// sparsemoe-corpus -- makes a parallel corpus from Debian's package descriptions or from users' files.
// Example:  sparsemoe-corpus --out corpus --languages da,it
//           sparsemoe-corpus --out corpus --pair news.en news.de
// `sparsemoe-nmt corpus` is the same command. Read next: command.hpp.
#include <CLI/CLI.hpp>

#include "sparsemoe/io/options.hpp"
#include "sparsemoe/io/run_main.hpp"
#include "tools/corpus/command.hpp"

namespace {

int program(int argc, char** argv) {
  CLI::App app(nmt::corpus_description, "sparsemoe-corpus");
  nmt::add_corpus_options(app);
  return sparsemoe::parse_arguments(app, argc, argv).value_or(0);  // its callback makes the corpus
}

}  // namespace

int main(int argc, char** argv) { return sparsemoe::run_main("sparsemoe-corpus", argc, argv, program); }
