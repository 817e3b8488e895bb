// SPDX-License-Identifier: Apache-2.0
// sentencepiece_tokenizer.hpp -- spiece.model, tokenizer.model or sentencepiece.bpe.model (with vocab.json for
// M2M-100), and ByT5's bytes, which have no file: as the slow tokenizers of transformers 4.57 read them. Read next:
// examples/generation/tokenizer.hpp.
#pragma once

#include <algorithm>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "engine.hpp"
#include "sentencepiece_file.hpp"
#include "settings.hpp"
#include "tokenizer_json.hpp"

namespace generation {

inline const std::string sp_space = "\xE2\x96\x81";  // U+2581, a space in a piece

/// What a family makes of SentencePiece's pieces: ids of its own, and pieces of ids.
class PieceIds {
 public:
  /// `vocabulary`: M2M-100's vocab.json, or nothing.
  PieceIds(const Settings& s, const sentencepiece::SentencePieceProcessor* processor) : kind_(s.kind) {
    processor_ = processor;
    if (kind_ == TokenizerClass::m2m100) read_vocabulary(s);
  }
  /// One more than the largest id.
  std::int32_t size() const {
    switch (kind_) {
      case TokenizerClass::byt5: return 3 + 256;
      case TokenizerClass::nllb: return processor_->GetPieceSize() + 1;
      case TokenizerClass::m2m100: return static_cast<std::int32_t>(pieces_.size());
      default: return processor_->GetPieceSize();
    }
  }
  /// The id of a piece as SentencePiece gives it; of what is no piece, that of the unknown one.
  std::int32_t id_of(const std::string& piece) const {
    if (kind_ == TokenizerClass::m2m100) {
      const auto at = ids_.find(piece);
      return at != ids_.end() ? at->second : unknown_;
    }
    const int id = processor_->PieceToId(piece);
    // fairseq: <s> 0, <pad> 1, </s> 2, <unk> 3, then SentencePiece's 3, 4, ... one later.
    return kind_ != TokenizerClass::nllb ? id : id == 0 ? unknown_ : id + 1;
  }
  std::string piece_of(std::int32_t id) const {
    if (id < 0 || id >= size()) return {};
    switch (kind_) {
      case TokenizerClass::byt5: return id < 3 ? std::string() : std::string(1, static_cast<char>(id - 3));
      case TokenizerClass::m2m100: return pieces_[static_cast<std::size_t>(id)];
      case TokenizerClass::nllb: return id == 0 ? std::string() : processor_->IdToPiece(id - 1);
      default: return processor_->IdToPiece(id);
    }
  }
  bool is_piece(const std::string& piece) const {
    if (kind_ == TokenizerClass::byt5) return false;
    if (kind_ == TokenizerClass::m2m100) return ids_.count(piece) != 0;
    return processor_->IdToPiece(processor_->PieceToId(piece)) == piece;
  }
  /// What NLLB gives for no piece is the id of its unk_token, which is known once the added tokens are.
  void set_unknown(std::int32_t id) { unknown_ = id; }

 private:
  void read_vocabulary(const Settings& s) {
    const fs::path path = s.directory / "vocab.json";
    const auto vocabulary = read_vocabulary_json(path);
    pieces_.resize(vocabulary.size());
    std::vector<bool> seen(vocabulary.size());
    for (const auto& [piece, id] : vocabulary) {
      const auto at = static_cast<std::size_t>(id);
      if (at >= seen.size() || seen[at])
        moe::fail_file(path, "piece ", moe::detail::shown(piece), " has the id ", id, "; the ids of ", seen.size(),
                       " pieces must be 0, 1, ..., each once");
      seen[at] = true;
      if (!ids_.emplace(piece, id).second) moe::fail_file(path, "duplicate key ", moe::detail::shown(piece));
      pieces_[at] = piece;
    }
    const auto unknown = s.named.find("unk_token");
    if (unknown == s.named.end() || ids_.count(unknown->second.content) == 0)
      moe::fail_file(path, "does not have the unknown piece");
    unknown_ = ids_.at(unknown->second.content);
  }

