// fetch.hpp -- downloads Debian's package description translations with apt, in a private directory, as any user.
// Main idea: apt-get update with its own sources, lists and cache; the machine's configuration is read (for the address
// of the archive and the keys) and never written. Read next: parse.hpp.
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "languages.hpp"
#include "sparsemoe/io/signals.hpp"

namespace nmt {

namespace fs = std::filesystem;

/// Reads a whole file. Throws Error with the system's reason.
inline std::string read_file(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  sparsemoe::require(static_cast<bool>(in), path.string(), ": ", std::strerror(errno));
  std::ostringstream out;
  out << in.rdbuf();
  sparsemoe::require(!in.bad() && !fs::is_directory(path), path.string(), ": cannot be read");
  return std::move(out).str();
}

inline void write_file(const fs::path& path, std::string_view text) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out.write(text.data(), static_cast<std::streamsize>(text.size()));
  out.close();
  sparsemoe::require(static_cast<bool>(out), path.string(), ": cannot be written: ", std::strerror(errno));
}

/// The last line that is not blank, for one-sentence errors.
inline std::string last_line(std::string_view text) {
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.back()))) text.remove_suffix(1);
  const auto at = text.find_last_of('\n');
  return std::string(at == std::string_view::npos ? text : text.substr(at + 1));
}

/// Runs a program without a shell and returns its standard output. Throws Error with the program's last line on
/// standard error when it cannot be started, is killed or does not exit with 0.
inline std::string run_program(const std::vector<std::string>& command) {
  int out[2], err[2];
  sparsemoe::require(::pipe2(out, O_CLOEXEC) == 0, "cannot make a pipe: ", std::strerror(errno));
  if (::pipe2(err, O_CLOEXEC) != 0) {
    ::close(out[0]);
    ::close(out[1]);
    sparsemoe::fail("cannot make a pipe: ", std::strerror(errno));
  }
  std::vector<char*> argv;
  for (const auto& word : command) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  const pid_t self = ::getpid(), child = ::fork();
  if (child == 0) {  // only async-signal-safe calls from here to exec
    sparsemoe::prepare_child(self);
    const int null = ::open("/dev/null", O_RDONLY);
    if (null >= 0) ::dup2(null, 0);
    ::dup2(out[1], 1);
    ::dup2(err[1], 2);
    ::execvp(argv[0], argv.data());
    const char* reason = std::strerror(errno);
    [[maybe_unused]] const auto n = ::write(2, reason, std::strlen(reason));
    ::_exit(127);
  }
  const int fork_errno = errno;
  const sparsemoe::ChildGuard guard(child);
  ::close(out[1]);
  ::close(err[1]);
  std::string text[2];
  pollfd ends[2] = {{out[0], POLLIN, 0}, {err[0], POLLIN, 0}};
  char buffer[1 << 16];
  for (int open = child > 0 ? 2 : 0; open > 0;) {
    if (::poll(ends, 2, -1) < 0 && errno != EINTR) break;
    for (int i = 0; i < 2; ++i) {
      if (ends[i].fd < 0 || ends[i].revents == 0) continue;
      const ssize_t n = ::read(ends[i].fd, buffer, sizeof buffer);
      if (n > 0) {
        text[i].append(buffer, static_cast<std::size_t>(n));
      } else if (n == 0 || errno != EINTR) {
        ends[i].fd = -1;
        --open;
      }
    }
  }
  ::close(out[0]);
  ::close(err[0]);
  sparsemoe::require(child > 0, "cannot start ", command[0], ": ", std::strerror(fork_errno));
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  const std::string told = last_line(text[1]);
  if (WIFSIGNALED(status)) sparsemoe::fail(command[0], " was killed by signal ", WTERMSIG(status), ": ", told);
  sparsemoe::require(WEXITSTATUS(status) == 0, command[0], " failed (exit ", WEXITSTATUS(status), ")",
                     told.empty() ? "" : ": ", told);
  return std::move(text[0]);
}

struct FetchOptions {
  fs::path work = "ddtp-work";  ///< lists are kept here and used again by the next run
  std::vector<std::string> suites = {"bullseye", "bookworm", "trixie", "forky", "sid"};  ///< oldest first
  std::vector<std::string> languages = ddtp_languages();
  std::string archive;  ///< empty: DDTP_ARCHIVE from the environment, else the machine's own
  std::string keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
  bool refresh = false;  ///< fetch again what is already there
};

/// Address of the Debian archive: DDTP_ARCHIVE, else the first `main` archive of this machine's apt.
/// Throws Error when there is neither.
inline std::string archive_address(const FetchOptions& options) {
  if (!options.archive.empty()) return options.archive;
  if (const char* given = std::getenv("DDTP_ARCHIVE"); given != nullptr && *given != '\0') return given;
  std::istringstream lines(
      run_program({"apt-get", "indextargets", "--format", "$(REPO_URI)|$(COMPONENT)", "Created-By: Packages"}));
  for (std::string line; std::getline(lines, line);)
    if (line.size() > 5 && line.ends_with("|main")) return line.substr(0, line.size() - 5);
  sparsemoe::fail("apt on this machine knows no archive with a main component: set DDTP_ARCHIVE to the address of one");
}

