// SPDX-License-Identifier: Apache-2.0
// model/by_name.hpp -- the one table of routers by name. A program's help, checks, refusals and warnings are read from
// it, and with_router() turns the name into the type. To give a router a name, add a row: what the row does not say is
// read from the router's own traits. Light: no model is instantiated here. Read next: router_traits.hpp, feed.hpp,
// names.hpp.
#pragma once

#include <array>
#include <cstddef>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <vector>

#include "sparsemoe/error.hpp"
#include "sparsemoe/feed.hpp"
#include "sparsemoe/names.hpp"
#include "sparsemoe/params.hpp"
#include "sparsemoe/router_traits.hpp"
#include "sparsemoe/routers/hash.hpp"
#include "sparsemoe/routers/sentence.hpp"
#include "sparsemoe/routers/switch.hpp"
#include "sparsemoe/routers/task.hpp"
#include "sparsemoe/routers/top_k.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// A row as it is written: a name for the router R.
template <class R>
struct RouterRow {
  using Router = R;
  std::string_view name;
  std::string_view note = "";  // behind the name in help, where it does not explain itself
  bool in_study = false;       // a study of strategies trains it in both stacks, beside the rows of its paper
};

/// Every router that has a name, in the order of help texts.
inline constexpr std::tuple router_rows{
    RouterRow<TopK<2>>{.name = "token"},
    RouterRow<Switch>{.name = "switch", .in_study = true},
    RouterRow<GShard<>>{.name = "gshard"},
    RouterRow<Sentence>{.name = "sentence"},
    RouterRow<SentencePrefix>{.name = "sentence-prefix", .note = "mean of the target so far"},
    RouterRow<SoftMixture<4>>{.name = "soft", .note = "Soft MoE, 4 slots an expert"},
    RouterRow<Task>{.name = "task"},
    RouterRow<StaticTask>{.name = "static"},
    RouterRow<Hash>{.name = "hash", .in_study = true},
    RouterRow<Dense>{.name = "dense"},
};

/// Whether a stack can have the router: encoders see whole sentences, decoders no later token.
template <class R>
constexpr bool router_fits(InStack stack) {
  if constexpr (feed_of<R> == Feed::dense)
    return true;
  else
    return stack == InStack::encoder ? RouterTraits<R>::gate_input == GateInput::state : RouterTraits<R>::causal_safe;
}

/// What a program asks of a router that it knows by name.
struct NamedRouter {
  std::string_view name, note;
  bool in_study = false;
  Feed feed = Feed::dense;
  Level level = Level::none;
  int choices = 0;                     // experts that a token meets; under Soft MoE it meets means of tokens: 1
  int slots = 0;                       // of an expert, of Soft MoE
  bool encoders = true;                // it may stand in an encoder
  bool decoders = true;                // and in a decoder
  std::string_view encoder_form = "";  // what an encoder has in its place: itself, or another name
  bool can_drop = false;               // a capacity may leave tokens without an expert
  bool gated = false;                  // a gate scores tokens or sentences: it may collapse, and experts be pruned
  bool by_task = false;                // the task alone chooses: a task's sub-network is exact
  bool needs_table = false;            // from vocabulary to expert

  bool dense() const { return feed == Feed::dense; }
};

namespace detail {

template <class R>
constexpr NamedRouter named(const RouterRow<R>& row, std::string_view whole_sentence) {
  NamedRouter r;
  r.name = r.encoder_form = row.name;
  r.note = row.note;
  r.in_study = row.in_study;
  r.feed = feed_of<R>;
  if constexpr (feed_of<R> != Feed::dense) {
    using Traits = RouterTraits<R>;
    r.level = Traits::level;
    r.choices = Traits::top_k;
    r.encoders = router_fits<R>(InStack::encoder);
    r.decoders = router_fits<R>(InStack::decoder);
    r.can_drop = Traits::can_drop_tokens;
    r.by_task = routed_by_task<R>;
    r.needs_table = reads_vocabulary_table<R>;
    r.gated = feed_of<R> == Feed::routed && (r.level == Level::token || r.level == Level::sentence);
    if (!r.encoders) r.encoder_form = whole_sentence;
    if constexpr (feed_of<R> == Feed::soft) r.slots = R::slots;
  }
  return r;
}

template <class R, class... Routers>
constexpr std::string_view name_in(const std::tuple<RouterRow<Routers>...>& rows) {
  static_assert((std::is_same_v<R, Routers> || ...), "by name: add a row for this router to router_rows");
  return std::get<RouterRow<R>>(rows).name;
}

}  // namespace detail

/// The name of a router's type, which has one.
template <class R>
constexpr std::string_view router_name() {
  return detail::name_in<R>(router_rows);
}

inline constexpr std::array named_routers = std::apply(
    [](const auto&... row) { return std::array{detail::named(row, router_name<Sentence>())...}; }, router_rows);

/// Names of the rows that `wanted` takes.
template <class Wanted>
std::vector<std::string> router_names(Wanted&& wanted) {
  std::vector<std::string> names;
  for (const NamedRouter& r : named_routers)
    if (wanted(r)) names.emplace_back(r.name);
  return names;
}

/// Throws Error with all names, and the nearest, for one that is not there.
inline const NamedRouter& named_router(std::string_view name) {
  for (const NamedRouter& r : named_routers)
    if (r.name == name) return r;
  const std::vector<std::string> all = router_names([](const NamedRouter&) { return true; });
  const std::string near = closest_name(std::string(name), all);
  fail("there is no router '", name, "': choose ", listed(all, "or"),
       near.empty() ? "" : "; did you mean " + near + "?");
}

/// For help: the names of the rows that `wanted` takes, each with its note.
template <class Wanted>
std::string router_choices(Wanted&& wanted) {
  std::vector<std::string> names;
  for (const NamedRouter& r : named_routers)
    if (wanted(r)) names.push_back(r.note.empty() ? std::string(r.name) : join(r.name, " (", r.note, ")"));
  return listed(names, "or");
}

/// Throws Error for a router that this stack cannot have, and says by which `option` an encoder has the like of it.
inline void require_router_fits(const NamedRouter& r, InStack stack, std::string_view option) {
  require(stack == InStack::decoder || r.encoders, r.name,
          " routing is for decoders; an encoder sees the whole sentence: ", option, " ", r.encoder_form);
  require(stack == InStack::encoder || r.decoders, r.name,
          " routing is for encoders; in a decoder a token would see later ones: ", option, " ", r.encoder_form);
}

/// f(R{}) for the router R of a name; f's result is of the same type for all. Throws Error as named_router().
template <std::size_t First = 0, class F>
auto with_router(std::string_view name, F&& f) {
  constexpr std::size_t last = std::tuple_size_v<decltype(router_rows)> - 1;
  if constexpr (First == 0) (void)named_router(name);
  if constexpr (First < last)
    if (std::get<First>(router_rows).name != name) return with_router<First + 1>(name, f);
  return f(typename std::tuple_element_t<First, decltype(router_rows)>::Router{});
}

}  // namespace sparsemoe::inline SPARSEMOE_ABI