  TokenizerClass kind_;
  const sentencepiece::SentencePieceProcessor* processor_;
  std::unordered_map<std::string, std::int32_t> ids_;
  std::vector<std::string> pieces_;
  std::int32_t unknown_ = 3;
};

class SentencePieceTokenizer : public TextEngine {
 public:
  /// `file`: the SentencePiece model; nothing for ByT5. Throws FileError.
  SentencePieceTokenizer(const Settings& s, const fs::path& file)
      : settings_(s),
        processor_(file.empty()
                       ? nullptr
                       : open_sentencepiece(file, new_prefix() ? DummyPrefix::none : DummyPrefix::as_model_says)),
        pieces_(s, processor_.get()) {
    collect_added();
    std::vector<PrefixIndex::Word> words;
    for (const AddedToken& token : added_.all()) words.emplace_back(token.content, token.id);
    index_ = PrefixIndex(std::move(words));
    if (new_prefix()) {
      const auto unknown = s.named.find("unk_token");
      if (unknown != s.named.end()) unknown_text_ = unknown->second.content;
      unknown_length_ = pieces_of(unknown_text_).size();
    }
  }

  Ids encode(const std::string& whole) const override {
    std::string text = whole;
    const bool fresh = new_prefix() && !text.empty();
    if (fresh) {
      text = replaced(text, sp_space, " ");
      if (prefix_space()) text = sp_space + text;
    }
    std::vector<std::pair<std::string, std::int32_t>> tokens;  // text, id
    for (const std::string& part : split(text)) {
      if (part.empty()) continue;
      if (const AddedToken* token = added_.find(part)) {
        tokens.emplace_back(part, token->id);
      } else if (settings_.kind == TokenizerClass::byt5) {
        for (const char c : part) tokens.emplace_back("", 3 + static_cast<unsigned char>(c));
      } else {
        for (std::string& piece : pieces_of_part(part)) {
          const AddedToken* same = added_.find(piece);
          const std::int32_t id = same != nullptr ? same->id : pieces_.id_of(piece);
          tokens.emplace_back(std::move(piece), id);
        }
      }
    }
    std::size_t from = 0;  // the prefix of a text that starts with a special token
    if (fresh && tokens.size() > 1 && tokens[0].first == sp_space && settings_.special(tokens[1].first)) from = 1;
    Ids ids;
    for (std::size_t i = from; i < tokens.size(); ++i) ids.push_back(tokens[i].second);
    return ids;
  }

  std::string decode(const Ids& ids) const override {
    std::vector<std::string> texts, run;
    const auto flush = [&] {
      if (!run.empty()) texts.push_back(text_of(run));
      run.clear();
    };
    for (const std::int32_t id : ids) {
      const AddedToken* token = added_.find(id);
      if (token != nullptr) {
        if (settings_.special(token->content) && !is_sentinel(token->content)) continue;
        flush();
        texts.push_back(token->content);
      } else {
        run.push_back(pieces_.piece_of(id));
      }
    }
    flush();
    const std::string text = spaced(texts);
    return settings_.clean_up ? cleaned_up(text) : text;
  }

  std::int32_t id_of(const std::string& token) const override {
    const AddedToken* added = added_.find(token);
    if (added != nullptr) return added->id;
    return pieces_.is_piece(token) ? pieces_.id_of(token) : -1;
  }
  const AddedTokens& added() const override { return added_; }

 private:
  /// T5 and Llama without "legacy": no space is put in front of what follows an added token.
  bool new_prefix() const {
    const bool family = settings_.kind == TokenizerClass::t5 || settings_.kind == TokenizerClass::llama;
    return family && !settings_.legacy;
  }
  bool prefix_space() const { return settings_.add_prefix_space.value_or(true); }

