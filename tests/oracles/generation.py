#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""generation.py OUT [--seed 0] -- small random checkpoints (T5, Mixtral), one for each thing that generation_config.json can
ask of a search, with what transformers' generate() gives: keys that hf_random.py does not draw, and their meetings. OUT
gets directories for compare.py. Lines whose outputs change when the weights change by 1e-6 are left out.

generation.py --data tests/data -- writes generate/MODEL.CASE.asked and .answers there, which tests/program/generate.sh
reads: a generation_config.json for a model of goldens/models, and all outputs of generate() for MODEL.in."""
import argparse
import json
import pathlib
import random

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, GenerationConfig

import hf_random

LENGTH = hf_random.LENGTH
CASES = {
    "max_length": dict(max_length=9),
    "max_length_file_beams": dict(max_length=11, num_beams=3, early_stopping=True),
    "min_length": dict(min_length=6, max_new_tokens=9),
    "min_length_beams": dict(min_length=10, max_new_tokens=12, num_beams=3),
    "forced_eos_list": dict(forced_eos_token_id=[7, 9], max_new_tokens=6),
    "forced_both": dict(forced_bos_token_id=5, forced_eos_token_id=9, max_new_tokens=5, begin_suppress_tokens=[11, 20, 33]),
    "forced_first_only_token": dict(forced_bos_token_id=5, forced_eos_token_id=9, max_new_tokens=1),
    "sequence_bias": dict(sequence_bias=[[[7], 2.5], [[9], -4.0], [[7, 11], 3.0], [[7, 9, 11], 1.0], [[30, 11], 3.0]]),
    "bad_words": dict(bad_words_ids=[[8], [9, 10], [1], [3, 4, 5], [12, 13]]),
    "decay": dict(exponential_decay_length_penalty=[3, 1.4], max_new_tokens=14),
    "decay_beams": dict(exponential_decay_length_penalty=[2, 1.2], max_new_tokens=14, num_beams=3),
    "renormalize": dict(renormalize_logits=True, repetition_penalty=1.4, suppress_tokens=list(range(20, 40))),
    "source_penalty": dict(encoder_repetition_penalty=1.7),
    "source_ngram": dict(encoder_no_repeat_ngram_size=1),
    "source_ngram_2": dict(encoder_no_repeat_ngram_size=2, no_repeat_ngram_size=2),
    "below_one": dict(repetition_penalty=0.7, length_penalty=-0.5, num_beams=4),
    "never_long": dict(early_stopping="never", length_penalty=2.0, num_beams=3),
    "never_many_ends": dict(early_stopping="never", length_penalty=1.0, num_beams=2, eos_token_id=[1, 2, 14, 15, 22]),
    "many_ends": dict(eos_token_id=list(range(1, 25, 2))),
    "no_end": dict(eos_token_id=None),
    "remove_invalid": dict(remove_invalid_values=True, no_repeat_ngram_size=1),
    "sampling_numbers": dict(temperature=0.3, top_k=3, top_p=0.5),
}


ASKED = {
    "penalties": dict(num_beams=3, num_return_sequences=2, repetition_penalty=1.5, no_repeat_ngram_size=2, length_penalty=2.0,
                      early_stopping=True, max_new_tokens=12),
    "ids": dict(eos_token_id=[1, 14, 15, 22, 40], min_new_tokens=3, suppress_tokens=[3, 9], begin_suppress_tokens=[5, 30],
                bad_words_ids=[[8], [7, 11]], forced_eos_token_id=14, max_length=10),
    "scores": dict(num_beams=2, num_return_sequences=2, encoder_repetition_penalty=1.5, renormalize_logits=True,
                   sequence_bias=[[[7], 1.5], [[9, 11], 2.0]], exponential_decay_length_penalty=[3, 1.3], max_new_tokens=10),
}


def write_data(data):
    for name in ("t5_relu_a", "mixtral_a"):
        decoder_only = name == "mixtral_a"
        source = data / "goldens" / "models" / name
        model = (AutoModelForCausalLM if decoder_only else AutoModelForSeq2SeqLM).from_pretrained(source).eval()
        plain = {k: v for k, v in json.loads((source / "generation_config.json").read_text()).items() if k.endswith("_id")}
        lines = [list(map(int, l.split())) for l in (data / "generate" / f"{name}.in").read_text().splitlines()]
        for case, options in ASKED.items():
            if decoder_only and "max_length" in options:
                options = {**options, "max_length": max(map(len, lines)) + 6}
            asked = {**plain, **options}
            model.generation_config = GenerationConfig(**asked)
            ends = model.generation_config.eos_token_id
            ends = ends if isinstance(ends, list) else [ends]
            rows = []
            for ids in lines:
                with torch.no_grad():
                    result = model.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long))
                for row in result.tolist():
                    row = row[len(ids) if decoder_only else 1:]
                    rows.append(row[:next((i for i, t in enumerate(row) if t in ends), len(row))])
            base = data / "generate" / f"{name}.{case}"
            base.with_name(base.name + ".asked").write_text(json.dumps(asked) + "\n")
            base.with_name(base.name + ".answers").write_text("".join(" ".join(map(str, r)) + "\n" for r in rows))


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


def make(name, options, family, seed, out):
    r = random.Random(f"{name} {family} {seed}")
    generator = torch.Generator().manual_seed(r.randrange(2**31))
    decoder_only = family == "mixtral"
    config = hf_random.FAMILIES[family](r)
    while decoder_only and getattr(config, "head_dim", 1) is None:  # some of them transformers cannot build
        config = hf_random.FAMILIES[family](r)
    model = (AutoModelForCausalLM if decoder_only else AutoModelForSeq2SeqLM).from_config(config).eval()
    hf_random.draw_weights(model, generator)
    plain = dict(eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id or 0, bos_token_id=getattr(config, "bos_token_id", None))
    if not decoder_only:
        plain["decoder_start_token_id"] = config.decoder_start_token_id
    directory = out / f"{family}-{name}"
    model.generation_config = GenerationConfig(**plain)
    model.save_pretrained(directory / "model")
    file = {k: v for k, v in {**plain, **options}.items() if v is not None}  # some of it transformers loads but does not save
    (directory / "model" / "generation_config.json").write_text(json.dumps(file) + "\n")
    model = type(model).from_pretrained(directory / "model").eval()
    other = hf_random.perturbed(model, generator)
    short = [[r.randint(3, hf_random.VOCABULARY - 1) for _ in range(r.randint(1, 8))] for _ in range(10)]
    lines = short if decoder_only else [line + [1] for line in short]
    given = ["--max-new-tokens", str(LENGTH)], dict(max_new_tokens=LENGTH)
    own = ([], {}) if "max_new_tokens" in options or "max_length" in options else given
    runs = {"file": own}
    if options.get("num_beams", 1) == 1 and name != "forced_eos_list":  # its ids are equally good: any may win
        runs["beam4"] = (own[0] + ["--beam", "4"], dict(num_beams=4, **own[1]))
    with torch.no_grad():
        steady, results = [True] * len(lines), {}
        for run, (_, keywords) in runs.items():
            results[run] = outputs(model, lines, decoder_only, **keywords)
            again = outputs(other, lines, decoder_only, **keywords)
            steady = [s and a["ids"] == b["ids"] for s, a, b in zip(steady, results[run], again)]
    kept = [i for i, s in enumerate(steady) if s]
    (directory / "input.txt").write_text("".join(" ".join(map(str, lines[i])) + "\n" for i in kept))
    expected = {"transformers": transformers.__version__, "arguments": ["--ids"],
                "runs": {run: {"arguments": runs[run][0], "outputs": [results[run][i] for i in kept]} for run in runs}}
    (directory / "expected.json").write_text(json.dumps(expected) + "\n")
    return len(kept)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path, nargs="?")
    parser.add_argument("--data", type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=0)
    o = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    if o.data:
        write_data(o.data)
    for name, options in CASES.items() if o.out else ():
        for family in ("t5", "mixtral"):
            print(f"{family}-{name}: {make(name, options, family, o.seed, o.out)} lines", flush=True)


if __name__ == "__main__":
    main()
