// SPDX-License-Identifier: Apache-2.0
// test_roles.cpp -- what every leaf of a model says it is, and in which stack and layer.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <map>

#include "sparsemoe/model/weights.hpp"
#include "sparsemoe/optim/optimiser.hpp"
#include "sparsemoe/sparsemoe.hpp"

using namespace sparsemoe;

namespace {

template <class Router_>
struct Spec : SpecDefaults {
  using Precision = Fp64;
  using Backend = CpuSequential;
  using Collective = Solo;
  using Router = Router_;
};

EncoderDecoderConfig small() {
  EncoderDecoderConfig c;
  c.vocabulary = 11;
  c.tie_embeddings = false;
  c.encoder.layers = 2;
  c.encoder.width = 8;
  c.encoder.heads = 2;
  c.encoder.head_width = 4;
  c.encoder.hidden = 16;
  c.encoder.bias = true;
  c.encoder.moe.experts = 4;
  c.encoder.moe.tasks = 3;
  c.decoder = c.encoder;
  return c;
}

/// "role stack layer" of every leaf, by name.
std::map<std::string, std::string> roles(const std::vector<ParamInfo>& list) {
  const char* role[] = {"dense", "gate", "expert", "expert_bias", "embedding", "norm"};
  const char* stack[] = {"none", "encoder", "decoder"};
  std::map<std::string, std::string> said;
  for (const ParamInfo& p : list)
    said[p.name] = join(role[static_cast<int>(p.role)], " ", stack[static_cast<int>(p.stack)], " ", p.layer);
  return said;
}

}  // namespace

TEST_CASE("every leaf of a translator says its role, its stack and its layer") {
  EncoderDecoderConfig c = small();
  c.encoder.moe.shared_hidden = 4;
  Seq2Seq<Encoder<Spec<NoisyTopK<2>>>, Decoder<Spec<Task>>> model(c, Encoder<Spec<NoisyTopK<2>>>(c.encoder),
                                                                  Decoder<Spec<Task>>(c.decoder));
  auto said = roles(list_weights(model));
  CHECK(said["shared.weight"] == "embedding none -1");
  CHECK(said["lm_head.weight"] == "embedding none -1");
  CHECK(said["encoder.layers.0.ffn.wi"] == "dense encoder 0");
  CHECK(said["encoder.layers.0.ffn.bi"] == "dense encoder 0");
  CHECK(said["encoder.layers.1.moe.experts.wi"] == "expert encoder 1");
  CHECK(said["encoder.layers.1.moe.experts.wo"] == "expert encoder 1");
  CHECK(said["encoder.layers.1.moe.experts.bo"] == "expert_bias encoder 1");
  CHECK(said["encoder.layers.1.moe.shared.wi"] == "dense encoder 1");
  CHECK(said["encoder.layers.1.moe.router.weight"] == "gate encoder 1");
  CHECK(said["encoder.layers.1.moe.router.noise"] == "gate encoder 1");
  CHECK(said["encoder.layers.0.self_attention.q.weight"] == "dense encoder 0");
  CHECK(said["encoder.layers.0.self_attention_norm.weight"] == "norm encoder 0");
  CHECK(said["encoder.final_norm.weight"] == "norm encoder -1");
  CHECK(said["decoder.layers.1.cross_attention.o.bias"] == "dense decoder 1");
  CHECK(said["decoder.layers.1.moe.router.weight"] == "gate decoder 1");
  CHECK(said["decoder.layers.1.moe.experts.wi"] == "expert decoder 1");
  CHECK(said.count("") == 0);
}

TEST_CASE("experts are factored because they are experts, however many there are") {
  CpuSequential::Context ctx;
  std::vector<ParamInfo> list = {{"experts", 0, stack_of<float>(1, 8, 8), Init::zero(), Role::expert},
                                 {"stack", 64, stack_of<float>(2, 8, 8), Init::zero()},
                                 {"matrix", 192, matrix_of<float>(8, 8), Init::zero()}};
  const UpdatePlan<CpuSequential> plan(ctx, list, 4, NormScope::batch_item, true, Factoring::experts);
  REQUIRE(plan.items().size() == 4);
  CHECK(plan.items()[0].factored);
  CHECK_FALSE(plan.items()[1].factored);
  CHECK_FALSE(plan.items()[2].factored);
  CHECK_FALSE(plan.items()[3].factored);
}
