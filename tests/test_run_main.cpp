// SPDX-License-Identifier: Apache-2.0
// test_run_main.cpp -- what every program does with signals, exceptions, the environment and standard output, each in a
// child process whose status and words are looked at. Read next: include/sparsemoe/io/run_main.hpp.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
#include <sys/wait.h>

#include <cstring>
#include <functional>
#include <nlohmann/json.hpp>
#include <thread>
#include <vector>

#include "sparsemoe/io/directory.hpp"
#include "sparsemoe/io/options.hpp"
#include "sparsemoe/io/run_main.hpp"
#include "tests/scratch.hpp"

namespace {

using namespace sparsemoe;
namespace fs = std::filesystem;

struct Outcome {
  int status = -1;  // of exit, or minus the signal
  std::string words;
};

/// A running child: `prepare`, then run_main of `program`. Standard error goes to a pipe, output to `out`.
class Child {
 public:
  explicit Child(
      const std::function<int(int, char**)>& program, const std::function<void()>& prepare = [] {},
      const char* out = "/dev/null") {
    int ends[2];
    REQUIRE(::pipe(ends) == 0);
    std::fflush(nullptr);
    pid_ = ::fork();
    if (pid_ == 0) {
      ::dup2(::open(out, O_WRONLY), 1);
      ::dup2(ends[1], 2);
      ::close(ends[0]);
      ::close(ends[1]);
      prepare();
      char name[] = "test";
      char* argv[] = {name, nullptr};
      const int status = run_main("test", 1, argv, program);
      std::fflush(nullptr);
      ::_exit(status);
    }
    ::close(ends[1]);
    fd_ = ends[0];
  }
  pid_t pid() const { return pid_; }
  /// Waits until the child has said `word`.
  void wait_for(const std::string& word) {
    while (words_.find(word) == std::string::npos && read()) {
    }
    REQUIRE(words_.find(word) != std::string::npos);
  }
  Outcome end() {
    while (read()) {
    }
    ::close(fd_);
    int status = 0;
    ::waitpid(pid_, &status, 0);
    return {WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status), words_};
  }

 private:
  bool read() {
    char part[4096];
    const ssize_t n = ::read(fd_, part, sizeof part);
    if (n > 0) words_.append(part, static_cast<std::size_t>(n));
    return n > 0;
  }
  pid_t pid_ = -1;
  int fd_ = -1;
  std::string words_;
};

Outcome run(const std::function<int(int, char**)>& program) { return Child(program).end(); }
Outcome thrown(const std::function<void()>& body) {
  return run([&](int, char**) {
    body();
    return 0;
  });
}
void idle() {
  for (;;) ::pause();
}

TEST_CASE("text is shown so that no terminal obeys it") {
  CHECK(printable("plain, \u00e5\u4e2d\U0001F600") == "plain, \u00e5\u4e2d\U0001F600");
  CHECK(printable("\x1b]0;EVIL\a") == "\\x1b]0;EVIL\\x07");
  CHECK(printable("a\nb\tc\rd\x7f") == "a\\nb\\tc\\rd\\x7f");
  CHECK(printable("a\nb\x1b", Lines::keep) == "a\nb\\x1b");
  CHECK(printable("\xc2\x9b"
                  "31m") == "\\u009b31m");  // C1: the same as ESC [
  CHECK(printable("\u202etxt.exe\u2066") == "\\u202etxt.exe\\u2066");
  CHECK(printable("\x9b\xff\xc3") == "\\x9b\\xff\\xc3");  // no UTF-8
  CHECK(printable(std::string("a\0b", 3)) == "a\\x00b");
  CHECK(printable("\U000E0041") == "\\U000e0041");
}

