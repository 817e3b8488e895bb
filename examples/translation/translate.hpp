// SPDX-License-Identifier: Apache-2.0
// translate.hpp -- the translate command: standard input of any length to standard output, line by line and in order.
// A window of lines is sorted by length into batches, and every line is written as soon as it and all before it are
// ready. Read next: sparsemoe/infer/search.hpp for the search itself.
#pragma once

#include <algorithm>
#include <cstdio>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

#include "../generation/generate.hpp"
#include "expert_options.hpp"
#include "run_files.hpp"
#include "sparsemoe/io/standard_output.hpp"
#include "user_text.hpp"

namespace nmt {

struct TranslateOptions {
  std::string model, from = "en", to;
  std::int64_t threads = 0, batch = 64;
  std::optional<std::int64_t> max_source;  // default: 1024; of a Hugging Face checkpoint: any
  std::optional<std::int64_t> max_length;  // default: 256, or as a Hugging Face checkpoint says
  generation::SearchSettings search;       // defaults: one beam, or as a Hugging Face checkpoint says
  bool json = false;                       // answers are rows of JSON
  bool jsonl = false;                      // requests too
  bool strict = false;                     // bytes that are no UTF-8 are an error
  ExpertOptions experts;

  std::int64_t beams() const { return search.beam.value_or(1); }
  std::int64_t outputs() const { return search.nbest.value_or(1); }
  std::int64_t longest() const { return max_length.value_or(256); }
};

class TranslateCommand {
 public:
  /// Throws Error for a model that cannot be loaded, a language it does not know, and options that contradict each
  /// other.
  explicit TranslateCommand(const TranslateOptions& options) : o_(options) {
    o_.search.check();
    moe::require(o_.outputs() <= o_.beams(), "--nbest ", o_.outputs(), " needs --beam ", o_.outputs(),
                 " or more; it is ", o_.beams());
    loaded_ = load_model(o_.model, o_.threads, o_.experts);
    o_.from = require_language(loaded_.file, o_.from, "--from");
    o_.to = require_language(loaded_.file, o_.to, "--to");
    task_ = loaded_.file.task_of(o_.from, o_.to);
    tag_ = loaded_.tokenizer->tag(o_.to);
    format_.rows = o_.json ? generation::RowFormat::json : generation::RowFormat::text;
    format_.numbered = o_.outputs() > 1;
  }

  /// Throws Error with the line's number for what is no request and, if strict, for malformed UTF-8, after what was
  /// before it has been written.
  int run() {
    constexpr std::size_t window = 512;  // lines that are sorted together
    constexpr int patience = 50;         // milliseconds to wait for one more line before starting on what there is
    UserTextOptions text;
    if (o_.jsonl) text.format = generation::RowFormat::json;
    if (o_.strict) text.bad_bytes = generation::BadBytes::refused;
    text.max_source = o_.max_source.value_or(text.max_source);
    UserText input(*loaded_.tokenizer, text);
    bool more = true;
    std::string problem;
    while (more) {
      lines_.clear();
      UserLine line;
      while (lines_.size() < window && (lines_.empty() || input.ready(patience))) {
        try {
          more = input.next(line);
        } catch (const moe::Error& e) {
          problem = e.what();
          more = false;
        }
        if (!more) break;
        add(std::move(line));
      }
      translate_window();
      moe::require(problem.empty(), problem);
    }
    return 0;
  }

 private:
  struct Line {
    std::size_t number;
    std::string text;
    Ids source;
    std::optional<std::vector<moe::Hypothesis>> found;
  };

  void add(UserLine&& sent) {
    Line line{sent.number, std::move(sent.text), {}, {}};
    if (sent.ids.empty())
      line.found.emplace();  // nothing to translate
    else
      line.source = source_ids(tag_, sent.ids);
    lines_.push_back(std::move(line));
  }

