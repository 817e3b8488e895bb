// tokenizer.hpp -- text to a checkpoint's ids and back, by the SentencePiece model in its directory: spiece.model (T5,
// Switch Transformer), tokenizer.model (Mixtral) or sentencepiece.bpe.model (NLLB, whose ids are one more than
// SentencePiece's, with its languages behind them). Read next: main.cpp.
#pragma once

#include <sentencepiece_processor.h>

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "generator.hpp"
#include "sparsemoe/io/file.hpp"

namespace generation {

class Tokenizer {
 public:
  /// Throws FileError if the directory of `config` has no tokenizer that is read here.
  explicit Tokenizer(const moe::hf::Config& config) : type_(config.get<std::string>("model_type")) {
    const fs::path directory = config.path().parent_path();
    fs::path file;
    for (const char* name : {"spiece.model", "tokenizer.model", "sentencepiece.bpe.model"})
      if (fs::exists(directory / name)) file = directory / name;
    if (file.empty())
      moe::fail_file(directory, "has no spiece.model, tokenizer.model or sentencepiece.bpe.model; give --ids and ids");
    const auto status = processor_.LoadFromSerializedProto(moe::read_file(file, std::uint64_t{256} << 20));
    if (!status.ok()) moe::fail_file(file, "not a SentencePiece model: ", status.message());
    pieces_ = processor_.GetPieceSize();
    if (type_ == "nllb-moe") {
      const moe::hf::Config map(directory, "special_tokens_map.json");
      const auto languages = map.get<std::vector<std::string>>("additional_special_tokens");
      for (std::size_t i = 0; i < languages.size(); ++i)
        languages_[languages[i]] = pieces_ + 1 + static_cast<std::int32_t>(i);
    } else if (type_ != "mixtral") {  // T5's sentinels count down from the end of its own vocabulary
      for (int i = 0; i < 100; ++i) sentinels_["<extra_id_" + std::to_string(i) + ">"] = pieces_ + 99 - i;
    }
  }

  bool multilingual() const { return !languages_.empty(); }
  /// Throws Error, with some of the known ones, for a language that the checkpoint does not have.
  std::int32_t language(const std::string& name, const char* option) const {
    const auto at = languages_.find(name);
    if (at != languages_.end()) return at->second;
    std::string known;
    for (const auto& [language, id] : languages_)
      if (known.size() < 60) known += (known.empty() ? "" : ", ") + language;
    moe::fail(option, ": the checkpoint does not know the language '", name, "'; it knows ", known, ", ...");
  }

  /// The ids of a text as the model expects it: `from` is the id of NLLB's source language.
  Ids encode(const std::string& text, std::int32_t from, const moe::hf::SpecialTokens& special) const {
    Ids ids;
    if (type_ == "nllb-moe") ids.push_back(from);
    if (type_ == "mixtral") ids.push_back(static_cast<std::int32_t>(processor_.bos_id()));
    std::string rest = text;
    while (!rest.empty()) {  // up to the next sentinel
      std::size_t at = std::string::npos;
      std::int32_t sentinel = 0;
      std::size_t length = 0;
      for (const auto& [name, id] : sentinels_) {
        const std::size_t here = rest.find(name);
        if (here < at) at = here, sentinel = id, length = name.size();
      }
      std::vector<int> part;
      const auto status = processor_.Encode(rest.substr(0, at), &part);
      moe::require(status.ok(), "cannot encode: ", status.message());
      for (const int id : part) ids.push_back(to_model(id));
      if (at == std::string::npos) break;
      ids.push_back(sentinel);
      rest = rest.substr(at + length);
    }
    if (type_ != "mixtral") ids.push_back(special.end);
    return ids;
  }
  std::string decode(const Ids& ids) const {
    std::string text;
    std::vector<int> run;
    const auto flush = [&] {
      std::string part;
      if (!run.empty()) moe::require(processor_.Decode(run, &part).ok(), "cannot decode");
      if (!text.empty() && !part.empty()) text += ' ';
      text += part;
      run.clear();
    };
    for (const std::int32_t id : ids) {
      const int piece = to_piece(id);
      if (piece >= 0 && piece < pieces_) {
        run.push_back(piece);
        continue;
      }
      for (const auto& [name, sentinel] : sentinels_)
        if (sentinel == id) {
          flush();
          text += (text.empty() ? "" : " ") + name;
        }
    }
    flush();
    return text;
  }

 private:
  // fairseq: <s> 0, <pad> 1, </s> 2, <unk> 3, then SentencePiece's 3, 4, ... one later.
  std::int32_t to_model(int piece) const {
    if (type_ != "nllb-moe") return piece;
    return piece == processor_.unk_id() ? 3 : piece + 1;
  }
  int to_piece(std::int32_t id) const {
    if (type_ != "nllb-moe") return id;
    return id == 3 ? processor_.unk_id() : id < 4 ? -1 : id - 1;
  }

  std::string type_;
  sentencepiece::SentencePieceProcessor processor_;
  int pieces_ = 0;
  std::map<std::string, std::int32_t> languages_, sentinels_;
};

}  // namespace generation
