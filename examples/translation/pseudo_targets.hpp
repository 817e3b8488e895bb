// SPDX-License-Identifier: Apache-2.0
// pseudo_targets.hpp -- a teacher's translations of the training sources, to train a student on: sequence-level
// distillation (Kim and Rush 2016, section 3.2). Decoding is the long part, so what is decoded is in a file at once, a
// line a chunk, and is not decoded again; the last line of a killed run may be cut, and is then removed.
// Read next: distill_command.hpp.
#pragma once

#include <algorithm>
#include <cstdio>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "data.hpp"
#include "sparsemoe/io/checksum.hpp"
#include "sparsemoe/io/log.hpp"

namespace nmt {

namespace moe = sparsemoe;

/// RUN/pseudo-targets.jsonl: {"direction", "first", "sources", "targets", "texts"}. `first` is the number of the
/// chunk's first pair in its direction, `sources` the SHA-256 of its encoded sources, `targets` have token ids without
/// end.
class PseudoTargets {
 public:
  static constexpr std::size_t chunk = 512;  // pairs that a kill may cost

  /// Outputs have at most `longest` tokens.
  PseudoTargets(fs::path path, std::int64_t beams, std::int64_t longest)
      : path_(std::move(path)), beams_(beams), longest_(longest) {}

  /// Puts the teacher's outputs in place of all targets, those that are in the file and then the missing ones; pairs
  /// whose output is empty are left out. Stops between two chunks when stopped() is true, and then changes nothing.
  /// Throws Error for a line that was made from other sentences or names no token of the tokenizer.
  template <class Stopped>
  void replace(std::vector<EncodedDirection>& pairs, Translator& teacher, const Tokenizer& tokenizer,
               Stopped&& stopped) {
    moe::JsonLog file(path_);  // removes a last line that was cut
    load(pairs, tokenizer.size());
    std::size_t chunks = 0, fresh = 0;
    for (const auto& d : pairs) chunks += (d.source.size() + chunk - 1) / chunk;
    for (const auto& d : pairs)
      for (std::size_t first = 0; first < d.source.size(); first += chunk) {
        if (found_.count({d.direction.name(), first}) != 0) continue;
        if (stopped()) return file.finish();
        file.write(decode(d, first, teacher, tokenizer));
        ++fresh;
        std::fprintf(stderr, "translated by the teacher: %zu of %zu chunks\n", found_.size(), chunks);
      }
    file.finish();
    std::size_t empty = 0, all = 0;
    for (auto& d : pairs) {
      EncodedDirection kept{d.direction, d.task, {}, {}, d.too_long};
      for (std::size_t i = 0; i < d.source.size(); ++i) {
        Ids& target = found_.at({d.direction.name(), i / chunk * chunk})[i % chunk];
        ++all;
        if (target.empty()) {
          ++empty;
          continue;
        }
        kept.source.push_back(std::move(d.source[i]));
        kept.target.push_back(std::move(target));
      }
      d = std::move(kept);
    }
    if (empty == all) moe::fail_file(path_, "the teacher translates every sentence to nothing");
    std::fprintf(stderr, "%zu targets from the teacher, %zu chunks of them decoded now; %zu pairs left out as empty\n",
                 all - empty, fresh, empty);
  }

 private:
  static std::size_t count(const EncodedDirection& d, std::size_t first) {
    return std::min(chunk, d.source.size() - first);
  }
  static std::string fingerprint(const EncodedDirection& d, std::size_t first) {
    moe::Sha256 hash;
    for (std::size_t i = first; i < first + count(d, first); ++i) {
      const auto size = static_cast<std::int32_t>(d.source[i].size());
      hash.add(&size, sizeof size);
      hash.add(d.source[i].data(), d.source[i].size() * sizeof(std::int32_t));
    }
    return hash.hex();
  }

  /// A line that is no JSON is a damaged one: its chunk is decoded again.
  void load(const std::vector<EncodedDirection>& pairs, std::int64_t vocabulary) {
    found_.clear();
    std::size_t number = 0;
    moe::read_log(path_, [&](const moe::Json& line, std::uint64_t) {
      const std::string where = moe::join(path_.string(), ": record ", ++number, " ");
      try {
        const std::string name = line.at("direction");
        const std::size_t first = line.at("first");
        const auto d =
            std::find_if(pairs.begin(), pairs.end(), [&](const auto& e) { return e.direction.name() == name; });
        const bool same = d != pairs.end() && first % chunk == 0 && first < d->source.size() &&
                          line.at("sources").get<std::string>() == fingerprint(*d, first);
        moe::require(same, where, "has translations of other sentences than this run trains on; delete the file to ",
                     "decode again, or choose the corpus, kinds and max_length that it was made with");
        const auto targets = line.at("targets").get<std::vector<Ids>>();
        bool sound = targets.size() == count(*d, first);
        for (const Ids& t : targets) {
          sound = sound && static_cast<std::int64_t>(t.size()) <= longest_;
          for (const auto id : t) sound = sound && id >= 0 && id < vocabulary;
        }
        moe::require(sound, where, "does not have a translation of ids of this tokenizer for each of its sentences");
        found_[{name, first}] = targets;
      } catch (const moe::Json::exception& problem) {
        moe::fail(where, "is not one of pseudo-targets: ", problem.what());
      }
    });
  }

  moe::Json decode(const EncodedDirection& d, std::size_t first, Translator& teacher, const Tokenizer& tokenizer) {
    std::vector<const Ids*> sources;
    for (std::size_t i = first; i < first + count(d, first); ++i) sources.push_back(&d.source[i]);
    auto& targets = found_[{d.direction.name(), first}];
    // A search that does not find the end has one token more than it was given room for.
    targets = search_all(teacher, sources, std::vector<std::int32_t>(sources.size(), d.task), longest_ - 1, 64, beams_);
    std::vector<std::string> texts;
    for (const Ids& t : targets) texts.push_back(tokenizer.decode({t.begin(), t.end()}));
    return {{"direction", d.direction.name()},
            {"first", first},
            {"sources", fingerprint(d, first)},
            {"targets", targets},
            {"texts", texts}};
  }

  fs::path path_;
  std::int64_t beams_, longest_;
  std::map<std::pair<std::string, std::size_t>, std::vector<Ids>> found_;
};

}  // namespace nmt
