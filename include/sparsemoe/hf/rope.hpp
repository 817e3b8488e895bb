// SPDX-License-Identifier: Apache-2.0
// hf/rope.hpp -- rotary positions as config.json asks for them: rope_theta and rope_scaling of transformers 4, or
// rope_parameters of 5, in the types default, linear, dynamic, yarn, longrope and llama3. Read next: nn/rotation.hpp.
#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "sparsemoe/hf/config.hpp"
#include "sparsemoe/nn/rotation.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

namespace hf {

struct Rope {
  double theta = 10000;
  RotaryScaling scaling;
};

namespace parts {

/// What the functions of one type read.
struct RopeSource {
  const Config& parameters;  // rope_parameters or rope_scaling
  double theta;
  index_t width;      // of a head
  index_t positions;  // max_position_embeddings
  index_t original;   // original_max_position_embeddings, else positions

  double said_factor() const {
    parameters.get<double>("factor");  // it must be there
    return factor();
  }
  double factor() const {
    if (parameters.has("factor")) return parameters.number("factor", 1, 1e-6, 1e6);
    return static_cast<double>(positions) / static_cast<double>(original);
  }
  /// theta^(2 j / width) of pair j.
  double wavelength(index_t j) const {
    return std::pow(theta, 2 * static_cast<double>(j) / static_cast<double>(width));
  }
  template <class F>
  std::vector<double> each(F&& f) const {
    std::vector<double> all;
    for (index_t j = 0; j < width / 2; ++j) all.push_back(f(j));
    return all;
  }
};

inline RotaryScaling linear_rope(const RopeSource& s) {
  const double factor = s.said_factor();
  return {.frequencies = s.each([&](index_t j) { return 1 / s.wavelength(j) / factor; })};
}
inline RotaryScaling dynamic_rope(const RopeSource& s) {
  if (s.width <= 2) s.parameters.refuse("rope_type", "another type for heads of " + std::to_string(s.width));
  const double factor = s.said_factor();
  if (factor < 1) s.parameters.refuse("factor", "a number of at least 1");
  return {.growth = factor, .limit = s.positions};
}

/// Between frequencies as they are and those over the factor, by how often a pair turns over the original length (Peng
/// et al. 2023, section 3.2); cosines and sines are times a factor of their own.
inline RotaryScaling yarn_rope(const RopeSource& s) {
  const Config& p = s.parameters;
  if (!(s.theta > 1)) p.refuse("rope_theta", "a base above 1");
  const double factor = s.factor(), width = static_cast<double>(s.width), original = static_cast<double>(s.original);
  const auto or_else = [&](const char* key, double otherwise) {  // 0 is as good as absent there
    const double value = p.number(key, 0, 0, 1e6);
    return value != 0 ? value : otherwise;
  };
  const auto dimension = [&](double turns) {
    return width * std::log(original / (turns * 2 * 3.14159265358979323846)) / (2 * std::log(s.theta));
  };
  double low = dimension(or_else("beta_fast", 32)), high = dimension(or_else("beta_slow", 1));
  if (p.flag("truncate", true)) low = std::floor(low), high = std::ceil(high);
  low = std::max(low, 0.0), high = std::min(high, width - 1);
  if (low == high) high += 0.001;
  RotaryScaling out;
  out.frequencies = s.each([&](index_t j) {
    const double ramp = std::min(std::max((static_cast<double>(j) - low) / (high - low), 0.0), 1.0);
    const double frequency = 1 / s.wavelength(j);
    return frequency / factor * ramp + frequency * (1 - ramp);
  });
  const auto scale = [&](double by) { return factor <= 1 ? 1 : 0.1 * by * std::log(factor) + 1; };
  const double top = p.number("mscale", 0, 0, 1e6), bottom = p.number("mscale_all_dim", 0, 0, 1e6);
  out.factor = top != 0 && bottom != 0 ? scale(top) / scale(bottom) : scale(1);
  if (p.has("attention_factor")) out.factor = p.number("attention_factor", 1, 1e-6, 1e6);
  return out;
}

/// Frequencies over a list of factors, another one where a sentence is longer than the original length.
inline RotaryScaling long_rope(const RopeSource& s) {
  const auto list = [&](const char* key) {
    const auto factors = s.parameters.get<std::vector<double>>(key);
    if (static_cast<index_t>(factors.size()) != s.width / 2)
      s.parameters.refuse(key, join("a factor for each of the ", s.width / 2, " pairs of a head"));
    for (const double f : factors)
      if (!(f > 0)) s.parameters.refuse(key, "factors above 0");
    return s.each([&](index_t j) { return 1 / (factors[static_cast<std::size_t>(j)] * s.wavelength(j)); });
  };
  RotaryScaling out{.frequencies = list("short_factor"), .beyond = list("long_factor"), .limit = s.original};
  const double factor = s.factor();
  if (s.parameters.has("attention_factor"))
    out.factor = s.parameters.number("attention_factor", 1, 1e-6, 1e6);
  else if (factor > 1)
    out.factor = std::sqrt(1 + std::log(factor) / std::log(static_cast<double>(s.original)));
  return out;
}

/// Frequencies as they are where waves are short, over the factor where they are long, and between the two between.
inline RotaryScaling llama3_rope(const RopeSource& s) {
  const double factor = s.said_factor(), original = static_cast<double>(s.original);
  const auto low = s.parameters.get<double>("low_freq_factor"), high = s.parameters.get<double>("high_freq_factor");
  if (!(low > 0)) s.parameters.refuse("low_freq_factor", "a number above 0");
  if (!(high > low)) s.parameters.refuse("high_freq_factor", join("a number above low_freq_factor, ", low));
  return {.frequencies = s.each([&](index_t j) {
    const double frequency = 1 / s.wavelength(j), wave = 2 * 3.14159265358979323846 / frequency;
    if (wave < original / high) return frequency;
    if (wave > original / low) return frequency / factor;
    const double smooth = (original / wave - low) / (high - low);
    return (1 - smooth) * frequency / factor + smooth * frequency;
  })};
}

}  // namespace parts

/// Throws FileError naming the key for a type or a value that is not here. `theta` is the family's own base.
inline Rope rope_of(const Config& config, index_t head_width, double theta, index_t positions) {
  const char* const key = config.has("rope_scaling") ? "rope_scaling" : "rope_parameters";
  const Json object = config.has(key) ? config.json().at(key) : Json::object();
  if (!object.is_object()) config.refuse(key, "an object");
  const Config parameters(object, config.path().string() + ": in \"" + key + "\"");
  for (const auto& [name, value] : object.items())
    parameters.one_of(name, name,
                      {"rope_type", "type", "rope_theta", "partial_rotary_factor", "factor", "attention_factor",
                       "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate", "short_factor", "long_factor",
                       "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"});
  for (const Config* from : {&config, &parameters})
    if (from->number("partial_rotary_factor", 1, 0, 1) != 1)
      from->refuse("partial_rotary_factor", "1: all of a head turns");

  Rope rope;
  rope.theta = parameters.number("rope_theta", config.number("rope_theta", theta, 1, 1e12), 1, 1e12);
  positions = config.count("max_position_embeddings", 1, Limits::positions, positions);
  index_t original = parameters.count("original_max_position_embeddings", 2, Limits::positions, positions);
  original = config.count("original_max_position_embeddings", 2, Limits::positions, original);
  const parts::RopeSource source{parameters, rope.theta, head_width, positions, original};
  const std::string name = parameters.has("rope_type") ? "rope_type" : "type";
  const std::string type = parameters.text(name, "default");
  switch (parameters.one_of(name, type, {"default", "linear", "dynamic", "yarn", "longrope", "llama3"})) {
    case 0: break;
    case 1: rope.scaling = parts::linear_rope(source); break;
    case 2: rope.scaling = parts::dynamic_rope(source); break;
    case 3: rope.scaling = parts::yarn_rope(source); break;
    case 4: rope.scaling = parts::long_rope(source); break;
    default: rope.scaling = parts::llama3_rope(source);
  }
  return rope;
}

}  // namespace hf

}  // namespace sparsemoe::inline SPARSEMOE_ABI
