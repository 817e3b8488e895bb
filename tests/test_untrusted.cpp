// SPDX-License-Identifier: Apache-2.0
// test_untrusted.cpp -- shard indices and JSON documents that must be refused, by one FileError that names the file, in
// little memory; and a good sharded model. The table of malformed safetensors files is in test_safetensors.cpp, inputs
// nobody thought of are in tests/fuzz. Read next: include/sparsemoe/io/sharded.hpp.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
#include <malloc.h>

#include <cstdint>
#include <cstdlib>
#include <functional>
#include <new>

#include "sparsemoe/io/sharded.hpp"
#include "tests/scratch.hpp"

namespace {
std::size_t held = 0, most = 0;  // bytes of operator new, now and at most; this program has one thread
}
void* operator new(std::size_t n) {
  void* p = std::malloc(n);
  if (p == nullptr) throw std::bad_alloc();
  held += ::malloc_usable_size(p);
  most = held > most ? held : most;
  return p;
}
void operator delete(void* p) noexcept {
  if (p != nullptr) held -= ::malloc_usable_size(p);
  std::free(p);
}
void operator delete(void* p, std::size_t) noexcept { operator delete(p); }

namespace {

using namespace sparsemoe;
namespace fs = std::filesystem;

struct UntrustedScratch : ScratchDirectory {
  fs::path write(const std::string& name, const std::string& bytes) const {
    fs::remove(path / name);
    File file = File::create(path / name);
    file.write_all(bytes);
    file.close();
    return path / name;
  }
};

/// The message of the FileError that `read` gives, "" if it gives none; and no more memory than the file and 16 MiB.
std::string refusal(std::uint64_t file_bytes, const std::function<void()>& read) {
  std::string message;
  const std::size_t before = held;
  most = held;
  try {
    read();
  } catch (const FileError& error) {
    message = error.what();
  }
  CHECK(most - before <= file_bytes + (std::size_t(16) << 20));
  return message;
}

/// Two shards: a of [1, 2] and b of [3] in one, c of [4] in the other.
void write_shards(const fs::path& at) {
  const float v[4] = {1, 2, 3, 4};
  write_safetensors(at / "one.safetensors",
                    std::vector<TensorView>{{"a", DType::kF32, {2}, v}, {"b", DType::kF32, {1}, v + 2}});
  write_safetensors(at / "two.safetensors", std::vector<TensorView>{{"c", DType::kF32, {1}, v + 3}});
}
const std::string good_map =
    R"("weight_map": {"a": "one.safetensors", "b": "one.safetensors", "c": "two.safetensors"})";

TEST_CASE("a sharded model reads as one set of tensors") {
  UntrustedScratch scratch;
  write_shards(scratch.path);
  for (const std::string metadata : {"", R"("metadata": {"total_size": 16, "format": "pt"}, )"}) {
    const ShardedReader model(scratch.write("index.json", "{" + metadata + good_map + "}"));
    REQUIRE(model.tensors().size() == 3);
    CHECK(model.shards().size() == 2);
    float a[2] = {}, c = 0;
    model.read("a", DType::kF32, {2}, a);
    model.read("c", DType::kF32, {1}, &c);
    CHECK((a[0] == 1 && a[1] == 2 && c == 4));
    CHECK(model.find("d").info == nullptr);
    CHECK_THROWS_WITH_AS(model.at("d"), doctest::Contains("has no tensor \"d\""), FileError);
  }
}

TEST_CASE("malformed shard indices are refused") {
  UntrustedScratch scratch;
  write_shards(scratch.path);
  const auto map = [](const std::string& file) {
    return R"({"weight_map": {"a": ")" + file + R"(", "b": "one.safetensors", "c": "two.safetensors"}})";
  };
  std::string deep = "{\"weight_map\": ", wide = "{\"weight_map\": {";
  for (int i = 0; i < 100'000; ++i) deep += "{\"a\":";
  for (int i = 0; i < 400'000; ++i) wide += (i > 0 ? ",\"" : "\"") + std::to_string(i) + "\":\"one.safetensors\"";
  const struct {
    const char* what;
    std::string text, message;
  } table[] = {
      {"empty", "", "JSON"},
      {"an array", "[]", "an array"},
      {"a string", "\"a\"", "a string"},
      {"no map", R"({"metadata": {"total_size": 16}})", "has no weight_map"},
      {"an empty map", R"({"weight_map": {}})", "names no tensor"},
      {"map an array", R"({"weight_map": ["a"]})", "an array"},
      {"map a number", R"({"weight_map": 3})", "a number"},
      {"map null", R"({"weight_map": null})", "null"},
      {"a file that is a number", R"({"weight_map": {"a": 1}})", "a number"},
      {"a file that is an object", R"({"weight_map": {"a": {}}})", "an object"},
      {"an empty tensor name", R"({"weight_map": {"": "one.safetensors"}})", "empty name"},
      {"another key", R"({"weights": {}})", "unknown key"},
      {"the map twice", "{" + good_map + "," + good_map + "}", "duplicate key"},
      {"a tensor twice", R"({"weight_map": {"a": "one.safetensors", "a": "two.safetensors"}})", "duplicate tensor"},
      {"the parent directory", map("../one.safetensors"), "beside the index"},
      {"a directory below", map("x/one.safetensors"), "beside the index"},
      {"an absolute path", map("/etc/one.safetensors"), "beside the index"},
      {"a hidden file", map(".one.safetensors"), "beside the index"},
      {"another kind of file", map("one.bin"), "beside the index"},
      {"a NUL in a name", map("one\\u0000.safetensors"), "beside the index"},
      {"a shard that is missing", map("three.safetensors"), "missing"},
      {"a tensor in the wrong shard", map("two.safetensors"), "has no tensor \"a\""},
      {"a tensor that no shard has", R"({"weight_map": {"a": "one.safetensors", "d": "two.safetensors"}})",
       "has no tensor \"d\""},
      {"a tensor that the map lacks", R"({"weight_map": {"a": "one.safetensors"}})", "does not name"},
      {"a wrong total", R"({"metadata": {"total_size": 17}, )" + good_map + "}", "total_size is 17"},
      {"a negative total", R"({"metadata": {"total_size": -1}, )" + good_map + "}", "negative"},
      {"a fractional total", R"({"metadata": {"total_size": 16.0}, )" + good_map + "}", "unsigned 64-bit"},
      {"a total beyond 64 bits", R"({"metadata": {"total_size": 99999999999999999999}, )" + good_map + "}",
       "unsigned 64-bit"},
      {"two totals", R"({"metadata": {"total_size": 16, "total_size": 16}, )" + good_map + "}", "duplicate key"},
      {"cut", "{" + good_map, "JSON"},
      {"more behind", "{" + good_map + "} {}", "JSON"},
      {"not UTF-8", R"({"weight_map": {")" + std::string("\xff") + R"(": "one.safetensors"}})", "JSON"},
      {"100,000 deep", deep, "an object"},
      {"400,000 tensors", wide, "16 MiB"},
  };
  for (const auto& row : table) {
    INFO(row.what);
    const fs::path path = scratch.write("index.json", row.text);
    const std::string message = refusal(row.text.size() + 1000, [&] { ShardedReader reader(path); });
    INFO(message);
    CHECK(message.find(scratch.path.string()) == 0);
    CHECK(message.find(row.message) != std::string::npos);
    CHECK(message.size() < scratch.path.string().size() + 250);
  }
}

TEST_CASE("malformed JSON documents are refused") {
  UntrustedScratch scratch;
  std::string deep, keys = "{\"0\":0", values = "[0";
  for (int i = 0; i < 100'000; ++i) deep += "[";
  for (int i = 1; i < 20'000; ++i) keys += ",\"" + std::to_string(i) + "\":0";
  for (int i = 0; i < 4'000'000; ++i) values += ",0";
  const struct {
    const char* what;
    std::string text, message;
  } table[] = {
      {"empty", "", ""},
      {"cut", "{\"a\": 1", "JSON"},
      {"a comment", "{} // a", "JSON"},
      {"a trailing comma", "[1,]", "JSON"},
      {"two values", "1 2", "JSON"},
      {"a NUL", std::string("{}\0", 3), ""},
      {"a byte order mark", "\xef\xbb\xbf{}", ""},
      {"not UTF-8", "{\"\xc0\xaf\": 1}", "JSON"},
      {"a lone surrogate", R"(["\ud800"])", "JSON"},
      {"a key twice", R"({"a": 1, "a": 2})", "duplicate key"},
      {"100,000 deep", deep, "deep"},
      {"17 deep", "[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]", "deep"},
      {"20,000 keys", keys + "}", "keys"},
      {"4,000,000 values", values + "]", ""},
  };
  for (const auto& row : table) {
    INFO(row.what);
    const fs::path path = scratch.write("a.json", row.text);
    const std::string message = refusal(row.text.size(), [&] { read_json(path); });
    INFO(message);
    CHECK(message.find(path.string()) == 0);
    CHECK(message.find(row.message) != std::string::npos);
    CHECK(message.size() < path.string().size() + 250);
  }
}

TEST_CASE("malformed safetensors headers take little memory") {
  UntrustedScratch scratch;
  std::string header = "{\"t\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}";
  for (int i = 0; i < 40'000; ++i)
    header += ",\"t" + std::to_string(i) + "\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}";
  header += "}!";
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes += static_cast<char>(header.size() >> (8 * i) & 255);
  const fs::path path = scratch.write("a.safetensors", bytes + header);
  const std::string message = refusal(bytes.size() + header.size(), [&] { SafetensorsReader reader(path); });
  CHECK(message.find(path.string()) == 0);
}

}  // namespace