TEST_CASE("every exception is one sentence and a status of the table") {
  const auto check = [](const std::function<void()>& body, int status, const std::string& sentence) {
    const Outcome o = thrown(body);
    CHECK(o.status == status);
    CHECK(o.words.starts_with("test: " + sentence));
    CHECK(o.words.find('\n') == o.words.size() - 1);
    for (const char* word : {"std::", "_M_", "basic_string", "vector", "exception"})
      CHECK(o.words.find(word) == std::string::npos);
  };
  check([] { fail("a row of ", 3, " and \x1b[31m"); }, 1, "a row of 3 and \\x1b[31m\n");
  check([] { fail_usage("no such option"); }, 64, "no such option\n");
  check([] { File::open_write("/dev/full").write_all("x"); }, 74, "/dev/full: cannot write: No space left");
  check([] { [[maybe_unused]] std::vector<char> v(std::size_t{1} << 60); }, 1, "not enough memory: ");
  check([] { std::vector<char>().resize(~std::size_t{0}); }, 1, "not enough memory: ");
  check([] { [[maybe_unused]] const auto s = fs::file_size("/none\x1b"); }, 1, "/none\\x1b: No such file");
  check([] { [[maybe_unused]] const bool b = fs::exists(std::string(300, 'a')); }, 1, "aaaa");
  check([] { [[maybe_unused]] const int i = nlohmann::json::parse("\"x\"").get<int>(); }, 1, "JSON of another form");
  check([] { throw std::system_error(EAGAIN, std::generic_category()); }, 1, "the system refuses a resource");
  check([] { [[maybe_unused]] const char c = std::string("x").at(5); }, 1, "a fault of this program");
  check([] { throw 5; }, 1, "a fault of this program");
  check([] { std::thread([] { throw Error("in a thread"); }).join(); }, 1, "in a thread\n");
  check([]() noexcept { std::vector<char>(std::size_t{1} << 60).back() = 1; }, 1, "not enough memory");
  check([] { std::abort(); }, 1, "a library gave up");
  check([] { std::exit(255); }, 1, "a library ended this program");
  CHECK(run([](int, char**) { return 76; }).status == 76);
}

TEST_CASE("output that is not taken is an error; closed descriptors are not the next file") {
  const auto print = [](int, char**) {
    std::puts("something");
    return 0;
  };
  const Outcome full = Child(
                           print, [] {}, "/dev/full")
                           .end();
  CHECK(full.status == 74);
  CHECK(full.words == "test: standard output: cannot write: No space left on device\n");
  const Outcome broken = Child(print, [] {
                           int ends[2];
                           if (::pipe(ends) == 0) ::dup2(ends[1], 1), ::close(ends[0]), ::close(ends[1]);
                         }).end();
  CHECK(broken.status == 74);
  CHECK(broken.words == "test: standard output: cannot write: Broken pipe\n");
  ScratchDirectory scratch;
  const Outcome closed = Child(
                             [&](int, char**) {
                               AtomicFile file(scratch.path / "a");
                               std::puts("not into the file");
                               file.commit();
                               return 0;
                             },
                             [] { ::close(1); })
                             .end();
  CHECK(closed.status == 74);
  CHECK(read_file(scratch.path / "a").empty());
}

TEST_CASE("variables of the environment are checked like options") {
  struct Variable {
    const char *name, *value;
  };
  const auto with = [](const Variable& v) {
    return Child([](int, char**) { return 0; }, [=] { ::setenv(v.name, v.value, 1); }).end();
  };
  for (const Variable& v : std::vector<Variable>{{"OMP_NUM_THREADS", "1000000"},
                                                 {"OMP_NUM_THREADS", "-1"},
                                                 {"OMP_NUM_THREADS", "0"},
                                                 {"OMP_NUM_THREADS", "four"},
                                                 {"OMP_NUM_THREADS", "4,x"},
                                                 {"OMP_NUM_THREADS", "4,"},
                                                 {"OMP_NUM_THREADS", "\x1b[2J"},
                                                 {"OMP_THREAD_LIMIT", "0"},
                                                 {"OMP_STACKSIZE", "1T"},
                                                 {"OMP_STACKSIZE", "1"},
                                                 {"OMP_STACKSIZE", "999999999999G"},
                                                 {"OMP_WAIT_POLICY", "lazy"},
                                                 {"OMP_DYNAMIC", "perhaps"},
                                                 {"OMP_PROC_BIND", "close,far"}}) {
    const Outcome o = with(v);
    CHECK_MESSAGE(o.status == 64, v.name, "=", v.value);
    CHECK(o.words.starts_with("test: the environment has " + std::string(v.name) + "="));
    CHECK(o.words.find('\x1b') == std::string::npos);
  }
  for (const Variable& v : std::vector<Variable>{{"OMP_NUM_THREADS", "4"},
                                                 {"OMP_NUM_THREADS", " 4, 2 "},
                                                 {"OMP_NUM_THREADS", ""},
                                                 {"OMP_STACKSIZE", "512k"},
                                                 {"OMP_STACKSIZE", "2048"},
                                                 {"OMP_WAIT_POLICY", "PASSIVE"},
                                                 {"OMP_PROC_BIND", "spread, close"}})
    CHECK_MESSAGE(with(v).status == 0, v.name, "=", v.value);
}

