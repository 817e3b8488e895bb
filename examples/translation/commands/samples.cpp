// SPDX-License-Identifier: Apache-2.0
// commands/samples.cpp -- the command `samples`: a few lines in several languages, side by side.
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "../command.hpp"
#include "../run_files.hpp"
#include "../selection.hpp"
#include "../user_text.hpp"
#include "sparsemoe/io/standard_output.hpp"

namespace nmt {

namespace {

struct SampleOptions {
  std::string model, from = "en", out;
  std::vector<std::string> to;
  std::int64_t threads = 0, max_length = 128;
};

// A few lines of standard input into several languages: printed side by side, and written as the report's
// samples.json.
int samples(SampleOptions o) {
  auto loaded = load_model(o.model, o.threads);
  o.from = require_language(loaded.file, o.from, "--from");
  for (auto& to : o.to) to = require_language(loaded.file, to, "--to");
  std::vector<UserLine> lines;
  UserText input(*loaded.tokenizer, {});
  for (UserLine line; input.next(line);) lines.push_back(std::move(line));
  std::vector<std::vector<std::string>> out;
  for (const auto& to : o.to) {
    const std::int32_t task = loaded.file.task_of(o.from, to), tag = loaded.tokenizer->tag(to);
    std::vector<Ids> encoded;
    for (const auto& line : lines)
      if (!line.ids.empty()) encoded.push_back(source_ids(tag, line.ids));
    std::vector<const Ids*> sources;
    for (const auto& ids : encoded) sources.push_back(&ids);
    const auto found = translate_all(*loaded.translator, *loaded.tokenizer, sources,
                                     std::vector<std::int32_t>(sources.size(), task), o.max_length);
    auto next = found.begin();
    auto& texts = out.emplace_back();
    for (const auto& line : lines) texts.push_back(line.ids.empty() ? std::string() : *next++);
  }
  moe::Json all = moe::Json::array();
  for (std::size_t i = 0; i < lines.size(); ++i) {
    moe::Json translations = moe::Json::array();
    std::printf("%-6s %s\n", o.from.c_str(), generation::row_text(lines[i].text, false).c_str());
    for (std::size_t t = 0; t < o.to.size(); ++t) {
      std::printf("%-6s %s\n", o.to[t].c_str(), generation::row_text(out[t][i], false).c_str());
      translations.push_back({{"language", o.to[t]}, {"text", out[t][i]}});
    }
    std::printf("\n");
    all.push_back({{"source", lines[i].text}, {"source_language", o.from}, {"translations", translations}});
  }
  moe::require_output_written();
  if (!o.out.empty()) moe::atomic_write(o.out, all.dump(2) + "\n");
  return 0;
}

}  // namespace

Command samples_command(const Words& /*words*/) {
  const auto o = std::make_shared<SampleOptions>();
  const auto add = [o](CLI::App& command) {
    add_option_list(command,
                    {{.name = "--model", .to = &o->model, .help = "Run or checkpoint", .given = Given::always},
                     {.name = "--from", .to = &o->from, .help = "Language of the input", .value = Default::said},
                     {.name = "--to", .to = &o->to, .help = "Languages of the output", .given = Given::always},
                     {.name = "--out",
                      .to = &o->out,
                      .help = "Also write them to this JSON file, for the report (RUN/samples.json)"},
                     threads_option(o->threads)});
  };
  return {"samples", "Translate a few lines of standard input into several languages, side by side", add,
          [o] { return samples(*o); }};
}

}  // namespace nmt
