// SPDX-License-Identifier: Apache-2.0
// tokenizer.cpp -- the functions of tokenizer.hpp, which says what they do.
#include "tokenizer.hpp"

#include <sentencepiece_processor.h>

#include <charconv>
#include <utility>

#include "sparsemoe/error.hpp"
#include "sparsemoe/io/file.hpp"
#include "sparsemoe/text/language.hpp"
#include "sparsemoe/text/utf8.hpp"

namespace nmt {

namespace {

// In a serialized model, makes tags that are user-defined symbols, as this program's older models have them, control
// symbols: the former are found in text, so that users could write them. What is no model stays as it is.
void make_tags_control_symbols(std::string& model) {
  constexpr char control = 3, user_defined = 4;  // ModelProto.SentencePiece.Type
  struct Reader {
    std::string_view bytes;
    std::size_t at = 0;
    bool good = true;
    std::uint64_t varint() {
      std::uint64_t value = 0;
      for (unsigned shift = 0; shift < 64; shift += 7) {
        if (at >= bytes.size()) break;
        const auto byte = static_cast<unsigned char>(bytes[at++]);
        value |= std::uint64_t{byte & 0x7Fu} << shift;
        if ((byte & 0x80u) == 0) return value;
      }
      good = false;
      return 0;
    }
    /// Steps over a field's value; returns where its bytes begin and how many they are.
    std::pair<std::size_t, std::size_t> skip(std::uint64_t wire) {
      const std::size_t start = at;
      std::uint64_t count = wire == 1 ? 8 : wire == 5 ? 4 : 0;
      if (wire == 0) varint();
      if (wire == 2) count = varint();
      good = good && (wire == 0 || wire == 1 || wire == 2 || wire == 5) && count <= bytes.size() - at;
      const std::size_t first = wire == 0 ? start : at;
      if (good) at += static_cast<std::size_t>(count);
      return {first, at - first};
    }
  };
  Reader all{model};
  while (all.good && all.at < model.size()) {
    const std::uint64_t key = all.varint();
    const auto [start, count] = all.skip(key & 7);
    if (!all.good || key != (1 << 3 | 2)) continue;  // pieces
    Reader piece{std::string_view(model).substr(start, count)};
    std::string_view text;
    std::size_t type = 0;
    while (piece.good && piece.at < count) {
      const std::uint64_t field = piece.varint();
      const auto [first, bytes] = piece.skip(field & 7);
      if (piece.good && field == (1 << 3 | 2)) text = piece.bytes.substr(first, bytes);
      if (piece.good && field == (3 << 3 | 0) && bytes == 1) type = start + first;
    }
    if (type > 0 && model[type] == user_defined && text.starts_with("<2") && text.ends_with(">")) model[type] = control;
  }
}

}  // namespace

std::string language_tag(std::string_view language) { return sparsemoe::join("<2", language, ">"); }

Tokenizer::Tokenizer(const std::filesystem::path& file)
    : processor_(std::make_unique<sentencepiece::SentencePieceProcessor>()) {
  std::string model = sparsemoe::read_file(file, std::uint64_t{256} << 20);
  make_tags_control_symbols(model);
  const auto status = processor_->LoadFromSerializedProto(model);
  sparsemoe::require(status.ok(), file.string(), ": not a SentencePiece model: ", status.message());
  sparsemoe::require(processor_->pad_id() == pad && processor_->bos_id() == begin && processor_->eos_id() == end &&
                         processor_->unk_id() == unknown,
                     file.string(), ": expected the ids pad 0, bos 1, eos 2, unk 3");
  for (int id = 0; id < size(); ++id) {
    const std::string& piece = processor_->IdToPiece(id);
    if (processor_->IsControl(id) && piece.starts_with("<2") && piece.ends_with(">"))
      languages_.push_back(piece.substr(2, piece.size() - 3));
  }
}

Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

int Tokenizer::size() const { return processor_->GetPieceSize(); }

std::vector<int> Tokenizer::encode(std::string_view text) const {
  sparsemoe::require_utf8(text, "text to encode");
  std::vector<int> ids;
  const auto status = processor_->Encode(text, &ids);
  sparsemoe::require(status.ok(), "cannot encode: ", status.message());
  return ids;
}

std::string Tokenizer::decode(const std::vector<int>& ids) const {
  for (const int id : ids) sparsemoe::require(id >= 0 && id < size(), "id ", id, " outside the vocabulary of ", size());
  std::string text;
  const auto status = processor_->Decode(ids, &text);
  sparsemoe::require(status.ok(), "cannot decode: ", status.message());
  return text;
}

std::int16_t Tokenizer::byte(int id) const {
  if (!processor_->IsByte(id)) return -1;
  unsigned value = 0;  // "<0x41>"
  const std::string& piece = processor_->IdToPiece(id);
  const bool sized = piece.size() == 6;
  const auto [end, error] = std::from_chars(piece.data() + (sized ? 3 : 0), piece.data() + (sized ? 5 : 0), value, 16);
  sparsemoe::require(sized && error == std::errc{} && end == piece.data() + 5, "the tokenizer's piece ", id,
                     " is no byte: ", piece);
  return static_cast<std::int16_t>(value);
}

int Tokenizer::tag(std::string_view language) const {
  const std::string known = sparsemoe::find_language(language, languages_);
  sparsemoe::require(!known.empty(), "the tokenizer has no tag ", language_tag(language));
  return processor_->PieceToId(language_tag(known));
}

}  // namespace nmt