TEST_CASE("a signal removes what is half built, ends children, and leaves with 128 + its number") {
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    ScratchDirectory scratch;
    atomic_write(scratch.path / "a", "old");
    Child child([&](int, char**) {
      AtomicFile file(scratch.path / "a");
      AtomicDirectory directory(scratch.path / "b");
      atomic_write(directory.path() / "c", "x");
      const pid_t self = ::getpid(), grandchild = ::fork();
      if (grandchild == 0) {
        prepare_child(self);
        ::close(2);
        idle();
      }
      const ChildGuard guard(grandchild);
      say("child ", grandchild);
      say("ready");
      idle();
      return 0;
    });
    child.wait_for("ready");
    ::kill(child.pid(), signal);
    const Outcome o = child.end();
    CHECK(o.status == 128 + signal);
    CHECK(scratch.names() == std::set<std::string>{"a"});
    CHECK(read_file(scratch.path / "a") == "old");
    const pid_t grandchild = std::stoi(o.words.substr(6));
    int tries = 0;
    while (::kill(grandchild, 0) == 0 && ++tries < 500) ::usleep(10'000);  // until somebody reaps it
    CHECK((tries < 500 || read_file("/proc/" + std::to_string(grandchild) + "/stat").find(") Z") != std::string::npos));
  }
}

TEST_CASE("a loop that saves is told once; the second signal ends it") {
  const auto loop = [](int, char**) {
    const StopsBetweenSteps saves;
    say("ready");
    while (stop_signal() == 0) ::usleep(1000);
    say("saving");
    ::usleep(300'000);
    return 128 + stop_signal();
  };
  Child patient(loop);
  patient.wait_for("ready");
  ::kill(patient.pid(), SIGHUP);
  CHECK(patient.end().status == 128 + SIGHUP);
  Child hurried(loop);
  hurried.wait_for("ready");
  ::kill(hurried.pid(), SIGINT);
  hurried.wait_for("saving");
  ::kill(hurried.pid(), SIGINT);
  CHECK(hurried.end().status == -SIGINT);
  Child detached(loop, [] { ::signal(SIGHUP, SIG_IGN); });  // nohup
  detached.wait_for("ready");
  ::kill(detached.pid(), SIGHUP);
  ::kill(detached.pid(), SIGTERM);
  CHECK(detached.end().status == 128 + SIGTERM);
}

TEST_CASE("a reader that goes away and a limit on files are errors of write()") {
  const Outcome o = thrown([] {
    ScratchDirectory scratch;
    rlimit limit{1000, RLIM_INFINITY};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    atomic_write(scratch.path / "a", std::string(2000, 'x'));
  });
  CHECK(o.status == 74);
  CHECK(o.words.find("File too large") != std::string::npos);
}

TEST_CASE("a command line: suggestions, versions, and words that are no text") {
  const auto parse = [](std::vector<const char*> words, const char* out = "/dev/null") {
    words.insert(words.begin(), "test");
    return Child(
               [&](int, char**) {
                 CLI::App app("A test", "test");
                 std::string kind;
                 app.require_subcommand(1);
                 for (const char* name : {"train", "translate"})
                   app.add_subcommand(name, name)->add_option("--threads", kind)->check(CLI::PositiveNumber);
                 return parse_arguments(app, static_cast<int>(words.size()), words.data()).value_or(0);
               },
               [] {}, out)
        .end();
  };
  CHECK(parse({"train", "--threads", "2"}).status == 0);
  CHECK(parse({"--version"}).status == 0);
  CHECK(parse({"--help"}).status == 0);
  CHECK(parse({"--version"}, "/dev/full").status == 74);
  const auto refused = [&](std::vector<const char*> words, const std::string& sentence) {
    const Outcome o = parse(std::move(words));
    CHECK(o.status == 64);
    CHECK(o.words == "test: " + sentence + " (--help lists the options)\n");
  };
  refused({"tarin"}, "no command 'tarin'; did you mean train?");
  refused({"xyzzyxyzzy", "--threads"}, "no command 'xyzzyxyzzy'");
  refused({"train", "--thread=2"}, "unknown option --thread; did you mean --threads?");
  refused({"train", "--\x1b[2J"}, "unknown option --\\x1b[2J");
  refused({}, "A subcommand is required");
  CHECK(parse({"train", "--threads", "\x1b[2J"}).words.find('\x1b') == std::string::npos);
}

}  // namespace
