// SPDX-License-Identifier: Apache-2.0
// routing_command.hpp -- the command `routing`: which experts a model uses for which direction. A split is decoded, the
// outputs are read again by the model, which routes every token as decoding did, and its choices are counted.
// Read next: sparsemoe/report/routing_report.hpp for what is written.
#pragma once

#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "run_files.hpp"
#include "scoring.hpp"
#include "selection.hpp"
#include "sparsemoe/io/file_set.hpp"
#include "sparsemoe/io/standard_output.hpp"
#include "sparsemoe/report/routing_report.hpp"

namespace nmt {

struct RoutingOptions : Selection {
  RoutingOptions() { rows = 100; }
  std::string model, corpus, out;
  bool reference = false;
};

namespace detail {

/// Adds one batch's choices, summed over tasks, to the row of the group it belongs to.
inline void count_use(const std::vector<NamedStatistics>& statistics, const std::vector<std::string>& groups,
                      std::size_t group, std::vector<moe::ExpertUse>& use) {
  if (use.empty())
    for (const auto& s : statistics) {
      const auto& r = s.layer.routing;
      use.push_back({s.stack, s.router, s.layer.layer, r.experts, groups,
                     std::vector<std::int64_t>(groups.size() * static_cast<std::size_t>(r.experts), 0)});
    }
  for (std::size_t l = 0; l < use.size(); ++l) {
    const auto& r = statistics[l].layer.routing;
    for (moe::index_t e = 0; e < r.experts; ++e)
      use[l].counts[group * static_cast<std::size_t>(r.experts) + static_cast<std::size_t>(e)] +=
          r.load[static_cast<std::size_t>(e)];
  }
}

}  // namespace detail

/// Writes OUT/routing.csv, OUT/routing.json and OUT/routing.html, and prints a line a layer.
/// Throws Error if the model has no sparse layer or the split has no pair of the kinds.
inline int routing(RoutingOptions o) {
  auto loaded = load_model(o.model, o.threads);
  complete(o, o.model);
  const std::vector<std::string> languages = chosen_languages(loaded.file, o.languages);
  const Corpus corpus = load_corpus(o.corpus, languages);
  const auto& split = corpus.split(o.split);
  struct Rows {
    Direction direction;
    EncodedDirection encoded;
  };
  std::vector<Rows> all;
  std::vector<std::string> groups;
  std::int64_t cut = 0;
  for (const auto& d : directions_of(languages, o.directions)) {
    if (!loaded.file.serves(d.source, d.target)) continue;
    auto encoded = encode_direction(split, d, loaded.file.task_of(d.source, d.target), *loaded.tokenizer, o.kinds,
                                    o.max_length, false, o.rows);
    if (encoded.source.empty()) continue;
    groups.push_back(d.name());
    cut += encoded.too_long;
    all.push_back({d, std::move(encoded)});
  }
  moe::require(!all.empty(), o.corpus, ": split '", o.split, "' has no pair of kinds '", o.kinds, "'");
  if (cut > 0)
    std::fprintf(stderr, "warning: %lld sources are longer than %lld tokens and are cut; --max-length reads more\n",
                 static_cast<long long>(cut), static_cast<long long>(o.max_length));
  std::vector<moe::ExpertUse> use;
  HostBatch batch;
  for (std::size_t g = 0; g < all.size(); ++g) {
    auto& rows = all[g].encoded;
    std::vector<const Ids*> sources, targets;
    for (const auto& ids : rows.source) sources.push_back(&ids);
    if (!o.reference) {
      const auto outputs = translate_all(*loaded.translator, *loaded.tokenizer, sources,
                                         std::vector<std::int32_t>(sources.size(), rows.task), o.max_length);
      for (std::size_t i = 0; i < outputs.size(); ++i) rows.target[i] = loaded.tokenizer->encode(outputs[i]);
    }
    for (std::size_t at = 0; at < rows.source.size(); at += 32) {
      const std::size_t last = std::min(at + 32, rows.source.size());
      sources.clear(), targets.clear();
      for (std::size_t i = at; i < last; ++i) sources.push_back(&rows.source[i]), targets.push_back(&rows.target[i]);
      make_batch(sources, targets, std::vector<std::int32_t>(last - at, rows.task), batch);
      loaded.translator->loss(batch, 0, 0, 0);
      detail::count_use(loaded.translator->statistics(), groups, g, use);
      moe::require(!use.empty(), o.model, ": the model has no sparse layer, so there is no routing to analyse");
    }
    std::fprintf(stderr, "%zu of %zu directions\n", g + 1, all.size());
  }
  moe::FileSet files(o.out);
  files.add("routing.csv", moe::routing_csv(use));
  files.add("routing.json", moe::dump_json(moe::routing_json(use)));
  const std::string title = "Routing of " + moe::run_name(o.model) + " on " + o.split;
  files.add("routing.html", moe::routing_page(use, title, "direction").text());
  files.commit();
  for (const auto& u : use) {
    double mean = 0;
    for (std::size_t g = 0; g < groups.size(); ++g)
      mean += moe::entropy_bits(u.shares(g)) / static_cast<double>(groups.size());
    std::printf("%s layer %lld (%s): %zu of %lld experts unused, mean entropy %.2f of %.2f bits\n", u.stack.c_str(),
                static_cast<long long>(u.layer), u.router.c_str(), u.dead().size(), static_cast<long long>(u.experts),
                mean, std::log2(static_cast<double>(u.experts)));
  }
  moe::require_output_written();
  return 0;
}

}  // namespace nmt
