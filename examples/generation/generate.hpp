// SPDX-License-Identifier: Apache-2.0
// generate.hpp -- requests of standard input through a Hugging Face checkpoint to standard output, in order; an empty
// line gives an empty line. Read next: search_plan.hpp for what is searched, answers.hpp for rows, generator.hpp.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <new>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "answers.hpp"
#include "generator.hpp"
#include "search_plan.hpp"
#include "sparsemoe/io/environment.hpp"
#include "sparsemoe/io/line_reader.hpp"
#include "sparsemoe/io/terminal.hpp"
#include "tokenize.hpp"
#include "tokenizer.hpp"

namespace generation {

struct GenerateOptions {
  std::string model, from, to;
  bool ids = false;    // requests and answers are ids of tokens
  bool json = false;   // answers are rows of JSON
  bool jsonl = false;  // requests too
  bool strict = false;
  bool tokenize = false;  // print ids of texts, and run no model
  int threads = 0;
  std::int64_t batch = 16;
  std::optional<std::int64_t> max_source;  // most tokens of an input; 0, the default: any
  SearchSettings search;
};

class GenerateCommand {
 public:
  /// Throws Error for a checkpoint that cannot be loaded and for options that contradict each other.
  explicit GenerateCommand(const GenerateOptions& options)
      : o_(options),
        config_(fs::path(o_.model)),
        file_(moe::hf::GenerationConfig::of(config_)),
        most_(o_.max_source.value_or(0)),
        positions_(config_.get<std::int64_t>("max_position_embeddings", 0)) {
    if (!o_.search.no_sampling) file_.require_search();
    if (!o_.ids) tokenizer_.emplace(config_);
    const bool languages = tokenizer_ && tokenizer_->multilingual();
    moe::require(
        languages || (o_.from.empty() && o_.to.empty()), "--from and --to: ",
        o_.ids ? "not together with --ids" : "this checkpoint has no languages; run it with sparsemoe-generate");
    moe::require(!languages || (!o_.from.empty() && !o_.to.empty()),
                 "this checkpoint translates: give --from and --to, such as eng_Latn and fra_Latn");
    if (languages) from_ = tokenizer_->language(o_.from, "--from"), to_ = tokenizer_->language(o_.to, "--to");
    moe::require(!o_.tokenize || !o_.ids, "--tokenize: not together with --ids");
    if (o_.tokenize) return;
    generator_ = open_generator(config_, o_.threads);
    plan_.emplace(file_, o_.search, *generator_);
    if (to_ >= 0) plan_->options.first = to_;
  }

  /// Throws Error with the line's number for malformed input and for a line that has no answer or needs more memory
  /// than there is; what was before it has been written then.
  int run() {
    if (o_.tokenize) return print_ids(*tokenizer_, from_);
    constexpr int patience = 50;  // milliseconds to wait for one more line before starting on what there is
    moe::LineReader input(STDIN_FILENO, "standard input");
    for (bool more = true; more;) {
      lines_.clear();
      std::string problem, text;
      try {
        while (static_cast<std::int64_t>(lines_.size()) < o_.batch && (lines_.empty() || input.ready(patience))) {
          more = input.next(text);
          if (!more) break;
          add(text);
        }
      } catch (const moe::Error& e) {  // what came before it is answered first
        problem = e.what(), more = false;
      }
      answer();
      moe::require(problem.empty(), problem);
    }
    return 0;
  }

 private:
  struct Line {
    std::size_t number;
    std::string source;  // as it is shown
    Ids ids;             // empty: nothing to answer
    std::int64_t room;   // tokens of an output
    std::vector<moe::Hypothesis> found;
  };
  static std::string where(std::size_t number) { return moe::join("standard input:", number); }

