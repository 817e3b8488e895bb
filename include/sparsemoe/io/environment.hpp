// SPDX-License-Identifier: Apache-2.0
// environment.hpp -- the variables of the environment that our threads obey, checked like options before they do:
// OpenMP's runtime takes a million threads at its word, and only warns about what it cannot read.
// Read next: run_main.hpp.
#pragma once

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>

#include "sparsemoe/error.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// The most threads that --threads and OMP_NUM_THREADS may ask for.
inline constexpr std::uint64_t kMostThreads = 1024;

/// Bytes this process may have: the machine's memory, or less where a limit (ulimit -v) says so.
inline std::uint64_t available_memory() {
  const long pages = ::sysconf(_SC_PHYS_PAGES), page = ::sysconf(_SC_PAGESIZE);
  std::uint64_t bytes = ~std::uint64_t{0};
  if (pages > 0 && page > 0) bytes = static_cast<std::uint64_t>(pages) * static_cast<std::uint64_t>(page);
  rlimit limit{};
  if (::getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY)
    bytes = std::min<std::uint64_t>(bytes, limit.rlim_cur);
  return bytes;
}

namespace detail {

inline std::string_view without_spaces(std::string_view text) {
  while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  while (!text.empty() && text.back() == ' ') text.remove_suffix(1);
  return text;
}

/// The whole of `text` as a number from `low` to `high`, or nothing.
inline std::optional<std::uint64_t> number_between(std::string_view text, std::uint64_t low, std::uint64_t high) {
  text = without_spaces(text);
  std::uint64_t value = 0;
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (code != std::errc{} || end != text.data() + text.size() || value < low || value > high) return std::nullopt;
  return value;
}

/// "512K" as bytes; without a letter kibibytes, as OpenMP says.
inline std::optional<std::uint64_t> stack_bytes(std::string_view text) {
  text = without_spaces(text);
  unsigned shift = 10;
  if (!text.empty() && !std::isdigit(static_cast<unsigned char>(text.back()))) {
    const std::size_t unit =
        std::string_view("bkmg").find(static_cast<char>(std::tolower(static_cast<unsigned char>(text.back()))));
    if (unit == std::string_view::npos) return std::nullopt;
    shift = 10 * static_cast<unsigned>(unit);
    text.remove_suffix(1);
  }
  const auto value = number_between(text, 1, std::uint64_t{1} << 33);
  return value ? std::optional(*value << shift) : std::nullopt;
}

/// Does `good` hold for every part of a list like 4,2?
template <class Good>
bool all_parts(std::string_view text, Good&& good) {
  for (;;) {
    const std::size_t comma = text.find(',');
    if (!good(without_spaces(text.substr(0, comma)))) return false;
    if (comma == std::string_view::npos) return true;
    text.remove_prefix(comma + 1);
  }
}

template <std::size_t N>
bool is_word(std::string_view text, const std::array<std::string_view, N>& words) {
  std::string lower(without_spaces(text));
  for (char& c : lower) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return std::find(words.begin(), words.end(), lower) != words.end();
}

struct EnvironmentRule {
  const char* name;
  const char* expected;
  bool (*good)(std::string_view);
};

inline constexpr std::array<std::string_view, 4> switch_words = {"true", "false", "1", "0"};
inline constexpr std::array<std::string_view, 2> wait_words = {"active", "passive"};
inline constexpr std::array<std::string_view, 6> bind_words = {"true", "false", "master", "primary", "close", "spread"};

inline bool is_count(std::string_view text) { return number_between(text, 0, 2147483647).has_value(); }
inline bool is_switch(std::string_view text) { return is_word(text, switch_words); }
inline bool is_stack(std::string_view text) {
  const auto bytes = stack_bytes(text);
  return bytes && *bytes >= (std::uint64_t{64} << 10) && *bytes <= (std::uint64_t{1} << 30);
}

inline constexpr std::array<EnvironmentRule, 10> environment_rules = {{
    {"OMP_NUM_THREADS", "a number of threads from 1 to 1024, or several with commas",
     [](std::string_view text) {
       return all_parts(text, [](std::string_view part) { return number_between(part, 1, kMostThreads).has_value(); });
     }},
    {"OMP_THREAD_LIMIT", "a number of threads, at least 1",
     [](std::string_view text) { return number_between(text, 1, 2147483647).has_value(); }},
    {"OMP_MAX_ACTIVE_LEVELS", "a number that is not negative", is_count},
    {"OMP_STACKSIZE", "a size from 64K to 1G", is_stack},
    {"GOMP_STACKSIZE", "a size in KiB from 64 to 1048576", is_stack},
    {"GOMP_SPINCOUNT", "a number that is not negative, or infinite",
     [](std::string_view text) {
       return number_between(text, 0, ~std::uint64_t{0} >> 1).has_value() ||
              is_word(text, std::array<std::string_view, 2>{"infinite", "infinity"});
     }},
    {"OMP_DYNAMIC", "true or false", is_switch},
    {"OMP_NESTED", "true or false", is_switch},
    {"OMP_WAIT_POLICY", "active or passive", [](std::string_view text) { return is_word(text, wait_words); }},
    {"OMP_PROC_BIND", "true, false, or master, primary, close, spread with commas",
     [](std::string_view text) {
       return all_parts(text, [](std::string_view part) { return is_word(part, bind_words); });
     }},
}};

/// Bytes of address space that one thread's stack takes.
inline std::uint64_t thread_stack() {
  for (const char* name : {"OMP_STACKSIZE", "GOMP_STACKSIZE"})
    if (const char* text = std::getenv(name); text != nullptr)
      if (const auto bytes = stack_bytes(text)) return *bytes;
  rlimit limit{};
  const bool known = ::getrlimit(RLIMIT_STACK, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY;
  return known ? limit.rlim_cur : std::uint64_t{2} << 20;
}

}  // namespace detail

/// Throws Error, named by `what` (an option or variable), if the stacks of so many threads do not fit into the address
/// space this process may have: the runtime of OpenMP would end the process without a word of ours.
inline void require_room_for_threads(std::uint64_t threads, const std::string& what) {
  rlimit limit{};
  if (::getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return;
  const std::uint64_t stacks = threads * detail::thread_stack();
  if (threads > 1 && stacks > limit.rlim_cur / 4 * 3)
    fail_usage(what, ": the stacks of ", threads, " threads take ", stacks >> 20, " MiB; this process may have ",
               limit.rlim_cur >> 20, " (ulimit -v)");
}

/// Throws Error for a variable that our threads would obey or that nobody could read. An empty one counts as not set.
inline void check_environment() {
  for (const auto& rule : detail::environment_rules) {
    const char* text = std::getenv(rule.name);
    if (text == nullptr || *text == '\0' || rule.good(text)) continue;
    fail_usage("the environment has ", rule.name, "=", std::string_view(text).substr(0, 100), "; expected ",
               rule.expected);
  }
  if (const char* text = std::getenv("OMP_NUM_THREADS"); text != nullptr)
    if (const auto threads =
            detail::number_between(std::string_view(text).substr(0, std::string_view(text).find(',')), 1, kMostThreads))
      require_room_for_threads(*threads, join("the environment has OMP_NUM_THREADS=", *threads));
}

}  // namespace sparsemoe::inline SPARSEMOE_ABI
