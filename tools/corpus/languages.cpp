// SPDX-License-Identifier: Apache-2.0
// languages.cpp -- the functions of languages.hpp, which says what they do.
#include "languages.hpp"

#include <utf8proc.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "sparsemoe/error.hpp"
#include "sparsemoe/io/terminal.hpp"
#include "sparsemoe/text/input.hpp"
#include "sparsemoe/text/language.hpp"
#include "sparsemoe/text/utf8.hpp"

namespace nmt {

Script script_of(std::string_view language) {
  const sparsemoe::LanguageName name = sparsemoe::language_name(language);
  const auto one_of = [](const std::string& part, std::initializer_list<std::string_view> list) {
    return std::find(list.begin(), list.end(), part) != list.end();
  };
  if (name.script == "Latn") return Script::latin;
  if (name.script == "Cyrl") return Script::cyrillic;
  if (name.script == "Hans" || name.script == "Hant") return Script::chinese;
  if (!name.script.empty()) return Script::other;
  if (name.language == "ja") return Script::japanese;
  if (name.language == "ko") return Script::hangul;
  if (one_of(name.language, {"zh", "yue", "wuu", "nan", "hak", "lzh"})) return Script::chinese;
  const std::string usual = sparsemoe::detail::usual_script(name.language);
  if (usual == "Cyrl") return Script::cyrillic;
  return usual.empty() || usual == "Latn" ? Script::latin : Script::other;
}

std::vector<std::string> ddtp_languages() {
  return {"da", "it", "fr", "de", "pt_BR", "sk",    "pl", "ja", "ko",
          "ru", "uk", "es", "cs", "pt",    "zh_CN", "fi", "sr", "nl"};
}

void require_language_code(std::string_view language) {
  const auto lower = [](char c) { return c >= 'a' && c <= 'z'; };
  const auto rest = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9'); };
  const std::string_view base = language.substr(0, language.find_first_of("_-@"));
  bool ok = base.size() >= 2 && base.size() <= 3 && std::all_of(base.begin(), base.end(), lower);
  if (language.size() > base.size()) {
    const std::string_view more = language.substr(base.size() + 1);
    ok = ok && more.size() >= 2 && more.size() <= 8 && std::all_of(more.begin(), more.end(), rest);
  }
  sparsemoe::require(ok, "'", language,
                     "' is not a language of the archive: expected two or three lower-case letters, as in de, ",
                     "with an optional region or variant, as in pt_BR and sr@latin");
}

void require_language_name(std::string_view name) {
  sparsemoe::require_utf8(name, "the name of a language");
  bool ok = !name.empty() && name.size() <= 64 && name[0] != '.' && name[0] != '-' && name != "sources" &&
            name.find_first_of("/\\,<>|*?\"':") == std::string_view::npos;
  for (std::size_t at = 0; at < name.size();) {
    const auto step = sparsemoe::read_utf8(name, at);
    const char32_t c = step.code;
    ok = ok && c >= 0x20 && !(c >= 0x7F && c <= 0x9F) && !sparsemoe::is_invisible(c) && c != 0x2581;
    at += step.bytes;
  }
  sparsemoe::require(ok, "'", name,
                     "' cannot name a language: expected a code such as de, pt_BR, zho_Hans or sr@latin, or ",
                     "any name of at most 64 bytes without white space and / \\ , : < > | * ? and quotes");
}

bool looks_like_a_word(std::string_view name) {
  const std::string_view base = name.substr(0, name.find_first_of("_-@."));
  return base.size() > 3 && std::none_of(base.begin(), base.end(), [](char c) { return c >= '0' && c <= '9'; });
}

char32_t to_lower(char32_t c) {
  if (c < 0x80) return c >= U'A' && c <= U'Z' ? c + 32 : c;
  return static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c)));
}

bool is_lower(char32_t c) {
  if (c < 0x80) return c >= U'a' && c <= U'z';
  return utf8proc_category(static_cast<utf8proc_int32_t>(c)) == UTF8PROC_CATEGORY_LL;
}

bool is_letter(char32_t c) {
  if (c < 0x80) return (c >= U'a' && c <= U'z') || (c >= U'A' && c <= U'Z');
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC: return true;
    default: return false;
  }
}

bool is_hangul(char32_t c) { return (c >= 0xAC00 && c <= 0xD7A3) || (c >= 0x1100 && c <= 0x11FF); }

bool is_wide(char32_t c) {
  return (c >= 0x2E80 && c <= 0x30FF) || (c >= 0x31F0 && c <= 0x31FF) || (c >= 0x3400 && c <= 0x4DBF) ||
         (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0xF900 && c <= 0xFAFF) || (c >= 0xFF00 && c <= 0xFFEF) ||
         (c >= 0x20000 && c <= 0x2FFFF);
}

bool is_cyrillic(char32_t c) { return c >= 0x400 && c <= 0x52F; }

bool is_latin(char32_t c) {
  return (c < 0x80 && is_letter(c)) || (c >= 0xC0 && c <= 0x24F && c != 0xD7 && c != 0xF7) ||
         (c >= 0x1E00 && c <= 0x1EFF);
}

std::size_t count_characters(std::string_view text) {
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

std::uint64_t stable_hash(std::string_view text, std::uint64_t seed) {
  std::uint64_t h = 0xcbf29ce484222325u ^ (seed * 0x9e3779b97f4a7c15u);
  for (const char c : text) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  h = (h ^ (h >> 30)) * 0xbf58476d1ce4e5b9u;
  h = (h ^ (h >> 27)) * 0x94d049bb133111ebu;
  return h ^ (h >> 31);
}

double stable_uniform(std::string_view text, std::uint64_t seed) {
  return static_cast<double>(stable_hash(text, seed) >> 11) * 0x1.0p-53;
}

}  // namespace nmt