  void add(const std::string& text) {
    const std::string place = where(++number_);
    const RowFormat format = o_.jsonl ? RowFormat::json : RowFormat::text;
    const BadBytes bad = o_.strict ? BadBytes::refused : BadBytes::replaced;
    const Request request = read_request(text, format, bad, place);
    Line line{number_, request.ids ? ids_text(*request.ids) : request.text, {}, 0, {}};
    if (!request.empty()) {
      if (request.ids)
        line.ids = checked(*request.ids, place);
      else
        line.ids = o_.ids ? parse_ids(request.text, place) : tokenizer_->encode(request.text, from_);
      cut(line.ids, !o_.ids && !request.ids, place);
      try {
        line.room = plan_->room(static_cast<std::int64_t>(line.ids.size()));
      } catch (const moe::Error& e) {
        moe::fail(place, ": ", e.what());
      }
    }
    lines_.push_back(std::move(line));
  }
  Ids checked(Ids ids, const std::string& place) const {
    for (const std::int32_t id : ids)
      moe::require(id >= 0 && id < generator_->vocabulary(), place, ": '", id, "' is not an id below ",
                   generator_->vocabulary());
    return ids;
  }
  Ids parse_ids(const std::string& text, const std::string& place) const {
    Ids ids;
    std::istringstream in(text);
    for (std::string word; in >> word;) {
      std::size_t used = 0;
      long long id = -1;
      try {
        id = std::stoll(word, &used);
      } catch (const std::exception&) {
      }
      moe::require(used == word.size() && id >= 0 && id < generator_->vocabulary(), place, ": ", "'",
                   word.substr(0, 60), "'", " is not an id below ", generator_->vocabulary());
      ids.push_back(static_cast<std::int32_t>(id));
    }
    return ids;
  }
  /// Cuts a long input; what the tokenizer put at its end (its last token, of models that read and answer) stays there.
  void cut(Ids& ids, bool framed, const std::string& place) const {
    const auto most = static_cast<std::size_t>(most_), positions = static_cast<std::size_t>(positions_);
    if (most == 0 && positions > 0 && ids.size() > positions)
      moe::warn(place, ": ", ids.size(), " tokens; the model has seen texts of at most ", positions,
                " (max_position_embeddings); --max-source cuts");
    if (most == 0 || ids.size() <= most) return;
    moe::warn(place, ": ", ids.size(), " tokens, cut to --max-source ", most);
    const std::int32_t last = ids.back();
    ids.resize(most);
    if (framed && !generator_->decoder_only()) ids.back() = last;
  }

  void answer() {
    std::vector<Line*> asked;
    for (Line& line : lines_)
      if (!line.ids.empty()) asked.push_back(&line);
    std::string problem;
    std::size_t stopped = 0;
    try {
      search(asked);
    } catch (const std::exception&) {  // one of them has no answer: the others, and those before it, have theirs
      for (Line* line : asked) {
        problem = search_alone(*line);
        stopped = line->number;
        if (!problem.empty()) break;
      }
    }
    std::string rows;
    for (const Line& line : lines_)
      if (problem.empty() || line.number < stopped) rows += rows_of(line);
    write_rows(rows);
    moe::require(problem.empty(), where(stopped), ": ", problem);
  }
  void search(const std::vector<Line*>& lines) {
    if (lines.empty()) return;
    std::vector<Ids> texts;
    std::vector<moe::index_t> rooms;
    for (const Line* line : lines) texts.push_back(line->ids), rooms.push_back(line->room);
    moe::SearchOptions options = plan_->options;
    options.max_length = *std::max_element(rooms.begin(), rooms.end());
    options.lengths = rooms.data();
    auto found = generator_->search(texts, options);
    for (std::size_t i = 0; i < lines.size(); ++i) lines[i]->found = std::move(found[i]);
  }
  /// What went wrong; "" if nothing did.
  std::string search_alone(Line& line) {
    try {
      search({&line});
      return "";
    } catch (const moe::NoAnswer& e) {
      return e.reason;
    } catch (const moe::Error& e) {
      return e.what();
    } catch (const std::bad_alloc&) {
    } catch (const std::length_error&) {
    }
    return moe::join(line.ids.size(), " tokens with up to ", line.room, " new ones take more memory than the ",
                     moe::available_memory() >> 20, " MiB that there are");
  }

  static std::string ids_text(const Ids& ids) {
    std::string text;
    for (const std::int32_t id : ids) text += (text.empty() ? "" : " ") + std::to_string(id);
    return text;
  }
  std::string shown(const moe::Hypothesis& h) const {
    if (o_.ids) return ids_text(h.tokens);
    Ids ids = h.tokens;
    if (to_ >= 0 && !ids.empty() && ids.front() == to_) ids.erase(ids.begin());
    return tokenizer_->decode(ids);
  }
  std::string rows_of(const Line& line) const {
    std::vector<Answer> answers;
    for (const moe::Hypothesis& h : line.found) answers.push_back({shown(h), h.score, h.ended});
    if (answers.empty()) answers.emplace_back();  // an empty line is its own answer
    const AnswerFormat format{o_.json || o_.jsonl ? RowFormat::json : RowFormat::text, plan_->options.nbest > 1};
    return answer_rows(format, line.number, line.source, answers);
  }

  GenerateOptions o_;
  moe::hf::Config config_;
  moe::hf::GenerationConfig file_;
  std::int64_t most_, positions_;  // tokens of an input: at most; that the model has seen. 0: any
  std::optional<Tokenizer> tokenizer_;
  std::int32_t from_ = 0, to_ = -1;
  std::unique_ptr<Generator> generator_;
  std::optional<SearchPlan> plan_;
  std::size_t number_ = 0;
  std::vector<Line> lines_;
};

/// Answers standard input; errors are those of GenerateCommand.
inline int generate(const GenerateOptions& o) { return GenerateCommand(o).run(); }

}  // namespace generation
