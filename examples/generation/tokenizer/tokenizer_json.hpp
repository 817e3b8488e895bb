// SPDX-License-Identifier: Apache-2.0
// tokenizer_json.hpp -- reads a tokenizer.json: its vocabulary and merges, which may be hundreds of thousands, into
// plain tables in one pass, the rest into a small document. Read next: pipeline.hpp.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

#include "component.hpp"
#include "sparsemoe/io/json.hpp"
#include "text_model.hpp"

namespace generation {

struct TokenizerJson {
  moe::Json rest;  // the document with "vocab" and "merges" of its model empty
  ModelTables tables;
};

/// The events of a parser. `problem` is a sentence when one of them returns false.
class TokenizerJsonEvents {
 public:
  using json = nlohmann::json;
  TokenizerJson result;
  std::string problem;

  bool null() { return scalar(nullptr); }
  bool boolean(bool value) { return scalar(value); }
  bool number_integer(json::number_integer_t value) { return number(static_cast<double>(value), value); }
  bool number_unsigned(json::number_unsigned_t value) { return number(static_cast<double>(value), value); }
  bool number_float(json::number_float_t value, const json::string_t&) { return number(value, value); }
  bool binary(json::binary_t&) { return fail("holds binary data"); }

  bool string(json::string_t& value) {
    if (bulk_ == Bulk::none) return scalar(value);
    if (bulk_ == Bulk::merges && depth_ == bulk_depth_) {  // "left right"
      const std::size_t space = value.find(' ');
      if (space == std::string::npos || value.find(' ', space + 1) != std::string::npos)
        return fail("has a merge that is not two pieces with a space between: " + moe::detail::shown(value));
      result.tables.merges.push_back({value.substr(0, space), value.substr(space + 1)});
      return true;
    }
    if (depth_ != bulk_depth_ + 1 || row_.size() >= 2) return bad_row();
    row_.push_back(value);
    return true;
  }
  bool key(json::string_t& name) {
    if (bulk_ != Bulk::none) {
      if (bulk_ != Bulk::pieces || depth_ != bulk_depth_) return bad_row();
      row_ = {name};
      return true;
    }
    if (open_.back()->contains(name)) return fail("duplicate key " + moe::detail::shown(name));
    if (open_.back()->size() >= 10'000) return fail("has an object of more than 10000 keys");
    key_ = name;
    return true;
  }
  bool start_object(std::size_t) {
    if (bulk_ != Bulk::none) return bad_row();
    if (begins_bulk("vocab")) return begin_bulk(Bulk::pieces);
    return open(moe::Json::object());
  }
  bool start_array(std::size_t) {
    if (bulk_ != Bulk::none) {
      if (bulk_ == Bulk::pieces || depth_ != bulk_depth_) return bad_row();
      ++depth_;
      row_.clear();
      return true;
    }
    if (begins_bulk("vocab")) return begin_bulk(Bulk::scores);
    if (begins_bulk("merges")) return begin_bulk(Bulk::merges);
    return open(moe::Json::array());
  }
  bool end_object() { return close(); }
  bool end_array() {
    if (bulk_ == Bulk::none || depth_ == bulk_depth_) return close();
    --depth_;  // a row
    if (bulk_ == Bulk::scores) return scored_ == result.tables.vocabulary.size() ? bad_row() : (++scored_, true);
    if (row_.size() != 2) return bad_row();
    result.tables.merges.push_back({row_[0], row_[1]});
    return true;
  }
  bool parse_error(std::size_t byte, const std::string&, const json::exception&) {
    return fail("is not valid JSON near byte " + std::to_string(byte));
  }

 private:
  enum class Bulk { none, pieces, scores, merges };

  bool fail(std::string sentence) {
    problem = std::move(sentence);
    return false;
  }
  bool bad_row() {
    return fail(bulk_ == Bulk::merges ? "has a merge that is not two strings"
                                      : "has an entry in \"model.vocab\" that is not a piece with one number");
  }
  bool begins_bulk(const char* name) const { return open_.size() == 2 && in_model_ && key_ == name; }
  bool begin_bulk(Bulk bulk) {
    (*open_.back())[key_] = nullptr;  // known, so that a second one is a duplicate
    bulk_ = bulk;
    bulk_depth_ = ++depth_;
    return true;
  }
  bool open(moe::Json value) {
    if (open_.size() == 16) return fail("is nested more than 16 deep");
    if (open_.size() == 1) in_model_ = key_ == "model";
    moe::Json* place = put(std::move(value));
    if (place == nullptr) return false;
    open_.push_back(place);
    ++depth_;
    return true;
  }
  bool close() {
    --depth_;
    if (bulk_ != Bulk::none)
      bulk_ = Bulk::none;
    else
      open_.pop_back();
    return true;
  }
  template <class T>
  bool scalar(const T& value) {
    return bulk_ != Bulk::none ? bad_row() : put(moe::Json(value)) != nullptr;
  }
  template <class T>
  bool number(double as_double, const T& value) {
    if (bulk_ == Bulk::none) return scalar(value);
    const bool piece = bulk_ == Bulk::pieces && depth_ == bulk_depth_ && row_.size() == 1;
    const bool score = bulk_ == Bulk::scores && depth_ == bulk_depth_ + 1 && row_.size() == 1;
    if (!piece && !score) return bad_row();
    result.tables.vocabulary.emplace_back(std::move(row_[0]), as_double);
    row_.clear();
    row_.reserve(2);
    if (score) row_ = {"", ""};  // nothing may follow in this row
    return true;
  }
  moe::Json* put(moe::Json value) {
    if (++values_ > 1'000'000) {
      fail("has more than a million values besides its vocabulary");
      return nullptr;
    }
    if (open_.empty()) return &(result.rest = std::move(value));
    moe::Json& parent = *open_.back();
    if (parent.is_object()) return &(parent[key_] = std::move(value));
    parent.push_back(std::move(value));
    return &parent.back();
  }

  std::vector<moe::Json*> open_;  // the containers around the next value
  std::vector<std::string> row_;
  std::string key_;
  Bulk bulk_ = Bulk::none;
  bool in_model_ = false;
  std::size_t depth_ = 0, bulk_depth_ = 0, values_ = 0, scored_ = 0;
};

/// A vocab.json: {"piece": id}. Throws FileError for anything else.
inline std::vector<std::pair<std::string, std::int64_t>> read_vocabulary_json(const fs::path& path) {
  const std::string text = R"({"model":{"vocab":)" + moe::read_file(path, std::uint64_t{64} << 20) + "}}";
  moe::check_json_bytes(text, path);
  TokenizerJsonEvents events;
  if (!nlohmann::json::sax_parse(text.begin(), text.end(), &events)) moe::fail_file(path, events.problem);
  std::vector<std::pair<std::string, std::int64_t>> found;
  for (auto& [piece, number] : events.result.tables.vocabulary) {
    if (!(number >= 0 && number < (1 << 24)) || number != static_cast<double>(static_cast<std::int64_t>(number)))
      moe::fail_file(path, "piece ", moe::detail::shown(piece), " has the id ", number, ", expected an integer");
    found.emplace_back(std::move(piece), static_cast<std::int64_t>(number));
  }
  return found;
}

/// Throws FileError for what is not such a document. Of files above 256 MiB none is read.
inline TokenizerJson read_tokenizer_json(const fs::path& path) {
  const std::string text = moe::read_file(path, std::uint64_t{256} << 20);
  moe::check_json_bytes(text, path);
  TokenizerJsonEvents events;
  if (!nlohmann::json::sax_parse(text.begin(), text.end(), &events)) moe::fail_file(path, events.problem);
  if (!events.result.rest.is_object()) moe::fail_file(path, "must hold an object");
  return std::move(events.result);
}

}  // namespace generation
