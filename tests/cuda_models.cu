// SPDX-License-Identifier: Apache-2.0
// cuda_models.cu -- whole models on a GPU: loss and every gradient of a training step agree with the CPU's, for every
// built-in router. Compiled and linked wherever nvcc is; without a device it says so and is skipped (status 77).
// Read next: tests/model_body.hpp, tests/cuda_backend.cu for the verbs alone.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cmath>
#include <cstdio>

#include "sparsemoe/backend/cuda.hpp"
#include "sparsemoe/routers/hash.hpp"
#include "sparsemoe/routers/sentence.hpp"
#include "sparsemoe/routers/switch.hpp"
#include "sparsemoe/routers/task.hpp"
#include "sparsemoe/routers/top_k.hpp"
#include "tests/model_body.hpp"

namespace {

using namespace model_body;

template <class RouterType, class BackendType>
struct On : SpecDefaults {
  using Router = RouterType;
  using Precision = Fp32;
  using Backend = BackendType;
  using Collective = Solo;
};

/// A host array in the memory of backend B.
template <class B, class T>
class Copied {
 public:
  Copied(typename B::Context& ctx, const std::vector<T>& host) : room_(host.size() * sizeof(T)) {
    B::copy_from_host(ctx, room_.template as<T>(), host.data(), static_cast<index_t>(host.size()));
  }
  const T* data() const { return room_.template as<T>(); }

 private:
  Buffer<typename B::Memory> room_;
};

struct StepResult {
  double loss = 0;
  std::vector<float> gradient;
};

template <class B, class E, class D>
StepResult step(const EncoderDecoderConfig& config, const CopyBatch& b) {
  typename B::Context ctx;
  EncoderDecoder<On<E, B>, On<D, B>> model(ctx, config);
  model.weights.initialise(ctx, 5);
  ctx.training = true;
  ctx.random = {7, 3, 0};
  const Copied<B, std::int32_t> source(ctx, b.source), target(ctx, b.target), labels(ctx, b.labels), task(ctx, b.task);
  const Copied<B, std::uint8_t> source_valid(ctx, b.source_valid), target_valid(ctx, b.target_valid);
  const Seq2SeqBatch batch{{b.sentences, b.length, source.data(), source_valid.data(), task.data(), 0, nullptr},
                           {b.sentences, b.target_length, target.data(), target_valid.data(), task.data(), 0, nullptr},
                           labels.data()};
  Solo solo;
  const LossSums sums = model.loss(ctx, batch, solo, 0.01, 1);
  StepResult result{sums.loss, std::vector<float>(static_cast<std::size_t>(model.weights.total()))};
  B::copy_to_host(ctx, result.gradient.data(), model.weights.gradient(), model.weights.total());
  return result;
}

template <class E, class D>
void agrees(double capacity_factor = 0) {
  EncoderDecoderConfig config = model_config(50, 32, true);
  config.encoder.dropout = config.decoder.dropout = 0.1;
  config.encoder.moe.jitter = 0.01;
  config.encoder.moe.capacity_factor = capacity_factor;
  const CopyBatch batch(9, 7, 50, 13);
  const StepResult host = step<Cpu, E, D>(config, batch), device = step<Cuda, E, D>(config, batch);
  CHECK(device.loss == doctest::Approx(host.loss).epsilon(1e-4));
  double worst = 0, scale = 0;
  for (std::size_t i = 0; i < host.gradient.size(); ++i) {
    worst =
        std::fmax(worst, std::fabs(static_cast<double>(host.gradient[i]) - static_cast<double>(device.gradient[i])));
    scale = std::fmax(scale, std::fabs(static_cast<double>(host.gradient[i])));
  }
  CHECK(worst <= 1e-4 * scale);
}

TEST_CASE("token and task routing agree with the CPU") { agrees<TopK<2>, Task>(); }
TEST_CASE("switch with capacity and sentence routing agree with the CPU") { agrees<Switch, Sentence>(1.0); }
TEST_CASE("gshard and hash routing agree with the CPU") { agrees<GShard<>, Hash>(); }
TEST_CASE("dense and static routing agree with the CPU") { agrees<Dense, StaticTask>(); }

}  // namespace

int main(int argc, char** argv) {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::puts("SKIPPED: no CUDA device");
    return 77;
  }
  return doctest::Context(argc, argv).run();
}
