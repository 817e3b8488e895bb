// convert.cpp -- sparsemoe-convert: a Hugging Face checkpoint into the names of this library and back, into another
// type or into shards; what has no place in our models is refused by name.
//   sparsemoe-convert flan-t5-small ours --layout sparsemoe
//   sparsemoe-convert ours back --dtype BF16 --shard-bytes 2000000000
#include <CLI/CLI.hpp>
#include <filesystem>
#include <string>

#include "sparsemoe/backend/cpu.hpp"
#include "sparsemoe/hf/any_model.hpp"
#include "sparsemoe/io/options.hpp"
#include "sparsemoe/io/run_main.hpp"

namespace {

namespace fs = std::filesystem;
using namespace sparsemoe;

constexpr const char* own_file = "sparsemoe.safetensors";  // beside config.json, in the layout of this library

struct Options {
  fs::path in, out;
  std::string layout = "huggingface", dtype;
  std::uint64_t shard_bytes = hf::Export{}.shard_bytes;
};

DType dtype_of_config(const hf::Config& config) {
  const std::string name = config.text("torch_dtype", "float32");
  constexpr DType types[] = {DType::kF32, DType::kF16, DType::kBF16};
  return types[config.one_of("torch_dtype", name, {"float32", "float16", "bfloat16"})];
}

int convert(const Options& o) {
  require(!fs::exists(fs::symlink_status(o.out)), o.out.string(), ": already exists; not overwritten");
  const hf::Config config(o.in);
  Cpu::Context ctx;
  hf::with_model<Fp32, Cpu>(ctx, config, false, [&](auto& model, const hf::NameMap& names) {
    const bool ours = fs::exists(o.in / own_file);
    if (ours)
      load_weights<Fp32, Cpu>(ctx, model.weights, o.in / own_file);
    else
      hf::load(ctx, model.weights, names, hf::Tensors(o.in));
    say(o.in.string(), ": a ", names.family, " model, ", model.weights.count(), " parameters");
    if (o.layout == "huggingface") {
      hf::Export how{o.dtype.empty() ? dtype_of_config(config) : *dtype_from_name(o.dtype), o.shard_bytes};
      hf::save(ctx, model.weights, names, config, o.out, how);
    } else {
      AtomicDirectory target(o.out);
      save_weights<Fp32, Cpu>(ctx, model.weights, {}, target.path() / own_file);
      write_json(target.path() / "config.json", config.json());
      target.commit();
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
  app.add_option("--dtype", o.dtype, "F32, F16 or BF16 (default: torch_dtype of config.json)")
      ->check(CLI::IsMember({"F32", "F16", "BF16"}));
  app.add_option("--shard-bytes", o.shard_bytes, "Most bytes of tensors in one file")->check(CLI::PositiveNumber);
  if (const auto status = parse_arguments(app, argc, argv)) return *status;
  return convert(o);
}

}  // namespace

int main(int argc, char** argv) { return sparsemoe::run_main("sparsemoe-convert", argc, argv, program); }
