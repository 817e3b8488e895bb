#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""conformance_cases.py OUT [--seed N] [--add PREFIX ID...] -- writes cases for sparsemoe-conformance into the directory OUT: other parameter
names, shapes and options than those of tests/data/goldens, in the same format (docs/conformance.md). Needs torch,
safetensors and transformers (PyPI); optimisers and schedules are the packages' own, layers and routers are written down
from their papers or from transformers' modules, in plain torch.

    python3 tests/oracles/conformance_cases.py /tmp/cases && sparsemoe-conformance /tmp/cases

With --add, OUT has a manifest already: the cases of these ids alone are written, under PREFIX, and added to it.
"""
import argparse
import itertools
import json
import math
import os

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

DTYPES = {torch.float64: "F64", torch.float32: "F32", torch.int64: "I64"}


class Writer:
    def __init__(self, out, seed, prefix="", only=None):
        self.prefix, self.only = prefix, only
        self.out, self.cases, self.g = out, [], torch.Generator().manual_seed(seed)

    def normal(self, *shape, scale=1.0):
        return (torch.randn(shape, generator=self.g, dtype=torch.float32) * scale).contiguous()

    def write(self, ident, kind, reference, params, inputs, f32, f64, ints=None, summary="", desc=None):
        """inputs, ints: name -> tensor under their full names; f32, f64: results without a prefix."""
        tensors, info = {}, {}
        for name, t in {**inputs, **(ints or {})}.items():
            tensors[name] = t.detach().contiguous().clone()
            info[name] = {}
        for name, wide in f64.items():
            if wide.dtype == torch.int64:
                tensors[name], info[name] = wide.contiguous().clone(), {}
                continue
            wide = wide.detach().double()
            scale = wide.abs().max().item() if wide.numel() else 0.0
            marks = {"scale": scale, "atol_f64": max(1e-11 * scale, 1e-14)}
            tensors["f64/" + name] = wide.contiguous().clone()
            if f32 is None:
                marks["atol_f32"] = max(3e-5 * scale, 1e-7)
                info["f64/" + name] = marks
            else:
                narrow = f32[name].detach().float()
                error = (narrow.double() - wide).abs().max().item() if wide.numel() else 0.0
                marks["f32_err"], marks["atol_f32"] = error, max(32 * error, 1e-5 * scale, 1e-9)
                tensors["f32/" + name] = narrow.contiguous().clone()
                info["f32/" + name], info["f64/" + name] = marks, {}
            if desc and name in desc:
                info["f64/" + name]["desc"] = desc[name]
        for name, t in tensors.items():
            info[name] = {"dtype": DTYPES[t.dtype], "shape": list(t.shape), **info[name]}
        if self.only is not None:
            if ident not in self.only:
                return
            ident = self.prefix + ident
        file = ident + ".safetensors"
        os.makedirs(os.path.dirname(os.path.join(self.out, file)), exist_ok=True)
        save_file(tensors, os.path.join(self.out, file))
        self.cases.append({"id": ident, "kind": kind, "summary": summary or ident, "reference": reference, "params": params,
                           "file": file, "tensors": info})

    def differentiated(self, ident, kind, reference, params, floats, function, ints=None, parts=(), summary="",
                       wide_inputs=False, no_cotangent=()):
        """function(inputs by name) -> results by name. Every float input gets a gradient of sum <cotangent, result>, and of
        each scalar of `parts` alone."""
        results = {}
        cotangents = None
        for dtype in ([torch.float64] if wide_inputs else [torch.float32, torch.float64]):
            x = {n: t.detach().to(dtype).clone().requires_grad_(not n.startswith("~")) for n, t in floats.items()}
            out = function({n.lstrip("~"): t for n, t in x.items()}, dtype)
            real = {n: t for n, t in out.items() if t.dtype != torch.int64 and t.requires_grad and n not in no_cotangent}
            if cotangents is None:
                cotangents = {n: self.normal(*t.shape) for n, t in real.items()}
            loss = sum((cotangents[n].to(dtype) * t).sum() for n, t in real.items())
            leaves = [n for n in x if not n.startswith("~")]
            found = {("out/" + n if not n.startswith("=") else n[1:]): t for n, t in out.items()}
            grads = torch.autograd.grad(loss, [x[n] for n in leaves], retain_graph=True, allow_unused=True)
            for n, g in zip(leaves, grads):
                found["grad/" + n] = g if g is not None else torch.zeros_like(x[n])
            for part, wanted in parts:
                g = torch.autograd.grad(out[part], [x[n] for n in wanted], retain_graph=True, allow_unused=True)
                for n, v in zip(wanted, g):
                    found[f"grad_of/{part}/{n}"] = v if v is not None else torch.zeros_like(x[n])
            results[dtype] = found
        cast = torch.float64 if wide_inputs else torch.float32
        inputs = {"in/" + n.lstrip("~"): t.to(cast) for n, t in floats.items()}
        inputs.update({"cotangent/" + n.lstrip("="): t.to(cast) for n, t in cotangents.items()})
        for n in list(inputs):  # scalars are [1] here
            if inputs[n].dim() == 0:
                inputs[n] = inputs[n].reshape(1)
        for found in results.values():
            for n in list(found):
                if found[n].dim() == 0:
                    found[n] = found[n].reshape(1)
        self.write(ident, kind, reference, params, inputs, results.get(torch.float32), results[torch.float64],
                   {k: v for k, v in (ints or {}).items()}, summary)

    def add_to_manifest(self):
        """One case a line, after those that are there."""
        path = os.path.join(self.out, "manifest.json")
        with open(path) as f:
            text = f.read()
        known = {c["id"] for c in json.loads(text)["cases"]}
        new = [c for c in self.cases if c["id"] not in known]
        end = text.rindex("\n ]")
        with open(path, "w") as f:
            f.write(text[:end] + "".join(",\n  " + json.dumps(c) for c in new) + text[end:])
        print(len(new), "cases added to", path)

    def finish(self):
        with open(os.path.join(self.out, "manifest.json"), "w") as f:
            json.dump({"format_version": 1, "reference": {"torch": torch.__version__}, "cases": self.cases}, f)
        print(len(self.cases), "cases in", self.out)


# ---------------------------------------------------------------------------------------------------- optimisers
class HfAdamW(torch.optim.Optimizer):
    """As in transformers until 4.5x."""

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.0, correct_bias=True):
        super().__init__(params, dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, correct_bias=correct_bias))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state.update(step=0, exp_avg=torch.zeros_like(p), exp_avg_sq=torch.zeros_like(p))
                state["step"] += 1
                b1, b2 = group["betas"]
                state["exp_avg"].mul_(b1).add_(p.grad, alpha=1 - b1)
                state["exp_avg_sq"].mul_(b2).addcmul_(p.grad, p.grad, value=1 - b2)
                size = group["lr"]
                if group["correct_bias"]:
                    size *= math.sqrt(1 - b2 ** state["step"]) / (1 - b1 ** state["step"])
                p.addcdiv_(state["exp_avg"], state["exp_avg_sq"].sqrt().add_(group["eps"]), value=-size)
                p.add_(p, alpha=-group["lr"] * group["weight_decay"])


SHAPES = [
    {"weight": (4, 3), "bias": (4,)},
    {"w1.kernel": (2, 3, 4), "gain": (), "b": (1,), "layer.0/norm": (5,)},
    {"only": (7,)},
    {"conv": (2, 2, 3, 3), "m": (1, 6), "column": (6, 1), "z": (3, 3), "a": (2, 1, 5)},
]


def optimiser_case(w, ident, kind, cls, params, shapes, steps, keys):
    start = {n: w.normal(*s) for n, s in shapes.items()}
    grads = {n: w.normal(steps, *s) for n, s in shapes.items()}
    for n in grads:
        grads[n][steps // 2] *= 30
    results = {}
    order = list(shapes)
    for dtype in (torch.float32, torch.float64):
        p = {n: torch.nn.Parameter(start[n].to(dtype).clone()) for n in order}
        kwargs = {k: (tuple(v) if isinstance(v, list) else v) for k, v in params.items()}
        o = cls(list(p.values()), **kwargs)
        after, rates = {n: [] for n in order}, []
        for t in range(steps):
            for n in order:
                p[n].grad = grads[n][t].to(dtype).clone()
            o.step()
            for n in order:
                after[n].append(p[n].detach().clone())
            if kind == "optimizer/adafactor":
                rates.append([float(o._get_lr(o.param_groups[0], o.state[p[n]])) for n in order])
        found = {"param_after_step/" + n: torch.stack(after[n]) for n in order}
        for n in order:
            for key in keys:
                if isinstance(o.state[p[n]].get(key), torch.Tensor):
                    found[f"final_state/{n}/{key}"] = o.state[p[n]][key].to(dtype)
        if rates:
            found["effective_lr"] = torch.tensor(rates, dtype=dtype)
        results[dtype] = found
    w.write(ident, kind, cls.__name__, {**params, "steps": steps},
            {**{"in/param/" + n: t for n, t in start.items()}, **{"in/grads/" + n: t for n, t in grads.items()}},
            results[torch.float32], results[torch.float64],
            desc={"effective_lr": f"[step, parameter in the order {', '.join(order)}]"})


def optimisers(w):
    from transformers.optimization import Adafactor

    sgd = [{}, {"momentum": 0.9, "dampening": 0.3}, {"momentum": 0.5, "dampening": 0.5, "weight_decay": 0.1, "maximize": True},
           {"momentum": 0.9, "nesterov": True, "maximize": True}, {"weight_decay": 0.2}, {"momentum": 0.7, "foreach": False}]
    ada = [{}, {"lr_decay": 0.1}, {"initial_accumulator_value": 0.5, "eps": 1e-5}, {"weight_decay": 0.1, "lr_decay": 0.5},
           {"maximize": True, "initial_accumulator_value": 0.1, "lr_decay": 0.01}]
    adam = [{}, {"amsgrad": True, "weight_decay": 0.1}, {"maximize": True}, {"betas": [0.5, 0.7], "eps": 1e-3},
            {"betas": [0.0, 0.99], "amsgrad": True, "maximize": True, "foreach": True}]
    hf = [{}, {"correct_bias": False}, {"weight_decay": 0.3, "eps": 1e-2}, {"betas": [0.7, 0.8], "correct_bias": True}]
    factor = [{"relative_step": True}, {"relative_step": True, "warmup_init": True}, {"relative_step": False, "lr": 0.03},
              {"relative_step": False, "lr": 0.03, "scale_parameter": False, "beta1": 0.5, "weight_decay": 0.1},
              {"relative_step": True, "clip_threshold": 0.3, "decay_rate": -0.3, "eps": [1e-5, 0.1]}, {"beta1": 0.0}, {"lr": None}]
    table = [("sgd", torch.optim.SGD, sgd, 0.05, ["momentum_buffer"]), ("adagrad", torch.optim.Adagrad, ada, 0.07, ["sum"]),
             ("adam", torch.optim.Adam, adam, 0.02, ["exp_avg", "exp_avg_sq", "max_exp_avg_sq"]),
             ("adamw", torch.optim.AdamW, adam, 0.02, ["exp_avg", "exp_avg_sq", "max_exp_avg_sq"]),
             ("hf_adamw", HfAdamW, hf, 0.02, ["exp_avg", "exp_avg_sq"]),
             ("adafactor", Adafactor, factor, None, ["exp_avg", "exp_avg_sq", "exp_avg_sq_row", "exp_avg_sq_col", "RMS"])]
    for name, cls, options, lr, keys in table:
        for i, o in enumerate(options):
            params = dict(o) if lr is None else {"lr": lr, **o}
            optimiser_case(w, f"optim/{name}_{i}", "optimizer/" + name, cls, params, SHAPES[i % len(SHAPES)], 3 + i, keys)
    for i, (p, most) in enumerate([(1.0, 5.0), (2.0, 0.5), (math.inf, 0.7), (3.0, 1e3), (0.5, 10.0)]):
        grads = {n: w.normal(*s) for n, s in SHAPES[i % 4].items()}
        results = {}
        for dtype in (torch.float32, torch.float64):
            ps = {n: torch.nn.Parameter(torch.zeros_like(t, dtype=dtype)) for n, t in grads.items()}
            for n in ps:
                ps[n].grad = grads[n].to(dtype).clone()
            norm = torch.nn.utils.clip_grad_norm_(list(ps.values()), most, p)
            results[dtype] = {"total_norm": norm.reshape(1), **{"grad/" + n: ps[n].grad for n in ps}}
        w.write(f"optim/clip_{i}", "optimizer/clip_grad_norm", "clip_grad_norm_",
                {"max_norm": most, "norm_type": p if math.isfinite(p) else "inf"},
                {"in/grad/" + n: t for n, t in grads.items()}, results[torch.float32], results[torch.float64])


def schedules(w):
    import transformers.optimization as o

    table = [("constant", o.get_constant_schedule, {}), ("constant_with_warmup", o.get_constant_schedule_with_warmup, {"num_warmup_steps": 5}),
             ("linear", o.get_linear_schedule_with_warmup, {"num_warmup_steps": 0, "num_training_steps": 13}),
             ("cosine", o.get_cosine_schedule_with_warmup, {"num_warmup_steps": 3, "num_training_steps": 20, "num_cycles": 1.5}),
             ("cosine_with_restarts", o.get_cosine_with_hard_restarts_schedule_with_warmup,
              {"num_warmup_steps": 3, "num_training_steps": 22, "num_cycles": 4}),
             ("polynomial", o.get_polynomial_decay_schedule_with_warmup,
              {"num_warmup_steps": 2, "num_training_steps": 17, "lr_end": 1e-5, "power": 0.5, "lr_init": 0.01}),
             ("inverse_sqrt", o.get_inverse_sqrt_schedule, {"num_warmup_steps": 6, "timescale": 11}),
             ("inverse_sqrt", o.get_inverse_sqrt_schedule, {"num_warmup_steps": 6}),
             ("cosine_with_min_lr", o.get_cosine_with_min_lr_schedule_with_warmup,
              {"num_warmup_steps": 4, "num_training_steps": 19, "min_lr_rate": 0.1}),
             ("cosine_with_min_lr", o.get_cosine_with_min_lr_schedule_with_warmup,
              {"num_warmup_steps": 4, "num_training_steps": 19, "min_lr": 0.002, "lr_init": 0.01}),
             ("linear", o.get_linear_schedule_with_warmup, {"num_warmup_steps": 4, "num_training_steps": 13, "last_epoch": 5})]
    for up, down in itertools.product(["linear", "cosine", "1-sqrt"], repeat=2):
        table.append(("warmup_stable_decay", o.get_wsd_schedule,
                      {"num_warmup_steps": 4, "num_stable_steps": 5, "num_decay_steps": 7, "warmup_type": up, "decay_type": down,
                       "min_lr_ratio": 0.1, "num_cycles": 0.5}))
    for i, (name, get, params) in enumerate(table):
        kwargs = dict(params)
        lr = kwargs.pop("lr_init", 1.0)
        first = kwargs.pop("last_epoch", -1) + 1
        opt = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
        rule = get(opt, **kwargs).lr_lambdas[0]
        values = torch.tensor([float(rule(first + t)) for t in range(30)], dtype=torch.float64)
        w.write(f"optim/schedule_{i}_{name}", "schedule/" + name, "transformers.optimization", {**params, "steps": 30}, {}, None,
                {"lr": values})


# -------------------------------------------------------------------------------------------------------- layers
ACTS = {"relu": F.relu, "gelu": F.gelu, "gelu_new": lambda x: F.gelu(x, approximate="tanh"), "silu": F.silu,
        "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x), "sigmoid": torch.sigmoid, "tanh": torch.tanh}


def layers(w):
    for i, (shape, eps) in enumerate([((3, 2, 5), 1e-3), ((1, 4, 16), 1e-6), ((2, 1, 1), 0.1)]):
        d, x = shape[-1], w.normal(*shape)
        p = {"B": shape[0], "S": shape[1], "D": d, "eps": eps}
        rms = lambda t, _: {"y": t["x"] * torch.rsqrt(t["x"].pow(2).mean(-1, keepdim=True) + eps) * t["w/weight"]}
        w.differentiated(f"layers/rms_{i}", "layer/rms_norm", "T5LayerNorm", p, {"x": x, "w/weight": w.normal(d)}, rms)
        if d == 1:
            continue
        both = {"x": x, "w/weight": w.normal(d), **({"w/bias": w.normal(d)} if i == 0 else {})}
        norm = lambda t, _: {"y": F.layer_norm(t["x"], (d,), t["w/weight"], t.get("w/bias"), eps)}
        w.differentiated(f"layers/layer_norm_{i}", "layer/layer_norm", "torch.nn.LayerNorm", p, both, norm)
    for act in ACTS:
        x = torch.linspace(-4.1, 3.7, 57)
        w.differentiated(f"layers/act_{act}", "layer/activation", "transformers ACT2FN", {}, {"x": x},
                         lambda t, _, a=act: {"y": ACTS[a](t["x"])}, summary=f"{act}: value and derivative on a grid")
    blocks = [("t5_silu", ("wi", None, "wo"), "silu", False, 3, 8), ("t5_gated_gelu", ("wi_0", "wi_1", "wo"), "gelu", False, 5, 4),
              ("t5_gated_relu", ("wi_0", "wi_1", "wo"), "relu", False, 4, 4), ("nllb_gelu", ("fc1", None, "fc2"), "gelu", True, 4, 9),
              ("nllb_silu", ("fc1", None, "fc2"), "silu", True, 6, 2), ("mixtral_gelu_new", ("w1", "w3", "w2"), "gelu_new", False, 7, 3),
              ("mixtral_relu", ("gate_proj", "up_proj", "down_proj"), "relu", False, 2, 12),
              ("other_quick_gelu", ("dense_a", None, "dense_b"), "quick_gelu", True, 3, 7)]
    for name, (a, g, o), act, bias, d, f in blocks:
        t = {"x": w.normal(2, 3, d), f"w/{a}.weight": w.normal(f, d), f"w/{o}.weight": w.normal(d, f)}
        if g:
            t[f"w/{g}.weight"] = w.normal(f, d)
        if bias:
            t[f"w/{a}.bias"], t[f"w/{o}.bias"] = w.normal(f), w.normal(d)

        def block(t, _):
            h = ACTS[act](F.linear(t["x"], t[f"w/{a}.weight"], t.get(f"w/{a}.bias")))
            if g:
                h = h * F.linear(t["x"], t[f"w/{g}.weight"])
            return {"y": F.linear(h, t[f"w/{o}.weight"], t.get(f"w/{o}.bias"))}

        w.differentiated("layers/ffn_" + name, "layer/ffn", name, {"d_model": d, "d_ff": f}, t, block)
    for i, (kind, params) in enumerate([("torch cross_entropy", {"label_smoothing": 0.3, "reduction": "mean", "ignore_index": 2}),
                                        ("torch cross_entropy", {"label_smoothing": 0.0, "reduction": "sum", "ignore_index": -1}),
                                        ("LabelSmoother", {"epsilon": 0.25, "shift_labels": True, "ignore_index": 0})]):
        b, t, v = 2 + i, 5, 7
        labels = torch.randint(0, v, (b, t), generator=w.g)
        labels[0, 1] = labels[1, 3] = params["ignore_index"]

        def entropy(x, _, params=params, labels=labels):
            z, y = x["logits"], labels
            if params.get("shift_labels"):
                z, y = z[:, :-1], y[:, 1:]
            return {"loss": F.cross_entropy(z.reshape(-1, v), y.reshape(-1), ignore_index=params["ignore_index"],
                                            label_smoothing=params.get("label_smoothing", params.get("epsilon")),
                                            reduction=params.get("reduction", "mean"))}

        w.differentiated(f"layers/entropy_{i}", "layer/cross_entropy", kind, {"B": b, "T": t, "V": v, **params},
                         {"logits": w.normal(b, t, v)}, entropy, ints={"in/labels": labels})


def attend(q, k, v, bias, allowed, scale):
    s = q @ k.transpose(-1, -2) * scale
    if bias is not None:
        s = s + bias
    s = s.masked_fill(~allowed, torch.finfo(s.dtype).min)
    p = torch.softmax(s, -1)
    return p, p @ v


def attention(w):
    from transformers.models.t5.modeling_t5 import T5Attention

    for i, (kind, h, dkv, d, buckets, maxd, masked) in enumerate([("encoder", 3, 5, 7, 12, 9, False), ("decoder_causal", 1, 4, 6, 6, 20, False),
                                                                   ("encoder_masked", 2, 3, 4, 10, 30, True), ("cross", 2, 2, 6, 8, 16, False),
                                                                   ("cross_masked", 4, 1, 3, 8, 16, True), ("decoder_masked", 2, 3, 5, 4, 7, True)]):
        b, t, s = 2, 4, 6
        cross, causal = "cross" in kind, "decoder" in kind
        q_len = t if causal or cross else s
        k_len = s if cross or not causal else t
        x = {"x": w.normal(b, q_len, d), **{f"w/{n}.weight": w.normal(h * dkv, d, scale=0.5) for n in "qkv"}, "w/o.weight": w.normal(d, h * dkv)}
        if cross:
            x["kv"] = w.normal(b, k_len, d)
        else:
            x["w/relative_attention_bias.weight"] = w.normal(buckets, h)
        mask = torch.ones(b, k_len, dtype=torch.int64)
        if masked:
            mask[1, -2:] = 0
        allowed = (mask[:, None, None, :] != 0) & (torch.ones(q_len, k_len).tril() != 0 if causal else torch.ones(q_len, k_len) != 0)
        offsets = torch.arange(k_len)[None] - torch.arange(q_len)[:, None]
        ids = T5Attention._relative_position_bucket(offsets, bidirectional=not causal, num_buckets=buckets, max_distance=maxd)

        def t5(z, _):
            heads = lambda y, n: F.linear(y, z[f"w/{n}.weight"]).view(b, -1, h, dkv).transpose(1, 2)
            kv = z["kv"] if cross else z["x"]
            bias = None if cross else z["w/relative_attention_bias.weight"][ids].permute(2, 0, 1)[None]
            p, y = attend(heads(z["x"], "q"), heads(kv, "k"), heads(kv, "v"), bias, allowed, 1.0)
            out = {"y": F.linear(y.transpose(1, 2).reshape(b, q_len, h * dkv), z["w/o.weight"]), "attention": p}
            if not cross:
                out["position_bias"] = bias
            return out

        w.differentiated(f"layers/t5_attention_{i}", "layer/t5_attention", "T5Attention",
                         {"B": b, "T": t, "S": s, "D": d, "H": h, "dkv": dkv, "buckets": buckets, "maxd": maxd, "kind": kind}, x, t5,
                         ints={"in/key_mask": mask} if masked else {})
    for i, (cross, causal, masked, h, d) in enumerate([(False, False, True, 3, 6), (True, False, False, 1, 5), (False, True, False, 4, 8), (False, False, False, 2, 4)]):
        b, t, s = 3, 3, 5
        k_len = s if cross else t
        x = {"x": w.normal(b, t, d)}
        for n in ("q_proj", "k_proj", "v_proj", "out_proj"):
            x[f"w/{n}.weight"], x[f"w/{n}.bias"] = w.normal(d, d, scale=0.5), w.normal(d)
        if cross:
            x["kv"] = w.normal(b, k_len, d)
        mask = torch.ones(b, k_len, dtype=torch.int64)
        if masked:
            mask[0, 1:] = 0
        allowed = (mask[:, None, None, :] != 0) & (torch.ones(t, k_len).tril() != 0 if causal else torch.ones(t, k_len) != 0)

        def nllb(z, _):
            lin = lambda y, n: F.linear(y, z[f"w/{n}.weight"], z[f"w/{n}.bias"])
            heads = lambda y, n: lin(y, n).view(b, -1, h, d // h).transpose(1, 2)
            kv = z["kv"] if cross else z["x"]
            p, y = attend(heads(z["x"], "q_proj"), heads(kv, "k_proj"), heads(kv, "v_proj"), None, allowed, (d // h) ** -0.5)
            return {"y": lin(y.transpose(1, 2).reshape(b, t, d), "out_proj"), "attention": p}

        w.differentiated(f"layers/nllb_attention_{i}", "layer/nllb_attention", "NllbMoeAttention", {"B": b, "T": t, "S": s, "D": d, "H": h}, x, nllb,
                         ints={"in/key_mask": mask} if masked else {})
    for i, (h, kv, dh, theta, window, bias) in enumerate([(4, 1, 2, 500.0, None, False), (3, 3, 4, 1e6, 1, False), (6, 2, 2, 10000.0, 2, True), (2, 1, 6, 1e4, 4, False)]):
        b, s, d = 2, 5, h * dh
        positions = torch.stack([torch.arange(s), torch.arange(s) + 3])
        x = {"x": w.normal(b, s, d)}
        for n, rows in (("q_proj", h * dh), ("k_proj", kv * dh), ("v_proj", kv * dh)):
            x[f"w/{n}.weight"] = w.normal(rows, d, scale=0.5)
            if bias:
                x[f"w/{n}.bias"] = w.normal(rows)
        x["w/o_proj.weight"] = w.normal(d, h * dh)
        gap = torch.arange(s)[:, None] - torch.arange(s)[None]
        allowed = (gap >= 0) & (gap < (window or s))

        def rope(z, dtype):
            inv = theta ** (-torch.arange(0, dh, 2, dtype=dtype) / dh)
            table = torch.arange(10, dtype=dtype)[:, None] * inv[None]
            cos, sin = torch.cat([table.cos()] * 2, -1), torch.cat([table.sin()] * 2, -1)
            turn = lambda y: torch.cat([-y[..., dh // 2:], y[..., :dh // 2]], -1)
            heads = lambda n, c: F.linear(z["x"], z[f"w/{n}.weight"], z.get(f"w/{n}.bias")).view(b, s, c, dh).transpose(1, 2)
            at = lambda y: y * cos[positions][:, None] + turn(y) * sin[positions][:, None]
            q, k, v = at(heads("q_proj", h)), at(heads("k_proj", kv)), heads("v_proj", kv)
            k, v = k.repeat_interleave(h // kv, 1), v.repeat_interleave(h // kv, 1)
            p, y = attend(q, k, v, None, allowed[None, None], dh ** -0.5)
            return {"y": F.linear(y.transpose(1, 2).reshape(b, s, h * dh), z["w/o_proj.weight"]), "attention": p, "rope_cos": cos, "rope_sin": sin}

        w.differentiated(f"layers/rope_{i}", "layer/rope_gqa_attention", "MixtralAttention",
                         {"B": b, "S": s, "D": d, "H": h, "KV": kv, "theta": theta, "sliding_window": window}, x, rope,
                         ints={"in/position_ids": positions})
    for bi, n, m in ((True, 10, 12), (False, 5, 40), (True, 64, 300)):
        offsets = torch.arange(-350, 351)
        w.write(f"layers/buckets_{bi}_{n}_{m}", "layer/t5_relative_buckets", "T5Attention._relative_position_bucket",
                {"bidirectional": bi, "num_buckets": n, "max_distance": m}, {"relative_position": offsets}, None,
                {"bucket": T5Attention._relative_position_bucket(offsets, bidirectional=bi, num_buckets=n, max_distance=m)})


# ------------------------------------------------------------------------------------------------------- routing
def kth_excluding(h, k, i):
    others = torch.cat([h[:i], h[i + 1:]])
    return others.topk(k).values[-1]


def cv2(v):
    return v.var(unbiased=False) / v.mean() ** 2


def noisy_gates(x, wg, wn, noise, k, epsilon):
    """Gates, clean and noisy logits, noise scale, and P(x, i) of Shazeer et al. 2017."""
    clean, std = x @ wg, F.softplus(x @ wn) + epsilon
    h = clean + noise * std
    n, e = h.shape
    top = h.topk(k, -1).indices
    gates = torch.zeros_like(h).scatter(1, top, torch.softmax(h.gather(1, top), -1))
    if k < e:
        tau = torch.stack([torch.stack([kth_excluding(h[t], k, i) for i in range(e)]) for t in range(n)])
        p = 0.5 * (1 + torch.erf((clean - tau) / std / math.sqrt(2)))
    else:
        p = torch.ones_like(h)
    return gates, clean, h, std, p


def routing(w):
    for i, (n, d, e, k, eps) in enumerate([(9, 4, 6, 3, 0.0), (14, 3, 9, 5, 0.1), (11, 5, 7, 6, 0.01), (8, 4, 10, 7, 0.0), (10, 6, 12, 8, 0.02), (7, 3, 5, 1, 0.01)]):
        x = {"x": w.normal(n, d), "w_gate": w.normal(d, e), "w_noise": w.normal(d, e), "expert": w.normal(e, d, min(4, d)), "~noise": w.normal(n, e)}
        wi, wl = 0.3, 0.7

        def noisy(z, _):
            gates, clean, h, std, p = noisy_gates(z["x"], z["w_gate"], z["w_noise"], z["noise"], k, eps)
            importance, load = gates.sum(0), p.sum(0)
            unbiased = e / (e - 1)
            out = {"y": torch.einsum("te,td,edo->to", gates, z["x"], z["expert"]), "gates": gates, "clean_logits": clean.detach(),
                   "noisy_logits": h.detach(), "noise_std": std.detach(), "prob_in_top_k": p.detach(), "importance": importance.detach(),
                   "load": load.detach(), "importance_loss": wi * cv2(importance), "load_loss": wl * cv2(load),
                   "hard_load": (gates > 0).sum(0).to(torch.int64)}
            out["importance_loss_unbiased_variance"] = (out["importance_loss"] * unbiased).detach()
            out["load_loss_unbiased_variance"] = (out["load_loss"] * unbiased).detach()
            return out

        parts = [(s, ["x", "w_gate", "w_noise"]) for s in ("importance_loss", "load_loss")]
        w.differentiated(f"routing/noisy_{i}", "routing/noisy_top_k", "Shazeer et al. 2017",
                         {"T": n, "D": d, "E": e, "k": k, "noise_epsilon": eps, "w_importance": wi, "w_load": wl}, x, noisy, parts=parts, wide_inputs=True)
    for i, (n, d, a, b, k1, k2) in enumerate([(9, 4, 2, 5, 1, 3), (12, 3, 5, 3, 3, 2), (8, 5, 6, 2, 4, 1), (10, 4, 4, 4, 2, 2), (7, 3, 7, 2, 1, 1)]):
        x = {"x": w.normal(n, d), "w_gate_primary": w.normal(d, a), "w_noise_primary": w.normal(d, a), "w_gate": w.normal(a, d, b),
             "w_noise": w.normal(a, d, b), "~noise_primary": w.normal(n, a), "~noise": w.normal(a, n, b)}
        wi, wl = 0.2, 0.4

        def levels(z, _):
            outer, _, _, _, p1 = noisy_gates(z["x"], z["w_gate_primary"], z["w_noise_primary"], z["noise_primary"], k1, 0.0)
            gates, load = [], []
            for j in range(a):
                inner, _, _, _, p2 = noisy_gates(z["x"], z["w_gate"][j], z["w_noise"][j], z["noise"][j], k2, 0.0)
                chosen = (outer[:, j] > 0).to(p2.dtype)
                gates.append(outer[:, j:j + 1] * inner)
                count = chosen.sum()
                load.append(p1[:, j].sum() * (p2 * chosen[:, None]).sum(0) / count if count > 0 else torch.zeros(b, dtype=p2.dtype))
            gates, load = torch.stack(gates, 1), torch.stack(load)
            importance = gates.sum(0)
            return {"combined_gates": gates, "primary_gates": outer.detach(), "importance": importance.detach(), "load": load.detach(),
                    "importance_loss": wi * cv2(importance.reshape(-1)), "load_loss": wl * cv2(load.reshape(-1))}

        names = ["x", "w_gate_primary", "w_noise_primary", "w_gate", "w_noise"]
        w.differentiated(f"routing/levels_{i}", "routing/hierarchical_noisy_top_k", "Shazeer et al. 2017, appendix B",
                         {"T": n, "D": d, "a": a, "b": b, "k1": k1, "k2": k2, "w_importance": wi, "w_load": wl}, x, levels,
                         parts=[(s, names) for s in ("importance_loss", "load_loss")], wide_inputs=True)
    for i, (b, s, d, f, e, k) in enumerate([(1, 7, 3, 5, 9, 8), (2, 4, 5, 3, 6, 4), (3, 3, 4, 4, 5, 5), (1, 8, 6, 2, 8, 7), (2, 5, 4, 3, 7, 6), (2, 6, 5, 6, 3, 1)]):
        x = {"x": w.normal(b, s, d), "w/gate.weight": w.normal(e, d)}
        for j in range(e):
            x[f"w/experts.{j}.w1.weight"], x[f"w/experts.{j}.w3.weight"] = w.normal(f, d), w.normal(f, d)
            x[f"w/experts.{j}.w2.weight"] = w.normal(d, f)

        def mixtral(z, _):
            flat = z["x"].reshape(-1, d)
            logits = F.linear(flat, z["w/gate.weight"])
            p = torch.softmax(logits, -1)
            weight, index = p.topk(k, -1)
            weight = weight / weight.sum(-1, keepdim=True)
            y = torch.zeros_like(flat)
            for j in range(e):
                h = F.silu(F.linear(flat, z[f"w/experts.{j}.w1.weight"])) * F.linear(flat, z[f"w/experts.{j}.w3.weight"])
                y = y + F.linear(h, z[f"w/experts.{j}.w2.weight"]) * (weight * (index == j)).sum(-1, keepdim=True)
            fraction = F.one_hot(index, e).to(p.dtype).mean(0)
            return {"y": y.reshape(b, s, d), "logits": logits, "topk_weight": weight, "topk_index": index,
                    "aux_loss": e * (fraction * p.mean(0)[None]).sum()}

        w.differentiated(f"layers/mixtral_{i}", "layer/mixtral_block", "MixtralSparseMoeBlock", {"B": b, "S": s, "D": d, "FF": f, "E": e, "k": k}, x, mixtral)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--add", nargs="+", metavar=("PREFIX", "ID"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.makedirs(options.out, exist_ok=True)
    w = Writer(options.out, options.seed, *((options.add[0], set(options.add[1:])) if options.add else ()))
    for group in (optimisers, schedules, layers, attention, routing):
        group(w)
    if options.add:
        w.add_to_manifest()
    else:
        w.finish()


if __name__ == "__main__":
    main()
