// SPDX-License-Identifier: Apache-2.0
// commands/corpus.cpp -- the command `corpus`, which is a tool of its own.
#include "../command.hpp"
#include "tools/corpus/command.hpp"

namespace nmt {

Command corpus_command(const Words& /*words*/) {
  return {"corpus", corpus_description, add_corpus_options, [] { return 0; }};  // made while the options are read
}

}  // namespace nmt
