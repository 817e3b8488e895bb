// SPDX-License-Identifier: Apache-2.0
// language.hpp -- names of languages: one language has several codes (de, deu, ger, deu_Latn, de-DE), and files,
// models and people use different ones.
// Main idea: a name is taken apart into language, script and region (BCP 47, FLORES, locales), each in one spelling;
// two names are the same when their parts are, and one fits another when no part contradicts. Read next: bleu.hpp.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "sparsemoe/config.hpp"
#include "sparsemoe/error.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// A name taken apart. Parts that it does not name are empty.
struct LanguageName {
  std::string language;  ///< the two-letter code where there is one: "de" of deu and ger, "zh" of zho, chi and cmn
  std::string script;    ///< as "Latn"
  std::string region;    ///< as "BR"; none where it is the language's own, as in de-DE
  std::string rest;      ///< what is left, in lower case: variants, numbers, anything that is no code
  friend bool operator==(const LanguageName&, const LanguageName&) = default;
};

namespace detail {

/// Codes of one language, separated by commas, the two-letter one first: ISO 639-1, 639-3, 639-2/B, then the
/// individual language that FLORES and NLLB write for a group (arb for ar, lvs for lv), then withdrawn codes.
inline constexpr std::string_view kLanguageCodes =
    " aa,aar ab,abk ae,ave af,afr ak,aka am,amh an,arg ar,ara,arb as,asm av,ava ay,aym,ayr az,aze,azj "
    "ba,bak be,bel bg,bul bi,bis bm,bam bn,ben bo,bod,tib br,bre bs,bos ca,cat ce,che ch,cha co,cos "
    "cr,cre cs,ces,cze cu,chu cv,chv cy,cym,wel da,dan de,deu,ger dv,div dz,dzo ee,ewe el,ell,gre en,eng "
    "eo,epo es,spa et,est,ekk eu,eus,baq fa,fas,per,pes ff,ful,fuv fi,fin fj,fij fo,fao fr,fra,fre fy,fry "
    "ga,gle gd,gla gl,glg gn,grn,gug gu,guj gv,glv ha,hau he,heb,iw hi,hin ho,hmo hr,hrv ht,hat hu,hun "
    "hy,hye,arm hz,her ia,ina id,ind,in ie,ile ig,ibo ii,iii ik,ipk,esi io,ido is,isl,ice it,ita "
    "iu,iku,ike ja,jpn jv,jav,jw ka,kat,geo kg,kon ki,kik kj,kua kk,kaz kl,kal km,khm kn,kan ko,kor "
    "kr,kau,knc ks,kas ku,kur,kmr kv,kom,kpv kw,cor ky,kir la,lat lb,ltz lg,lug li,lim ln,lin lo,lao "
    "lt,lit lu,lub lv,lav,lvs mg,mlg,plt mh,mah mi,mri,mao mk,mkd,mac ml,mal mn,mon,khk mr,mar "
    "ms,msa,may,zsm mt,mlt my,mya,bur na,nau nb,nob nd,nde ne,nep,npi ng,ndo nl,nld,dut nn,nno no,nor "
    "nr,nbl nv,nav ny,nya oc,oci oj,oji om,orm,gaz or,ori,ory os,oss pa,pan pi,pli pl,pol ps,pus,pbt "
    "pt,por qu,que,quy rm,roh rn,run ro,ron,rum,mo ru,rus rw,kin sa,san sc,srd,sro sd,snd se,sme sg,sag "
    "sh,hbs si,sin sk,slk,slo sl,slv sm,smo sn,sna so,som sq,sqi,alb,als sr,srp ss,ssw st,sot su,sun "
    "sv,swe sw,swa,swh ta,tam te,tel tg,tgk th,tha ti,tir tk,tuk tl,tgl,fil tn,tsn to,ton tr,tur ts,tso "
    "tt,tat tw,twi ty,tah ug,uig uk,ukr ur,urd uz,uzb,uzn ve,ven vi,vie vo,vol wa,wln wo,wol xh,xho "
    "yi,yid,ydd,ji yo,yor za,zha zh,zho,chi,cmn zu,zul ";

/// The scripts of languages that are written in one, where corpora and FLORES differ in naming it; in order of the
/// codes they follow. A language that is not here is taken to be written in whatever a name says.
inline constexpr std::string_view kLanguageScripts =
    " Latn af ak an ay az bm br bs ca co cs cy da de ee en eo es et eu ff fi fj fo fr fy ga gd gl gn ha hr ht hu id ig "
    "is "
    "it jv kg ki ku la lb lg li ln lt lv mg mi mt nb nl nn no ny oc om pl pt qu rm rn ro rw sc se sg sk sl sm sn so sq "
    "ss "
    "st su sv sw tk tl tn to tr ts tw ty uz ve vi wa wo xh yo zu  Cyrl ba be bg ce cv kk kv ky mk mn os ru sr tg tt uk "
    " "
    "Arab ar fa ps sd ug ur  Hebr he yi  Grek el  Armn hy  Geor ka  Deva hi mr ne sa  Beng as bn  Guru pa  Gujr gu  "
    "Orya or  Taml ta  Telu te  Knda kn  Mlym ml  Sinh si  Thai th  Laoo lo  Mymr my  Khmr km  Tibt bo dz  Ethi am ti  "
    "Jpan ja  Hang ko ";

inline std::string cased(std::string_view text, char first, char others) {  // 'a': lower case, 'A': upper case
  std::string out(text);
  for (std::size_t i = 0; i < out.size(); ++i) {
    const bool upper = (i == 0 ? first : others) == 'A';
    if (upper && out[i] >= 'a' && out[i] <= 'z') out[i] = static_cast<char>(out[i] - 'a' + 'A');
    if (!upper && out[i] >= 'A' && out[i] <= 'Z') out[i] = static_cast<char>(out[i] - 'A' + 'a');
  }
  return out;
}

inline bool all_letters(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); });
}

