// SPDX-License-Identifier: Apache-2.0
// distill_report.hpp -- the command `distill-report`: what of a sparse teacher's gain over a dense model is left in its
// students, beside its extracted sub-networks (Kudugunta et al. 2021, Table 2; Switch Transformer, Table 6). All are
// scored here, on the same rows of the same directions. Read next: scoring.hpp.
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
#include "sparsemoe/report/html.hpp"

namespace nmt {

struct DistillReportOptions : Selection {
  std::string dense, teacher, corpus, out;
  std::vector<std::string> students, extracted;
  std::int64_t beam = 1;
};

class DistillReport {
 public:
  /// Throws Error for a model that cannot be loaded.
  explicit DistillReport(const DistillReportOptions& options) : o_(options) {
    moe::require(!o_.students.empty() || !o_.extracted.empty(),
                 "distill-report: give --student RUN or --extracted DIR, or both, to set beside the teacher");
    moe::require(!fs::exists(o_.out) || fs::is_directory(o_.out), o_.out, ": is not a directory");
    add("dense", {o_.dense});
    add("teacher", {o_.teacher});
    if (!o_.extracted.empty()) add("extracted", o_.extracted);
    for (const auto& s : o_.students) add("student", {s});
    complete(o_, o_.teacher);
  }

  /// Scores every model, writes OUT/distill.{json,md} and prints the table.
  int run() {
    choose_directions();
    const Corpus corpus = load_corpus(o_.corpus, languages_);
    for (Row& row : rows_) {
      score(row, corpus);
      moe::require(row.directions > 0, o_.corpus, ": split '", o_.split, "' has no pair of kinds '", o_.kinds,
                   "' for these models");
    }
    write();
    return 0;
  }

 private:
  struct Model {
    std::string path;
    ModelFile file;
  };
  /// One line of the table: a model, or the sub-networks that share the directions among them.
  struct Row {
    std::string role;
    std::vector<Model> models;
    double bleu = 0, chrf = 0, parameters = 0;  // means over directions; of the largest model
    std::int64_t directions = 0;
    moe::Json by_direction = moe::Json::object();
    std::string name() const { return role + (role == "student" ? " " + models[0].path : ""); }
    /// Null if none serves it.
    const Model* serving(const Direction& d) const {
      for (const auto& m : models) {
        const auto knows = [&](const std::string& l) {
          return std::find(m.file.languages.begin(), m.file.languages.end(), l) != m.file.languages.end();
        };
        if (knows(d.source) && knows(d.target) && m.file.serves(d.source, d.target)) return &m;
      }
      return nullptr;
    }
  };

  void add(const char* role, const std::vector<std::string>& paths) {
    Row row;
    row.role = role;
    for (const auto& path : paths) row.models.push_back({path, read_model_file(model_directory(path))});
    rows_.push_back(std::move(row));
  }

  /// Those that every row can translate.
  void choose_directions() {
    languages_ = chosen_languages(rows_[1].models[0].file, o_.languages);
    for (const auto& d : directions_of(languages_, o_.directions))
      if (std::all_of(rows_.begin(), rows_.end(), [&](const Row& r) { return r.serving(d) != nullptr; }))
        directions_.push_back(d);
    moe::require(!directions_.empty(), "distill-report: there is no direction that all of the models translate");
  }

  void score(Row& row, const Corpus& corpus) {
    for (const auto& model : row.models) {
      std::vector<Direction> own;
      for (const auto& d : directions_)
        if (row.serving(d) == &model) own.push_back(d);
      if (own.empty()) continue;
      const auto loaded = load_model(model.path, o_.threads);
      row.parameters = std::max(row.parameters, static_cast<double>(loaded.translator->parameters()));
      for (const auto& d : own) {
        const auto s = score_direction(*loaded.translator, loaded.file, *loaded.tokenizer, corpus.split(o_.split), d,
                                       o_.kinds, o_.max_length, o_.rows, o_.beam);
        if (s.segments == 0) continue;
        if (s.cut > 0)
          std::fprintf(stderr, "warning: %s: %lld sources are longer than %lld tokens and are cut\n",
                       moe::printable(d.name()).c_str(), static_cast<long long>(s.cut),
                       static_cast<long long>(o_.max_length));
        row.bleu += s.bleu, row.chrf += s.chrf, ++row.directions;
        row.by_direction[d.name()] = {{"bleu", s.bleu}, {"chrf", s.chrf}, {"segments", s.segments}};
        std::fprintf(stderr, "%s: %s, BLEU %.1f, chrF %.1f\n", moe::printable(model.path).c_str(),
                     moe::printable(d.name()).c_str(), s.bleu, s.chrf);
      }
    }
    if (row.directions > 0)
      row.bleu /= static_cast<double>(row.directions), row.chrf /= static_cast<double>(row.directions);
  }

  /// (score - dense) / (teacher - dense), or null where the teacher gains nothing.
  static moe::Json share(double score, double dense, double teacher) {
    return teacher > dense ? moe::Json((score - dense) / (teacher - dense)) : moe::Json();
  }
  static std::string percent(const moe::Json& share) {
    return share.is_null() ? "-" : moe::detail::fixed(100 * share.get<double>(), 0) + " %";
  }

  void write() const {
    moe::Table table{
        {"model", "BLEU", "chrF", "parameters served", "of the teacher's", "gain kept, BLEU", "gain kept, chrF"}, {}};
    moe::Json rows = moe::Json::array();
    const Row &dense = rows_[0], &teacher = rows_[1];
    for (const auto& r : rows_) {
      const moe::Json bleu = share(r.bleu, dense.bleu, teacher.bleu), chrf = share(r.chrf, dense.chrf, teacher.chrf);
      const double part = r.parameters / teacher.parameters;
      table.rows.push_back({r.name(), moe::detail::fixed(r.bleu, 1), moe::detail::fixed(r.chrf, 1),
                            moe::short_number(r.parameters), moe::detail::fixed(100 * part, 0) + " %", percent(bleu),
                            percent(chrf)});
      std::vector<std::string> paths;
      for (const auto& m : r.models) paths.push_back(m.path);
      rows.push_back({{"role", r.role},
                      {"models", paths},
                      {"bleu", r.bleu},
                      {"chrf", r.chrf},
                      {"parameters", r.parameters},
                      {"gain_kept", {{"bleu", bleu}, {"chrf", chrf}}},
                      {"directions", r.by_direction}});
    }
    const std::string about =
        moe::join("Means over ", dense.directions, dense.directions == 1 ? " direction of " : " directions of ",
                  o_.split, ", ", o_.beam, o_.beam == 1 ? " beam" : " beams",
                  ". Gain kept: (score - dense) / (teacher - dense). Of several extracted "
                  "sub-networks each serves its own directions; the largest counts.\n");
    moe::FileSet files(o_.out);
    files.add("distill.json",
              moe::dump_json({{"split", o_.split}, {"kinds", o_.kinds}, {"beam", o_.beam}, {"rows", rows}}));
    files.add("distill.md", moe::markdown(table) + "\n" + about);
    files.commit();
    std::printf("%s\n%s", moe::markdown(table).c_str(), about.c_str());
    moe::require_output_written();
  }

  DistillReportOptions o_;
  std::vector<Row> rows_;
  std::vector<std::string> languages_;
  std::vector<Direction> directions_;
};

}  // namespace nmt
