// SPDX-License-Identifier: Apache-2.0
// conformance.cpp -- sparsemoe-conformance DIR: runs our code on the golden cases listed in DIR/manifest.json.
//   sparsemoe-conformance tests/data/goldens
// prints a line for each case: its worst error as a part of the pass mark (above 1 fails), and the sum. Cases are run
// in double and in float, each at its own mark. A kind, option, input or result that is not known fails its case by
// name; nothing is skipped. Read next: docs/conformance.md, tools/conformance/case.hpp.
#include <cstdio>
#include <cstring>
#include <iostream>

#include "conformance/kinds.hpp"
#include "sparsemoe/io/options.hpp"
#include "sparsemoe/io/run_main.hpp"

namespace conformance {

Kinds all_kinds() {
  Kinds kinds;
  for (const auto add : {add_layers, add_attention, add_routing, add_noisy, add_switch_layers, add_top_k_blocks,
                         add_optimisers, add_t5, add_switch_models, add_nllb, add_mixtral})
    add(kinds);
  return kinds;
}

std::string text(const char* precision, const Score& s) {
  char line[200];
  std::snprintf(line, sizeof line, "%s %.3g of the mark (%.2g <= %.2g, %s)", precision, s.ratio, s.difference, s.mark,
                s.at.c_str());
  return line;
}

/// Python's json writes numbers that are not finite as bare words, which JSON does not have: they become strings.
std::string with_quoted_words(const std::string& from) {
  std::string to;
  bool quoted = false;
  for (std::size_t i = 0; i < from.size(); ++i) {
    if (from[i] == '"') quoted = !quoted;
    if (quoted && from[i] == '\\') to += from[i++];
    std::string word;
    if (!quoted)
      for (const char* one : {"-Infinity", "Infinity", "NaN"})
        if (word.empty() && from.compare(i, std::strlen(one), one) == 0) word = one;
    if (word.empty())
      to += i < from.size() ? std::string(1, from[i]) : "";
    else
      to += '"' + word + '"', i += word.size() - 1;
  }
  return to;
}

/// The line of a case, and whether it passed.
std::pair<std::string, bool> outcome(const Kinds& kinds, const std::filesystem::path& folder, const json& entry) {
  try {
    const Case c(folder, entry);
    const auto known = kinds.find(c.kind());
    if (known == kinds.end()) return {"kind " + c.kind() + " is not known", false};
    Score wide, narrow;
    Run<Fp64> in_double{c, wide};
    known->second.wide(in_double);
    Run<Fp32> in_float{c, narrow};
    known->second.narrow(in_float);
    if (const std::string unknown = c.complaints(wide); !unknown.empty()) return {unknown, false};
    if (wide.compared.empty()) return {"the case has no result", false};
    std::string left;
    for (const std::string& name : c.left())
      if (c.expects(name)) left += (left.empty() ? "; not offered: " : ", ") + name;
    return {text("fp64", wide) + ", " + text("fp32", narrow) + ", " + std::to_string(wide.compared.size()) +
                " tensors" + left,
            wide.ratio <= 1 && narrow.ratio <= 1};
  } catch (const json::exception& e) {
    return {std::string("the manifest is not as expected: ") + e.what(), false};
  } catch (const Error& e) {
    return {e.what(), false};
  }
}

int run_directory(const std::filesystem::path& folder) {
  const auto path = folder / "manifest.json";
  const json manifest = json::parse(with_quoted_words(sparsemoe::read_file(path)), nullptr, false);
  if (manifest.is_discarded()) sparsemoe::fail_file(path, "is not valid JSON");
  if (!manifest.is_object() || !manifest.contains("cases") || !manifest.at("cases").is_array())
    sparsemoe::fail_file(path, "has no list \"cases\"");
  const Kinds kinds = all_kinds();
  int passed = 0, failed = 0;
  for (const json& entry : manifest.at("cases")) {
    const bool named = entry.is_object() && entry.contains("id") && entry.at("id").is_string();
    const std::string id = named ? entry.at("id").get<std::string>() : join("case ", passed + failed + 1);
    const auto [line, ok] = outcome(kinds, folder, entry);
    ++(ok ? passed : failed);
    std::cout << (ok ? "ok      " : "FAILED  ") << id << ": " << line << "\n";
  }
  std::cout << passed << " passed, " << failed << " failed, 0 skipped\n";
  return failed == 0 && passed > 0 ? 0 : 1;
}

int program(int argc, char** argv) {
  CLI::App app("Runs this library on the golden cases of a directory and says how far it is from each",
               "sparsemoe-conformance");
  std::string folder;
  app.add_option("dir", folder, "Directory with a manifest.json")->required();
  if (const auto status = sparsemoe::parse_arguments(app, argc, argv)) return *status;
  return run_directory(folder);
}

}  // namespace conformance

int main(int argc, char** argv) {
  return sparsemoe::run_main("sparsemoe-conformance", argc, argv, conformance::program);
}
