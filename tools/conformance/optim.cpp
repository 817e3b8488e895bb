// SPDX-License-Identifier: Apache-2.0
// tools/conformance/optim.cpp -- optimisers and clipping along the reference's trajectories, and schedules. Any number
// of parameters, of any names and shapes: those of in/param/<name>.
#include "kinds.hpp"
#include "sparsemoe/optim/adafactor.hpp"
#include "sparsemoe/optim/adamw.hpp"
#include "sparsemoe/optim/basic.hpp"
#include "sparsemoe/optim/clip.hpp"
#include "sparsemoe/optim/schedule.hpp"

namespace conformance {

/// The tensors <prefix>... as parameters in our flat layout. Ours have at most three dimensions: a scalar is a vector
/// of one, and what lies before the last two dimensions is one batch axis.
inline std::vector<ParamInfo> parameter_list(const Case& c, const std::string& prefix, index_t* total) {
  std::vector<ParamInfo> list;
  *total = 0;
  for (const std::string& name : c.names(prefix)) {
    const auto s = c.shape(prefix + name);
    const std::size_t n = s.size();
    index_t batch = 1;
    for (std::size_t i = 0; i + 2 < n; ++i) batch *= s[i];
    const Tensor<float> t = n == 0   ? vector_of<float>(1)
                            : n == 1 ? vector_of<float>(s[0])
                            : n == 2 ? matrix_of<float>(s[0], s[1])
                                     : stack_of<float>(batch, s[n - 2], s[n - 1]);
    list.push_back({name, *total, t, Init::zero()});
    *total += reserved(t, Init::zero());
  }
  require(!list.empty(), "there is no tensor ", prefix, "...");
  return list;
}

/// The parameters in the order of effective_lr's columns, which its description gives: "... in the order a, b, c".
inline std::vector<std::size_t> columns_of(const Case& c, const std::vector<ParamInfo>& list) {
  std::vector<std::size_t> order;
  std::string text = c.description(c.expected_name("effective_lr"));
  const std::string words = "in the order ";
  if (const auto at = text.find(words); at != std::string::npos) {
    text = text.substr(at + words.size());
    if (!text.empty() && text.back() == ']') text.pop_back();
    for (std::size_t first = 0; first <= text.size();) {
      const std::size_t last = std::min(text.find(", ", first), text.size());
      const std::string name = text.substr(first, last - first);
      for (std::size_t i = 0; i < list.size(); ++i)
        if (list[i].name == name) order.push_back(i);
      first = last + 2;
    }
  } else {
    for (std::size_t i = 0; i < list.size(); ++i) order.push_back(i);
  }
  require(order.size() == list.size(), "the description of effective_lr does not name every parameter once: ", text);
  return order;
}

/// A trajectory: parameters after every step, the final state, and what the optimiser says of itself.
template <class P, class O>
struct Trajectory {
  using M = typename P::master;
  Run<P>& run;
  const Case& c = run.c;
  index_t total = 0;
  std::vector<ParamInfo> list = parameter_list(c, "in/param/", &total);
  O optimiser;
  double rate;
  index_t steps = c.size("steps");
  std::vector<M> theta, gradient;
  std::vector<std::vector<M>> gradients;
  std::vector<double> root_mean_square;  // of each parameter before the last step

  Trajectory(Run<P>& r, const typename O::Config& config, double lr)
      : run(r), optimiser(r.ctx, list, config), rate(lr), theta(static_cast<std::size_t>(total)), gradient(theta) {
    for (const ParamInfo& p : list) {
      const auto start = run.in("param/" + p.name);
      std::copy(start.begin(), start.end(), theta.begin() + p.offset);
      gradients.push_back(run.in("grads/" + p.name));
      require(static_cast<index_t>(gradients.back().size()) == steps * p.shape.size(), "in/grads/", p.name, " has ",
              gradients.back().size(), " values, expected ", steps, " times ", p.shape.size());
    }
  }

  void follow() {
    std::vector<Values> trajectory(list.size());
    Values rates;
    for (index_t step = 1; step <= steps; ++step) {
      root_mean_square.clear();
      for (std::size_t i = 0; i < list.size(); ++i) {
        const index_t n = list[i].shape.size();
        std::copy_n(gradients[i].begin() + (step - 1) * n, n, gradient.begin() + list[i].offset);
        double square = 0;
        for (index_t j = 0; j < n; ++j) square += std::pow(static_cast<double>(at(i, j)), 2);
        root_mean_square.push_back(std::sqrt(square / static_cast<double>(n)));
      }
      optimiser.update(run.ctx, theta.data(), gradient.data(), 1, theta.data(), step, rate);
      run.ctx.arena.reset();
      for (std::size_t i = 0; i < list.size(); ++i)
        for (index_t j = 0; j < list[i].shape.size(); ++j) trajectory[i].push_back(static_cast<double>(at(i, j)));
      add_rates(rates);
    }
    for (std::size_t i = 0; i < list.size(); ++i) run.compare("param_after_step/" + list[i].name, trajectory[i]);
    if (c.expects("effective_lr")) run.compare("effective_lr", rates);
    compare_state();
  }

