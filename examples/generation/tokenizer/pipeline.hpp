// SPDX-License-Identifier: Apache-2.0
// pipeline.hpp -- a tokenizer.json run as the library "tokenizers" does: added tokens, normaliser, pre-tokenizer,
// model, and the decoder on the way back. Read next: examples/generation/tokenizer.hpp.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "bpe.hpp"
#include "decoder.hpp"
#include "engine.hpp"
#include "normalizer.hpp"
#include "post_processor.hpp"
#include "pre_tokenizer.hpp"
#include "settings.hpp"
#include "tokenizer_json.hpp"
#include "unigram.hpp"

namespace generation {

class Pipeline : public TextEngine {
 public:
  /// Throws FileError for what is not offered, by its place in the file.
  Pipeline(const Settings& s, const fs::path& path) : clean_up_(s.clean_up) {
    const TokenizerJson file = read_tokenizer_json(path);
    const moe::Json& json = file.rest;
    // Of "truncation" and "padding" transformers believes its arguments, not the file.
    const auto known =
        words_of("version truncation padding added_tokens normalizer pre_tokenizer post_processor decoder model");
    for (const auto& [key, value] : json.items())
      if (std::find(known.begin(), known.end(), key) == known.end())
        moe::fail_file(path, "has an unknown key ", moe::detail::shown(key));
    const auto part = [&](const char* key) { return json.contains(key) && !json[key].is_null(); };
    if (!part("model")) moe::fail_file(path, "has no \"model\"");
    model_ = model_of(json["model"], file.tables, path);
    if (part("normalizer")) normalizer_ = normalizer_of({json["normalizer"], path, "normalizer"});
    if (part("pre_tokenizer")) pre_tokenizer_ = pre_tokenizer_of({json["pre_tokenizer"], path, "pre_tokenizer"});
    if (part("decoder")) decoder_ = decoder_of({json["decoder"], path, "decoder"});
    if (part("post_processor")) {
      has_frame_ = true;
      add_post_processor({json["post_processor"], path, "post_processor"}, frame_);
    }
    if (part("added_tokens")) read_added(json["added_tokens"], path);
    add_settings(s);
    make_splitters();
  }

  Ids encode(const std::string& text) const override {
    std::vector<TextPart> parts, cut;
    raw_.split({text, true}, parts);
    for (TextPart& part : parts) {
      if (part.id >= 0) {
        cut.push_back(part);
        continue;
      }
      if (normalizer_) part.text = normalizer_(part.text);
      normal_.split(part, cut);
    }
    for (const SplitStep& step : pre_tokenizer_) {
      parts = std::move(cut);
      cut.clear();
      for (const TextPart& part : parts) {
        if (part.id >= 0)
          cut.push_back(part);
        else if (!part.text.empty())
          step(part, cut);
      }
    }
    Ids ids;
    for (const TextPart& part : cut) {
      if (part.id >= 0)
        ids.push_back(part.id);
      else if (!part.text.empty())
        model_->encode(part.text, ids);
    }
    return ids;
  }

  std::string decode(const Ids& ids) const override {
    std::vector<std::string> texts;
    Pieces run;
    const auto flush = [&] {
      if (!run.empty()) texts.push_back(text_of(run));
      run.clear();
    };
    for (const std::int32_t id : ids) {
      const AddedToken* token = added_.find(id);
      const std::string* piece = token != nullptr ? &token->content : model_->piece_of(id);
      if (piece == nullptr) continue;
      if (token == nullptr || !token->special) {
        run.push_back(*piece);
      } else if (is_sentinel(*piece)) {
        flush();
        texts.push_back(*piece);
      }
    }
    flush();
    const std::string text = spaced(texts);
    return clean_up_ ? cleaned_up(text) : text;
  }

  std::int32_t id_of(const std::string& token) const override {
    const AddedToken* added = added_.find(token);
    return added != nullptr ? added->id : model_->id_of(token);
  }
  const AddedTokens& added() const override { return added_; }

  /// What the file puts around a text, or nullptr.
  const Frame* frame() const { return has_frame_ ? &frame_ : nullptr; }

