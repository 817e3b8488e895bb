// SPDX-License-Identifier: Apache-2.0
// child.cpp -- the functions of child.hpp, which says what they do.
#include "child.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "sparsemoe/error.hpp"
#include "sparsemoe/io/signals.hpp"

namespace nmt {

std::string last_line(std::string_view text) {
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.back()))) text.remove_suffix(1);
  const auto at = text.find_last_of('\n');
  return std::string(at == std::string_view::npos ? text : text.substr(at + 1));
}

std::string run_program(const std::vector<std::string>& command, const std::vector<std::string>& variables,
                        std::size_t limit) {
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
  std::vector<char*> environment;
  for (char** old = ::environ; *old != nullptr; ++old) {
    const std::string_view name(*old, std::strcspn(*old, "="));
    const bool replaced = std::any_of(variables.begin(), variables.end(), [name](const std::string& v) {
      return v.size() > name.size() && v[name.size()] == '=' && v.starts_with(name);
    });
    if (!replaced) environment.push_back(*old);
  }
  for (const auto& variable : variables) environment.push_back(const_cast<char*>(variable.c_str()));
  environment.push_back(nullptr);
  const pid_t parent = ::getpid(), child = ::fork();
  if (child == 0) {  // only async-signal-safe calls from here to exec
    sparsemoe::prepare_child(parent);
    const int null = ::open("/dev/null", O_RDONLY);
    if (null >= 0) ::dup2(null, 0);
    ::dup2(out[1], 1);
    ::dup2(err[1], 2);
    ::execvpe(argv[0], argv.data(), environment.data());
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
        if (text[i].size() <= limit) text[i].append(buffer, static_cast<std::size_t>(n));
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
  sparsemoe::require(text[0].size() <= limit, command[0], " says more than ", limit, " bytes");
  if (WIFSIGNALED(status)) sparsemoe::fail(command[0], " was killed by signal ", WTERMSIG(status), ": ", told);
  sparsemoe::require(WEXITSTATUS(status) == 0, command[0], " failed (exit ", WEXITSTATUS(status), ")",
                     told.empty() ? "" : ": ", told);
  return std::move(text[0]);
}

}  // namespace nmt
