#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""hf_random.py OUT [--count 64] [--seed 0] [--families t5,mixtral,...] -- random small checkpoints of every family that
sparsemoe-generate runs, as the installed transformers saves them, and what its generate() gives for random ids.

Each OUT/NAME holds model/ (a directory to load), input.txt (a line of ids each) and expected.json:
  {"transformers": VERSION, "arguments": [...], "runs": {"greedy": {"arguments": [...], "outputs": [{"ids": [...]}, ...]}, ...}}
Outputs of beam search have a "score" too. compare.py runs our program on such directories.

Weights are drawn wide, so that outputs vary; a line whose outputs change when every weight is altered by one part in a
million is left out, for rounding would decide it. Needs torch and transformers (tried: 4.57 and 5.24)."""
import argparse
import copy
import json
import pathlib
import random

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, GenerationConfig

VERSION = transformers.__version__
MAJOR = int(VERSION.split(".")[0])
VOCABULARY = 61
LENGTH = 12  # most new tokens


# --- configurations, a function a family: draw(r) -> (config, is_decoder_only) ----------------------------------------
def special(decoder_start=0):
    return dict(vocab_size=VOCABULARY, pad_token_id=0, eos_token_id=1, decoder_start_token_id=decoder_start)


def t5_sizes(r):
    layers = r.randint(1, 3)  # 4.57's cache has as many layers as the encoder
    return dict(d_model=r.choice([16, 24]), d_kv=r.choice([4, 8, 10]), num_heads=r.choice([1, 2, 3]), d_ff=r.choice([20, 32]),
                num_layers=layers, num_decoder_layers=r.randint(1, layers), layer_norm_epsilon=r.choice([1e-6, 1e-3]),
                relative_attention_num_buckets=r.choice([8, 16, 32]), relative_attention_max_distance=r.choice([40, 128]))


def t5(r):
    return transformers.T5Config(**special(), **t5_sizes(r), tie_word_embeddings=True,
                                 feed_forward_proj=r.choice(["relu", "gelu", "gelu_new", "silu"]))


def t5_gated(r):
    return transformers.T5Config(**special(), **t5_sizes(r), tie_word_embeddings=r.random() < 0.3,
                                 feed_forward_proj=r.choice(["gated-gelu", "gated-relu", "gated-silu", "gated-gelu_new"]))


def mt5(r):
    return transformers.MT5Config(**special(), **t5_sizes(r), feed_forward_proj=r.choice(["gated-gelu", "relu"]))


def umt5(r):
    return transformers.UMT5Config(**special(), **t5_sizes(r), feed_forward_proj=r.choice(["gated-gelu", "gated-silu", "relu"]))


def switch_transformers(r):
    sizes = t5_sizes(r)
    config = transformers.SwitchTransformersConfig(
        **special(), **sizes, num_sparse_encoder_layers=r.randint(0, sizes["num_layers"]),
        num_sparse_decoder_layers=r.randint(0, sizes["num_decoder_layers"]), num_experts=r.choice([2, 3, 8]),
        expert_capacity=r.choice([1, 2, 64]), router_bias=r.random() < 0.3, router_jitter_noise=0.01,
        router_ignore_padding_tokens=r.random() < 0.5, add_router_probs=r.random() < 0.3)
    config.dense_act_fn = r.choice(["relu", "gelu_new", "gelu", "silu"])
    return config


def bart_sizes(r):
    width = r.choice([16, 24])
    return dict(d_model=width, encoder_layers=r.randint(1, 4), decoder_layers=r.randint(1, 4), encoder_attention_heads=r.choice([1, 2, 4]),
                decoder_attention_heads=r.choice([1, 2, 4]), encoder_ffn_dim=r.choice([16, 40]), decoder_ffn_dim=r.choice([16, 40]),
                max_position_embeddings=64, scale_embedding=r.random() < 0.7, activation_function=r.choice(["relu", "gelu", "silu"]))


def nllb_special():
    return dict(vocab_size=VOCABULARY, bos_token_id=0, pad_token_id=1, eos_token_id=2, decoder_start_token_id=2)


def nllb_moe(r):
    sizes = bart_sizes(r)
    sizes["decoder_ffn_dim"] = sizes["encoder_ffn_dim"]
    return transformers.NllbMoeConfig(
        **nllb_special(), **sizes, num_experts=r.choice([2, 4, 8]), expert_capacity=64, encoder_sparse_step=r.randint(0, 3),
        decoder_sparse_step=r.randint(0, 3), router_bias=r.random() < 0.3,
        normalize_router_prob_before_dropping=r.random() < 0.5, batch_prioritized_routing=r.random() < 0.3,
        moe_eval_capacity_token_fraction=r.choice([1.0, 1.0, 0.5]), second_expert_policy="all")  # the others draw


def m2m_100(r):
    return transformers.M2M100Config(**nllb_special(), **bart_sizes(r))


def rope(r):
    kind = r.choice(["default", "default", "linear", "llama3", "yarn", "dynamic"])
    value = {"rope_type": kind}
    if kind != "default":
        value["factor"] = r.choice([2.0, 4.0])
    if kind == "llama3":
        value.update(low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16)
    if kind == "yarn":
        value.update(original_max_position_embeddings=32)
        if r.random() < 0.5:
            value.update(beta_fast=16.0, beta_slow=2.0)
    return kind, value


def mixtral(r):
    heads = r.choice([2, 4])
    experts = r.choice([2, 4, 8])
    kind, value = rope(r)
    theta = r.choice([1e4, 1e6, 500.0])
    options = dict(vocab_size=VOCABULARY, bos_token_id=1, eos_token_id=2, pad_token_id=None, hidden_size=16, intermediate_size=24,
                   num_hidden_layers=r.randint(1, 3), num_attention_heads=heads, num_key_value_heads=r.choice([1, 2, heads]),
                   head_dim=r.choice([None, 8, 12]), num_local_experts=experts, num_experts_per_tok=r.randint(1, min(experts, 8)),
                   max_position_embeddings=128, sliding_window=r.choice([None, None, 4]), rms_norm_eps=1e-5,
                   tie_word_embeddings=r.random() < 0.3, attention_dropout=r.choice([0.0, 0.1]),
                   hidden_act=r.choice(["silu", "silu", "gelu"]))
    if MAJOR >= 5:
        options["rope_parameters"] = {**value, "rope_theta": theta}
    else:
        options["rope_theta"] = theta
        if kind != "default":
            options["rope_scaling"] = value
    return transformers.MixtralConfig(**options)


FAMILIES = {f.__name__: f for f in (t5, t5_gated, mt5, umt5, switch_transformers, nllb_moe, m2m_100, mixtral)}
if MAJOR >= 5:
    del FAMILIES["nllb_moe"]  # 5.x runs two experts of each layer whatever the router says


# --- models and generation options ------------------------------------------------------------------------------------
def draw_weights(model, generator):
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if p.dim() == 1 and ("norm" in name or "ln" in name):
                p.copy_(1 + 0.3 * noise if name.endswith("weight") else 0.2 * noise)
            elif p.dim() == 1:
                p.copy_(0.3 * noise)
            elif "embed" in name or "shared" in name or "relative_attention_bias" in name:
                p.copy_(0.5 * noise)
            else:
                p.copy_(2.0 * noise / p.shape[-1] ** 0.5)


def generation_options(r, decoder_only):
    """Options of generation_config.json that have nothing to do with chance."""
    options = {}
    if r.random() < 0.5:
        options["eos_token_id"] = sorted(r.sample(range(2, VOCABULARY), 3)) + [2 if decoder_only else 1]
    for key, draw, share in (
            ("length_penalty", lambda: r.choice([0.0, 0.6, 1.5, -1.0]), 0.4), ("repetition_penalty", lambda: r.choice([0.8, 1.3]), 0.4),
            ("no_repeat_ngram_size", lambda: r.randint(1, 3), 0.3), ("min_new_tokens", lambda: r.randint(1, 6), 0.3),
            ("early_stopping", lambda: r.choice([True, False, "never"]), 0.4), ("num_beams", lambda: r.randint(1, 5), 0.5),
            ("suppress_tokens", lambda: r.sample(range(3, VOCABULARY), 4), 0.3),
            ("begin_suppress_tokens", lambda: r.sample(range(3, VOCABULARY), 6), 0.3),
            ("bad_words_ids", lambda: [r.sample(range(3, VOCABULARY), n) for n in (1, 2)], 0.3),
            ("max_new_tokens", lambda: r.randint(4, 14), 0.5)):
        if r.random() < share:
            options[key] = draw()
    if "early_stopping" in options or "length_penalty" in options:
        options["num_beams"] = r.randint(2, 5)  # transformers does not save them without beams
    if not decoder_only:
        if r.random() < 0.3:
            options["forced_bos_token_id"] = r.randint(3, VOCABULARY - 1)
        if r.random() < 0.2:
            options["encoder_no_repeat_ngram_size"] = r.randint(2, 3)
    if r.random() < 0.2:
        options["forced_eos_token_id"] = r.randint(1, VOCABULARY - 1)
    return options


def outputs(model, lines, decoder_only, **options):
    found = []
    ends = model.generation_config.eos_token_id
    ends = set(ends if isinstance(ends, list) else [ends])
    for ids in lines:
        result = model.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                                return_dict_in_generate=True, output_scores=True, **options)
        row = result.sequences[0].tolist()[len(ids) if decoder_only else 1:]
        cut = next((i for i, t in enumerate(row) if t in ends), len(row))
        one = {"ids": row[:cut]}
        if getattr(result, "sequences_scores", None) is not None:
            one["score"] = round(result.sequences_scores[0].item(), 6)
        found.append(one)
    return found


def perturbed(model, generator):
    other = copy.deepcopy(model)
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(1 + 1e-6 * torch.randn(p.shape, generator=generator))
    return other


def ids_of(found):
    return [o["ids"] for o in found]


def make(family, number, seed, out):
    r = random.Random(f"{family} {number} {seed}")
    generator = torch.Generator().manual_seed(r.randrange(2**31))
    config = FAMILIES[family](r)
    decoder_only = family == "mixtral"
    model = (AutoModelForCausalLM if decoder_only else AutoModelForSeq2SeqLM).from_config(config).eval()
    draw_weights(model, generator)
    plain = dict(eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id, bos_token_id=getattr(config, "bos_token_id", None))
    if not decoder_only:
        plain["decoder_start_token_id"] = config.decoder_start_token_id
    drawn = generation_options(r, decoder_only) if r.random() < 0.7 else {}
    model.generation_config = GenerationConfig(**{**plain, **drawn})
    directory = out / f"{family}-{number}"
    model.save_pretrained(directory / "model")
    model = type(model).from_pretrained(directory / "model").eval()  # as a user gets it
    other = perturbed(model, generator)
    lines = [[r.randint(3, VOCABULARY - 1) for _ in range(r.randint(1, 14))] for _ in range(14)]
    if not decoder_only:
        lines = [line + [config.eos_token_id] for line in lines]
    runs = {"greedy": (["--beam", "1", "--max-new-tokens", str(LENGTH)], dict(num_beams=1, max_new_tokens=LENGTH)),
            "beam4": (["--beam", "4", "--max-new-tokens", str(LENGTH)], dict(num_beams=4, max_new_tokens=LENGTH))}
    if "max_new_tokens" in drawn:
        runs["file"] = ([], {})
    with torch.no_grad():
        steady = [True] * len(lines)
        results = {}
        for name, (_, options) in runs.items():
            results[name] = outputs(model, lines, decoder_only, **options)
            again = outputs(other, lines, decoder_only, **options)
            steady = [s and a == b for s, a, b in zip(steady, ids_of(results[name]), ids_of(again))]
    kept = [i for i, s in enumerate(steady) if s]
    (directory / "input.txt").write_text("".join(" ".join(map(str, lines[i])) + "\n" for i in kept))
    expected = {"transformers": VERSION, "arguments": ["--ids"],
                "runs": {name: {"arguments": runs[name][0], "outputs": [results[name][i] for i in kept]} for name in runs}}
    (directory / "expected.json").write_text(json.dumps(expected) + "\n")
    return len(kept)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--families", default=",".join(FAMILIES))
    o = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    families = o.families.split(",")
    for i in range(o.count):
        family = families[i % len(families)]
        kept = make(family, i // len(families), o.seed, o.out)
        print(f"{family}-{i // len(families)}: {kept} lines", flush=True)


if __name__ == "__main__":
    main()