 private:
  static std::unique_ptr<TextModel> model_of(const moe::Json& json, const ModelTables& tables, const fs::path& path) {
    moe::Json typed = json;  // the first files had no type
    if (typed.is_object() && !typed.contains("type")) typed["type"] = typed.contains("merges") ? "BPE" : "Unigram";
    const Component c(typed, path, "model");
    if (c.type() == "Unigram") return std::make_unique<UnigramModel>(c, tables);
    if (c.type() == "BPE") return std::make_unique<BpeModel>(c, tables);
    c.refuse("Unigram and BPE");
  }

  std::string text_of(const Pieces& pieces) const {
    if (decoder_) return steps::joined(decoder_(pieces));
    std::string text;
    for (std::size_t i = 0; i < pieces.size(); ++i) text += (i > 0 ? " " : "") + pieces[i];
    return text;
  }

  /// Adds a token at the id that the vocabulary has for it, else at the one that the file says.
  void add(AddedToken token, const fs::path& path) {
    const std::int32_t piece = model_->id_of(token.content);
    if (piece >= 0 && token.id >= 0 && token.id != piece)
      moe::fail_file(path, "token ", moe::detail::shown(token.content), " has the id ", token.id, ", but it is piece ",
                     piece, " of tokenizer.json");
    if (piece >= 0) token.id = piece;
    if (const AddedToken* same = added_.find(token.content); same != nullptr && token.id < 0) token.id = same->id;
    if (token.id < 0) token.id = std::max(model_->size(), added_.last_id() + 1);
    const std::string* taken = model_->piece_of(token.id);
    if (taken != nullptr && *taken != token.content)
      moe::fail_file(path, "token ", moe::detail::shown(token.content), " has the id ", token.id, " of the piece ",
                     moe::detail::shown(*taken));
    added_.add(token, path);
  }
  void read_added(const moe::Json& list, const fs::path& path) {
    if (!list.is_array())
      moe::fail_file(path, "key \"added_tokens\" must be an array, got ", moe::detail::shown_json(list));
    for (std::size_t i = 0; i < list.size(); ++i) {
      const std::string where = moe::join("added_tokens[", i, "]");
      const AddedToken token = token_from_json(list[i], path, where, plain_token());
      if (token.id < 0) moe::fail_file(path, "key \"", where, "\" has no \"id\"");
      if (added_.find(token.content) != nullptr)
        moe::fail_file(path, "key \"", where, "\" is ", moe::detail::shown(token.content), " a second time");
      add(token, path);
    }
  }
  /// What the small files have beside: other properties, tokens with ids, special tokens without. added_tokens.json has
  /// no properties, so there those of tokenizer.json come last, as in transformers.
  void add_settings(const Settings& s) {
    std::vector<AddedToken> said = s.added;
    if (!s.has_decoder) said.insert(said.end(), added_.all().begin(), added_.all().end());
    for (AddedToken token : said) {
      token.special = token.special || s.special(token.content);
      add(token, s.config_path);
    }
    const auto give = [&](const AddedToken& token) {
      if (added_.find(token.content) == nullptr) add(token, s.config_path);
    };
    for (const char* name : named_tokens)
      if (const auto at = s.named.find(name); at != s.named.end()) give(at->second);
    if (s.others)
      for (const AddedToken& token : *s.others) give(token);
  }
  void make_splitters() {
    std::vector<AddedToken> raw, normal;
    std::vector<std::string> raw_texts, normal_texts;
    for (const AddedToken& token : added_.all()) {
      (token.normalized ? normal : raw).push_back(token);
      if (token.normalized)
        normal_texts.push_back(normalizer_ ? normalizer_(token.content) : token.content);
      else
        raw_texts.push_back(token.content);
    }
    raw_ = TokenSplitter(std::move(raw), raw_texts);
    normal_ = TokenSplitter(std::move(normal), normal_texts);
  }

  std::unique_ptr<TextModel> model_;
  TextStep normalizer_;
  std::vector<SplitStep> pre_tokenizer_;
  DecodeStep decoder_;
  Frame frame_;
  bool has_frame_ = false, clean_up_;
  AddedTokens added_;
  TokenSplitter raw_, normal_;
};

}  // namespace generation
