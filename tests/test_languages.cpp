// SPDX-License-Identifier: Apache-2.0
// A language by any of its codes: parts of names, equal names, names that fit, and what follows for BLEU.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "sparsemoe/text/bleu.hpp"
#include "sparsemoe/text/language.hpp"

using sparsemoe::find_language;
using sparsemoe::language_name;
using sparsemoe::same_language;
using List = std::vector<std::string>;

TEST_CASE("names are taken apart into one spelling") {
  const auto parts = [](const char* name) {
    const auto n = language_name(name);
    return n.language + "/" + n.script + "/" + n.region + "/" + n.rest;
  };
  CHECK(parts("de") == "de///");
  CHECK(parts("deu_Latn") == "de///");
  CHECK(parts("ger") == "de///");
  CHECK(parts("de-DE") == "de///");
  CHECK(parts("de_AT") == "de//AT/");
  CHECK(parts("en_XX") == "en///");
  CHECK(parts("pt_BR.UTF-8") == "pt//BR/");
  CHECK(parts("PT-br") == "pt//BR/");
  CHECK(parts("es-419") == "es//419/");
  CHECK(parts("zh") == "zh///");
  CHECK(parts("zh_CN") == "zh/Hans//");
  CHECK(parts("cmn_Hant") == "zh/Hant//");
  CHECK(parts("zh-Hant-TW") == "zh/Hant//");
  CHECK(parts("sr@latin") == "sr/Latn//");
  CHECK(parts("srp_Cyrl") == "sr///");
  CHECK(parts("jpn_Jpan") == "ja///");
  CHECK(parts("kor_Kore") == "ko///");
  CHECK(parts("kor_Hang") == "ko///");
  CHECK(parts("arb_Arab") == "ar///");
  CHECK(parts("ca@valencia") == "ca///-valencia");
  CHECK(parts("eng_Latn2") == "en///-latn2");
  CHECK(parts("l00") == "l00///");
  CHECK(parts("German") == "German///");
  CHECK(parts("") == "///");
  CHECK(parts("ast_Latn") == "ast/Latn//");
}

TEST_CASE("codes are known, other words are not") {
  for (const char* code : {"de", "deu", "ger", "zh", "cmn"}) CHECK(sparsemoe::is_language_code(code));
  for (const char* word : {"txt", "md", "tsv", "d", "", "german", "DE"}) CHECK_FALSE(sparsemoe::is_language_code(word));
}

TEST_CASE("equal names, and names that are not") {
  CHECK(same_language("zh_TW", "zho_Hant"));
  CHECK(same_language("fra", "fr_FR"));
  CHECK(same_language("fre", "fra_Latn"));
  CHECK_FALSE(same_language("pt", "pt_BR"));
  for (const char* locale : {"da_DK", "da-DK", "da_DK.UTF-8", "da_Latn_DK", "dan_Latn"})
    CHECK(same_language("da", locale));
  CHECK(same_language("en", "en_US"));
  CHECK_FALSE(same_language("en", "en_GB"));
  CHECK(same_language("ja", "ja_JP"));
  CHECK_FALSE(same_language("sr", "sr@latin"));
  CHECK_FALSE(same_language("eng_Latn", "eng_Latn2"));
  CHECK_FALSE(same_language("l00", "l01"));
  CHECK_FALSE(same_language("zh_CN", "zh_TW"));
}

TEST_CASE("a language is found by any of its codes, and never by chance") {
  const List known = {"en", "de", "zh_CN", "pt_BR", "pt", "sr"};
  CHECK(find_language("zho_Hans", known) == "zh_CN");
  CHECK(find_language("zh", known) == "zh_CN");
  CHECK(find_language("zh_TW", known).empty());
  CHECK(find_language("por", known) == "pt");
  CHECK(find_language("por_Latn", known) == "pt");
  CHECK(find_language("pt-BR", known) == "pt_BR");
  CHECK(find_language("pt_AO", known).empty());
  CHECK(find_language("srp_Cyrl", known) == "sr");
  CHECK(find_language("sr_Latn", known).empty());
  CHECK(find_language("deutsch", known).empty());
  CHECK(find_language("zh", {"zh_CN", "zh_TW"}).empty());  // which?
  CHECK(find_language("zho_Hant", {"en", "zho"}) == "zho");
  CHECK(find_language("de", {"deu_Latn", "de"}) == "de");
  CHECK(find_language("pt", {"en", "pt_BR"}) == "pt_BR");
  CHECK(find_language("ast", {"ast_Latn"}) == "ast_Latn");
  CHECK(sparsemoe::require_language("eng", known, "the model") == "en");
  CHECK_THROWS_WITH_AS(sparsemoe::require_language("xx", {"en", "de"}, "--to: the model"),
                       "--to: the model does not know the language 'xx'; it knows en, de", sparsemoe::Error);
}

TEST_CASE("every code of Chinese and Japanese has the tokenizer of its characters") {
  using sparsemoe::bleu_tokenizer_for;
  using sparsemoe::BleuTokenizer;
  for (const char* name : {"zh", "zho", "chi", "cmn", "zh_CN", "zh-TW", "zho_Hans", "zho_Hant", "cmn_Hans", "yue_Hant"})
    CHECK(bleu_tokenizer_for(name) == BleuTokenizer::zh);
  for (const char* name : {"ja", "jpn", "jpn_Jpan", "ja-JP"})
    CHECK(bleu_tokenizer_for(name) == BleuTokenizer::characters);
  for (const char* name : {"ko", "kor_Hang", "de", "zha", "l00", ""})
    CHECK(bleu_tokenizer_for(name) == BleuTokenizer::mteval13a);
}
