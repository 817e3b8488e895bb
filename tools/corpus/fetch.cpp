// SPDX-License-Identifier: Apache-2.0
// fetch.cpp -- the functions of fetch.hpp, which says what they do.
#include "fetch.hpp"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <set>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "archive.hpp"
#include "child.hpp"
#include "languages.hpp"
#include "sparsemoe/io/terminal.hpp"
#include "write.hpp"

namespace nmt {

std::string archive_address(const FetchOptions& options) {
  if (!options.archive.empty()) return options.archive;
  if (const char* given = std::getenv("DDTP_ARCHIVE"); given != nullptr && *given != '\0') return given;
  std::istringstream lines(
      run_program({"apt-get", "indextargets", "--format", "$(REPO_URI)|$(COMPONENT)", "Created-By: Packages"}));
  for (std::string line; std::getline(lines, line);)
    if (line.size() > 5 && line.ends_with("|main")) return line.substr(0, line.size() - 5);
  sparsemoe::fail("apt on this machine knows no archive with a main component: set DDTP_ARCHIVE to the address of one");
}

std::string network_settings(std::string_view dump) {
  std::string out;
  while (!dump.empty()) {
    const auto length = std::min(dump.find('\n'), dump.size());
    const std::string_view line = dump.substr(0, length);
    dump.remove_prefix(std::min(length + 1, dump.size()));
    const auto space = line.find(' ');
    const std::string_view name = line.substr(0, space), value = space == line.npos ? "" : line.substr(space + 1);
    if (!name.starts_with("Acquire::http::") && !name.starts_with("Acquire::https::")) continue;
    const bool plain =
        value.size() > 3 && value.front() == '"' && value.ends_with("\";") && value.find('"', 1) == value.size() - 2;
    bool wanted = name.find("::Proxy::") != name.npos;  // of one host
    for (const std::string_view end : {"::Proxy", "::CaInfo", "::CaPath", "::SslCert", "::SslKey"})
      wanted = wanted || name.ends_with(end);
    if (plain && wanted) out += std::string(line) + "\n";
  }
  return out;
}

namespace {

// The whole configuration of our apt-get, but for paths: APT_CONFIG is read before everything, and turns off the rest.
std::string apt_configuration(std::string_view network) {
  return sparsemoe::join(
      "Dir::Etc::Parts \"/dev/null\";\nDir::Etc::Main \"/dev/null\";\nDir::Etc::SourceParts \"/dev/null\";\n", network,
      "#clear APT::Update::Pre-Invoke;\n#clear APT::Update::Post-Invoke;\n#clear APT::Update::Post-Invoke-Success;\n"
      "#clear DPkg::Pre-Invoke;\n#clear DPkg::Post-Invoke;\n"
      "Acquire::AllowInsecureRepositories \"false\";\nAcquire::AllowWeakRepositories \"false\";\n"
      "Acquire::AllowDowngradeToInsecureRepositories \"false\";\n"
      "APT::Sandbox::User \"root\";\n"        // else apt changes to a user who cannot write here
      "APT::Update::Error-Mode \"any\";\n");  // else a file that failed to arrive is only a warning
}

// The languages of a former fetch; none where there is no list that we can read.
std::set<std::string> fetched_languages(const fs::path& stamp) {
  std::set<std::string> have;
  std::error_code ignored;
  if (!fs::is_regular_file(fs::symlink_status(stamp, ignored))) return have;
  std::istringstream in(sparsemoe::read_file(stamp, 4096));
  for (std::string language; in >> language;) {
    require_language_code(language);
    have.insert(language);
  }
  return have;
}

// apt-get update into `root`, an empty directory.
void fetch_suite(const FetchOptions& options, const std::string& archive, const std::string& suite,
                 const std::set<std::string>& languages, const fs::path& root) {
  for (const char* folder : {"lists/partial", "cache/archives/partial"}) {
    std::error_code error;
    fs::create_directories(root / folder, error);
    if (error) sparsemoe::fail_file(root / folder, "cannot be made: ", error.message());
  }
  write_file(root / "s.list",
             sparsemoe::join("deb [signed-by=", options.keyring, "] ", archive, " ", suite, " main\n"));
  write_file(root / "apt.conf", apt_configuration(network_settings(run_program({"apt-config", "dump"}))));
  std::string list = "en";
  for (const auto& language : languages)
    if (language != "en") list += "," + language;
  const auto set = [](std::string_view name, const std::string& value) { return sparsemoe::join(name, "=", value); };
  run_program({"apt-get", "-q",                                                //
               "-o", set("Dir::Etc::SourceList", (root / "s.list").string()),  //
               "-o", "Dir::Etc::SourceParts=/dev/null",                        //
               "-o", set("Dir::State::Lists", (root / "lists").string()),      //
               "-o", set("Dir::Cache", (root / "cache").string()),             //
               "-o", "Acquire::AllowInsecureRepositories=false",               //
               "-o", "Acquire::AllowWeakRepositories=false",                   //
               "-o", "Acquire::AllowDowngradeToInsecureRepositories=false",    //
               "-o", set("Acquire::Languages", list), "update"},
              {"APT_CONFIG=" + (root / "apt.conf").string(), "LC_ALL=C.UTF-8"});
}

}  // namespace

void fetch_suites(const FetchOptions& options) {
  sparsemoe::require(!options.suites.empty(), "--suites names no suite");
  std::string archive;
  for (const auto& suite : options.suites) {
    const bool plain =
        std::all_of(suite.begin(), suite.end(), [](unsigned char c) { return std::isalnum(c) || c == '-'; });
    sparsemoe::require(plain && !suite.empty() && suite[0] != '-', "'", suite, "' is not the name of a suite");
    const fs::path root = fs::absolute(options.work) / suite;
    std::set<std::string> wanted(options.languages.begin(), options.languages.end());
    const auto have = fetched_languages(root / "languages");
    if (!options.refresh && !have.empty() && std::includes(have.begin(), have.end(), wanted.begin(), wanted.end())) {
      try {
        const SuiteLists signed_by_archive(root / "lists", suite, options.keyring);
        sparsemoe::say(suite, ": already in ", root.string());
        continue;
      } catch (const sparsemoe::Error& problem) {
        sparsemoe::say("warning: fetching again: ", problem.what());
      }
    }
    wanted.insert(have.begin(), have.end());
    if (archive.empty()) archive = archive_address(options);
    sparsemoe::require(archive.find_first_of(" \t\n[]") == std::string::npos, "'", archive,
                       "' is not an archive address");
    const auto start = std::chrono::steady_clock::now();
    std::error_code error;
    fs::create_directories(root.parent_path(), error);
    if (error) sparsemoe::fail_file(root.parent_path(), "cannot be made: ", error.message());
    sparsemoe::AtomicDirectory made(root);
    try {
      fetch_suite(options, archive, suite, wanted, made.path());
      const SuiteLists check(made.path() / "lists", suite, options.keyring);
    } catch (const sparsemoe::Error& problem) {
      sparsemoe::fail("cannot fetch ", suite, ": ", problem.what());
    }
    std::string list;
    for (const auto& language : wanted) list += language + "\n";
    write_file(made.path() / "languages", list);
    std::uintmax_t bytes = 0;
    for (const auto& entry : sparsemoe::list_directory(made.path() / "lists"))
      if (entry.is_regular_file()) bytes += entry.file_size();
    made.commit(sparsemoe::Existing::replace);
    const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(std::chrono::steady_clock::now() - start);
    sparsemoe::say(suite, ": fetched, ", bytes / 1000000, " MB in ", seconds.count(), " s");
  }
}

}  // namespace nmt
