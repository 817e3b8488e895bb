// SPDX-License-Identifier: Apache-2.0
// tokenizer.hpp -- text to a checkpoint's ids and back, by the tokenizer files of its directory, with the ids that
// transformers gives. A tokenizer.json comes first, as in AutoTokenizer; then spiece.model (T5), tokenizer.model
// (Mixtral), sentencepiece.bpe.model (NLLB; with vocab.json M2M-100); ByT5 has no file.
// Read next: tokenizer/settings.hpp, tokenizer/pipeline.hpp, tokenizer/sentencepiece_tokenizer.hpp.
#pragma once

#include <limits>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "generator.hpp"
#include "sparsemoe/text/language.hpp"
#include "tokenizer/engine.hpp"
#include "tokenizer/pipeline.hpp"
#include "tokenizer/sentencepiece_tokenizer.hpp"
#include "tokenizer/settings.hpp"

namespace generation {

class Tokenizer {
 public:
  /// Throws FileError for a directory of `config` without a tokenizer that is read here, naming what is wrong.
  explicit Tokenizer(const moe::hf::Config& config) : Tokenizer(config, read_settings(config)) {}

  bool multilingual() const { return !languages_.empty(); }
  /// The id of a language, by its code in the checkpoint. Throws Error, with some of the known ones, for one that the
  /// checkpoint does not have.
  std::int32_t language(const std::string& name, const char* option) const {
    std::vector<std::string> names;
    for (const auto& entry : languages_) names.push_back(entry.first);
    const auto at = languages_.find(moe::find_language(name, names));
    if (at != languages_.end()) {
      check_id(at->second, name);
      return at->second;
    }
    std::string known;
    for (const auto& [language, id] : languages_)
      if (known.size() < 60) known += (known.empty() ? "" : ", ") + language;
    moe::fail(option, ": the checkpoint does not know the language '", name, "'; it knows ", known, ", ...");
  }
  /// Codes of the languages, with their ids.
  const std::map<std::string, std::int32_t>& languages() const { return languages_; }

  /// The ids of a text as the model expects it: `from` is the id of the source language, if there are languages. Throws
  /// Error for an id that the model does not have.
  Ids encode(const std::string& text, std::int32_t from) const {
    Ids ids = engine_->encode(text);
    for (const std::int32_t id : ids) check_id(id, "");
    const bool ended = one_end_ && !ids.empty() && !frame_.behind.empty() && ids.back() == frame_.behind.back();
    ids.insert(ids.begin(), frame_.before.begin(), frame_.before.end());
    if (!ended) ids.insert(ids.end(), frame_.behind.begin(), frame_.behind.end());
    if (multilingual() && !language_behind_) ids.insert(ids.begin(), from);
    if (multilingual() && language_behind_) ids.push_back(from);
    return ids;
  }
  /// The text of ids: special tokens are left out, T5's sentinels are not.
  std::string decode(const Ids& ids) const { return engine_->decode(ids); }

