// SPDX-License-Identifier: Apache-2.0
// test_safetensors.cpp -- round trips, and files that must be refused: each gives one FileError that names the file.
// Main idea: a table of malformed headers, every truncation of a small file, and random mutations of a good one.
// Read next: include/sparsemoe/io/safetensors.hpp.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <cstring>
#include <random>

#include "sparsemoe/io/safetensors.hpp"
#include "tests/scratch.hpp"

namespace {

using namespace sparsemoe;
namespace fs = std::filesystem;

std::string container(const std::string& header, const std::string& data = "", std::uint64_t lie = 0) {
  const std::uint64_t n = lie != 0 ? lie : header.size();
  std::string out;
  for (int i = 0; i < 8; ++i) out += static_cast<char>(n >> (8 * i) & 255);
  return out + header + data;
}

std::string tensor(const std::string& name, const std::string& dtype, const std::string& shape,
                   const std::string& offsets) {
  return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape + ",\"data_offsets\":" + offsets + "}";
}

/// The message of the FileError that opening gives, or "" if the file is accepted.
std::string refusal(const fs::path& path, const std::string& bytes) {
  File file = File::create(path);
  file.write_all(bytes);
  file.close();
  std::string message;
  try {
    SafetensorsReader reader(path);
  } catch (const FileError& error) {
    message = error.what();
    CHECK(error.path() == path.string());
  }
  fs::remove(path);
  return message;
}

TEST_CASE("tensors of every dtype come back byte for byte, in name order, 64-byte aligned") {
  ScratchDirectory scratch;
  const fs::path path = scratch.path / "a.safetensors";
  std::mt19937 random(1);
  for (int round = 0; round < 50; ++round) {
    std::vector<TensorView> views;
    std::vector<std::string> bytes;
    const int count = round % 8;
    for (int i = 0; i < count; ++i) {
      TensorView view{
          "layer." + std::to_string((i * 7) % 8) + ".w\u00e9\"\\", detail::kDTypes[random() % 15].dtype, {}, nullptr};
      for (auto rank = random() % 4; rank > 0; --rank) view.shape.push_back(static_cast<std::int64_t>(random() % 5));
      std::string& data = bytes.emplace_back(*detail::tensor_bytes(view.dtype, view.shape), '\0');
      for (char& c : data) c = static_cast<char>(random());
      views.push_back(view);
    }
    for (std::size_t i = 0; i < views.size(); ++i) views[i].data = bytes[i].empty() ? nullptr : bytes[i].data();
    const Metadata metadata = round % 2 ? Metadata{{"format", "pt"}, {"\u00f8", "line\nbreak"}} : Metadata{};
    write_safetensors(path, views, metadata);

    const SafetensorsReader reader(path);
    const SafetensorsReader mapped(path, Access::map);
    CHECK(reader.metadata() == metadata);
    CHECK(reader.data_offset() % 64 == 0);
    REQUIRE(reader.tensors().size() == views.size());
    CHECK(std::is_sorted(reader.tensors().begin(), reader.tensors().end(),
                         [](const auto& a, const auto& b) { return a.name < b.name; }));
    for (std::size_t i = 0; i < views.size(); ++i) {
      const TensorInfo* info = reader.find(views[i].name);
      REQUIRE(info != nullptr);
      CHECK(info->dtype == views[i].dtype);
      CHECK(info->shape == views[i].shape);
      REQUIRE(info->bytes() == bytes[i].size());
      std::string back(bytes[i].size(), '\1');
      reader.read(*info, back.data());
      CHECK(back == bytes[i]);
      CHECK(std::memcmp(mapped.data(*info), bytes[i].data(), bytes[i].size()) == 0);
    }
  }
  CHECK(std::distance(fs::directory_iterator(scratch.path), fs::directory_iterator()) == 1);
}

TEST_CASE("reading by name checks dtype and shape") {
  ScratchDirectory scratch;
  const fs::path path = scratch.path / "a.safetensors";
  const float values[6] = {1, 2, 3, 4, 5, 6};
  write_safetensors(path, std::vector<TensorView>{{"w", DType::kF32, {2, 3}, values}});
  const SafetensorsReader reader(path);
  float back[6] = {};
  reader.read("w", DType::kF32, {2, 3}, back);
  CHECK(std::memcmp(back, values, sizeof back) == 0);
  CHECK(reader.find("v") == nullptr);
  CHECK_THROWS_WITH_AS(reader.read("w", DType::kF32, {3, 2}, back),
                       doctest::Contains("is F32 [2, 3], expected F32 [3, 2]"), FileError);
  CHECK_THROWS_AS(reader.read("w", DType::kBF16, {2, 3}, back), FileError);
  CHECK_THROWS_WITH_AS(reader.at("v"), doctest::Contains("has no tensor \"v\""), FileError);
  CHECK_THROWS_AS(reader.data(reader.at("w")), FileError);
}

TEST_CASE("the writer refuses what the reader would refuse, and leaves no file") {
  ScratchDirectory scratch;
  const fs::path path = scratch.path / "a.safetensors";
  const float x = 0;
  const auto refused = [&](std::vector<TensorView> views, const Metadata& metadata = {}) {
    CHECK_THROWS_AS(write_safetensors(path, views, metadata), Error);
    CHECK(fs::is_empty(scratch.path));
  };
  refused({{"", DType::kF32, {}, &x}});
  refused({{"__metadata__", DType::kF32, {}, &x}});
  refused({{"a", DType::kF32, {}, &x}, {"a", DType::kF32, {}, &x}});
  refused({{"a", DType::kF32, {-1}, &x}});
  refused({{"a", DType::kF32, {std::int64_t{1} << 40, std::int64_t{1} << 40}, &x}});
  refused({{"a", DType::kF32, {1}, nullptr}});
  refused({{"\xff", DType::kF32, {}, &x}});
  refused({}, {{"k", "\xc3"}});
}

TEST_CASE("well-formed variants are accepted") {
  ScratchDirectory scratch;
  const fs::path path = scratch.path / "good";
  CHECK(refusal(path, container("{}")).empty());
  CHECK(refusal(path, container("{}     ")).empty());
  CHECK(refusal(path, container("{\"__metadata__\":{}}")).empty());
  CHECK(refusal(path, container("{" + tensor("a", "F32", "[]", "[0,4]") + "}", "1234")).empty());
  CHECK(refusal(path, container("{" + tensor("a", "F32", "[0,9]", "[0,0]") + "}")).empty());
  // Stored in another order than listed, as other writers do.
  CHECK(refusal(path, container("{" + tensor("a", "U8", "[1]", "[1,2]") + "," + tensor("b", "U8", "[1]", "[0,1]") + "}",
                                "xy"))
            .empty());
}

TEST_CASE("malformed files give one error that names the file") {
  ScratchDirectory scratch;
  const fs::path path = scratch.path / "bad.safetensors";
  const std::string good = tensor("a", "U8", "[2]", "[0,2]");
  std::string deep = "{\"a\":";
  for (int i = 0; i < 100'000; ++i) deep += "[";
  std::string nested = "{";
  for (int i = 0; i < 10'000; ++i) nested += "\"a\":{";
  std::string rank = "[1";
  for (int i = 0; i < 64; ++i) rank += ",1";
  std::string wide = "{\"__metadata__\":{\"k\":\"" + std::string(2 << 20, 'x') + "\"}}";
  const struct {
    const char* what;
    std::string bytes;
    const char* message;
  } table[] = {
      {"empty file", "", "truncated"},
      {"length only in part", "\1\0\0", "truncated"},
      {"header longer than the file", container("{}", "", 3), "truncated"},
      {"header length 2^64-1", container("{}", "", ~0ull), "limit"},
      {"header length 2^63", container("{}", "", 1ull << 63), "limit"},
      {"header above the limit", container("{}", "", 100'000'001), "limit"},
      {"header out of proportion", container(wide), "proportion"},
      {"empty header", std::string(8, '\0'), "does not start"},
      {"leading space", container(" {}"), "does not start"},
      {"byte order mark", container("\xef\xbb\xbf{}"), "does not start"},
      {"array as header", container("[]"), "does not start"},
      {"not JSON", container("{]"), "not valid JSON"},
      {"unclosed", container("{" + good, "ab"), "not valid JSON"},
      {"text after the object", container("{} {}"), "not valid JSON"},
      {"comment", container("{/* */}"), "not valid JSON"},
      {"trailing comma", container("{" + good + ",}", "ab"), "not valid JSON"},
      {"NUL after the object", container(std::string("{}\0x", 4)), "NUL"},
      {"name not UTF-8", container("{" + tensor("\xff", "U8", "[2]", "[0,2]") + "}", "ab"), "not valid JSON"},
      {"overlong UTF-8", container("{" + tensor("\xc0\xaf", "U8", "[2]", "[0,2]") + "}", "ab"), "not valid JSON"},
      {"lone surrogate", container("{" + tensor("\\ud800", "U8", "[2]", "[0,2]") + "}", "ab"), "not valid JSON"},
      {"control character in name", container("{" + tensor("a\n", "U8", "[2]", "[0,2]") + "}", "ab"), "not valid JSON"},
      {"arrays 100,000 deep", container(deep), "unexpected an array"},
      {"objects 10,000 deep", container(nested), "unknown key"},
      {"duplicate tensor", container("{" + good + "," + tensor("a", "U8", "[2]", "[2,4]") + "}", "abcd"),
       "duplicate tensor name"},
      {"duplicate empty tensor",
       container("{" + tensor("a", "U8", "[0]", "[0,0]") + "," + tensor("a", "U8", "[0]", "[0,0]") + "}"),
       "duplicate tensor name"},
      {"duplicate key in tensor",
       container("{\"a\":{\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]}}", "a"),
       "duplicate key"},
      {"duplicate metadata", container("{\"__metadata__\":{},\"__metadata__\":{}}"), "duplicate key"},
      {"duplicate metadata key", container("{\"__metadata__\":{\"a\":\"\",\"a\":\"\"}}"), "duplicate metadata key"},
      {"metadata value not a string", container("{\"__metadata__\":{\"a\":1}}"), "unexpected a number"},
      {"metadata not an object", container("{\"__metadata__\":\"a\"}"), "unexpected a string"},
      {"metadata null", container("{\"__metadata__\":null}"), "unexpected null"},
      {"tensor not an object", container("{\"a\":true}"), "unexpected a boolean"},
      {"empty name", container("{" + tensor("", "U8", "[2]", "[0,2]") + "}", "ab"), "empty name"},
      {"missing dtype", container("{\"a\":{\"shape\":[1],\"data_offsets\":[0,1]}}", "a"), "needs dtype"},
      {"missing shape", container("{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", "a"), "needs dtype"},
      {"missing offsets", container("{\"a\":{\"dtype\":\"U8\",\"shape\":[1]}}", "a"), "needs dtype"},
      {"unknown key", container("{\"a\":{\"dtype\":\"U8\",\"x\":1}}"), "unknown key"},
      {"unknown dtype", container("{" + tensor("a", "F31", "[2]", "[0,2]") + "}", "ab"), "unknown dtype"},
      {"dtype a number", container("{\"a\":{\"dtype\":7}}"), "unexpected a number"},
      {"shape a number", container("{\"a\":{\"shape\":7}}"), "unexpected a number"},
      {"negative dimension", container("{" + tensor("a", "U8", "[-2]", "[0,2]") + "}", "ab"), "negative"},
      {"fractional dimension", container("{" + tensor("a", "U8", "[2.0]", "[0,2]") + "}", "ab"), "unsigned 64-bit"},
      {"dimension 2^63", container("{" + tensor("a", "U8", "[9223372036854775808]", "[0,2]") + "}", "ab"),
       "out of range"},
      {"dimension 2^64", container("{" + tensor("a", "U8", "[18446744073709551616]", "[0,2]") + "}", "ab"),
       "unsigned 64-bit"},
      {"dimension as string", container("{" + tensor("a", "U8", "[\"2\"]", "[0,2]") + "}", "ab"),
       "unexpected a string"},
      {"nested shape", container("{" + tensor("a", "U8", "[[2]]", "[0,2]") + "}", "ab"), "unexpected an array"},
      {"object in shape", container("{" + tensor("a", "U8", "[{}]", "[0,2]") + "}", "ab"), "unexpected an object"},
      {"65 dimensions", container("{" + tensor("a", "U8", rank + "]", "[0,1]") + "}", "a"), "64 dimensions"},
      {"product wraps to the right size", container("{" + tensor("a", "U8", "[4294967296,4294967296]", "[0,0]") + "}"),
       "overflows"},
      {"bytes wrap", container("{" + tensor("a", "F64", "[2305843009213693952]", "[0,0]") + "}"), "overflows"},
      {"one offset", container("{" + tensor("a", "U8", "[2]", "[0]") + "}", "ab"), "two data_offsets"},
      {"three offsets", container("{" + tensor("a", "U8", "[2]", "[0,2,2]") + "}", "ab"), "unexpected a number"},
      {"offsets reversed", container("{" + tensor("a", "U8", "[2]", "[2,0]") + "}", "ab"), "ends before"},
      {"offset past the end", container("{" + tensor("a", "U8", "[3]", "[0,3]") + "}", "ab"), "truncated"},
      {"offset 2^64-1", container("{" + tensor("a", "U8", "[2]", "[0,18446744073709551615]") + "}", "ab"), "truncated"},
      {"negative offset", container("{" + tensor("a", "U8", "[2]", "[-1,1]") + "}", "ab"), "negative"},
      {"overlap", container("{" + good + "," + tensor("b", "U8", "[2]", "[1,3]") + "}", "abc"), "overlaps"},
      {"same range twice", container("{" + good + "," + tensor("b", "U8", "[2]", "[0,2]") + "}", "ab"), "overlaps"},
      {"hole", container("{" + good + "," + tensor("b", "U8", "[1]", "[3,4]") + "}", "abcd"), "hole of 1"},
      {"hole at the start", container("{" + tensor("a", "U8", "[1]", "[1,2]") + "}", "ab"), "hole of 1"},
      {"shape smaller than range", container("{" + tensor("a", "U8", "[1]", "[0,2]") + "}", "ab"), "shape needs 1"},
      {"shape larger than range", container("{" + tensor("a", "F32", "[1]", "[0,2]") + "}", "ab"), "shape needs 4"},
      {"trailing data", container("{" + good + "}", "abc"), "1 bytes follow"},
      {"trailing data without tensors", container("{}", "x"), "1 bytes follow"},
  };
  for (const auto& row : table) {
    INFO(row.what);
    const std::string message = refusal(path, row.bytes);
    INFO(message);
    CHECK(message.find(path.string()) == 0);
    CHECK(message.find(row.message) != std::string::npos);
    CHECK(message.size() < path.string().size() + 200);
  }
  CHECK_THROWS_WITH_AS(SafetensorsReader(scratch.path / "absent"), doctest::Contains("No such file"), FileError);
  CHECK_THROWS_AS(SafetensorsReader{scratch.path}, FileError);
  CHECK_THROWS_WITH_AS(SafetensorsReader("/dev/zero"), doctest::Contains("not a regular file"), FileError);
}

TEST_CASE("a file cut at any byte is refused") {
  ScratchDirectory scratch;
  const fs::path path = scratch.path / "whole";
  const float values[6] = {1, 2, 3, 4, 5, 6};
  write_safetensors(path, std::vector<TensorView>{{"a", DType::kF32, {2, 2}, values}, {"b", DType::kF32, {2}, values}},
                    {{"format", "pt"}});
  const std::string whole = read_file(path);
  CHECK(refusal(scratch.path / "cut", whole).empty());
  for (std::size_t n = 0; n < whole.size(); ++n) {
    INFO("cut at ", n);
    CHECK(!refusal(scratch.path / "cut", whole.substr(0, n)).empty());
  }
}

TEST_CASE("a file that shrinks after opening is an error at read, not garbage") {
  ScratchDirectory scratch;
  const fs::path path = scratch.path / "a";
  const float values[4] = {1, 2, 3, 4};
  write_safetensors(path, std::vector<TensorView>{{"a", DType::kF32, {4}, values}});
  const SafetensorsReader reader(path);
  fs::resize_file(path, fs::file_size(path) - 4);
  float back[4];
  CHECK_THROWS_WITH_AS(reader.read(reader.at("a"), back), doctest::Contains("truncated"), FileError);
}

TEST_CASE("random mutations are refused or read inside the file") {
  ScratchDirectory scratch;
  const fs::path path = scratch.path / "mutant";
  const std::string header = "{\"__metadata__\":{\"k\":\"v\"}," + tensor("a", "F32", "[2,2]", "[0,16]") + "," +
                             tensor("b", "U8", "[3]", "[16,19]") + "}";
  const std::string good = container(header, std::string(19, 'x'));
  const std::string alphabet = "\"{}[],:0123456789-eE.\\u \n\xff" + std::string(1, '\0');
  std::mt19937 random(7);
  for (int i = 0; i < 3000; ++i) {
    std::string bytes = good;
    for (auto edits = 1 + random() % 3; edits > 0; --edits) {
      const std::size_t at = random() % bytes.size();
      const char c = alphabet[random() % alphabet.size()];
      if (random() % 3 == 0) {
        bytes.insert(at, 1, c);
      } else if (random() % 2 == 0) {
        bytes.erase(at, 1);
      } else {
        bytes[at] = c;
      }
      if (random() % 2 == 0 && bytes.size() > 8) {  // keep the length honest, so that the JSON is reached
        const std::uint64_t n = bytes.size() > 27 ? bytes.size() - 27 : 0;
        for (int b = 0; b < 8; ++b) bytes[static_cast<std::size_t>(b)] = static_cast<char>(n >> (8 * b) & 255);
      }
    }
    File file = File::create(path);
    file.write_all(bytes);
    file.close();
    try {
      const SafetensorsReader reader(path);
      for (const TensorInfo& t : reader.tensors()) {
        REQUIRE(reader.data_offset() + t.offset_end <= bytes.size());
        std::string data(t.bytes(), '\0');
        reader.read(t, data.data());
      }
    } catch (const FileError&) {
    }
    fs::remove(path);
  }
}

}  // namespace
