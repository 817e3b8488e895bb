// SPDX-License-Identifier: Apache-2.0
// fetch.hpp -- downloads Debian's package description translations with apt, in a private directory, as any user.
// Main idea: apt-get update with a configuration of its own: the machine's is asked for the address of the archive and
// for proxies, and for nothing else, so that neither its hooks run nor its exceptions for unsigned archives hold. Every
// fetch goes into a new directory. Read next: archive.hpp, which believes of it what is signed; parse.hpp.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "languages.hpp"
#include "text_file.hpp"

namespace nmt {

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
std::string archive_address(const FetchOptions& options);

/// Of `apt-config dump`, the lines that say how to reach the net: proxies and their certificates. A command that finds
/// a proxy is not among them.
std::string network_settings(std::string_view dump);

/// Fetches the index files of every suite for English and the given languages. What a former run left in `work` is
/// used again unless it lacks a language or is not signed by the archive. Throws Error naming the suite when apt-get
/// fails.
void fetch_suites(const FetchOptions& options);

}  // namespace nmt
