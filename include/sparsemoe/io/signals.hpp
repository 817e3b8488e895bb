// SPDX-License-Identifier: Apache-2.0
// signals.hpp -- what a program does when it is told to end: by default it removes what it has half built, ends its
// children and leaves with 128 + signal; a training loop that holds StopsBetweenSteps is only told, and saves.
// A second signal ends the process at once. Read next: run_main.hpp, which switches this on.
#pragma once

#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>

#include "sparsemoe/config.hpp"
#include "sparsemoe/io/unfinished.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

namespace detail {

/// What handlers may touch: lock-free numbers only. One for the process.
struct SignalState {
  std::atomic<int> received{0};     // the signal that asked for the end, or 0
  std::atomic<int> loops{0};        // StopsBetweenSteps that live
  std::atomic<bool> ending{false};  // another thread removes what is half built; nobody else is to end the process
  int pipe[2] = {-1, -1};           // from the handler to the thread that ends the process
  std::array<std::atomic<pid_t>, 16> children{};
};
inline SignalState& signal_state() {
  static SignalState state;
  return state;
}
inline constexpr std::array<int, 3> ending_signals = {SIGINT, SIGTERM, SIGHUP};

extern "C" inline void sparsemoe_note_signal(int signal) {
  const int saved_errno = errno;
  SignalState& state = signal_state();
  state.received = signal;
  for (const int other : ending_signals) ::signal(other, SIG_DFL);  // a second one ends the process at once
  if (state.loops == 0) {
    state.ending = true;
    const auto byte = static_cast<char>(signal);
    [[maybe_unused]] const ssize_t put = ::write(state.pipe[1], &byte, 1);
  }
  errno = saved_errno;
}

/// Removes what is half built, ends the children, and the process with `status`.
[[noreturn]] inline void end_process(int status) {
  SignalState& state = signal_state();
  state.ending = true;
  for (const auto& child : state.children)
    if (const pid_t group = child; group > 0) ::kill(-group, SIGKILL);
  Unfinished::of_process().remove_all_and_hold();
  ::_exit(status);
}

extern "C" inline void* sparsemoe_wait_for_signal(void*) {
  char byte = 0;
  ssize_t got;
  while ((got = ::read(signal_state().pipe[0], &byte, 1)) < 0 && errno == EINTR) {
  }
  if (got != 1) return nullptr;
  end_process(128 + byte);
}

}  // namespace detail

/// The signal that asked this process to end, or 0. Long loops look at it between steps.
inline int stop_signal() { return detail::signal_state().received; }

/// While one lives, SIGINT, SIGTERM and SIGHUP only set stop_signal(): its owner saves and returns 128 + signal.
class StopsBetweenSteps {
 public:
  StopsBetweenSteps() { ++detail::signal_state().loops; }
  StopsBetweenSteps(const StopsBetweenSteps&) = delete;
  StopsBetweenSteps& operator=(const StopsBetweenSteps&) = delete;
  ~StopsBetweenSteps() { --detail::signal_state().loops; }
};

/// From here on a reader that goes away or a file beyond a limit is an error of write(), and SIGINT, SIGTERM and SIGHUP
/// end the process as above. SIGHUP stays ignored where it was (nohup). Call it before other threads begin.
inline void take_signals() {
  ::signal(SIGPIPE, SIG_IGN);
  ::signal(SIGXFSZ, SIG_IGN);
  detail::SignalState& state = detail::signal_state();
  if (state.pipe[0] >= 0 || ::pipe2(state.pipe, O_CLOEXEC) != 0) return;
  pthread_attr_t attributes;
  pthread_t thread;
  ::pthread_attr_init(&attributes);
  ::pthread_attr_setstacksize(&attributes, std::size_t{256} << 10);
  ::pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  const int code = ::pthread_create(&thread, &attributes, detail::sparsemoe_wait_for_signal, nullptr);
  ::pthread_attr_destroy(&attributes);
  if (code != 0) return;  // no thread to be had: signals kill, and the next command clears away
  struct sigaction action {
  }, before{};
  action.sa_handler = detail::sparsemoe_note_signal;
  action.sa_flags = SA_RESTART;
  for (const int signal : detail::ending_signals) {
    const bool ignored = ::sigaction(signal, nullptr, &before) == 0 && before.sa_handler == SIG_IGN;
    if (signal != SIGHUP || !ignored) ::sigaction(signal, &action, nullptr);
  }
}

/// In a child between fork() and exec(): it leads a group of its own, ends when `parent` does, and has the default
/// actions of the signals that take_signals ignores. Only calls that are safe there.
inline void prepare_child(pid_t parent) {
  ::setpgid(0, 0);
  ::signal(SIGPIPE, SIG_DFL);
  ::signal(SIGXFSZ, SIG_DFL);
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(127);  // it ended before the line above
}

/// In the parent, as long as the child runs: a signal that ends us ends it and what it started.
class ChildGuard {
 public:
  explicit ChildGuard(pid_t child) {
    if (child > 0) ::setpgid(child, child);  // whoever of the two comes first
    for (auto& slot : detail::signal_state().children) {
      pid_t free = 0;
      if (child > 0 && slot.compare_exchange_strong(free, child)) {
        slot_ = &slot;
        return;
      }
    }
  }
  ChildGuard(const ChildGuard&) = delete;
  ChildGuard& operator=(const ChildGuard&) = delete;
  ~ChildGuard() {
    if (slot_ != nullptr) *slot_ = 0;
  }

 private:
  std::atomic<pid_t>* slot_ = nullptr;
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI
