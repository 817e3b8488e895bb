// SPDX-License-Identifier: Apache-2.0
// selection.hpp -- which text of a corpus a command reads: split, languages, directions, kinds, rows, lengths. Seven
// commands ask for it in the same words. Read next: command.hpp.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "command.hpp"

namespace nmt {

struct Selection {
  std::string split = "dev", kinds, directions = "both";
  std::vector<std::string> languages;
  std::int64_t rows = 0, max_length = 0, threads = 0;  // 0: all, a default, all
};

/// Where a command says it in its own words.
struct SelectionWords {
  const char* split = "train, dev or test";
  const char* kinds = "Kinds of text; default: what the run was trained on";
  const char* max_length = "Most tokens of a side; default: as for evaluate";
};

Option split_option(Selection& s, const SelectionWords& words = {});
Option threads_option(std::int64_t& threads);
/// Which languages and directions.
std::vector<Option> direction_options(Selection& s);
/// Kinds, rows and lengths.
std::vector<Option> text_options(Selection& s, const SelectionWords& words = {});

/// Lists one after another.
std::vector<Option> operator+(std::vector<Option> a, const std::vector<Option>& b);

/// What was not asked for is as the model of RUN was trained: `kinds`, and `max_length` twice that, at least 100.
void complete(Selection& s, const std::string& run);

}  // namespace nmt
