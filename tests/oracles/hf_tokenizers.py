#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""hf_tokenizers.py -- small tokenizers of every family, and what the installed transformers makes of texts with them.

  hf_tokenizers.py make OUT [--small]     one directory a tokenizer: its files, config.json and golden.json
  hf_tokenizers.py compare PROGRAM OUT    PROGRAM --tokenize (sparsemoe-generate) on the texts without newlines

With transformers 4 the directories are those of its slow tokenizers (no tokenizer.json) and of its fast ones, with 5
those that it writes. golden.json holds the texts, their ids, and what decode(skip_special_tokens=True) gives; --small
makes what tests/data/tokenizers has: few texts, and normalisers of a few rules in place of NFKC's 250 kB.
Needs transformers, sentencepiece and protobuf from PyPI; no network."""
import argparse
import json
import os
import pathlib
import random
import shutil
import subprocess
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import sentencepiece
import transformers
from transformers import AddedToken, AutoTokenizer

transformers.logging.set_verbosity_error()
FIVE = int(transformers.__version__.split(".")[0]) >= 5

WORDS = ("the small house is red and the old mouse lives near it . we tokenize words , numbers ( 42 ) and names ; don't "
         "worry : package for the library , naïve café über straße 1,000.5 日本 語 привет мир hello world translate "
         "English to German fill in leading trailing upper LOWER quoted text").split()
LANGUAGES = ["ace_Arab", "eng_Latn", "fra_Latn", "zho_Hans"]
# Decomposed letters and wide or joined forms to plain ones, white space to a space, a zero-width space to nothing.
RULES = [("e\u0301", "é"), ("a\u0308", "ä"), ("\uff21", "A"), ("\ufb01", "fi"), ("\t", " "), ("\u00a0", " "), ("\u3000", " "),
         ("\u2003", " "), ("\n", " "), ("\r", " "), ("\u200b", ""), ("\u2026", "...")]


def texts(count):
    """The same for every tokenizer: cases that went wrong somewhere, then mixtures."""
    fixed = ["", " ", "  ", "the red house", " leading", "trailing ", "hello  world", "a   b", "the\tred\thouse", "line\nbreak", "a\r\nb",
             "x </s> y", "</s>", "<pad> a", "<unk>", "a</s>b", "one</s> two</s> three", "<s>", "<mask> x", "the <mask>house",
             "Fill <extra_id_0> in <extra_id_1>!", "<extra_id_0>", "a<extra_id_12>b", "the  <extra_id_99>  house", "<extra_id_100>",
             "eng_Latn the house", "fra_Latn", "emoji 😀 👨‍👩‍👧 🇩🇪", "日本 語", "e\u0301 cafe\u0301 a\u0308\u0301", "\uff21\ufb01 \u2026", "a\u00a0b\u3000c\u2003d",
             "zero\u200bwidth", "UPPER lower", "don't", '"quoted" text', "1,000.5 (beta)", "\u2581the\u2581 house", "\u2581", "привет мир", "ẞ İ ı",
             "<0x41>", "x[USER]y", "x [USER] y", "xcolourx", "a colour b", "colour", "[USER][USER]", "  [USER]  the", "\x1ca b", "ab\x00c", "é́"]
    rng = random.Random(7)
    parts = WORDS + [" ", "  ", "\t", "\u00a0", "😀", "日本", "e\u0301", "</s>", "<pad>", "<extra_id_3>", "[USER]", "eng_Latn", "\u200b", "ﬁ", "ö", "𝒳", "\u2581"]
    while len(fixed) < count:
        fixed.append("".join(rng.choice(parts) + rng.choice(["", " ", " "]) for _ in range(rng.randint(1, 9))))
    return [t for t in fixed[:count] if "\x00" not in t]


def train(prefix, small, **options):
    rng = random.Random(1)
    with open(prefix + ".txt", "w", encoding="utf8") as out:
        for _ in range(1500):
            out.write(" ".join(rng.choice(WORDS) for _ in range(8)) + "\n")
    if small and options.get("normalization_rule_name") != "identity":
        with open(prefix + ".tsv", "w", encoding="utf8") as out:
            for source, target in RULES:
                out.write(" ".join(f"{ord(c):X}" for c in source) + "\t" + " ".join(f"{ord(c):X}" for c in target) + "\n")
        options["normalization_rule_tsv"] = prefix + ".tsv"
    sentencepiece.SentencePieceTrainer.train(input=prefix + ".txt", model_prefix=prefix, vocab_size=options.pop("vocab_size", 180),
                                             hard_vocab_limit=False, minloglevel=2, num_threads=1, **options)
    return prefix + ".model"


def write(directory, files):
    for name, content in files.items():
        path = directory / name
        if isinstance(content, str) and os.path.exists(content):
            shutil.copy(content, path)
        else:
            path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf8")


def sources(work, small):
    """name -> (files, arguments of the tokenizer, tokens to add, source language)."""
    t5 = dict(pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    unigram = train(f"{work}/t5", small, **t5)
    mt5 = train(f"{work}/mt5", small, user_defined_symbols="\u2581<extra_id_1>,\u2581<extra_id_0>", **t5)
    bytes_ = train(f"{work}/umt5", small, byte_fallback=True, vocab_size=430, pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    nllb = train(f"{work}/nllb", small, model_type="bpe")
    llama = train(f"{work}/llama", small, model_type="bpe", byte_fallback=True, vocab_size=430, normalization_rule_name="identity",
                  remove_extra_whitespaces=False, split_digits=True)
    processor = sentencepiece.SentencePieceProcessor(model_file=nllb)
    pieces = ["<s>", "<pad>", "</s>", "<unk>"] + sorted(processor.id_to_piece(i) for i in range(3, len(processor)))
    vocab = {piece: i for i, piece in enumerate(pieces)}
    user = [AddedToken("[USER]", lstrip=True, rstrip=False, normalized=False, special=False),
            AddedToken("colour", single_word=True, normalized=True, special=False)]
    M2M100 = transformers.models.m2m_100.tokenization_m2m_100.FAIRSEQ_LANGUAGE_CODES["m2m100"]
    config = lambda kind, **more: {"model_type": kind, "vocab_size": 1000, **more}
    return {
        "t5": ({"config.json": config("t5"), "spiece.model": unigram}, {}, [], None),
        "t5-user": ({"config.json": config("t5"), "spiece.model": unigram}, {"legacy": False}, user, None),
        "mt5": ({"config.json": config("mt5"), "spiece.model": mt5}, {"extra_ids": 0}, [], None),
        "umt5": ({"config.json": config("umt5", tokenizer_class="T5Tokenizer"), "spiece.model": bytes_}, {}, user[:1], None),
        "nllb": ({"config.json": config("nllb-moe"), "sentencepiece.bpe.model": nllb}, {"additional_special_tokens": LANGUAGES}, [], "eng_Latn"),
        "nllb-legacy": ({"config.json": config("m2m_100", tokenizer_class="NllbTokenizer"), "sentencepiece.bpe.model": nllb},
                        {"additional_special_tokens": LANGUAGES, "legacy_behaviour": True}, [AddedToken("xyz_Latn", special=True, normalized=False)], "xyz_Latn"),
        "m2m100": ({"config.json": config("m2m_100"), "sentencepiece.bpe.model": nllb, "vocab.json": vocab},
                   {"additional_special_tokens": [f"__{code}__" for code in M2M100]}, [], "en"),
        "mixtral": ({"config.json": config("mixtral", tokenizer_class="LlamaTokenizer"), "tokenizer.model": llama}, {}, [], None),
        "mixtral-new": ({"config.json": config("mixtral", tokenizer_class="LlamaTokenizer"), "tokenizer.model": llama},
                        {"legacy": False, "add_eos_token": True}, user[:1], None),
        "byt5": ({"config.json": config("t5", tokenizer_class="ByT5Tokenizer")}, {}, user[:1], None),
    }


def classes(name, fast):
    kind = {"t5": "T5Tokenizer", "mt5": "T5Tokenizer", "umt5": "T5Tokenizer", "nllb": "NllbTokenizer", "m2m100": "M2M100Tokenizer",
            "mixtral": "LlamaTokenizer", "byt5": "ByT5Tokenizer"}[name.split("-")[0]]
    return getattr(transformers, kind + ("Fast" if fast else ""), None)


def golden(directory, tokenizer, language, lines):
    rng = random.Random(3)
    ids = [tokenizer(line)["input_ids"] for line in lines]
    hidden = {i for i, t in tokenizer.added_tokens_decoder.items() if "<extra_id_" in t.content}
    runs = [[i for i in row if i not in hidden] for row in ids if row][:40]
    runs += [[rng.randrange(4, min(170, tokenizer.vocab_size)) for _ in range(rng.randint(1, 8))] for _ in range(20)]
    # By rows, and with as few characters as there can be.
    result = {"transformers": transformers.__version__, "language": language or "",
              "encode": [[line, row] for line, row in zip(lines, ids)],
              "decode": [[run, tokenizer.decode(run, skip_special_tokens=True)] for run in runs if not hidden & set(run)]}
    rows = lambda key: ",\n".join(json.dumps(row, ensure_ascii=True, separators=(",", ":")) for row in result[key])
    (directory / "golden.json").write_text(
        '{"transformers":"%s","language":"%s",\n"encode":[\n%s\n],\n"decode":[\n%s\n]}\n'
        % (result["transformers"], result["language"], rows("encode"), rows("decode")), encoding="ascii")


def make(out, small):
    lines = texts(70 if small else 200)
    out = out.resolve()
    with tempfile.TemporaryDirectory() as work:
        os.chdir(work)  # models keep the names of the files that they are trained on
        for name, (files, arguments, added, language) in sources(".", small).items():
            source = pathlib.Path(name)
            source.mkdir()
            write(source, files)
            for fast in (True,) if FIVE else (False, True):
                cls = classes(name, fast) or (classes(name, False) if FIVE else None)
                if cls is None:
                    continue
                if FIVE and name == "mt5":
                    continue  # its sentinels become pieces of another kind there
                tokenizer = cls.from_pretrained(source, **arguments, **({"src_lang": language} if language and language != "xyz_Latn" else {}))
                if added:
                    tokenizer.add_tokens(added)
                target = out / f"{name}-{'v5' if FIVE else 'fast' if fast else 'slow'}"
                shutil.rmtree(target, ignore_errors=True)
                target.mkdir(parents=True)
                tokenizer.save_pretrained(target)
                shutil.copy(source / "config.json", target)
                if fast and (target / "tokenizer.json").exists():
                    for path in target.glob("*.model"):
                        path.unlink()
                more = {"src_lang": language} if language else {}
                again = AutoTokenizer.from_pretrained(target, use_fast=fast, **more)
                golden(target, again, language, lines)
                print(target.name, type(again).__name__, len(again), sum(p.stat().st_size for p in target.iterdir()), "bytes")
        os.chdir("/")


def compare(program, out):
    failed = 0
    for directory in sorted(p.parent for p in out.glob("*/golden.json")):
        want = json.loads((directory / "golden.json").read_text())
        rows = [(line, ids) for line, ids in want["encode"] if not set(line) & set("\n\r\x1c")]
        command = [program, "--model", str(directory), "--tokenize"]
        if want["language"]:
            command += ["--from", want["language"], "--to", want["language"]]
        run = subprocess.run(command, input="".join(line + "\n" for line, _ in rows), capture_output=True, text=True)
        got = [list(map(int, line.split())) for line in run.stdout.split("\n")[:-1]]
        bad = [(line, ids, g) for (line, ids), g in zip(rows, got) if ids != g] if len(got) == len(rows) else [(run.stderr, len(rows), len(got))]
        failed += bool(bad)
        print("ok  " if not bad else "FAIL", directory.name, len(rows), *bad[:2])
    return failed > 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["make", "compare"])
    parser.add_argument("arguments", nargs="+")
    parser.add_argument("--small", action="store_true")
    o = parser.parse_args()
    if o.what == "make":
        make(pathlib.Path(o.arguments[0]), o.small)
    else:
        raise SystemExit(compare(o.arguments[0], pathlib.Path(o.arguments[1])))
