#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The dense model of transformer.cpp in PyTorch on the CPU: train step and greedy decode, tokens a second. CSV.

d=256, 4 heads, ff=1024, 3+3 layers, vocab 8000, tied embeddings, pre-norm, label smoothing, Adam.
Training: 32 sentence pairs of 64 tokens (2048 target tokens). Decoding: KV cache, source 32, 64 new tokens.
"""
import argparse, math, time, statistics as st
import torch
import torch.nn as nn
import torch.nn.functional as F


class Attn(nn.Module):
    def __init__(self, d, h):
        super().__init__()
        self.h = h
        self.q, self.kv, self.o = nn.Linear(d, d), nn.Linear(d, 2 * d), nn.Linear(d, d)

    def heads(self, t):
        b, n, d = t.shape
        return t.view(b, n, self.h, d // self.h).transpose(1, 2)

    def keys(self, m):
        k, v = self.kv(m).chunk(2, -1)
        return self.heads(k), self.heads(v)

    def forward(self, x, kv, mask=None):
        k, v = kv
        q = self.heads(self.q(x))
        s = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        if mask is not None:
            s = s + mask
        y = torch.softmax(s, -1) @ v
        b, h, n, e = y.shape
        return self.o(y.transpose(1, 2).reshape(b, n, h * e))


class Block(nn.Module):
    def __init__(self, d, h, ff, cross):
        super().__init__()
        self.sa, self.n1 = Attn(d, h), nn.LayerNorm(d)
        if cross:
            self.ca, self.n3 = Attn(d, h), nn.LayerNorm(d)
        self.f1, self.f2, self.n2 = nn.Linear(d, ff), nn.Linear(ff, d), nn.LayerNorm(d)

    def forward(self, x, mask=None, mem_kv=None, cache=None):
        y = self.n1(x)
        kv = self.sa.keys(y)
        if cache is not None:
            if "k" in cache:
                kv = (torch.cat([cache["k"], kv[0]], 2), torch.cat([cache["v"], kv[1]], 2))
            cache["k"], cache["v"] = kv
        x = x + self.sa(y, kv, mask)
        if mem_kv is not None:
            x = x + self.ca(self.n3(x), mem_kv)
        return x + self.f2(torch.relu(self.f1(self.n2(x))))


class Model(nn.Module):
    def __init__(self, v=8000, d=256, h=4, ff=1024, layers=3):
        super().__init__()
        self.d, self.emb = d, nn.Embedding(v, d)
        nn.init.normal_(self.emb.weight, std=d ** -0.5)
        self.enc = nn.ModuleList(Block(d, h, ff, False) for _ in range(layers))
        self.dec = nn.ModuleList(Block(d, h, ff, True) for _ in range(layers))
        self.ne, self.nd = nn.LayerNorm(d), nn.LayerNorm(d)
        p = torch.arange(512)[:, None] / 10000 ** (torch.arange(0, d, 2) / d)
        self.register_buffer("pos", torch.stack([p.sin(), p.cos()], -1).view(512, d))

    def embed(self, t, at=0):
        return self.emb(t) * math.sqrt(self.d) + self.pos[at:at + t.shape[1]]

    def encode(self, s):
        x = self.embed(s)
        for b in self.enc:
            x = b(x)
        return self.ne(x)

    def forward(self, s, t):
        m = self.encode(s)
        x = self.embed(t)
        mask = torch.full((t.shape[1], t.shape[1]), float("-inf")).triu(1)
        for b in self.dec:
            x = b(x, mask, b.ca.keys(m))
        return F.linear(self.nd(x), self.emb.weight)

    @torch.inference_mode()
    def greedy(self, s, n):
        m = self.encode(s)
        mem = [b.ca.keys(m) for b in self.dec]
        cache = [{} for _ in self.dec]
        t = torch.zeros(s.shape[0], 1, dtype=torch.long)
        for i in range(n):
            x = self.embed(t, i)
            for b, kv, c in zip(self.dec, mem, cache):
                x = b(x, None, kv, c)
            t = F.linear(self.nd(x)[:, -1], self.emb.weight).argmax(-1, keepdim=True)


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--threads", type=int, default=2)
    a.add_argument("--reps", type=int, default=7)
    a.add_argument("--bf16", action="store_true")
    o = a.parse_args()
    torch.set_num_threads(o.threads)
    torch.manual_seed(0)
    m = Model()
    opt = torch.optim.Adam(m.parameters(), lr=1e-4, foreach=True)
    s, t = torch.randint(8000, (32, 64)), torch.randint(8000, (32, 64))

    def step():
        opt.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=o.bf16):
            y = m(s, t)
        F.cross_entropy(y.float().view(-1, 8000), t.view(-1), label_smoothing=0.1).backward()
        opt.step()

    def dec(b):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=o.bf16):
            m.greedy(torch.randint(8000, (b, 32)), 64)

    runs = {"train": (step, 2048), "greedy-1": (lambda: dec(1), 64), "greedy-32": (lambda: dec(32), 64 * 32)}
    r = {k: [] for k in runs}
    for i in range(o.reps + 1):
        for k, (f, n) in runs.items():
            b = time.perf_counter(); f(); e = time.perf_counter() - b
            if i:
                r[k].append(e)
    print("precision,what,tokens_per_s,ms")
    for k, (f, n) in runs.items():
        e = st.median(r[k])
        print(f"{'bf16' if o.bf16 else 'fp32'},{k},{n / e:.1f},{e * 1e3:.3f}", flush=True)


if __name__ == "__main__":
    main()
