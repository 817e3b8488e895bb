// SPDX-License-Identifier: Apache-2.0
// commands/benchmark.cpp -- the command `benchmark`.
#include "../benchmark/benchmark.hpp"

#include <memory>

#include "../command.hpp"
#include "sparsemoe/io/options.hpp"

namespace nmt {

Command benchmark_command(const Words& /*words*/) {
  const auto o = std::make_shared<BenchmarkSettings>();
  const auto add = [o](CLI::App& command) { moe::add_options(command, *o); };
  return {"benchmark", "Decoding speed of token-routed, task-routed, extracted and dense models, by batch size", add,
          [o] { return Benchmark(*o).run(); }};
}

}  // namespace nmt