  void translate_window() {
    std::vector<Line*> order;
    for (Line& line : lines_)
      if (!line.found) order.push_back(&line);
    std::stable_sort(order.begin(), order.end(), [](auto* a, auto* b) { return a->source.size() > b->source.size(); });
    std::size_t written = 0;
    const auto write_ready = [&] {
      for (; written < lines_.size() && lines_[written].found; ++written) write(lines_[written]);
      moe::require_output_written();
    };
    for (std::size_t at = 0; at < order.size();) {
      // Fewer lines when they are long: attention grows with the square of the length, the kept keys with the beams.
      const auto length = static_cast<std::int64_t>(order[at]->source.size());
      const auto rows = std::max<std::int64_t>(1, std::min(o_.batch, 16384 / (length * o_.beams())));
      const std::size_t end = std::min(order.size(), at + static_cast<std::size_t>(rows));
      translate_batch(
          {order.begin() + static_cast<std::ptrdiff_t>(at), order.begin() + static_cast<std::ptrdiff_t>(end)});
      at = end;
      write_ready();
    }
    write_ready();
  }

  void translate_batch(const std::vector<Line*>& rows) {
    std::vector<const Ids*> sources;
    std::vector<moe::index_t> lengths;
    for (const Line* line : rows) {
      sources.push_back(&line->source);
      // Room for a translation half as long again as the source, and then some for short ones.
      const auto room = static_cast<std::int64_t>(line->source.size()) * 3 / 2 + 16;
      lengths.push_back(std::min(o_.longest(), room) + 1);
    }
    make_batch(sources, {}, std::vector<std::int32_t>(rows.size(), task_), batch_);
    moe::SearchOptions options;
    options.begin = Tokenizer::begin, options.end = Tokenizer::end;
    options.beams = o_.beams(), options.nbest = o_.outputs();
    options.max_length = *std::max_element(lengths.begin(), lengths.end());
    options.lengths = lengths.data();
    options.length_penalty = o_.search.length_penalty.value_or(1);
    options.stopping = o_.search.stopping.value_or(moe::Stopping::no_better);
    options.no_repeat_ngram = o_.search.no_repeat_ngram.value_or(0);
    try {
      auto found = loaded_.translator->search(batch_, options);
      for (std::size_t i = 0; i < rows.size(); ++i) rows[i]->found = std::move(found[i]);
    } catch (const moe::NoAnswer& problem) {
      moe::fail("standard input:", rows[static_cast<std::size_t>(problem.sentence)]->number, ": ", problem.reason);
    }
  }

  void write(const Line& line) const {
    std::vector<generation::Answer> answers;
    for (const auto& h : *line.found)
      answers.push_back({loaded_.tokenizer->decode({h.tokens.begin(), h.tokens.end()}), h.score, h.ended});
    if (answers.empty()) answers.push_back({});  // an empty line is its own translation
    const std::string out = generation::answer_rows(format_, line.number, line.text, answers);
    std::fwrite(out.data(), 1, out.size(), stdout);
  }

  TranslateOptions o_;
  LoadedModel loaded_;
  generation::AnswerFormat format_;
  std::int32_t task_ = 0, tag_ = 0;
  std::vector<Line> lines_;
  HostBatch batch_;
};

/// Whether a directory is a Hugging Face checkpoint: our own config.json has no model_type.
inline bool is_hugging_face(const fs::path& model) {
  std::error_code ignored;
  return fs::is_regular_file(model / "config.json", ignored) && moe::hf::Config(model).has("model_type");
}

/// Lines of standard input to standard output, in order; an empty line gives an empty line. With --nbest above 1 a line
/// gives rows "line number, score, text", with --json one object.
/// --model may be a Hugging Face checkpoint too (../generation), whose languages are those of its tokenizer.
inline int translate(TranslateOptions o) {
  o.json = o.json || o.jsonl;
  if (!is_hugging_face(o.model)) return TranslateCommand(o).run();
  moe::require(!o.experts.int8 && !o.experts.mapped,
               "--int8-experts and --mapped-experts: not for Hugging Face checkpoints");
  generation::GenerateOptions g;
  g.model = o.model, g.from = o.from, g.to = o.to;
  g.json = o.json, g.jsonl = o.jsonl, g.strict = o.strict;
  g.threads = static_cast<int>(o.threads), g.batch = o.batch, g.max_source = o.max_source;
  g.search = o.search;
  g.search.max_new_tokens = o.max_length;
  return generation::generate(g);
}

}  // namespace nmt