 private:
  Tokenizer(const moe::hf::Config& config, const Settings& s)
      : vocabulary_(config.get("vocab_size", std::int64_t{std::numeric_limits<std::int32_t>::max()})),
        one_end_(false),
        language_behind_(s.kind == TokenizerClass::nllb && s.legacy_behaviour) {
    const auto there = [&](const char* name) { return fs::exists(fs::symlink_status(s.directory / name)); };
    const bool slow_only = s.kind == TokenizerClass::m2m100 || s.kind == TokenizerClass::byt5;
    if (there("tokenizer.json") && !slow_only) {
      auto pipeline = std::make_unique<Pipeline>(s, s.directory / "tokenizer.json");
      const Frame* frame = pipeline->frame();
      engine_ = std::move(pipeline);
      if (frame != nullptr) frame_ = *frame;
      // Without a post_processor there is nothing around a text, except where the class itself makes it.
      const bool asked = s.add_bos || s.add_eos || frame == nullptr;
      if (s.kind == TokenizerClass::nllb || (s.kind == TokenizerClass::llama && asked)) make_frame(s);
    } else {
      fs::path file;
      for (const char* name : {"spiece.model", "tokenizer.model", "sentencepiece.bpe.model"})
        if (there(name) && file.empty()) file = s.directory / name;
      if (file.empty() && s.kind != TokenizerClass::byt5)
        moe::fail_file(s.directory,
                       "has no tokenizer.json, spiece.model, tokenizer.model or sentencepiece.bpe.model; "
                       "give --ids and ids");
      if (s.kind == TokenizerClass::json_alone)
        moe::fail_file(s.directory, "has no tokenizer.json, which its tokenizer_class needs");
      if (s.kind == TokenizerClass::byt5) file.clear();
      engine_ = std::make_unique<SentencePieceTokenizer>(s, file);
      one_end_ = s.kind == TokenizerClass::t5 || s.kind == TokenizerClass::byt5;
      make_frame(s);
    }
    find_languages(s);
    check_added(s);
  }

  /// What the class puts around a text.
  void make_frame(const Settings& s) {
    const auto id = [&](const char* name) {
      const auto token = s.named.find(name);
      if (token == s.named.end())
        moe::fail_file(s.config_path, "has no \"", name, "\", which stands around every text");
      return engine_->id_of(token->second.content);
    };
    const bool llama = s.kind == TokenizerClass::llama;
    frame_ = {};
    if (llama && s.add_bos.value_or(true)) frame_.before = {id("bos_token")};
    if (!llama || s.add_eos.value_or(false)) frame_.behind = {id("eos_token")};
  }

  /// NLLB's languages are all added tokens without another name; M2M-100's are __en__ and so on.
  void find_languages(const Settings& s) {
    if (s.kind == TokenizerClass::nllb) {
      for (const AddedToken& token : engine_->added().all()) {
        const bool named = std::any_of(s.named.begin(), s.named.end(),
                                       [&](const auto& one) { return one.second.content == token.content; });
        if (!named) languages_[token.content] = token.id;
      }
    } else if (s.kind == TokenizerClass::m2m100) {
      const auto codes = words_of(s.language_codes == "wmt21" ? wmt21_codes : m2m100_codes);
      const auto base = static_cast<std::int32_t>(read_vocabulary_json(s.directory / "vocab.json").size());
      for (std::size_t i = 0; i < codes.size(); ++i) languages_[codes[i]] = base + static_cast<std::int32_t>(i);
      for (const AddedToken& token : engine_->added().all()) {
        const std::string& name = token.content;
        if (name.size() > 4 && name.starts_with("__") && name.ends_with("__"))
          languages_[name.substr(2, name.size() - 4)] = token.id;
      }
    }
  }

  /// Tokens may lie beyond the model's ids, as mT5's sentinels do, while no text has them; but not far beyond.
  void check_added(const Settings& s) const {
    std::int64_t beyond = vocabulary_;
    for (const AddedToken& token : engine_->added().all()) beyond += token.id >= vocabulary_;
    for (const AddedToken& token : s.added)
      if (token.id >= beyond)
        moe::fail_file(s.directory, "token ", moe::detail::shown(token.content), " has the id ", token.id,
                       "; vocab_size of config.json is ", vocabulary_);
  }
  void check_id(std::int32_t id, const std::string& name) const {
    if (id < vocabulary_) return;
    const AddedToken* token = engine_->added().find(id);
    moe::fail(token != nullptr ? token->content : name, " has the id ", id,
              ", which the model does not have: its vocab_size is ", vocabulary_);
  }

  std::int64_t vocabulary_;
  bool one_end_, language_behind_;  // no second end behind one; the language behind the text (legacy_behaviour)
  std::unique_ptr<TextEngine> engine_;
  Frame frame_;
  std::map<std::string, std::int32_t> languages_;
};

}  // namespace generation
