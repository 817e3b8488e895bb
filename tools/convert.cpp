// SPDX-License-Identifier: Apache-2.0
// convert.cpp -- sparsemoe-convert: a Hugging Face checkpoint into the names of this library and back, into another
// type or into shards; what has no place in our models is refused by name. Types and bits stay unless --dtype asks for
// others, and the files of the tokenizer and of generation come along.
//   sparsemoe-convert flan-t5-small ours --layout sparsemoe
//   sparsemoe-convert ours back --dtype BF16 --shard-bytes 2000000000
#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "sparsemoe/backend/cpu.hpp"
#include "sparsemoe/hf/any_model.hpp"
#include "sparsemoe/io/options.hpp"
#include "sparsemoe/io/run_main.hpp"

namespace {

namespace fs = std::filesystem;
using namespace sparsemoe;

constexpr std::array<DType, 3> written_types = {DType::kF32, DType::kF16, DType::kBF16};
constexpr const char* chat_templates = "additional_chat_templates";  // a directory of *.jinja
constexpr const char* types_key = "huggingface_types";  // in the metadata of our file: {"": type, "tensor": type, ...}

struct Options {
  fs::path in, out;
  std::string layout = "huggingface", dtype;
  std::uint64_t shard_bytes = hf::Export{}.shard_bytes;
};

/// The types that tensors of a Hugging Face directory have, by their names there; "": of those that are not listed.
using Types = std::map<std::string, DType>;

/// What config.json says: `dtype`, else `torch_dtype`, else nothing.
std::string type_of_config(const hf::Config& config) {
  for (const char* key : {"dtype", "torch_dtype"}) {
    if (!config.has(key)) continue;
    const auto name = config.get<std::string>(key);
    config.one_of(key, name, {"float32", "float16", "bfloat16"});
    return name;
  }
  return {};
}
DType dtype_of_name(const std::string& name) {
  return *std::find_if(written_types.begin(), written_types.end(),
                       [&](DType d) { return name == hf::parts::torch_name(d); });
}

/// The types of the tensors of `in`, the commonest one as "". A tied tensor may be there under another of its names.
Types types_of_tensors(const fs::path& in, const hf::NameMap& names) {
  Types types;
  std::map<DType, std::size_t> count;
  const hf::Tensors tensors(in);
  for (const auto& t : tensors.all()) {
    DType dtype = t.info->dtype;
    if (dtype == DType::kF64) say(in.string(), ": tensor '", t.info->name, "' is F64, and becomes F32");
    if (std::find(written_types.begin(), written_types.end(), dtype) == written_types.end()) dtype = DType::kF32;
    types[t.info->name] = dtype;
    ++count[dtype];
  }
  for (const auto& [alias, original] : names.aliases)
    if (types.count(alias) != 0) types.emplace(original, types[alias]);
  DType most = DType::kF32;
  for (const auto& [dtype, n] : count)
    if (n > count[most]) most = dtype;
  std::erase_if(types, [&](const auto& one) { return one.second == most; });
  types[""] = most;
  return types;
}

/// The types that a file of ours remembers, else the one of config.json.
Types types_of_own(const fs::path& file, const hf::Config& config) {
  const SafetensorsReader reader(file);
  Types types;
  const auto at = reader.metadata().find(types_key);
  const Json json = at == reader.metadata().end() ? Json::object() : parse_json(at->second, file);
  if (!json.is_object()) fail_file(file, "metadata \"", types_key, "\" must be an object");
  for (const auto& [tensor, name] : json.items()) {
    const auto dtype = dtype_from_name(name.is_string() ? name.get<std::string>() : std::string());
    if (!dtype || std::find(written_types.begin(), written_types.end(), *dtype) == written_types.end())
      fail_file(file, "metadata \"", types_key, "\" must name F32, F16 or BF16, got ", detail::shown_json(name));
    types[tensor] = *dtype;
  }
  const std::string said = type_of_config(config);
  if (types.count("") == 0) types[""] = said.empty() ? DType::kF32 : dtype_of_name(said);
  return types;
}

std::string text_of(const Types& types) {
  Json json = Json::object();
  for (const auto& [tensor, dtype] : types) json[tensor] = dtype_name(dtype);
  return json.dump();
}

/// Files that belong to a checkpoint besides config.json and its weights.
bool comes_along(const std::string& name) {
  for (const char* exact :
       {"generation_config.json", "added_tokens.json", "special_tokens_map.json", "vocab.json", "merges.txt"})
    if (name == exact) return true;
  return name.starts_with("tokenizer") || name.starts_with("chat_template") || name.ends_with(".model");
}

/// Copies them. A link gives the file that it leads to; what is neither file nor directory is refused.
void copy_files(const fs::path& from, const fs::path& to) {
  for (const auto& entry : list_directory(from)) {
    const std::string name = entry.path().filename().string();
    std::error_code ignored;
    if (!comes_along(name) || fs::is_directory(entry.path(), ignored)) continue;
    atomic_write(to / name, read_file(entry.path()));
  }
  std::error_code code;
  if (!fs::is_directory(from / chat_templates, code)) return;
  fs::create_directory(to / chat_templates, code);
  if (code) fail_file(to / chat_templates, "cannot create the directory: ", code.message());
  for (const auto& entry : list_directory(from / chat_templates)) {
    const fs::path name = entry.path().filename();
    if (name.extension() == ".jinja") atomic_write(to / chat_templates / name, read_file(entry.path()));
  }
}

template <class Model>
void save_own(Cpu::Context& ctx, Model& model, const hf::NameMap& names, const hf::Config& config, const Options& o,
              const Types& types) {
  const std::vector<float> host = model.weights.get(ctx);
  for (const hf::MappedTensor& m : hf::map_names(names, model.weights.list()))
    hf::parts::check_values(host.data() + model.weights.list()[m.leaf].offset + m.item * m.rows * m.cols,
                            m.rows * m.cols, m.name, DType::kF32);
  AtomicDirectory target(o.out);
  save_weights<Fp32, Cpu>(ctx, model.weights, {}, target.path() / hf::kOwnWeights, {{types_key, text_of(types)}});
  write_json(target.path() / "config.json", config.json());
  copy_files(o.in, target.path());
  target.commit();
}

int convert(const Options& o) {
  require(!fs::exists(fs::symlink_status(o.out)), o.out.string(), ": already exists; not overwritten");
  require(o.layout == "huggingface" || o.dtype.empty(),
          "--dtype: not with --layout sparsemoe, whose numbers are F32; give it on the way back");
  const hf::Config config(o.in);
  const std::string said = type_of_config(config);
  Cpu::Context ctx;
  hf::with_model<Fp32, Cpu>(ctx, config, false, [&](auto& model, const hf::NameMap& names) {
    const std::string warning = hf::load_directory(ctx, model.weights, names, o.in);
    if (!warning.empty()) say("warning: ", warning);
    say(o.in.string(), ": a ", names.family, " model, ", model.weights.count(), " parameters");
    Types types =
        hf::has_own_layout(o.in) ? types_of_own(o.in / hf::kOwnWeights, config) : types_of_tensors(o.in, names);
    if (!o.dtype.empty()) types = {{"", *dtype_from_name(o.dtype)}};
    if (o.layout == "huggingface") {
      hf::Export how{types[""], o.shard_bytes};
      if (o.dtype.empty()) how.config_dtype = said;
      how.add_files = [&](const fs::path& to) { copy_files(o.in, to); };
      types.erase("");
      how.dtypes = types;
      hf::save(ctx, model.weights, names, config, o.out, how);
    } else {
      save_own(ctx, model, names, config, o, types);
    }
    say(o.out.string(), ": written");
  });
  return 0;
}

int program(int argc, char** argv) {
  Options o;
  CLI::App app("Checkpoints from Hugging Face's names to ours and back; needs 8 bytes of memory a parameter",
               "sparsemoe-convert");
  app.add_option("in", o.in, "Directory with config.json and model.safetensors, shards, or sparsemoe.safetensors")
      ->required();
  app.add_option("out", o.out, "Directory to write; it must not exist")->required();
  app.add_option("--layout", o.layout, "Names of the weights: huggingface or sparsemoe (in fp32)")
      ->check(CLI::IsMember({"huggingface", "sparsemoe"}));
  app.add_option("--dtype", o.dtype, "F32, F16 or BF16 (default: each tensor's own)")
      ->check(CLI::IsMember({"F32", "F16", "BF16"}));
  app.add_option("--shard-bytes", o.shard_bytes, "Most bytes of tensors in one file")->check(CLI::PositiveNumber);
  if (const auto status = parse_arguments(app, argc, argv)) return *status;
  return convert(o);
}

}  // namespace

int main(int argc, char** argv) { return sparsemoe::run_main("sparsemoe-convert", argc, argv, program); }
