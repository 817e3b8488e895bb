// SPDX-License-Identifier: Apache-2.0
// command.hpp -- the command `corpus`: makes a parallel corpus from Debian's package descriptions or from users' files.
// Main idea: fetch, build, split, tokenizer, write, read back, prove that nothing leaks; a header has each step.
// Read next: fetch.hpp for the first step, read_corpus.hpp to use the result.
#pragma once

namespace CLI {
class App;
}

namespace nmt {

/// What the command is for, in a sentence.
extern const char* const corpus_description;

/// Gives `command` the options and the callback that makes the corpus. The callback throws sparsemoe::Error, one
/// sentence when something is wrong; then nothing is left at --out.
void add_corpus_options(CLI::App& command);

/// Adds all that as the subcommand `corpus` of a program.
void add_corpus_command(CLI::App& app);

}  // namespace nmt
