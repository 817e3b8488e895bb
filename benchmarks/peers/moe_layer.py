#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A Switch feed-forward layer (top-1, capacity factor 1.25) in PyTorch on the CPU, forward and backward, as peers write
it; the shapes of moe_layer.cpp. Router, softmax, balance loss and every gradient are inside the timed region.

  loop    index_select and index_add for each expert (Hugging Face)
  sorted  argsort by expert, one contiguous slice for each (a careful loop)
  einsum  one-hot dispatch and combine tensors (Mesh-TensorFlow, DeepSpeed, Fairseq)
  gemm    only the six products of every expert on T / E tokens

Variants alternate; medians; CSV. Experts of loop and sorted are separate parameters: slices of a stacked one would make
autograd build a full-size gradient for each expert.
"""
import argparse, math, statistics, time
import torch
import torch.nn.functional as F


def route(x, gate_weight, experts, capacity):
    probability = torch.softmax(x @ gate_weight, dim=-1)
    gate, index = probability.max(dim=-1)
    onehot = F.one_hot(index, experts)
    place = (onehot.cumsum(0) - 1).gather(1, index[:, None]).squeeze(1)
    balance = experts * (onehot.float().mean(0) * probability.mean(0)).sum()
    return gate, index, place, place < capacity, balance


def loop(x, p, experts, capacity):
    gate_weight, w1, w2 = p
    gate, index, _, keep, balance = route(x, gate_weight, experts, capacity)
    out = torch.zeros_like(x)
    chosen = torch.where(keep, index, torch.full_like(index, -1))
    for e in range(experts):
        t = (chosen == e).nonzero(as_tuple=True)[0]
        if t.numel() == 0:
            continue
        y = torch.relu(x.index_select(0, t) @ w1[e]) @ w2[e]
        out = out.index_add(0, t, (y * gate[t, None]).to(out.dtype))
    return out, balance


def sorted_slices(x, p, experts, capacity):
    gate_weight, w1, w2 = p
    gate, index, _, keep, balance = route(x, gate_weight, experts, capacity)
    key = torch.where(keep, index, torch.full_like(index, experts))
    order = torch.argsort(key, stable=True)
    counts = torch.bincount(key, minlength=experts + 1)[:experts].tolist()
    order = order[: sum(counts)]
    rows = torch.split(x.index_select(0, order), counts)
    y = torch.cat([torch.relu(r @ w1[e]) @ w2[e] for e, r in enumerate(rows) if r.shape[0]]) * gate[order, None]
    return torch.zeros_like(x).index_add(0, order, y.to(x.dtype)), balance


def einsum(x, p, experts, capacity):
    gate_weight, w1, w2 = p
    gate, index, place, keep, balance = route(x, gate_weight, experts, capacity)
    hot = F.one_hot(index, experts).float() * keep[:, None]
    combine = (gate[:, None] * hot)[:, :, None] * F.one_hot(place.clamp(max=capacity - 1), capacity).float()[:, None, :]
    slots = torch.einsum("tec,td->ecd", (combine > 0).to(x.dtype), x)
    y = torch.bmm(torch.relu(torch.bmm(slots, w1)), w2)
    return torch.einsum("tec,ecd->td", combine.to(y.dtype), y), balance


def measure(width, tokens, experts, reps, bf16):
    hidden = 4 * width
    capacity = max(4, int(1.25 * tokens / experts))
    x = torch.randn(tokens, width, requires_grad=True)
    dy = torch.randn(tokens, width)
    gate_weight = (torch.randn(width, experts) * 0.02).requires_grad_()
    w1 = (torch.randn(experts, width, hidden) / math.sqrt(width)).requires_grad_()
    w2 = (torch.randn(experts, hidden, width) / math.sqrt(hidden)).requires_grad_()
    w1_list = [w.clone().requires_grad_() for w in w1.detach()]
    w2_list = [w.clone().requires_grad_() for w in w2.detach()]
    stacked, listed = (gate_weight, w1, w2), (gate_weight, w1_list, w2_list)
    leaves = [x, gate_weight, w1, w2] + w1_list + w2_list

    def train(f, p):
        for v in leaves:
            v.grad = None
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            y, balance = f(x, p, experts, capacity)
        torch.autograd.backward([y.float(), balance], [dy, torch.tensor(0.01)])

    kind = torch.bfloat16 if bf16 else torch.float32
    m = tokens // experts
    X, DY, W1, W2 = (t.detach().to(kind) for t in (x, dy, w1, w2))
    H = torch.randn(tokens, hidden).to(kind)

    @torch.no_grad()
    def gemm():
        for e in range(experts):
            a, d, h = X[e * m:(e + 1) * m], DY[e * m:(e + 1) * m], H[e * m:(e + 1) * m]
            a @ W1[e]; h @ W2[e]; d @ W2[e].t(); h.t() @ d; h @ W1[e].t(); a.t() @ h

    forms = (("loop", loop, listed), ("sorted", sorted_slices, listed), ("einsum", einsum, stacked))
    if not bf16:
        results = [f(x, p, experts, capacity)[0] for _, f, p in forms]
        assert all((r - results[0]).norm() / results[0].norm() < 1e-4 for r in results), "the three forms disagree"
    runs = {name: (lambda f=f, p=p: train(f, p)) for name, f, p in forms}
    runs["gemm"] = gemm
    times = {k: [] for k in runs}
    for i in range(reps + 1):
        for k, f in runs.items():
            start = time.perf_counter()
            f()
            if i:
                times[k].append(time.perf_counter() - start)
    for k, v in times.items():
        print(f"{'bf16' if bf16 else 'fp32'},{width},{tokens},{experts},{k},{statistics.median(v) * 1e3:.3f}", flush=True)


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--threads", type=int, default=2)
    a.add_argument("--reps", type=int, default=5)
    a.add_argument("--bf16", action="store_true", help="autocast to bfloat16")
    a.add_argument("--widths", default="256,512")
    a.add_argument("--tokens", default="1024,4096")
    a.add_argument("--experts", default="4,8,32,128")
    o = a.parse_args()
    torch.set_num_threads(o.threads)
    torch.manual_seed(0)
    print("precision,width,T,E,variant,ms")
    for width in map(int, o.widths.split(",")):
        for tokens in map(int, o.tokens.split(",")):
            for experts in map(int, o.experts.split(",")):
                measure(width, tokens, experts, o.reps, o.bf16)


main()
