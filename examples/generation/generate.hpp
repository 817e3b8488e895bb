// generate.hpp -- lines of standard input through a Hugging Face checkpoint to standard output, in order; an empty line
// gives an empty line. Read next: generator.hpp.
#pragma once

#include <algorithm>
#include <cstdio>
#include <iostream>
#include <map>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "generator.hpp"
#include "sparsemoe/io/json.hpp"
#include "sparsemoe/text/utf8.hpp"
#include "tokenize.hpp"
#include "tokenizer.hpp"

namespace generation {

struct GenerateOptions {
  std::string model, from, to;
  bool ids = false, json = false, tokenize = false;
  int threads = 0;
  std::int64_t batch = 16, max_new_tokens = 128, beam = 1, nbest = 1, no_repeat_ngram = 0;
  double length_penalty = 1;
  moe::Stopping stopping = moe::Stopping::no_better;
};
/// Values of --early-stopping.
inline const std::map<std::string, moe::Stopping> stopping_names = {
    {"heuristic", moe::Stopping::no_better}, {"first", moe::Stopping::first_found}, {"never", moe::Stopping::none_can}};
inline constexpr const char* stopping_help =
    "A sentence with as many outputs as beams is done: heuristic: when what goes on scores no better at its present "
    "length; first: at once; never: when no length could make it better";

/// Throws Error for a checkpoint that cannot be loaded, contradicting options, and malformed input with its line
/// number; what was before it has been written then.
inline int generate(const GenerateOptions& o) {
  moe::require(o.nbest <= o.beam, "--nbest ", o.nbest, " needs --beam ", o.nbest, " or more; it is ", o.beam);
  const moe::hf::Config config{fs::path(o.model)};
  std::optional<Tokenizer> tokenizer;
  if (!o.ids) tokenizer.emplace(config);
  const bool languages = tokenizer && tokenizer->multilingual();
  moe::require(languages || (o.from.empty() && o.to.empty()), "--from and --to: ",
               o.ids ? "not together with --ids" : "this checkpoint has no languages; run it with sparsemoe-generate");
  moe::require(!languages || (!o.from.empty() && !o.to.empty()),
               "this checkpoint translates: give --from and --to, such as eng_Latn and fra_Latn");
  const std::int32_t from = languages ? tokenizer->language(o.from, "--from") : 0;
  const std::int32_t to = languages ? tokenizer->language(o.to, "--to") : -1;
  moe::require(!o.tokenize || !o.ids, "--tokenize: not together with --ids");
  if (o.tokenize) return print_ids(*tokenizer, from);
  const auto generator = open_generator(config, o.threads);

  moe::SearchOptions options;
  options.begin = std::max(generator->special().begin, 0);
  options.end = generator->special().end;
  options.first = to >= 0 ? to : generator->special().first;
  options.beams = o.beam, options.nbest = o.nbest, options.max_length = o.max_new_tokens;
  options.stopping = o.stopping;
  options.length_penalty = o.length_penalty, options.no_repeat_ngram = o.no_repeat_ngram;

  struct Line {
    std::string text;
    Ids ids;
  };
  const auto encode = [&](const std::string& text, std::size_t number) {
    if (!o.ids) {
      moe::require_utf8(text, moe::join("standard input:", number));
      return tokenizer->encode(text, from);
    }
    Ids ids;
    std::istringstream in(text);
    for (std::string word; in >> word;) {
      std::size_t used = 0;
      long long id = -1;
      try {
        id = std::stoll(word, &used);
      } catch (const std::exception&) {
      }
      moe::require(used == word.size() && id >= 0 && id < generator->vocabulary(), "standard input:", number, ": '",
                   word, "' is not an id below ", generator->vocabulary());
      ids.push_back(static_cast<std::int32_t>(id));
    }
    return ids;
  };
  const auto shown = [&](const moe::Hypothesis& h) {
    if (!o.ids) {
      Ids ids = h.tokens;
      if (to >= 0 && !ids.empty() && ids.front() == to) ids.erase(ids.begin());
      return tokenizer->decode(ids);
    }
    std::string text;
    for (const std::int32_t id : h.tokens) text += (text.empty() ? "" : " ") + std::to_string(id);
    return text;
  };
  const auto write = [&](const Line& line, std::vector<moe::Hypothesis> found, std::size_t number) {
    if (found.empty()) found.push_back({{}, 0, true});  // an empty line
    std::string out;
    if (o.json) {
      moe::Json outputs = moe::Json::array();
      for (const auto& h : found) outputs.push_back({{"text", shown(h)}, {"score", h.score}, {"ended", h.ended}});
      const moe::Json all = {{"source", line.text}, {"outputs", outputs}};
      out = all.dump(-1, ' ', false, moe::Json::error_handler_t::replace) + "\n";
    } else {
      for (const auto& h : found)
        out += (o.nbest > 1 ? moe::join(number, "\t", h.score, "\t") : std::string()) + shown(h) + "\n";
    }
    std::fwrite(out.data(), 1, out.size(), stdout);
  };

  std::size_t number = 0;
  bool more = true;
  while (more) {
    std::vector<Line> lines;
    std::string problem;
    for (std::string text; static_cast<std::int64_t>(lines.size()) < o.batch;) {
      more = static_cast<bool>(std::getline(std::cin, text));
      if (!more) break;
      if (!text.empty() && text.back() == '\r') text.pop_back();
      try {
        lines.push_back({text, text.empty() ? Ids{} : encode(text, number + lines.size() + 1)});
      } catch (const moe::Error& e) {
        problem = e.what(), more = false;
        break;
      }
    }
    std::vector<Ids> texts;
    for (const Line& line : lines)
      if (!line.ids.empty()) texts.push_back(line.ids);
    moe::SearchResult found;
    if (!texts.empty()) found = generator->search(texts, options);
    std::size_t next = 0;
    for (const Line& line : lines)
      write(line, line.ids.empty() ? std::vector<moe::Hypothesis>{} : found[next++], ++number);
    std::fflush(stdout);
    moe::require(std::ferror(stdout) == 0, "standard output: cannot write; is the disk full?");
    moe::require(problem.empty(), problem);
  }
  return 0;
}

}  // namespace generation
