// SPDX-License-Identifier: Apache-2.0
// test_files.cpp -- atomic files and directories, full disks, checksums, manifests, the log and the progress line.
// Main idea: make each step of a save fail and look at what is left. Read next: include/sparsemoe/io/file.hpp.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <csignal>
#include <set>
#include <thread>

#include "sparsemoe/io/directory.hpp"
#include "sparsemoe/io/file_set.hpp"
#include "sparsemoe/io/line_reader.hpp"
#include "sparsemoe/io/log.hpp"
#include "sparsemoe/io/manifest.hpp"
#include "sparsemoe/io/progress.hpp"
#include "sparsemoe/io/safetensors.hpp"
#include "tests/scratch.hpp"

namespace {

using namespace sparsemoe;
namespace fs = std::filesystem;

using Names = std::set<std::string>;

/// While it lives, no file of this process can grow beyond `bytes`: write() fails like on a full disk.
struct FileSizeLimit {
  rlimit before{};
  explicit FileSizeLimit(rlim_t bytes) {
    std::signal(SIGXFSZ, SIG_IGN);
    ::getrlimit(RLIMIT_FSIZE, &before);
    const rlimit limit{bytes, before.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() { ::setrlimit(RLIMIT_FSIZE, &before); }
};

TEST_CASE("atomic_write replaces the content and leaves nothing else") {
  ScratchDirectory scratch;
  atomic_write(scratch.path / "a", "old");
  atomic_write(scratch.path / "a", "new and longer");
  CHECK(read_file(scratch.path / "a") == "new and longer");
  atomic_write(scratch.path / "a", "");
  CHECK(read_file(scratch.path / "a").empty());
  CHECK(scratch.names() == Names{"a"});
}

TEST_CASE("a write that fails half-way leaves the old file and one clear error") {
  ScratchDirectory scratch;
  const fs::path path = scratch.path / "weights";
  atomic_write(path, "old");
  const std::string large(100'000, 'x');
  {
    FileSizeLimit limit(64 * 1024);
    CHECK_THROWS_WITH_AS(atomic_write(path, large), doctest::Contains("File too large"), FileError);
    CHECK_THROWS_WITH_AS(atomic_write(path, large), doctest::Contains((path.string() + ": not written").c_str()),
                         FileError);
    const std::vector<TensorView> tensors{{"w", DType::kU8, {100'000}, large.data()}};
    CHECK_THROWS_AS(write_safetensors(path, tensors), FileError);
  }
  CHECK(read_file(path) == "old");
  CHECK(scratch.names() == Names{"weights"});
}

TEST_CASE("a full device is reported with its errno text") {
  File full = File::open_write("/dev/full");
  CHECK_THROWS_WITH_AS(full.write_all("x"), doctest::Contains("/dev/full: cannot write: No space left"), FileError);
}

TEST_CASE("errors name the path the caller asked for") {
  ScratchDirectory scratch;
  const fs::path absent = scratch.path / "absent" / "file";
  CHECK_THROWS_WITH_AS(atomic_write(absent, "x"), doctest::Contains((absent.string() + ": ").c_str()), FileError);
  fs::create_directory(scratch.path / "dir");
  atomic_write(scratch.path / "dir" / "file", "x");
  CHECK_THROWS_AS(atomic_write(scratch.path / "dir", "x"), FileError);  // rename onto a directory fails
  CHECK(scratch.names() == Names{"dir"});
  CHECK_THROWS_WITH_AS(read_file(scratch.path / "dir" / "file", 0), doctest::Contains("limit of 0"), FileError);
}

TEST_CASE("a kill between write and commit leaves the old file; the leftover is removed at the next start") {
  ScratchDirectory scratch;
  atomic_write(scratch.path / "a", "old");
  const pid_t child = ::fork();
  if (child == 0) {
    AtomicFile file(scratch.path / "a");
    file.write("half");
    AtomicDirectory directory(scratch.path / "step-1");
    atomic_write(directory.path() / "b", "half");
    ::kill(::getpid(), SIGKILL);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  REQUIRE(WIFSIGNALED(status));
  CHECK(read_file(scratch.path / "a") == "old");
  CHECK(scratch.names().size() == 3);
  CHECK(list_steps(scratch.path).empty());
  CHECK(remove_unfinished(scratch.path) == 2);
  CHECK(scratch.names() == Names{"a"});
  atomic_write(scratch.path / "notes.tmp-mine", "kept");
  CHECK(remove_unfinished(scratch.path) == 0);
}

TEST_CASE("a later writer of the same name removes what a dead one left, never what a living one writes") {
  ScratchDirectory scratch;
  for (const bool alive : {false, true}) {
    int ready[2], leave[2];
    REQUIRE(::pipe(ready) == 0);
    REQUIRE(::pipe(leave) == 0);
    const pid_t child = ::fork();
    if (child == 0) {
      ::close(leave[1]);
      AtomicFile file(scratch.path / "a");
      file.write("half");
      AtomicDirectory directory(scratch.path / "b");
      atomic_write(directory.path() / "c", "half");
      char byte = 0;
      [[maybe_unused]] ssize_t n = ::write(ready[1], "x", 1);
      n = ::read(leave[0], &byte, 1);
      ::_exit(0);
    }
    char byte = 0;
    REQUIRE(::read(ready[0], &byte, 1) == 1);
    int status = 0;
    if (!alive) ::kill(child, SIGKILL), ::waitpid(child, &status, 0);
    atomic_write(scratch.path / "a", "new");
    atomic_write(scratch.path / "a.tmp-mine", "another's");
    { AtomicDirectory directory(scratch.path / "b"); }
    CHECK(scratch.names().size() == (alive ? 4 : 2));
    CHECK(remove_unfinished(scratch.path) == 0);
    ::close(leave[1]);
    if (alive) ::waitpid(child, &status, 0);
    for (const int fd : {ready[0], ready[1], leave[0]}) ::close(fd);
  }
  CHECK(remove_unfinished(scratch.path) == 2);
  CHECK(scratch.names() == Names{"a", "a.tmp-mine"});
}

TEST_CASE("what is no regular file is neither replaced nor read for ever") {
  ScratchDirectory scratch;
  const fs::path pipe = scratch.path / "pipe", loop = scratch.path / "loop";
  REQUIRE(::mkfifo(pipe.c_str(), 0666) == 0);
  fs::create_symlink(loop, loop);
  CHECK_THROWS_WITH_AS(atomic_write(pipe, "x"), doctest::Contains("not a regular file; not overwritten"), FileError);
  CHECK_THROWS_WITH_AS(atomic_write("/dev/null", "x"), doctest::Contains("not overwritten"), FileError);
  CHECK_THROWS_WITH_AS(atomic_write(scratch.path, "x"), doctest::Contains("is a directory"), FileError);
  CHECK_THROWS_WITH_AS(read_file(pipe), doctest::Contains("not a regular file"), FileError);
  CHECK_THROWS_WITH_AS(read_file("/dev/zero"), doctest::Contains("not a regular file"), FileError);
  CHECK_THROWS_WITH_AS(read_file(loop), doctest::Contains("Too many levels"), FileError);
  CHECK(scratch.names() == Names{"pipe", "loop"});
}

TEST_CASE("a set of files is all new or all old") {
  ScratchDirectory scratch;
  const fs::path out = scratch.path / "deep" / "out";
  const auto write = [&](const std::string& text) {
    FileSet set(out / "");
    set.add("a", text + "a");
    set.add("b", std::string(100'000, text[0]));
    set.commit();
  };
  const auto names = [&] {
    Names found;
    for (const auto& entry : list_directory(out)) found.insert(entry.path().filename().string());
    return found;
  };
  write("1");
  CHECK(names() == Names{"a", "b"});
  atomic_write(out / "notes", "kept");
  fs::permissions(out, fs::perms::owner_all);
  {
    FileSizeLimit limit(64 * 1024);
    CHECK_THROWS_WITH_AS(write("2"), doctest::Contains("File too large"), FileError);
  }
  CHECK(read_file(out / "a") == "1a");
  CHECK(names() == Names{"a", "b", "notes"});
  write("3");
  CHECK(read_file(out / "a") == "3a");
  CHECK(read_file(out / "b")[0] == '3');
  CHECK(read_file(out / "notes") == "kept");
  CHECK(fs::status(out).permissions() == fs::perms::owner_all);
  fs::create_directory(out / "sub");  // cannot be swapped
  {
    FileSizeLimit limit(64 * 1024);
    CHECK_THROWS_AS(write("4"), FileError);
  }
  CHECK(read_file(out / "a") == "3a");
  write("5");
  CHECK(read_file(out / "a") == "5a");
  CHECK(names() == Names{"a", "b", "notes", "sub"});
  atomic_write(scratch.path / "file", "x");
  FileSet wrong(scratch.path / "file");
  CHECK_THROWS_WITH_AS(wrong.commit(), doctest::Contains("is not a directory"), FileError);
}

TEST_CASE("a directory that was replaced under its owner is noticed") {
  ScratchDirectory scratch;
  const fs::path run = scratch.path / "run";
  fs::create_directory(run);
  const int fd = ::open(run.c_str(), O_RDONLY | O_DIRECTORY);
  CHECK_NOTHROW(require_same_directory(fd, run));
  fs::rename(run, scratch.path / "moved");
  CHECK_THROWS_WITH_AS(require_same_directory(fd, run), doctest::Contains("removed or replaced"), FileError);
  fs::create_directory(run);
  CHECK_THROWS_AS(require_same_directory(fd, run), FileError);
  ::close(fd);
}

TEST_CASE("lines of a descriptor: ends, the last one, errors and a line without end") {
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  const std::string text = "a\r\n\n" + std::string(200'000, 'x') + "\nlast";
  std::thread writer([&] {
    [[maybe_unused]] const ssize_t n = ::write(ends[1], text.data(), text.size());
    ::close(ends[1]);
  });
  std::vector<std::string> lines;
  LineReader reader(ends[0], "input");
  for (std::string line; reader.next(line);) lines.push_back(line);
  writer.join();
  ::close(ends[0]);
  CHECK(lines == std::vector<std::string>{"a", "", std::string(200'000, 'x'), "last"});
  CHECK(reader.lines() == 4);

  std::string line;
  const int directory = ::open("/", O_RDONLY), zeros = ::open("/dev/zero", O_RDONLY);
  LineReader of_directory(directory, "input"), of_zeros(zeros, "input");
  CHECK_THROWS_WITH_AS(of_directory.next(line), "input: cannot read: Is a directory", Error);
  CHECK_THROWS_WITH_AS(of_zeros.next(line), doctest::Contains("input:1: a line of more than 64 MiB"), Error);
  ::close(directory);
  ::close(zeros);
}

TEST_CASE("a checkpoint directory appears whole or not at all") {
  ScratchDirectory scratch;
  {
    AtomicDirectory directory(scratch.path / "step-5");
    atomic_write(directory.path() / "a", "x");
    fs::create_directory(directory.path() / "sub");
    atomic_write(directory.path() / "sub" / "b", "y");
    CHECK(list_steps(scratch.path).empty());
    directory.commit();
  }
  CHECK(scratch.names() == Names{"step-5"});
  CHECK(read_file(scratch.path / "step-5" / "sub" / "b") == "y");
  {
    AtomicDirectory abandoned(scratch.path / "step-6/");
    atomic_write(abandoned.path() / "a", "x");
  }
  CHECK(scratch.names() == Names{"step-5"});
  {
    AtomicDirectory again(scratch.path / "step-5");
    atomic_write(again.path() / "a", "second");
    CHECK_THROWS_WITH_AS(again.commit(), doctest::Contains("already exists"), FileError);
    CHECK(read_file(scratch.path / "step-5" / "a") == "x");
    again.commit(Existing::replace);
  }
  CHECK(read_file(scratch.path / "step-5" / "a") == "second");
  CHECK(!fs::exists(scratch.path / "step-5" / "sub"));
  CHECK(scratch.names() == Names{"step-5"});
}

TEST_CASE("LATEST names a directory inside the run and nothing else") {
  ScratchDirectory scratch;
  CHECK(!read_latest(scratch.path));
  write_latest(scratch.path, "step-5");
  CHECK(read_latest(scratch.path) == "step-5");
  for (const char* bad : {"", "..", "../other", "/etc", "a/b", "a\nb"}) {
    atomic_write(scratch.path / "LATEST", bad);
    CHECK_THROWS_AS(read_latest(scratch.path), FileError);
  }
}

TEST_CASE("pruning keeps the newest steps") {
  ScratchDirectory scratch;
  for (const int step : {9, 10, 100, 2}) {
    AtomicDirectory directory(step_path(scratch.path, step));
    directory.commit();
  }
  fs::create_directory(scratch.path / "step-x");
  CHECK(list_steps(scratch.path) == std::vector<std::int64_t>{2, 9, 10, 100});
  prune_steps(scratch.path, 2);
  CHECK(scratch.names() == Names{"step-10", "step-100", "step-x"});
  CHECK_THROWS_AS(prune_steps(scratch.path, 0), Error);
}

TEST_CASE("checksums give the published values, however the bytes are cut") {
  CHECK(crc32c("") == 0);
  CHECK(crc32c("123456789") == 0xe3069283u);
  CHECK(crc32c(std::string(32, '\0')) == 0x8a9136aau);  // RFC 3720, B.4
  CHECK(crc32c(std::string(32, '\xff')) == 0x62a8ab43u);
  CHECK(Sha256().hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK(Sha256().add("abc").hex() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(Sha256().add("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq").hex() ==
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  CHECK(Sha256().add(std::string(1'000'000, 'a')).hex() ==
        "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  std::string text;
  for (int i = 0; i < 300; ++i) text += static_cast<char>(i * 7);
  const std::string whole = Sha256().add(text).hex();
  for (std::size_t cut = 0; cut <= text.size(); ++cut) {
    const std::string a = text.substr(0, cut), b = text.substr(cut);
    CHECK(Sha256().add(a).add(b).hex() == whole);
    CHECK(crc32c(b, crc32c(a)) == crc32c(text));
  }
}

void make_checkpoint(const fs::path& run, std::int64_t step) {
  AtomicDirectory directory(step_path(run, step));
  atomic_write(directory.path() / "model.safetensors", std::string(300, 'm'));
  fs::create_directory(directory.path() / "optimizer");
  atomic_write(directory.path() / "optimizer" / "0.safetensors", std::string(50, 'o'));
  write_manifest(directory.path(), {{"step", step}});
  directory.commit();
}

TEST_CASE("a manifest tells missing, truncated, long and corrupt files apart") {
  ScratchDirectory scratch;
  make_checkpoint(scratch.path, 1);
  const fs::path step = step_path(scratch.path, 1), model = step / "model.safetensors";
  CHECK_NOTHROW(verify_manifest(step));
  const auto refused = [&](const char* message) {
    CHECK_THROWS_WITH_AS(verify_manifest(step), doctest::Contains(message), FileError);
  };
  fs::resize_file(model, 299);
  refused("model.safetensors: truncated: 299 of 300 bytes");
  fs::resize_file(model, 301);
  refused("too long");
  for (std::size_t at = 0; at < 300; at += 37) {
    std::string bytes(300, 'm');
    bytes[at] ^= 1;
    atomic_write(model, bytes);
    refused("corrupt");
    CHECK_NOTHROW(verify_manifest(step, Verify::sizes));
  }
  fs::remove(model);
  refused("missing");
  const auto manifest = [&](const std::string& text) { atomic_write(step / kManifestName, text); };
  manifest("{");
  refused("not valid JSON");
  manifest("[]");
  refused("not a sparsemoe-manifest-1");
  manifest(R"({"format":"sparsemoe-manifest-1"})");
  refused("no list of files");
  manifest(R"({"format":"sparsemoe-manifest-1","files":[{"name":"a"}]})");
  refused("without name, bytes and sha256");
  const std::string hash(64, '0');
  for (const char* name : {"../a", "/etc/passwd", "", "a/../../b"}) {
    manifest(R"({"format":"sparsemoe-manifest-1","files":[{"name":")" + std::string(name) +
             R"(","bytes":1,"sha256":")" + hash + R"("}]})");
    refused("outside its directory");
  }
  manifest(R"({"format":"a","format":"b"})");
  refused("duplicate key");
  manifest(std::string(100'000, '['));
  refused("nested more than");
  fs::remove(step / kManifestName);
  refused("No such file");
}

TEST_CASE("resume takes the newest checkpoint that verifies and says what it passed over") {
  ScratchDirectory scratch;
  CHECK(!find_checkpoint(scratch.path));
  CHECK_THROWS_WITH_AS(find_checkpoint(scratch.path / "absent"), doctest::Contains("absent: cannot list"), FileError);
  for (const int step : {5, 10, 15}) make_checkpoint(scratch.path, step);
  CHECK(find_checkpoint(scratch.path)->step == 15);
  fs::resize_file(step_path(scratch.path, 15) / "model.safetensors", 7);
  const auto found = find_checkpoint(scratch.path);
  CHECK(found->step == 10);
  REQUIRE(found->refused.size() == 1);
  CHECK(found->refused[0].find("truncated") != std::string::npos);
  for (const int step : {5, 10}) fs::remove(step_path(scratch.path, step) / "model.safetensors");
  CHECK_THROWS_WITH_AS(find_checkpoint(scratch.path), doctest::Contains("no usable checkpoint"), FileError);
}

std::vector<std::int64_t> logged_steps(const fs::path& path) {
  std::vector<std::int64_t> steps;
  read_log(path, [&](const Json& record, std::uint64_t) { steps.push_back(record_step(record)); });
  return steps;
}

TEST_CASE("a resumed log loses the lines past the checkpoint and a line cut short") {
  ScratchDirectory scratch;
  const fs::path path = scratch.path / "log.jsonl";
  {
    JsonLog log(path);
    for (int step = 1; step <= 20; ++step) log.write({{"kind", "train"}, {"step", step}, {"loss", std::nan("")}});
    CHECK_THROWS_AS(log.write(Json::array()), Error);
  }
  const std::string whole = read_file(path);
  CHECK(whole.find("\"loss\":null") != std::string::npos);
  File::open_append(path).write_all("{\"kind\":\"train\",\"st");
  { JsonLog log(path, 12); }
  CHECK(logged_steps(path) == std::vector<std::int64_t>{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12});
  {
    JsonLog log(path, 12);
    for (int step = 13; step <= 20; ++step) log.write({{"kind", "train"}, {"step", step}, {"loss", std::nan("")}});
  }
  CHECK(read_file(path) == whole);
  File::open_append(path).write_all("{\"step\":21}");  // whole, but without its newline
  { JsonLog log(path, 100); }
  CHECK(read_file(path) == whole);
  { JsonLog log(path, -1); }
  CHECK(read_file(path).empty());
}

TEST_CASE("lines of the log wait while the disk is full, and nothing half-written stays") {
  ScratchDirectory scratch;
  const fs::path path = scratch.path / "log.jsonl";
  const auto record = [](int step) { return Json{{"step", step}, {"text", std::string(600, 'x')}}; };
  JsonLog log(path, -1);
  log.write(record(1));
  const std::string one = read_file(path);
  {
    FileSizeLimit limit(1000);
    CHECK_NOTHROW(log.write(record(2)));
    CHECK(read_file(path) == one);
    CHECK_THROWS_WITH_AS(log.finish(), doctest::Contains("lacks its last lines"), FileError);
    CHECK_NOTHROW(log.write(record(3)));
    CHECK(read_file(path) == one);
  }
  log.write(record(4));
  CHECK_NOTHROW(log.finish());
  std::vector<std::int64_t> steps;
  read_log(path, [&](const Json& r, std::uint64_t) { steps.push_back(record_step(r)); });
  CHECK(steps == std::vector<std::int64_t>{1, 2, 3, 4});
}

TEST_CASE("damaged lines are counted, and lines longer than a read are whole") {
  ScratchDirectory scratch;
  const fs::path path = scratch.path / "log.jsonl";
  const std::string text(3 << 20, 'x');
  atomic_write(path, "{\"step\":1}\nnonsense\n\n[1]\n{\"step\":2,\"text\":\"" + text + "\"}\n{\"step\":3}\n{\"st");
  std::vector<std::int64_t> steps;
  const LogEnd end = read_log(path, [&](const Json& record, std::uint64_t) { steps.push_back(record_step(record)); });
  CHECK(steps == std::vector<std::int64_t>{1, 2, 3});
  CHECK(end.damaged == 2);
  CHECK(end.offset == fs::file_size(path) - 4);
}

TEST_CASE("the progress line fits its terminal") {
  const ProgressState state{250, 1000, 2.3456789, 12345, 3725};
  CHECK(progress_line(state, 0) == "step 250/1000  loss 2.3457  12.3k tokens/s  1:02:05 left");
  for (int columns = 1; columns < 200; ++columns)
    CHECK(progress_line(state, columns).size() <= static_cast<std::size_t>(columns));
  CHECK(progress_line(state, 120).find(" 25% [==========          ") == 0);
  CHECK(progress_line({5, 0, 1, -1, -1}, 79).find("  0% [") == 0);
  CHECK(short_number(950) == "950");
  CHECK(short_number(999.9) == "1.00k");
  CHECK(short_number(4'560'000) == "4.56M");
  CHECK(short_number(0.123) == "0.12");
  CHECK(short_time(7) == "0:07");
  CHECK(short_time(3600 * 51 + 240) == "2d 03:04");
  CHECK(short_time(-1) == "-");
}

TEST_CASE("without a terminal, progress is plain lines every so many steps and at the end") {
  ScratchDirectory scratch;
  const fs::path path = scratch.path / "out";
  std::FILE* out = std::fopen(path.c_str(), "w");
  REQUIRE(out != nullptr);
  {
    Progress progress(0, 10, {out, 1e9, 4});
    for (int step = 1; step <= 10; ++step) progress.update(step, 100.0 * step, 3.0);
    progress.message("saved");
  }
  std::fclose(out);
  const std::string text = read_file(path);
  CHECK(std::count(text.begin(), text.end(), '\n') == 4);
  CHECK(text.find("step 4/10") == 0);
  CHECK(text.find("\nsaved\nstep 10/10") != std::string::npos);
  CHECK(text.find('\r') == std::string::npos);
}

}  // namespace