  std::vector<std::string> pieces_of(const std::string& text) const {
    std::vector<std::string> pieces;
    const auto status = processor_->Encode(text, &pieces);
    moe::require(status.ok(), "cannot encode: ", status.message());
    return pieces;
  }
  /// Without a dummy prefix SentencePiece strips the space in front; behind an unknown piece it does not.
  std::vector<std::string> pieces_of_part(const std::string& part) const {
    if (!new_prefix() || !(part.starts_with(sp_space) || part.starts_with(' '))) return pieces_of(part);
    std::vector<std::string> pieces = pieces_of(unknown_text_ + part);
    if (pieces.size() >= unknown_length_)
      pieces.erase(pieces.begin(), pieces.begin() + static_cast<std::ptrdiff_t>(unknown_length_));
    return pieces;
  }

  /// The text between and with its added tokens, white space and words around them as the tokens want.
  std::vector<std::string> split(const std::string& text) const {
    std::vector<std::string> parts;
    std::size_t done = 0;
    for (std::size_t at = 0; !index_.empty() && at < text.size();) {
      const std::size_t length = index_.longest(std::string_view(text).substr(at)).first;
      if (length == 0) {
        at += step_at(text, at).bytes;
        continue;
      }
      if (at > done) parts.push_back(text.substr(done, at - done));
      parts.push_back(text.substr(at, length));
      done = at += length;
    }
    if (done < text.size()) parts.push_back(text.substr(done));
    for (std::size_t i = 0; i < parts.size(); ++i) {
      const AddedToken* token = added_.find(parts[i]);
      if (token == nullptr) continue;
      std::string none, *left = i > 0 ? &parts[i - 1] : &none, *right = i + 1 < parts.size() ? &parts[i + 1] : &none;
      // Whether a word goes on is seen before white space goes, as transformers does.
      const bool word_before = token->single_word && !left->empty() && left->back() != ' ';
      const bool word_behind = token->single_word && !right->empty() && right->front() != ' ';
      if (token->rstrip) right->erase(0, run_at_start(*right, moe::is_unicode_space));
      if (token->lstrip) left->resize(left->size() - run_at_end(*left, moe::is_unicode_space));
      if (word_before)
        *left += std::exchange(parts[i], "");
      else if (word_behind)
        *right = std::exchange(parts[i], "") + *right;
    }
    return parts;
  }

  std::string text_of(std::vector<std::string> pieces) const {
    if (settings_.kind == TokenizerClass::byt5) return valid_text(pieces);
    std::string text;
    if (settings_.kind == TokenizerClass::nllb) {
      for (const std::string& piece : pieces) text += replaced(piece, sp_space, " ");
      return stripped(text);
    }
    const bool front = settings_.kind == TokenizerClass::t5 || settings_.kind == TokenizerClass::llama;
    if (front && prefix_space() && pieces[0].starts_with(sp_space)) pieces[0].erase(0, sp_space.size());
    moe::require(processor_->Decode(pieces, &text).ok(), "cannot decode");
    return settings_.kind == TokenizerClass::llama ? text : stripped(text);
  }
  /// The bytes of the pieces; those that are not UTF-8 are left out.
  static std::string valid_text(const std::vector<std::string>& pieces) {
    std::string bytes, text;
    for (const std::string& piece : pieces) bytes += piece;
    for (std::size_t at = 0; at < bytes.size();) {
      const auto step = moe::read_utf8(bytes, at);
      text.append(bytes, at, step.bytes);
      at += std::max<std::size_t>(step.bytes, 1);
    }
    return text;
  }
  static std::string stripped(const std::string& text) {
    const std::string rest = text.substr(run_at_start(text, moe::is_unicode_space));
    return rest.substr(0, rest.size() - run_at_end(rest, moe::is_unicode_space));
  }

  void collect_added();
  void count_sentinels();