/// Fetches the index files of every suite for English and the given languages. What a former run left in `work` is
/// used again unless it lacks a language. Throws Error naming the suite when apt-get fails.
inline void fetch_suites(const FetchOptions& options) {
  sparsemoe::require(!options.suites.empty(), "--suites names no suite");
  std::string archive;
  for (const auto& suite : options.suites) {
    const bool plain =
        std::all_of(suite.begin(), suite.end(), [](unsigned char c) { return std::isalnum(c) || c == '-'; });
    sparsemoe::require(plain && !suite.empty() && suite[0] != '-', "'", suite, "' is not the name of a suite");
    const fs::path root = fs::absolute(options.work) / suite, stamp = root / "languages";
    std::set<std::string> wanted(options.languages.begin(), options.languages.end());
    std::set<std::string> have;
    if (fs::exists(stamp)) {
      std::ifstream in(stamp);
      for (std::string language; in >> language;) have.insert(language);
    }
    if (!options.refresh && !have.empty() && std::includes(have.begin(), have.end(), wanted.begin(), wanted.end())) {
      say(suite, ": already in ", root.string());
      continue;
    }
    wanted.insert(have.begin(), have.end());  // apt removes the lists of languages it is not asked for
    if (archive.empty()) archive = archive_address(options);
    const auto start = std::chrono::steady_clock::now();
    std::error_code error;
    for (const char* folder : {"lists/partial", "cache/archives/partial"}) {
      fs::create_directories(root / folder, error);
      sparsemoe::require(!error, (root / folder).string(), ": cannot be made: ", error.message());
    }
    fs::remove(stamp, error);  // back only when the fetch is complete
    sparsemoe::require(archive.find_first_of(" \t\n") == std::string::npos, "'", archive,
                       "' is not an archive address");
    write_file(root / "s.list",
               sparsemoe::join("deb [signed-by=", options.keyring, "] ", archive, " ", suite, " main\n"));
    std::string languages = "en";
    for (const auto& language : wanted)
      if (language != "en") languages += "," + language;
    const auto set = [](std::string_view name, const std::string& value) { return sparsemoe::join(name, "=", value); };
    try {
      run_program({"apt-get", "-q",
                   "-o",      set("Dir::Etc::SourceList", (root / "s.list").string()),  //
                   "-o",      "Dir::Etc::SourceParts=/dev/null",  // else the machine's own sources are read too
                   "-o",      set("Dir::State::Lists", (root / "lists").string()),
                   "-o",      set("Dir::Cache", (root / "cache").string()),  //
                   "-o",      "APT::Sandbox::User=root",      // else apt changes to a user who cannot write here
                   "-o",      "APT::Update::Error-Mode=any",  // else a file that failed to arrive is only a warning
                   "-o",      "APT::Update::Post-Invoke::=",
                   "-o",      "APT::Update::Post-Invoke-Success::=",
                   "-o",      set("Acquire::Languages", languages),
                   "update"});
    } catch (const sparsemoe::Error& problem) {
      sparsemoe::fail("cannot fetch ", suite, ": ", problem.what());
    }
    std::string list;
    for (const auto& language : wanted) list += language + "\n";
    write_file(stamp, list);
    std::uintmax_t bytes = 0;
    for (const auto& entry : fs::directory_iterator(root / "lists"))
      if (entry.is_regular_file()) bytes += entry.file_size();
    const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(std::chrono::steady_clock::now() - start);
    say(suite, ": fetched, ", bytes / 1000000, " MB in ", seconds.count(), " s");
  }
}

/// The index file of one suite whose name ends in `ending` before the compression's, e.g. "i18n_Translation-pt%5fBR".
/// Empty path where the suite has none.
inline fs::path find_index(const fs::path& work, const std::string& suite, std::string_view ending) {
  for (const auto& entry : fs::directory_iterator(work / suite / "lists")) {
    const std::string name = entry.path().filename().string();
    if (name.ends_with(ending) || name.find(sparsemoe::join(ending, ".")) != std::string::npos) return entry.path();
  }
  return {};
}

/// The text of an index file in whatever compression apt keeps it. Throws Error when apt-helper cannot read it.
inline std::string read_index(const fs::path& path) {
  return run_program({"/usr/lib/apt/apt-helper", "cat-file", path.string()});
}

/// Translation-XX of one suite, empty when the suite has none.
inline fs::path find_translation(const fs::path& work, const std::string& suite, std::string language) {
  if (const auto at = language.find('_'); at != std::string::npos) language.replace(at, 1, "%5f");
  return find_index(work, suite, "_main_i18n_Translation-" + language);
}

}  // namespace nmt
