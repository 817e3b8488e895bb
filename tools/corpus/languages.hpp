// SPDX-License-Identifier: Apache-2.0
// languages.hpp -- what the corpus builder knows about languages and characters.
// Main idea: every rule that differs between languages asks script_of(); nothing else in the builder names a language.
// Character classes come from utf8proc. Read next: parse.hpp.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace nmt {

/// The writing systems whose text must be unwrapped, split and filtered differently.
enum class Script { latin, cyrillic, japanese, hangul, chinese, other };

/// By any code of the language; a script that the name says wins.
Script script_of(std::string_view language);

/// The languages of the package descriptions with enough text to train on, largest first, English not among them.
std::vector<std::string> ddtp_languages();

/// Throws Error unless `language` is a name that the archive could have, as "de", "pt_BR" or "sr@latin": it becomes a
/// file name and an option of apt.
void require_language_code(std::string_view language);

/// Throws Error unless `name` can name a language of a corpus: it becomes a file name and a tag.
void require_language_name(std::string_view name);

/// Whether a name is more like a word of a text than like a code: a file of text may lack its header.
bool looks_like_a_word(std::string_view name);

char32_t to_lower(char32_t c);

bool is_lower(char32_t c);

/// Letters and the marks that complete them.
bool is_letter(char32_t c);

bool is_hangul(char32_t c);

/// Han, kana and full-width forms: characters that are written without spaces between words.
bool is_wide(char32_t c);

bool is_cyrillic(char32_t c);

bool is_latin(char32_t c);

std::size_t count_characters(std::string_view text);

/// FNV-1a with a final mix: the same on every machine, so that everybody holds out the same packages.
std::uint64_t stable_hash(std::string_view text, std::uint64_t seed = 0);

/// The hash as a number in [0, 1).
double stable_uniform(std::string_view text, std::uint64_t seed);

}  // namespace nmt