/// The two-letter code of a code in lower case; the code itself where there is none.
inline std::string two_letter_code(const std::string& code) {
  for (std::size_t at = kLanguageCodes.find(code); at != std::string_view::npos;
       at = kLanguageCodes.find(code, at + 1)) {
    const char before = kLanguageCodes[at - 1], after = kLanguageCodes[at + code.size()];
    if ((before != ' ' && before != ',') || (after != ' ' && after != ',')) continue;
    const std::size_t start = kLanguageCodes.rfind(' ', at) + 1;
    return std::string(kLanguageCodes.substr(start, kLanguageCodes.find(',', start) - start));
  }
  return code;
}

/// Its usual script; empty where it has several or none is known.
inline std::string usual_script(const std::string& language) {
  const std::size_t at = kLanguageScripts.find(" " + language + " ");
  if (at == std::string_view::npos || language.size() != 2) return {};
  const std::size_t start = std::min(kLanguageScripts.rfind("  ", at), at);  // none: the first script
  const std::size_t first = kLanguageScripts.find_first_not_of(' ', start == at ? 0 : start);
  return std::string(kLanguageScripts.substr(first, 4));
}

/// Where most who write a language live, if that is not its code in capitals (CLDR's likely subtags): a locale that
/// names it means the language and nothing more.
inline constexpr std::string_view kHomeRegions =
    " af-ZA am-ET ar-EG as-IN be-BY bn-BD bo-CN br-FR bs-BA ca-ES cs-CZ cy-GB da-DK dz-BT el-GR en-US et-EE eu-ES "
    "fa-IR "
    "ga-IE gd-GB gl-ES gu-IN he-IL hi-IN hy-AM ja-JP ka-GE kk-KZ km-KH kn-IN ko-KR ku-TR ky-KG lb-LU lo-LA mi-NZ ml-IN "
    "mr-IN ms-MY my-MM nb-NO ne-NP nn-NO no-NO oc-FR or-IN pa-IN ps-AF sa-IN sd-PK se-NO si-LK sl-SI sq-AL sr-RS sv-SE "
    "sw-TZ ta-IN te-IN tg-TJ ti-ET tk-TM tl-PH tt-RU ug-CN uk-UA ur-PK vi-VN xh-ZA yi-UA yo-NG zu-ZA ";

inline bool is_home_region(const std::string& language, const std::string& region) {
  return region == cased(language, 'A', 'A') ||
         kHomeRegions.find(" " + language + "-" + region + " ") != std::string_view::npos;
}

}  // namespace detail

