// tools/conformance/optim.hpp -- optimisers, clipping and schedules along the reference's trajectories.
#pragma once

#include "case.hpp"
#include "sparsemoe/optim/adafactor.hpp"
#include "sparsemoe/optim/adamw.hpp"
#include "sparsemoe/optim/basic.hpp"
#include "sparsemoe/optim/clip.hpp"
#include "sparsemoe/optim/schedule.hpp"

namespace conformance {

/// The parameters <prefix>... in our flat layout, in the order of the columns of effective_lr.
inline std::vector<ParamInfo> parameter_list(const Case& c, const std::string& prefix, index_t* total) {
  std::vector<ParamInfo> list;
  *total = 0;
  for (const char* name : {"matrix", "vector", "tensor3", "row"}) {
    const auto s = c.shape(prefix + name);
    const Tensor<float> t = s.size() == 1   ? vector_of<float>(s[0])
                            : s.size() == 2 ? matrix_of<float>(s[0], s[1])
                                            : stack_of<float>(s[0], s[1], s[2]);
    list.push_back({name, *total, t, Init::zero()});
    *total += reserved(t, Init::zero());
  }
  return list;
}

template <class P, class O>
void follow(Run<P>& run, const typename O::Config& config) {
  using M = typename P::master;
  index_t total = 0;
  const auto list = parameter_list(run.c, "in/param/", &total);
  O optimiser(run.ctx, list, config);
  std::vector<M> theta(static_cast<std::size_t>(total)), gradient(theta.size());
  std::vector<std::vector<M>> all;
  std::vector<Values> trajectory(list.size());
  Values rates;
  for (const ParamInfo& p : list) {
    const auto start = run.in("param/" + p.name);
    std::copy(start.begin(), start.end(), theta.begin() + p.offset);
    all.push_back(run.in("grads/" + p.name));
  }
  const double lr = run.c.params().value("lr", 0.0);
  for (index_t step = 1; step <= run.c.size("steps"); ++step) {
    for (std::size_t i = 0; i < list.size(); ++i)
      std::copy_n(all[i].begin() + (step - 1) * list[i].shape.size(), list[i].shape.size(),
                  gradient.begin() + list[i].offset);
    optimiser.update(run.ctx, theta.data(), gradient.data(), 1, theta.data(), step, lr);
    run.ctx.arena.reset();
    for (std::size_t i = 0; i < list.size(); ++i) {
      const auto first = theta.begin() + list[i].offset;
      trajectory[i].insert(trajectory[i].end(), first, first + list[i].shape.size());
    }
    if constexpr (requires { optimiser.effective_learning_rates(run.ctx); }) {
      const auto one = optimiser.effective_learning_rates(run.ctx);
      std::int32_t tensor = -1;
      for (std::size_t i = 0; i < one.size(); ++i) {
        const auto& item = optimiser.plan().items()[i];
        if (item.tensor != tensor) rates.push_back(one[i]);
        tensor = item.tensor;
      }
    }
  }
  for (std::size_t i = 0; i < list.size(); ++i) run.compare("param_after_step/" + list[i].name, trajectory[i]);
  if (!rates.empty()) run.compare("effective_lr", rates);

  std::map<std::string, std::vector<M>> state;
  optimiser.visit_state([&](const std::string& name, M* data, index_t n) {
    state[name.substr(name.find('.') + 1)].assign(data, data + n);
  });
  const auto part = [&](const std::string& ours, index_t offset, const std::string& theirs) {
    const std::string name = "final_state/" + theirs;
    if (!run.c.has("f64/" + name) || state.find(ours) == state.end()) return;
    const auto first = state[ours].begin() + offset;
    run.compare(name, std::vector<M>(first, first + static_cast<std::ptrdiff_t>(run.c.values("f64/" + name).size())));
  };
  for (const ParamInfo& p : list) {
    part("first", p.offset, p.name + "/exp_avg");
    part("second", p.offset, p.name + "/exp_avg_sq");
    part("largest", p.offset, p.name + "/max_exp_avg_sq");
    part("momentum", p.offset, p.name + "/exp_avg");
    part("momentum", p.offset, p.name + "/momentum_buffer");
    part("sum", p.offset, p.name + "/sum");
  }
  if constexpr (requires { optimiser.effective_learning_rates(run.ctx); }) {
    std::int32_t tensor = -1;
    for (const UpdateItem& m : optimiser.plan().items()) {
      if (m.tensor == tensor) continue;  // the items of a tensor lie one behind the other, as in the reference
      tensor = m.tensor;
      const std::string& name = list[static_cast<std::size_t>(tensor)].name;
      part("row", m.row_state, name + "/exp_avg_sq_row");
      part("col", m.col_state, name + "/exp_avg_sq_col");
      if (!m.factored) part("full", m.row_state, name + "/exp_avg_sq");
    }
  }
}

template <class P>
void adafactor_case(Run<P>& run) {
  const json& p = run.c.params();
  typename Adafactor<P, Cpu>::Config config;
  config.relative_step = p.value("relative_step", false);
  config.scale_parameter = p.value("scale_parameter", true);
  config.warmup_init = p.value("warmup_init", false);
  config.clip_threshold = p.value("clip_threshold", 1.0);
  config.decay_rate = p.value("decay_rate", -0.8);
  config.beta1 = p.value("beta1", 0.0);
  config.weight_decay = p.value("weight_decay", 0.0);
  if (p.contains("eps")) config.eps1 = p.at("eps")[0], config.eps2 = p.at("eps")[1];
  config.norms = NormScope::tensor;
  follow<P, Adafactor<P, Cpu>>(run, config);
}
template <class P>
void adam_case(Run<P>& run) {
  const json& p = run.c.params();
  const std::string kind = run.c.entry().at("kind");
  typename AdamW<P, Cpu>::Config config;
  if (p.contains("betas")) config.beta1 = p.at("betas")[0], config.beta2 = p.at("betas")[1];
  config.eps = p.value("eps", 1e-8);
  config.weight_decay = p.value("weight_decay", kind == "optimizer/adamw" ? 0.01 : 0.0);  // torch's defaults
  config.decay = kind == "optimizer/adam" ? Decay::l2 : kind == "optimizer/adamw" ? Decay::before : Decay::after;
  config.correct_bias = p.value("correct_bias", true);
  config.amsgrad = p.value("amsgrad", false);
  follow<P, AdamW<P, Cpu>>(run, config);
}
template <class P>
void sgd_case(Run<P>& run) {
  const json& p = run.c.params();
  typename Sgd<P, Cpu>::Config config;
  config.momentum = p.value("momentum", 0.0);
  config.nesterov = p.value("nesterov", false);
  config.weight_decay = p.value("weight_decay", 0.0);
  follow<P, Sgd<P, Cpu>>(run, config);
}
template <class P>
void adagrad_case(Run<P>& run) {
  follow<P, Adagrad<P, Cpu>>(run, {});
}
template <class P>
void clip_case(Run<P>& run) {
  using S = typename P::storage;
  index_t total = 0;
  const auto list = parameter_list(run.c, "in/grad/", &total);
  std::vector<S> gradient(static_cast<std::size_t>(total));
  for (const ParamInfo& p : list) {
    const auto values = run.in("grad/" + p.name);
    std::copy(values.begin(), values.end(), gradient.begin() + p.offset);
  }
  const double norm = gradient_norm<Cpu>(run.ctx, gradient.data(), total).norm();
  const Case& c = run.c;
  const double factor = clip_factor(norm, c.params().at("max_norm").get<double>());
  run.compare("total_norm", Values{norm});
  for (const ParamInfo& p : list) {
    std::vector<S> mine(gradient.begin() + p.offset, gradient.begin() + p.offset + p.shape.size());
    for (S& v : mine) v = static_cast<S>(v * factor);
    run.compare("grad/" + p.name, mine);
  }
}
template <class P>
void schedule_case(Run<P>& run) {
  const Case& c = run.c;
  const json& p = c.params();
  const std::string kind = c.entry().at("kind").get<std::string>().substr(9);
  Schedule s;
  s.peak = p.value("lr_init", 1.0);
  s.warmup = p.value("num_warmup_steps", p.value("warmup", index_t(0)));
  s.total = p.value("num_training_steps", index_t(0));
  s.floor = p.value("lr_end", 0.0);
  s.power = p.value("power", 1.0);
  s.cycles = p.value("num_cycles", 0.5);
  s.timescale = p.value("timescale", index_t(0));
  s.kind =
      kind == "constant_with_warmup" ? Schedule::Kind::constant : schedule_kind(kind == "t5_rsqrt" ? "rsqrt" : kind);
  s.check();
  Values mine;
  for (index_t t = 0; t < run.c.size("steps"); ++t) mine.push_back(s.at(t));
  run.compare("lr", mine);
}

}  // namespace conformance