 private:
  M at(std::size_t parameter, index_t j) const { return theta[static_cast<std::size_t>(list[parameter].offset + j)]; }
  void add_rates(Values& rates) {
    if constexpr (requires { optimiser.effective_learning_rates(run.ctx); }) {
      if (!c.expects("effective_lr")) return;
      const auto of_items = optimiser.effective_learning_rates(run.ctx);
      Values of_parameters(list.size());
      for (std::size_t i = 0; i < of_items.size(); ++i)
        of_parameters[static_cast<std::size_t>(optimiser.plan().items()[i].tensor)] = of_items[i];
      for (const std::size_t i : columns_of(c, list)) rates.push_back(of_parameters[i]);
    }
  }
  /// The reference's names of a parameter's state, and where ours is: in which buffer, from which element.
  void compare_state() {
    std::map<std::string, std::vector<M>> state;
    optimiser.visit_state([&](const std::string& name, M* data, index_t n) {
      state[name.substr(name.find('.') + 1)].assign(data, data + n);
    });
    const auto part = [&](const std::string& ours, index_t offset, const std::string& theirs) {
      const std::string name = "final_state/" + theirs;
      if (!c.expects(name) || state.find(ours) == state.end()) return;
      const std::size_t n = c.expected(name).size();
      require(static_cast<std::size_t>(offset) + n <= state[ours].size(), name, " has ", n, " values, ours has fewer");
      const auto first = state[ours].begin() + offset;
      run.compare(name, std::vector<M>(first, first + static_cast<std::ptrdiff_t>(n)));
    };
    for (std::size_t i = 0; i < list.size(); ++i) {
      const ParamInfo& p = list[i];
      if (c.expects("final_state/" + p.name + "/step"))
        run.compare("final_state/" + p.name + "/step", Values{static_cast<double>(steps)});
      if (c.expects("final_state/" + p.name + "/RMS"))
        run.compare("final_state/" + p.name + "/RMS", Values{root_mean_square[i]});
      if constexpr (requires { optimiser.plan(); }) continue;
      part("first", p.offset, p.name + "/exp_avg");
      part("second", p.offset, p.name + "/exp_avg_sq");
      part("largest", p.offset, p.name + "/max_exp_avg_sq");
      part("momentum", p.offset, p.name + "/momentum_buffer");
      part("sum", p.offset, p.name + "/sum");
    }
    if constexpr (requires { optimiser.plan(); }) {
      for (const ParamInfo& p : list) part("momentum", p.offset, p.name + "/exp_avg");
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
};

/// How torch computes, not what.
inline void torch_options(const Case& c) { c.no_effect({"foreach", "fused", "capturable", "differentiable"}); }

template <class P>
void adafactor_case(Run<P>& run) {
  const Case& c = run.c;
  typename Adafactor<P, Cpu>::Config config;
  config.relative_step = c.option("relative_step", true);
  config.scale_parameter = c.option("scale_parameter", true);
  config.warmup_init = c.option("warmup_init", false);
  config.clip_threshold = c.option("clip_threshold", 1.0);
  config.decay_rate = c.option("decay_rate", -0.8);
  config.beta1 = c.option("beta1", 0.0);
  config.weight_decay = c.option("weight_decay", 0.0);
  if (c.given("eps")) {
    const json& eps = c.object("eps");
    require(eps.is_array() && eps.size() == 2, "option eps must be two numbers, not ", eps.dump());
    config.eps1 = Case::to<double>(eps[0], "eps"), config.eps2 = Case::to<double>(eps[1], "eps");
  }
  require(!config.relative_step || !c.given("lr"), "option lr is for relative_step = false");
  if (config.beta1 == 0)  // Hugging Face keeps the last update then, ours nothing
    for (const std::string& name : c.names("in/param/")) c.not_offered("final_state/" + name + "/exp_avg");
  config.norms = NormScope::tensor;
  Trajectory<P, Adafactor<P, Cpu>>(run, config, c.option("lr", 0.0)).follow();
}
template <class P>
void adam_of(Run<P>& run, Decay decay, double weight_decay, double eps) {
  const Case& c = run.c;
  typename AdamW<P, Cpu>::Config config;
  if (c.given("betas")) {
    const json& betas = c.object("betas");
    require(betas.is_array() && betas.size() == 2, "option betas must be two numbers, not ", betas.dump());
    config.beta1 = Case::to<double>(betas[0], "betas"), config.beta2 = Case::to<double>(betas[1], "betas");
  }
  config.decay = decay;
  config.eps = c.option("eps", eps);
  config.weight_decay = c.option("weight_decay", weight_decay);
  if (decay == Decay::after) {  // Hugging Face's
    config.eps_added_to = EpsAddedTo::kept;
    config.correct_bias = c.option("correct_bias", true);
    c.no_effect({"no_deprecation_warning"});
  } else {
    torch_options(c);
    config.amsgrad = c.option("amsgrad", false);
    config.maximize = c.option("maximize", false);
    if (decay == Decay::l2 && c.option("decoupled_weight_decay", false)) config.decay = Decay::before;
  }
  Trajectory<P, AdamW<P, Cpu>>(run, config, c.option("lr", 1e-3)).follow();
}
template <class P>
void adam_case(Run<P>& run) {
  adam_of(run, Decay::l2, 0, 1e-8);
}
template <class P>
void adamw_case(Run<P>& run) {
  adam_of(run, Decay::before, 0.01, 1e-8);
}
template <class P>
void hf_adamw_case(Run<P>& run) {
  adam_of(run, Decay::after, 0, 1e-6);
}
template <class P>
void sgd_case(Run<P>& run) {
  const Case& c = run.c;
  typename Sgd<P, Cpu>::Config config;
  torch_options(c);
  config.momentum = c.option("momentum", 0.0);
  config.dampening = c.option("dampening", 0.0);
  config.nesterov = c.option("nesterov", false);
  config.weight_decay = c.option("weight_decay", 0.0);
  config.maximize = c.option("maximize", false);
  Trajectory<P, Sgd<P, Cpu>>(run, config, c.option("lr", 1e-3)).follow();
}
template <class P>
void adagrad_case(Run<P>& run) {
  const Case& c = run.c;
  typename Adagrad<P, Cpu>::Config config;
  torch_options(c);
  config.lr_decay = c.option("lr_decay", 0.0);
  config.weight_decay = c.option("weight_decay", 0.0);
  config.initial_accumulator_value = c.option("initial_accumulator_value", 0.0);
  config.eps = c.option("eps", 1e-10);
  config.maximize = c.option("maximize", false);
  Trajectory<P, Adagrad<P, Cpu>>(run, config, c.option("lr", 1e-2)).follow();
}

template <class P>
void clip_case(Run<P>& run) {
  using S = typename P::storage;
  const Case& c = run.c;
  c.no_effect({"foreach", "error_if_nonfinite"});
  index_t total = 0;
  const auto list = parameter_list(c, "in/grad/", &total);
  std::vector<S> gradient(static_cast<std::size_t>(total));
  for (const ParamInfo& p : list) {
    const auto values = run.in("grad/" + p.name);
    std::copy(values.begin(), values.end(), gradient.begin() + p.offset);
  }
  const double order = c.option("norm_type", 2.0);
  const double norm = gradient_p_norm<Cpu>(run.ctx, gradient.data(), total, order);
  const double factor = clip_factor(norm, c.need<double>("max_norm"));
  run.compare("total_norm", Values{norm});
  for (const ParamInfo& p : list) {
    std::vector<S> mine(gradient.begin() + p.offset, gradient.begin() + p.offset + p.shape.size());
    for (S& v : mine) v = static_cast<S>(v * factor);
    run.compare("grad/" + p.name, mine);
  }
}

// ------------------------------------------------------------------------------------------------------ schedules
/// The factor on lr_init at steps last_epoch + 1, ...; a schedule has no precision of its own.
template <class P>
void schedule_values(Run<P>& run, Schedule s) {
  const Case& c = run.c;
  const index_t first = c.option("last_epoch", index_t(-1)) + 1;
  Schedule checked = s;  // a warm-up that never ends is legal in the reference
  if (s.kind == Schedule::Kind::linear || s.kind == Schedule::Kind::cosine || s.kind == Schedule::Kind::cosine_restarts)
    checked.total = std::max(s.total, s.warmup + 1);
  checked.check();
  Values mine;
  for (index_t t = 0; t < c.size("steps"); ++t) mine.push_back(s.at(first + t) / s.peak);
  run.compare("lr", mine);
}
/// What all of transformers' share.
inline Schedule hf_schedule(const Case& c, Schedule::Kind kind) {
  Schedule s;
  s.kind = kind;
  s.peak = c.option("lr_init", c.option("lr", 1.0));
  s.warmup = c.option("num_warmup_steps", index_t(0));
  return s;
}
inline Schedule decaying(const Case& c, Schedule::Kind kind) {
  Schedule s = hf_schedule(c, kind);
  s.total = c.size("num_training_steps");
  return s;
}
inline double least_rate(const Case& c, double peak) {
  require(c.given("min_lr") != c.given("min_lr_rate"), "give one of the options min_lr and min_lr_rate");
  return c.given("min_lr") ? c.need<double>("min_lr") : c.need<double>("min_lr_rate") * peak;
}
template <class P>
void constant_case(Run<P>& run) {
  schedule_values(run, hf_schedule(run.c, Schedule::Kind::constant));
}
template <class P>
void linear_case(Run<P>& run) {
  schedule_values(run, decaying(run.c, Schedule::Kind::linear));
}
template <class P>
void cosine_case(Run<P>& run) {
  Schedule s = decaying(run.c, Schedule::Kind::cosine);
  s.cycles = run.c.option("num_cycles", 0.5);
  if (run.c.given("min_lr") || run.c.given("min_lr_rate")) s.floor = least_rate(run.c, s.peak);
  schedule_values(run, s);
}
template <class P>
void cosine_restarts_case(Run<P>& run) {
  Schedule s = decaying(run.c, Schedule::Kind::cosine_restarts);
  s.cycles = run.c.option("num_cycles", 1.0);
  schedule_values(run, s);
}
template <class P>
void polynomial_case(Run<P>& run) {
  Schedule s = decaying(run.c, Schedule::Kind::polynomial);
  s.floor = run.c.option("lr_end", 1e-7);
  s.power = run.c.option("power", 1.0);
  schedule_values(run, s);
}
template <class P>
void inverse_sqrt_case(Run<P>& run) {
  Schedule s = hf_schedule(run.c, Schedule::Kind::inverse_sqrt);
  s.timescale = run.c.option("timescale", s.warmup > 0 ? s.warmup : index_t(10000));
  schedule_values(run, s);
}
/// Warm-up, stable, decay: the number of decaying updates, and of stable ones or of all.
template <class P>
void stable_decay_case(Run<P>& run) {
  const Case& c = run.c;
  Schedule s = hf_schedule(c, Schedule::Kind::stable_decay);
  const index_t falling = c.size("num_decay_steps");
  s.hold = c.given("num_stable_steps") ? c.size("num_stable_steps") : c.size("num_training_steps") - s.warmup - falling;
  c.no_effect({"num_training_steps"});
  s.total = s.warmup + s.hold + falling;
  s.floor = c.option("min_lr_ratio", 0.0) * s.peak;
  s.cycles = c.option("num_cycles", 0.5);
  const auto shape = [&](const char* name, const char* otherwise) {
    const std::string text = c.option(name, otherwise);
    if (text == "linear") return Schedule::Shape::linear;
    if (text == "cosine") return Schedule::Shape::cosine;
    require(text == "1-sqrt", "option ", name, " must be linear, cosine or 1-sqrt, not ", text);
    return Schedule::Shape::one_minus_sqrt;
  };
  s.rise = shape("warmup_type", "linear");
  s.fall = shape("decay_type", "cosine");
  schedule_values(run, s);
}
template <class P>
void t5_rsqrt_case(Run<P>& run) {
  Schedule s;
  s.kind = Schedule::Kind::sqrt_decay;
  s.peak = run.c.option("lr_init", run.c.option("lr", 1.0));
  s.warmup = run.c.option("warmup", run.c.option("num_warmup_steps", index_t(10000)));
  schedule_values(run, s);
}

void add_optimisers(Kinds& kinds) {
  kinds.insert({
      SPARSEMOE_KIND("optimizer/adafactor", adafactor_case),
      SPARSEMOE_KIND("optimizer/adam", adam_case),
      SPARSEMOE_KIND("optimizer/adamw", adamw_case),
      SPARSEMOE_KIND("optimizer/hf_adamw", hf_adamw_case),
      SPARSEMOE_KIND("optimizer/sgd", sgd_case),
      SPARSEMOE_KIND("optimizer/adagrad", adagrad_case),
      SPARSEMOE_KIND("optimizer/clip_grad_norm", clip_case),
      SPARSEMOE_KIND("schedule/constant", constant_case),
      SPARSEMOE_KIND("schedule/constant_with_warmup", constant_case),
      SPARSEMOE_KIND("schedule/linear", linear_case),
      SPARSEMOE_KIND("schedule/cosine", cosine_case),
      SPARSEMOE_KIND("schedule/cosine_with_min_lr", cosine_case),
      SPARSEMOE_KIND("schedule/cosine_restarts", cosine_restarts_case),
      SPARSEMOE_KIND("schedule/cosine_with_restarts", cosine_restarts_case),
      SPARSEMOE_KIND("schedule/polynomial", polynomial_case),
      SPARSEMOE_KIND("schedule/inverse_sqrt", inverse_sqrt_case),
      SPARSEMOE_KIND("schedule/warmup_stable_decay", stable_decay_case),
      SPARSEMOE_KIND("schedule/wsd", stable_decay_case),
      SPARSEMOE_KIND("schedule/t5_rsqrt", t5_rsqrt_case),
  });
}

}  // namespace conformance
