// SPDX-License-Identifier: Apache-2.0
// nn/dispatch.hpp -- from choices to slots: count against the capacity, keep, sort by expert. The launches of
// kernels/dispatch.hpp in order. Read next: nn/routing.hpp.
#pragma once

#include "sparsemoe/arena.hpp"
#include "sparsemoe/kernels/priority.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// An index functor whose index is a long piece of work, run as a row by one lane.
template <class F>
struct OneLaneRow {
  F f;
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t i) const {
    if (team.lane() == 0) f(i);
  }
};

/// Where slots are written: all in the backend's memory.
struct Slots {
  std::int32_t* slot;     // (K T), -1 for what is not kept
  std::int32_t* source;   // (slots) k T + t
  std::int32_t* offsets;  // (E + 1)
  std::int32_t* expert;   // (slots)
};
/// What a capacity is: slots of an expert for a group (0: no limit), whether rejected choices take one, who is first,
/// and how many experts it holds for, from 0.
struct SlotLimit {
  std::int32_t capacity = 0;
  bool rejected_consumes = false;
  Priority priority = Priority::position;
  index_t experts = index_t(1) << 40;
};

/// `scores` and `random` are read by priorities other than position.
template <class B, class R>
void assign_slots(typename B::Context& ctx, const Choices& choices, const SlotOrder& order, const SlotLimit& limit,
                  index_t experts, Matrix<const R> scores, index_t first_column, const Slots& out) {
  typename Arena<typename B::Memory>::Scope scope(ctx.arena);
  const index_t chunks = order.chunks();
  auto matrix = [&] {
    return Matrix<std::int32_t>(ctx.arena.template take<std::int32_t>(experts * chunks + 1), experts, chunks);
  };
  const Matrix<std::int32_t> kept = matrix(), next = matrix();
  Matrix<std::int32_t> position, first;
  SlotOrder counted = order;
  const bool queued = limit.capacity > 0 && limit.priority != Priority::position;
  if (queued) {
    std::int32_t* queue = ctx.arena.template take<std::int32_t>(order.tokens * order.top_k);
    R* key = ctx.arena.template take<R>(order.tokens * order.top_k);
    B::for_each_row(ctx, order.groups(),
                    PriorityQueueRow<R>{limit.priority, choices, order, scores, first_column, ctx.random, queue, key},
                    order.group * order.top_k * 64);
    counted.queue = queue;
  }
  if (limit.capacity > 0) {
    const Matrix<std::int32_t> count = matrix();
    position = matrix();
    first = matrix();
    B::for_each_row(ctx, chunks, OneLaneRow<CountChoices>{{choices, counted, limit.rejected_consumes, count}},
                    SlotOrder::run);
    B::exclusive_scan(ctx, count.data, position.data, experts * chunks);
    B::copy(ctx, first.data, position.data, experts * chunks);
  }
  B::for_each_row(ctx, chunks,
                  OneLaneRow<KeepChoices>{{choices, counted, limit.rejected_consumes, limit.capacity, limit.experts,
                                           position, first, kept, out.slot}},
                  SlotOrder::run);
  if (queued) B::for_each_row(ctx, chunks, OneLaneRow<CountKept>{{choices, order, out.slot, kept}}, SlotOrder::run);
  B::zero(ctx, kept.data + experts * chunks, 1);
  B::exclusive_scan(ctx, kept.data, next.data, experts * chunks + 1);
  B::for_each_index(ctx, experts + 1, SlotOffsets{next.data, chunks, out.offsets});
  B::for_each_row(ctx, chunks, OneLaneRow<AssignSlots>{{choices, order, next, out.slot, out.source}}, SlotOrder::run);
  B::for_each_row(ctx, experts, OneLaneRow<SlotExpert>{{out.offsets, out.expert}},
                  order.tokens * order.top_k / experts + 1);
}

}  // namespace sparsemoe::inline SPARSEMOE_ABI
