// SPDX-License-Identifier: Apache-2.0
// run_main.hpp -- what main() of every program is: signals, environment, one sentence for every exception, the exit
// status, and whether standard output took what was printed.
//   int main(int argc, char** argv) { return sparsemoe::run_main("sparsemoe-x", argc, argv, program); }
// Read next: signals.hpp, environment.hpp, standard_output.hpp, terminal.hpp; options.hpp for the command line,
// progress.hpp for a long run.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>

#include "sparsemoe/error.hpp"
#include "sparsemoe/io/environment.hpp"
#include "sparsemoe/io/signals.hpp"
#include "sparsemoe/io/standard_output.hpp"
#include "sparsemoe/io/terminal.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// A sentence for a person, and the status to end with.
struct Ending {
  std::string sentence;
  Exit status = Exit::error;
};

namespace detail {

/// How the library that reads JSON begins what it says: "[json.exception.type_error.302] ".
inline std::string without_json_mark(std::string_view text) {
  const std::size_t end = text.find("] ");
  return text.starts_with("[json.exception.") && end != std::string_view::npos ? std::string(text.substr(end + 2)) : "";
}

inline std::string file_system_sentence(const std::filesystem::filesystem_error& error) {
  std::string where = error.path1().string();
  if (!error.path2().empty()) where += (where.empty() ? "" : " and ") + error.path2().string();
  return where.empty() ? "a path is empty, or: " + error.code().message() : where + ": " + error.code().message();
}

inline std::string memory_sentence() {
  return join("not enough memory: a size in an option, the input or a file is too large for the ",
              available_memory() >> 20, " MiB that this process may have");
}

}  // namespace detail

/// The exception being handled, in our words: those of the standard library name its functions, not the cause.
inline Ending ending_of_exception() {
  try {
    throw;
  } catch (const Error& error) {
    return {error.what(), error.status()};
  } catch (const std::bad_alloc&) {
    return {detail::memory_sentence()};
  } catch (const std::length_error&) {
    return {detail::memory_sentence()};
  } catch (const std::filesystem::filesystem_error& error) {
    return {detail::file_system_sentence(error)};
  } catch (const std::system_error& error) {
    return {"the system refuses a resource (threads or memory): " + error.code().message()};
  } catch (const std::exception& error) {
    const std::string json = detail::without_json_mark(error.what());
    if (!json.empty()) return {"JSON of another form than expected: " + json};
    return {"a fault of this program, not of its input; please report it with the command line"};
  } catch (...) {
    return {"a fault of this program, not of its input; please report it with the command line"};
  }
}

namespace detail {

/// Descriptors 0 to 2 that the caller closed would become the next files that are opened. Reading or writing them is
/// an error then, as it should be.
inline void hold_standard_descriptors() {
  constexpr std::array<int, 3> modes = {O_WRONLY, O_RDONLY, O_WRONLY};
  for (int fd = 0; fd < 3; ++fd)
    if (::fcntl(fd, F_GETFD) < 0 && errno == EBADF && ::open("/dev/null", modes[static_cast<std::size_t>(fd)]) != fd)
      return;
}

/// What a process needs to end with a sentence when nothing else is left.
struct LastWords {
  const char* name = "sparsemoe";
  std::unique_ptr<char[]> memory;  // given back before the sentence is made
  std::atomic<bool> returned{false};
};
inline LastWords& last_words() {
  static auto* words = new LastWords;  // never destroyed: handlers of exit() look at it
  return *words;
}

/// "NAME: sentence" without taking memory or anything else that a signal's handler must not.
inline void say_plainly(const char* sentence) {
  for (const char* part : {last_words().name, ": ", sentence, "\n"})
    if (::write(STDERR_FILENO, part, std::strlen(part)) < 0) return;
}

/// abort() is how libraries end where they run out of memory or find a fault of their own.
extern "C" inline void sparsemoe_note_abort(int) {
  say_plainly("a library gave up: it said why above, or there is not enough memory");
  ::_exit(static_cast<int>(Exit::error));
}
/// So is exit(), with a status that says nothing.
extern "C" inline void sparsemoe_note_exit() {
  if (last_words().returned) return;
  say_plainly("a library ended this program: it said why above, or there is not enough memory");
  ::_exit(static_cast<int>(Exit::error));
}

/// An exception that nobody can catch: thrown in a thread, or out of a function that must not throw.
[[noreturn]] inline void end_with_sentence() {
  last_words().memory.reset();
  int status = static_cast<int>(Exit::error);
  try {
    if (std::current_exception()) std::rethrow_exception(std::current_exception());
    say_plainly("a fault of this program, not of its input; please report it with the command line");
  } catch (...) {
    try {
      const Ending ending = ending_of_exception();
      say(last_words().name, ": ", ending.sentence);
      status = static_cast<int>(ending.status);
    } catch (...) {
      say_plainly("not enough memory");
    }
  }
  end_process(status);
}

}  // namespace detail

/// Runs `program(argc, argv)`, which returns an exit status, and returns what main() should. Every exception ends as
/// one printable sentence "NAME: ..." on standard error with a status of Exit; 128 + n where signal n ended it.
template <class Program>
int run_main(const char* name, int argc, char** argv, Program&& program) {
  detail::hold_standard_descriptors();
  detail::LastWords& words = detail::last_words();
  words.name = name;
  words.memory = std::make_unique<char[]>(std::size_t{1} << 20);
  std::set_terminate(detail::end_with_sentence);
  ::signal(SIGABRT, detail::sparsemoe_note_abort);
  std::atexit(detail::sparsemoe_note_exit);
  take_signals();
  int status = 0;
  try {
    check_environment();
    status = program(argc, argv);
    if (status < 128) require_output_written();
  } catch (...) {
    words.memory.reset();
    const Ending ending = ending_of_exception();
    while (detail::signal_state().ending) ::pause();  // half of it may be because files are being removed
    say(name, ": ", ending.sentence);
    status = static_cast<int>(ending.status);
  }
  while (detail::signal_state().ending) ::pause();
  words.returned = true;
  return status;
}

}  // namespace sparsemoe::inline SPARSEMOE_ABI
