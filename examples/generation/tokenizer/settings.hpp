// SPDX-License-Identifier: Apache-2.0
// settings.hpp -- what the small files of a tokenizer say: tokenizer_config.json, special_tokens_map.json and
// added_tokens.json. Every key is read, known to have no effect here, or refused by name; docs/tokenizers.md has the
// list. Read next: sentencepiece_tokenizer.hpp, pipeline.hpp.
#pragma once

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "added_tokens.hpp"
#include "language_codes.hpp"
#include "sparsemoe/hf/config.hpp"

namespace generation {

/// The tokenizers of transformers that run here.
enum class TokenizerClass { t5, nllb, m2m100, llama, byt5, json_alone };

/// Special tokens with a name, in the order in which transformers gives ids to those that have none.
inline constexpr std::array<const char*, 7> named_tokens = {"bos_token", "eos_token", "unk_token", "sep_token",
                                                            "pad_token", "cls_token", "mask_token"};

/// Keys of tokenizer_config.json that are read. The values that some must have follow in Settings.
inline constexpr std::string_view config_keys =
    "tokenizer_class added_tokens_decoder additional_special_tokens extra_special_tokens bos_token eos_token unk_token "
    "sep_token pad_token cls_token mask_token legacy legacy_behaviour add_prefix_space add_bos_token add_eos_token "
    "extra_ids clean_up_tokenization_spaces language_codes sp_model_kwargs split_special_tokens do_lower_case "
    "model_specific_special_tokens auto_map";
/// Keys without effect on the ids and the text of one line: about batches, truncation, chats and where files came from.
inline constexpr std::string_view config_keys_without_effect =
    "name_or_path model_max_length padding padding_side truncation truncation_side truncation_strategy max_length "
    "stride "
    "pad_token_type_id pad_to_multiple_of src_lang tgt_lang special_tokens_map_file tokenizer_file vocab_file spm_file "
    "merges_file chat_template use_default_system_prompt spaces_between_special_tokens backend is_local "
    "local_files_only processor_class model_input_names unk_id init_inputs special_tokens verbose num_madeup_words "
    "use_fast from_slow max_model_input_sizes transformers_version device_map _commit_hash revision add_dummy_prefix "
    "trust_remote_code tokenizer_type fix_mistral_regex return_token_type_ids token files_loaded local_cache subfolder";

struct Settings {
  fs::path directory, config_path;
  TokenizerClass kind = TokenizerClass::t5;
  std::vector<AddedToken> added;                  // with the ids that the files say
  std::map<std::string, AddedToken> named;        // bos_token ... mask_token
  std::optional<std::vector<AddedToken>> others;  // additional (or extra) special tokens, if the files have a list
  std::optional<std::int64_t> extra_ids;
  std::optional<bool> add_bos, add_eos, add_prefix_space;
  std::string language_codes = "m2m100";
  bool legacy = true, legacy_behaviour = false, clean_up = false;
  bool has_decoder = false;  // "added_tokens_decoder", which comes before what tokenizer.json says of its tokens

