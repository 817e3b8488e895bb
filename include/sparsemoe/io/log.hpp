// SPDX-License-Identifier: Apache-2.0
// log.hpp -- the run's log: one JSON object per line, appended with one write per line.
// Main idea: a kill loses at most the line being written; a resumed run cuts the lines past its checkpoint, so that the
// log is the one an uninterrupted run would have. A disk that is full for a while costs no line and no step: lines
// wait. Read next: report/training_report.hpp, which reads it.
#pragma once

#include <charconv>
#include <filesystem>
#include <limits>
#include <string>
#include <string_view>
#include <utility>

#include "sparsemoe/io/file.hpp"
#include "sparsemoe/io/json.hpp"
#include "sparsemoe/io/terminal.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// Calls `visit(record, offset)` for every line of a log that is a JSON object; `offset` is where the line starts.
/// A last line without a newline is a write that was cut short and is not visited; other damaged lines are counted.
/// Returns the offset behind the last whole line and the number of damaged lines. Throws FileError if unreadable.
struct LogEnd {
  std::uint64_t offset = 0;
  std::size_t damaged = 0;
};
template <class Visit>
LogEnd read_log(const std::filesystem::path& path, Visit&& visit) {
  const File file = File::open_read(path);
  const std::uint64_t size = file.size();
  constexpr std::uint64_t kPiece = 1 << 20;
  LogEnd end;
  std::string pending;
  for (std::uint64_t at = 0; at < size;) {
    const std::uint64_t n = std::min(kPiece, size - at);
    const std::size_t kept = pending.size();
    pending.resize(kept + static_cast<std::size_t>(n));
    file.read_at(at, pending.data() + kept, n);
    at += n;
    std::size_t begin = 0;
    for (std::size_t eol; (eol = pending.find('\n', std::max(begin, kept))) != std::string::npos; begin = eol + 1) {
      const std::string_view line = std::string_view(pending).substr(begin, eol - begin);
      try {
        const Json record = parse_json(line, path, 4 * kSpareMemory);  // a record may hold long texts
        if (!record.is_object()) fail_file(path, "a line is not an object");
        visit(record, end.offset);
      } catch (const FileError&) {
        if (!line.empty()) ++end.damaged;
      }
      end.offset += line.size() + 1;
    }
    pending.erase(0, begin);
  }
  return end;
}

/// The record's "step", or -1 if it has none.
inline std::int64_t record_step(const Json& record) {
  const auto at = record.find("step");
  return at != record.end() && at->is_number_integer() ? at->get<std::int64_t>() : -1;
}

/// Appends records to RUN/log.jsonl. Not for several threads at once. A line that cannot be written waits in memory,
/// with one warning, and goes before the next one; a half-written one is cut off again.
class JsonLog {
 public:
  static constexpr std::int64_t kKeepAll = std::numeric_limits<std::int64_t>::max();

  /// Opens for appending, creating the file if needed. Lines from the first one whose "step" is greater than
  /// `resumed_step` on are removed, as is a last line that was cut short. A new run passes -1 to start empty.
  explicit JsonLog(const std::filesystem::path& path, std::int64_t resumed_step = kKeepAll)
      : file_(File::open_append(path)) {
    std::uint64_t keep = std::numeric_limits<std::uint64_t>::max();
    if (resumed_step < 0) {
      keep = 0;
    } else {
      const LogEnd end = read_log(path, [&](const Json& record, std::uint64_t offset) {
        if (record_step(record) > resumed_step) keep = std::min(keep, offset);
      });
      keep = std::min(keep, end.offset);
    }
    if (file_.size() > keep) file_.truncate(keep);
  }

  /// One line, in the file when this returns (in the kernel's cache: it survives a kill, not a power cut), but for what
  /// waits. NaN and infinity become null.
  void write(const Json& record) {
    require(record.is_object(), "JsonLog::write: a record is a JSON object");
    const std::string line = record.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
    if (waiting_.size() + line.size() <= kMostWaiting) {
      waiting_ += line;
    } else {
      ++lost_;
    }
    const std::string problem = write_waiting();
    if (!problem.empty() && !warned_) warn(problem, "; the run goes on, and lines of the log wait for another try");
    warned_ = !problem.empty();
  }

  /// Throws FileError unless everything is in the file. Call it behind the last checkpoint.
  void finish() {
    const std::string problem = write_waiting();
    if (!problem.empty()) throw FileError(file_.path(), "lacks its last lines (" + problem + ")", Exit::output);
    if (lost_ > 0) throw FileError(file_.path(), join("lacks ", lost_, " lines: too many waited"), Exit::output);
  }

 private:
  static constexpr std::size_t kMostWaiting = std::size_t{16} << 20;

  /// What is wrong, or "" when nothing waits any more.
  std::string write_waiting() {
    if (waiting_.empty()) return "";
    std::uint64_t before = 0;
    try {
      before = file_.size();
      file_.write_all(waiting_);
      waiting_.clear();
      return "";
    } catch (const FileError& error) {
      try {
        if (file_.size() > before) file_.truncate(before);
      } catch (const FileError&) {
        // Readers pass over a damaged line.
      }
      return error.what();
    }
  }

  File file_;
  std::string waiting_;
  std::size_t lost_ = 0;
  bool warned_ = false;
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI
