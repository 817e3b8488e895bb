// SPDX-License-Identifier: Apache-2.0
// data.hpp -- from a corpus to batches: encode every pair of the wanted kinds and directions once, build padded
// batches. A source starts with the tag of its target language, so one model serves every direction. Read next:
// train.hpp.
#pragma once

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "sparsemoe/train/sampling.hpp"
#include "tools/corpus/read_corpus.hpp"
#include "tools/corpus/tokenizer.hpp"
#include "translator.hpp"

namespace nmt {

using Ids = std::vector<std::int32_t>;

struct Direction {
  std::string source, target;
  std::string name() const { return source + "-" + target; }
};

/// en->xx and xx->en for every language but the first (the pivot). which: both, en2xx or xx2en.
inline std::vector<Direction> directions_of(const std::vector<std::string>& languages, const std::string& which) {
  std::vector<Direction> out;
  for (std::size_t i = 1; i < languages.size(); ++i) {
    if (which != "xx2en") out.push_back({languages[0], languages[i]});
    if (which != "en2xx") out.push_back({languages[i], languages[0]});
  }
  return out;
}

/// Task names in the order of their numbers.
inline std::vector<std::string> task_names(const std::vector<std::string>& languages, const std::string& task) {
  if (task == "target") return languages;
  std::vector<std::string> out;
  for (const auto& d : directions_of(languages, "both")) out.push_back(d.name());
  return out;
}

/// Encoded pairs of one direction. Sources carry the tag and the end id; targets carry neither.
struct EncodedDirection {
  Direction direction;
  std::int32_t task = 0;
  std::vector<Ids> source, target;
  std::int64_t too_long = 0;  // pairs longer than was asked for on a side: left out, or else their source cut
};

/// Pairs of a split whose kind is in `kinds` ("s,t"); pairs longer than max_length on a side are left out if
/// `drop_long`, else their source is cut. `rows` > 0 takes that many, evenly spread.
inline EncodedDirection encode_direction(const SplitRows& split, const Direction& d, std::int32_t task,
                                         const Tokenizer& tokenizer, const std::string& kinds, std::int64_t max_length,
                                         bool drop_long, std::int64_t rows, std::vector<TextPair>* texts = nullptr) {
  EncodedDirection out{d, task, {}, {}, 0};
  std::vector<TextPair> chosen;
  for (const auto& p : split.pairs(d.source, d.target))
    if (kinds.find(split.kind(p.id)) != std::string::npos) chosen.push_back(p);
  const std::size_t want = rows > 0 ? std::min(chosen.size(), static_cast<std::size_t>(rows)) : chosen.size();
  const std::int32_t tag = tokenizer.tag(d.target);
  for (std::size_t i = 0; i < want; ++i) {
    const TextPair& p = chosen[i * chosen.size() / want];
    Ids source = tokenizer.encode(*p.source), target = tokenizer.encode(*p.target);
    const bool long_source = static_cast<std::int64_t>(source.size()) + 2 > max_length,
               long_target = static_cast<std::int64_t>(target.size()) + 1 > max_length;
    if (long_source || (drop_long && long_target)) ++out.too_long;
    if (drop_long && (long_source || long_target)) continue;
    if (long_source) source.resize(static_cast<std::size_t>(max_length - 2));
    source.insert(source.begin(), tag);
    source.push_back(Tokenizer::end);
    out.source.push_back(std::move(source));
    out.target.push_back(std::move(target));
    if (texts != nullptr) texts->push_back(p);
  }
  return out;
}

/// One padded batch. `targets` may be null entries when only decoding.
inline void make_batch(const std::vector<const Ids*>& sources, const std::vector<const Ids*>& targets,
                       const std::vector<std::int32_t>& tasks, HostBatch& b) {
  b.rows = static_cast<std::int64_t>(sources.size());
  b.source_length = b.target_length = 1;
  for (const auto* s : sources) b.source_length = std::max(b.source_length, static_cast<std::int64_t>(s->size()));
  for (const auto* t : targets) b.target_length = std::max(b.target_length, static_cast<std::int64_t>(t->size()) + 1);
  const auto ns = static_cast<std::size_t>(b.rows * b.source_length),
             nt = static_cast<std::size_t>(b.rows * b.target_length);
  b.source.assign(ns, Tokenizer::pad);
  b.source_valid.assign(ns, 0);
  b.target.assign(nt, Tokenizer::pad);
  b.target_valid.assign(nt, 0);
  b.labels.assign(nt, -1);
  b.task.assign(tasks.begin(), tasks.end());
  b.label_tokens = 0;
  for (std::size_t r = 0; r < sources.size(); ++r) {
    const auto at = r * static_cast<std::size_t>(b.source_length);
    for (std::size_t i = 0; i < sources[r]->size(); ++i)
      b.source[at + i] = (*sources[r])[i], b.source_valid[at + i] = 1;
    if (targets.empty()) continue;
    const Ids& t = *targets[r];
    const auto to = r * static_cast<std::size_t>(b.target_length);
    for (std::size_t i = 0; i <= t.size(); ++i) {
      b.target[to + i] = i == 0 ? Tokenizer::begin : t[i - 1];
      b.target_valid[to + i] = 1;
      b.labels[to + i] = i == t.size() ? Tokenizer::end : t[i];
    }
    b.label_tokens += static_cast<std::int64_t>(t.size()) + 1;
  }
}

/// Ids a translation never contains: padding, begin, unknown, the language tags, and the bytes that end a line.
inline std::vector<std::uint8_t> banned_ids(const Tokenizer& tokenizer, const std::vector<std::string>& languages) {
  std::vector<std::uint8_t> banned(static_cast<std::size_t>(tokenizer.size()), 0);
  banned[Tokenizer::pad] = banned[Tokenizer::begin] = banned[Tokenizer::unknown] = 1;
  for (const auto& l : languages) banned[static_cast<std::size_t>(tokenizer.tag(l))] = 1;
  for (std::size_t i = 0; i < banned.size(); ++i)
    if (tokenizer.decode({static_cast<int>(i)}).find_first_of("\r\n") != std::string::npos) banned[i] = 1;
  return banned;
}

/// For each id, the byte that it stands for, -1 for text: with it a search makes valid UTF-8 only.
inline std::vector<std::int16_t> byte_pieces(const Tokenizer& tokenizer) {
  std::vector<std::int16_t> bytes(static_cast<std::size_t>(tokenizer.size()), -1);
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = tokenizer.byte(static_cast<int>(i));
  return bytes;
}

/// The best output of a search for each of many encoded sources: sorted by length, in batches, results in the given
/// order. One beam is greedy search.
inline std::vector<Ids> search_all(Translator& model, const std::vector<const Ids*>& sources,
                                   const std::vector<std::int32_t>& tasks, std::int64_t longest,
                                   std::int64_t batch_rows = 64, std::int64_t beams = 1) {
  std::vector<std::size_t> order(sources.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return sources[a]->size() > sources[b]->size(); });
  std::vector<Ids> out(sources.size());
  HostBatch batch;
  for (std::size_t at = 0; at < order.size();) {
    std::vector<const Ids*> rows;
    std::vector<std::int32_t> task;
    std::vector<std::size_t> where;
    // A batch holds fewer rows when they are long: attention grows with the square of the length.
    const auto length = static_cast<std::int64_t>(sources[order[at]]->size());
    const std::int64_t most =
        std::max<std::int64_t>(1, std::min(batch_rows, 16384 / std::max<std::int64_t>(1, length)));
    for (; at < order.size() && static_cast<std::int64_t>(rows.size()) < most; ++at) {
      rows.push_back(sources[order[at]]);
      task.push_back(tasks[order[at]]);
      where.push_back(order[at]);
    }
    make_batch(rows, {}, task, batch);
    sparsemoe::SearchOptions options;
    options.begin = Tokenizer::begin, options.end = Tokenizer::end;
    options.beams = beams;
    // Each its own room, so that an output does not depend on its company: half as long again as the source, and some.
    std::vector<sparsemoe::index_t> lengths;
    for (const Ids* row : rows)
      lengths.push_back(std::min(longest, static_cast<std::int64_t>(row->size()) * 3 / 2 + 16) + 1);
    options.lengths = lengths.data();
    options.max_length = *std::max_element(lengths.begin(), lengths.end());
    const auto found = model.search(batch, options);
    for (std::size_t i = 0; i < rows.size(); ++i) out[where[i]] = found[i].front().tokens;
  }
  return out;
}
/// The same as text.
inline std::vector<std::string> translate_all(Translator& model, const Tokenizer& tokenizer,
                                              const std::vector<const Ids*>& sources,
                                              const std::vector<std::int32_t>& tasks, std::int64_t longest,
                                              std::int64_t batch_rows = 64, std::int64_t beams = 1) {
  std::vector<std::string> out;
  for (const Ids& ids : search_all(model, sources, tasks, longest, batch_rows, beams))
    out.push_back(tokenizer.decode({ids.begin(), ids.end()}));
  return out;
}

}  // namespace nmt