  /// Whether a text is among the special tokens.
  bool special(const std::string& content) const {
    for (const auto& [name, token] : named)
      if (token.content == content) return true;
    if (!others) return false;
    return std::any_of(others->begin(), others->end(), [&](const auto& t) { return t.content == content; });
  }
};

namespace steps {

/// The tokenizer's class: of tokenizer_config.json, else of config.json, else that of the model's type.
inline TokenizerClass class_of(const moe::hf::Config& model, const moe::hf::Config& own) {
  const bool here = own.has("tokenizer_class");
  std::string name = here ? own.text("tokenizer_class", "") : model.text("tokenizer_class", "");
  if (name.ends_with("Fast") && !name.starts_with("PreTrained")) name.resize(name.size() - 4);
  const std::map<std::string, TokenizerClass> classes = {
      {"T5Tokenizer", TokenizerClass::t5},
      {"MT5Tokenizer", TokenizerClass::t5},
      {"NllbTokenizer", TokenizerClass::nllb},
      {"M2M100Tokenizer", TokenizerClass::m2m100},
      {"LlamaTokenizer", TokenizerClass::llama},
      {"ByT5Tokenizer", TokenizerClass::byt5},
      {"PreTrainedTokenizerFast", TokenizerClass::json_alone},
      {"TokenizersBackend", TokenizerClass::json_alone},
  };
  if (const auto at = classes.find(name); at != classes.end()) return at->second;
  if (!name.empty()) {
    std::string known;
    for (const auto& [one, kind] : classes) known += (known.empty() ? "" : ", ") + one;
    moe::fail_file(here ? own.path() : model.path(), "key \"tokenizer_class\" is ", moe::detail::shown(name),
                   ", expected one of ", known);
  }
  const auto type = model.get<std::string>("model_type");
  if (type == "nllb-moe") return TokenizerClass::nllb;
  if (type == "m2m_100") {
    const bool m2m100 = fs::exists(model.path().parent_path() / "vocab.json");
    return m2m100 ? TokenizerClass::m2m100 : TokenizerClass::nllb;
  }
  return type == "mixtral" ? TokenizerClass::llama : TokenizerClass::t5;
}

/// The special tokens of a class whose files do not name them.
inline std::map<std::string, AddedToken> default_tokens(TokenizerClass kind) {
  std::map<std::string, AddedToken> named;
  if (kind == TokenizerClass::json_alone) return named;
  named["eos_token"] = {.content = "</s>"};
  named["unk_token"] = {.content = "<unk>"};
  if (kind != TokenizerClass::llama) named["pad_token"] = {.content = "<pad>"};
  const bool fairseq = kind == TokenizerClass::nllb || kind == TokenizerClass::m2m100;
  if (fairseq || kind == TokenizerClass::llama) named["bos_token"] = {.content = "<s>"};
  if (fairseq) named["sep_token"] = {.content = "</s>"};
  if (kind == TokenizerClass::nllb) {
    named["cls_token"] = {.content = "<s>"};
    named["mask_token"] = {.content = "<mask>", .lstrip = true, .normalized = true};
  }
  if (kind == TokenizerClass::byt5)
    for (auto& [name, token] : named) token.lstrip = token.rstrip = true;
  return named;
}

/// A list of tokens, or an object of names and tokens (transformers 5 names the special tokens of a model so).
inline std::vector<AddedToken> token_list(const moe::Json& json, const fs::path& path, const std::string& key) {
  if (!json.is_array() && !json.is_object())
    moe::fail_file(path, "key \"", key, "\" must be a list of tokens, got ", moe::detail::shown_json(json));
  std::vector<AddedToken> list;
  for (const auto& [name, value] : json.items()) {
    AddedToken token = token_from_json(value, path, moe::join(key, "[", name, "]"));
    token.special = true;
    list.push_back(token);
  }
  return list;
}

/// Special tokens of tokenizer_config.json or special_tokens_map.json; `null` is none.
inline void read_special_tokens(const moe::hf::Config& file, Settings& s) {
  for (const char* name : named_tokens) {
    const auto at = file.json().find(name);
    if (at == file.json().end()) continue;
    if (at->is_null()) {
      s.named.erase(name);
      continue;
    }
    AddedToken as = s.named.count(name) != 0 ? s.named[name] : AddedToken{};
    as = token_from_json(*at, file.path(), name, as);
    as.special = true;
    s.named[name] = as;
  }
  for (const char* name : {"additional_special_tokens", "extra_special_tokens"}) {
    if (!file.has(name)) continue;
    const auto list = token_list(file.json()[name], file.path(), name);
    if (file.json()[name].is_object() && list.empty()) continue;  // what 4.x writes beside the list
    if (!s.others) s.others.emplace();
    for (const AddedToken& token : list) {
      const bool known = std::any_of(s.others->begin(), s.others->end(),
                                     [&](const AddedToken& t) { return t.content == token.content; });
      if (!known) s.others->push_back(token);
    }
  }
}

inline void check_keys(const moe::hf::Config& file, std::string_view known) {
  const auto names = words_of(known);
  for (const auto& [key, value] : file.json().items())
    if (std::find(names.begin(), names.end(), key) == names.end())
      moe::fail_file(file.path(), "has an unknown key ", moe::detail::shown(key));
}

/// added_tokens.json: {"token": id}. A token is special if another file says so.
inline void read_added_tokens(const moe::hf::Config& file, Settings& s) {
  for (const auto& [content, id] : file.json().items()) {
    if (content.empty()) moe::fail_file(file.path(), "has an empty token");
    const bool special = s.special(content);
    s.added.push_back(
        {.content = content, .id = id_from_json(id, file.path(), content), .normalized = !special, .special = special});
  }
}

/// "added_tokens_decoder": {"id": token}.
inline void read_added_tokens_decoder(const moe::hf::Config& own, Settings& s) {
  const moe::Json& decoder = own.json()["added_tokens_decoder"];
  if (!decoder.is_object())
    moe::fail_file(own.path(), "key \"added_tokens_decoder\" must be an object, got ",
                   moe::detail::shown_json(decoder));
  for (const auto& [key, value] : decoder.items()) {
    const std::string where = "added_tokens_decoder." + key;
    const bool digits = !key.empty() && key.size() <= 10 && key.find_first_not_of("0123456789") == std::string::npos;
    if (!digits || !value.is_object())
      moe::fail_file(own.path(), "key ", moe::detail::shown(where), " must be an id with an object, got ",
                     moe::detail::shown_json(value));
    AddedToken token = token_from_json(value, own.path(), where, plain_token());
    token.id = id_from_json(std::stoll(key), own.path(), where);
    s.added.push_back(token);
  }
}

/// Keys that must have one value, since another one would change what is done.
inline void check_fixed_values(const moe::hf::Config& own) {
  for (const char* key : {"split_special_tokens", "do_lower_case"})
    if (own.flag(key, false)) moe::fail_file(own.path(), "key \"", key, "\" is true, which is not offered");
  for (const char* key : {"sp_model_kwargs", "model_specific_special_tokens", "auto_map"})
    if (own.has(key) && !own.json()[key].empty())
      moe::fail_file(own.path(), "key \"", key, "\" is not offered, got ", moe::detail::shown_json(own.json()[key]));
}

}  // namespace steps

/// Reads the small files of the directory of `model`, its config.json. As in transformers, special_tokens_map.json and
/// added_tokens.json count only where tokenizer_config.json has no "added_tokens_decoder". Throws FileError.
inline Settings read_settings(const moe::hf::Config& model) {
  Settings s;
  s.directory = model.path().parent_path();
  s.config_path = s.directory / "tokenizer_config.json";
  const auto open = [&](const char* name) {
    return fs::exists(fs::symlink_status(s.directory / name))
               ? moe::hf::Config(s.directory, name)
               : moe::hf::Config(moe::Json::object(), s.directory / name);
  };
  const moe::hf::Config own = open("tokenizer_config.json");
  steps::check_keys(own, moe::join(config_keys, ' ', config_keys_without_effect));
  steps::check_fixed_values(own);
  s.kind = steps::class_of(model, own);
  s.named = steps::default_tokens(s.kind);
  steps::read_special_tokens(own, s);
  const auto flag = [&](const char* key, std::optional<bool>& value) {
    if (own.has(key)) value = own.flag(key, false);
  };
  flag("add_bos_token", s.add_bos);
  flag("add_eos_token", s.add_eos);
  flag("add_prefix_space", s.add_prefix_space);
  s.legacy = own.flag("legacy", true);
  s.legacy_behaviour = own.flag("legacy_behaviour", false);
  s.clean_up = own.flag("clean_up_tokenization_spaces", false);
  if (own.has("language_codes")) {
    s.language_codes = own.text("language_codes", "");
    own.one_of("language_codes", s.language_codes, {"m2m100", "wmt21"});
  }
  if (own.has("extra_ids")) {
    s.extra_ids = own.get<std::int64_t>("extra_ids");
    if (*s.extra_ids < 0 || *s.extra_ids > 10'000)
      moe::fail_file(own.path(), "key \"extra_ids\" is ", *s.extra_ids, ", expected 0 to 10000");
  }
  const moe::hf::Config map = open("special_tokens_map.json"), added = open("added_tokens.json");
  steps::check_keys(map,
                    "bos_token eos_token unk_token sep_token pad_token cls_token mask_token "
                    "additional_special_tokens extra_special_tokens");
  s.has_decoder = own.has("added_tokens_decoder");
  if (s.has_decoder) {
    steps::read_added_tokens_decoder(own, s);
  } else {
    steps::read_special_tokens(map, s);
    steps::read_added_tokens(added, s);
  }
  for (auto& [name, token] : s.named)  // their properties are where their ids are
    for (const AddedToken& one : s.added)
      if (one.content == token.content) token = one;
  return s;
}

}  // namespace generation