  Settings settings_;
  std::unique_ptr<sentencepiece::SentencePieceProcessor> processor_;
  PieceIds pieces_;
  AddedTokens added_;
  PrefixIndex index_;
  std::string unknown_text_;
  std::size_t unknown_length_ = 0;
};

/// T5's sentinels, where no file says their ids: the last `extra_ids` ids, counted down from the end; special tokens in
/// either case. A model that has them as pieces, as mT5's, gets none.
inline void SentencePieceTokenizer::count_sentinels() {
  const bool named = settings_.others && std::any_of(settings_.others->begin(), settings_.others->end(),
                                                     [](const AddedToken& t) { return is_sentinel(t.content); });
  const bool said = std::any_of(settings_.added.begin(), settings_.added.end(),
                                [](const AddedToken& t) { return is_sentinel(t.content); });
  const bool pieces = pieces_.is_piece("<extra_id_0>") || pieces_.is_piece(sp_space + "<extra_id_0>");
  const bool byt5 = settings_.kind == TokenizerClass::byt5;
  if (!settings_.extra_ids && !named && !said && pieces) return;
  const std::int64_t count = settings_.extra_ids.value_or(byt5 ? 125 : 100);
  const bool listed = settings_.others.has_value();
  if (byt5 && listed) return;
  if (!listed) settings_.others.emplace();
  if (!named)
    for (std::int64_t i = 0; i < count; ++i) settings_.others->push_back({.content = moe::join("<extra_id_", i, ">")});
  if (byt5 || (listed && !named)) return;  // these get the next free ids
  for (std::int64_t i = 0; i < count; ++i) {
    const AddedToken token{.content = moe::join("<extra_id_", i, ">"),
                           .id = static_cast<std::int32_t>(pieces_.size() - 1 + count - i),
                           .lstrip = true,
                           .rstrip = true};
    if (added_.find(token.content) == nullptr && added_.find(token.id) == nullptr)
      added_.add(token, settings_.config_path);
  }
}

/// All added tokens: those with ids in the files, those that the class knows, then the special tokens that have no id
/// yet get the next free ones, in the order of transformers.
inline void SentencePieceTokenizer::collect_added() {
  for (const AddedToken& token : settings_.added) added_.add(token, settings_.config_path);
  const auto fixed = [&](const char* name, std::int32_t id) {
    const auto at = settings_.named.find(name);
    if (at == settings_.named.end() || added_.find(at->second.content) != nullptr || added_.find(id) != nullptr) return;
    AddedToken token = at->second;
    token.id = id;
    added_.add(token, settings_.config_path);
  };
  switch (settings_.kind) {
    case TokenizerClass::nllb:
      fixed("bos_token", 0), fixed("pad_token", 1), fixed("eos_token", 2), fixed("unk_token", 3);
      if (!settings_.others) {
        settings_.others.emplace();
        for (const std::string& code : words_of(nllb_codes)) settings_.others->push_back({.content = code});
      }
      break;
    case TokenizerClass::byt5:
      fixed("pad_token", 0), fixed("eos_token", 1), fixed("unk_token", 2);
      count_sentinels();
      break;
    case TokenizerClass::t5: count_sentinels(); break;
    default: break;
  }
  std::set<std::int32_t> beyond;  // ids of tokens that are no pieces, which the vocabulary grows by
  for (const AddedToken& token : added_.all())
    if (token.id >= pieces_.size()) beyond.insert(token.id);
  std::int32_t next = pieces_.size() + static_cast<std::int32_t>(beyond.size());
  const auto give = [&](AddedToken token) {
    if (token.content.empty() || added_.find(token.content) != nullptr) return;
    token.id = pieces_.is_piece(token.content) ? pieces_.id_of(token.content) : next++;
    added_.add(token, settings_.config_path);
  };
  for (const char* name : named_tokens)
    if (const auto at = settings_.named.find(name); at != settings_.named.end()) give(at->second);
  if (settings_.others)
    for (const AddedToken& token : *settings_.others) give(token);
  const auto unknown = settings_.named.find("unk_token");
  if (settings_.kind == TokenizerClass::nllb && unknown != settings_.named.end())
    pieces_.set_unknown(added_.find(unknown->second.content)->id);
}

}  // namespace generation