/// Takes a name apart: "zho_Hant", "zh-TW", "sr@latin", "pt_BR.UTF-8" and the like, in any case.
inline LanguageName language_name(std::string_view name) {
  using detail::cased;
  LanguageName out;
  std::size_t number = 0;
  for (std::size_t at = 0; at <= name.size(); ++number) {
    const std::size_t end = std::min(name.find_first_of("_-@.", at), name.size());
    const std::string_view part = name.substr(at, end - at);
    at = end + 1;
    const bool letters = detail::all_letters(part);
    const bool digits = std::all_of(part.begin(), part.end(), [](char c) { return c >= '0' && c <= '9'; });
    const std::string lower = cased(part, 'a', 'a');
    if (number == 0) {
      const bool code = letters && (part.size() == 2 || part.size() == 3);
      out.language = code ? detail::two_letter_code(lower) : std::string(part);  // some name of a corpus
    } else if (lower == "latin" || lower == "cyrillic") {
      out.script = lower == "latin" ? "Latn" : "Cyrl";
    } else if (letters && part.size() == 4 && out.script.empty()) {
      out.script = cased(part, 'A', 'a');
    } else if (((letters && part.size() == 2) || (digits && part.size() == 3)) && out.region.empty()) {
      out.region = cased(part, 'A', 'A');
    } else if (lower != "utf" && lower != "utf8" && lower != "8" && !part.empty()) {
      out.rest += "-" + lower;
    }
  }
  if (out.language == "zh") {  // people say where, and mean how it is written
    const auto one_of = [&](std::initializer_list<std::string_view> list) {
      return std::find(list.begin(), list.end(), out.region) != list.end();
    };
    const bool simple = one_of({"CN", "SG", "MY"}), traditional = one_of({"TW", "HK", "MO"});
    if (out.script.empty() && (simple || traditional)) out.script = simple ? "Hans" : "Hant";
    if (simple || traditional) out.region.clear();
  }
  if (out.language == "ko" && out.script == "Kore") out.script = "Hang";
  if (out.script == detail::usual_script(out.language)) out.script.clear();
  if (out.region == "XX" || detail::is_home_region(out.language, out.region)) out.region.clear();  // mBART's en_XX
  return out;
}

/// True for codes of ISO 639 that have a two-letter form, in lower case: "de", "deu", not "txt".
inline bool is_language_code(std::string_view code) {
  return code.size() >= 2 && code.size() <= 3 && detail::all_letters(code) &&
         detail::kLanguageCodes.find(" " + detail::two_letter_code(std::string(code)) + ",") != std::string_view::npos;
}

/// The two-letter code of a name's language where there is one: "zh" of zho_Hans.
inline std::string base_language(std::string_view name) { return language_name(name).language; }

/// True for de and deu_Latn, da and da_DK, zh_TW and zho_Hant; not for pt and pt_BR.
inline bool same_language(std::string_view a, std::string_view b) { return language_name(a) == language_name(b); }

/// The one of `known` that `asked` names: by the very name, by an equal one, else by the only one that fits (zh fits
/// zh_CN, and zho_Hans fits zh). Empty where there is none or several fit.
inline std::string find_language(std::string_view asked, const std::vector<std::string>& known) {
  for (const auto& name : known)
    if (name == asked) return name;
  const LanguageName wanted = language_name(asked);
  std::vector<std::string> equal, fitting;
  for (const auto& name : known) {
    const LanguageName has = language_name(name);
    if (has == wanted) equal.push_back(name);
    // A script of its own is another text where the language has a usual one; a region is, wherever it is named.
    const bool script = has.script == wanted.script ||
                        ((has.script.empty() || wanted.script.empty()) && detail::usual_script(has.language).empty());
    const bool region = has.region == wanted.region || wanted.region.empty();
    if (has.language == wanted.language && has.rest == wanted.rest && script && region) fitting.push_back(name);
  }
  if (equal.size() == 1) return equal[0];
  return equal.empty() && fitting.size() == 1 ? fitting[0] : std::string();
}

/// find_language, or an Error that lists what there is: "--to: the model does not know the language 'xx'; ...".
inline const std::string& require_language(std::string_view asked, const std::vector<std::string>& known,
                                           std::string_view who) {
  const std::string found = find_language(asked, known);
  std::string all;
  for (const auto& name : known) {
    if (name == found && !found.empty()) return name;
    all += (all.empty() ? "" : ", ") + name;
  }
  fail(who, " does not know the language '", asked, "'; it knows ", all);
}

}  // namespace sparsemoe::inline SPARSEMOE_ABI
