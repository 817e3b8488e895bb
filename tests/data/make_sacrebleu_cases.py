#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes sacrebleu_cases.json: what the real sacreBLEU gives for small texts of our own.

Run once, in a virtual environment with sacrebleu 2.6:  python3 make_sacrebleu_cases.py > sacrebleu_cases.json
Each case is a corpus (hypotheses, one reference each) and a tokenizer; tests/test_metrics.cpp compares to 1e-9.
"""
import json
import random
import sys

import sacrebleu
from sacrebleu.metrics import BLEU, CHRF

CASES = []


def add(name, hyps, refs, *tokenizers):
    for tok in tokenizers or ("13a",):
        bleu = BLEU(tokenize=tok).corpus_score(hyps, [refs])
        CASES.append(dict(
            name=name, hypotheses=hyps, references=refs, tokenizer=tok,
            bleu=bleu.score, precisions=bleu.precisions, brevity_penalty=bleu.bp,
            hypothesis_length=bleu.sys_len, reference_length=bleu.ref_len,
            chrf=CHRF().corpus_score(hyps, [refs]).score,
            chrf_plus_plus=CHRF(word_order=2).corpus_score(hyps, [refs]).score))


fox_h = ["The grey cat sat on the old mat.", "It rained all day, and we stayed in."]
fox_r = ["The grey cat sat on an old mat.", "It rained the whole day and we stayed at home."]
add("plain", fox_h, fox_r, "13a", "none", "char", "zh")
add("equal", fox_r, fox_r)
add("empty hypothesis", [""], ["Not a word came back."], "13a", "char")
add("empty reference", ["Something came back."], [""], "13a", "char")
add("all empty", ["", ""], ["", ""])
add("one empty line of two", ["", fox_h[1]], fox_r)
add("one empty reference of two", fox_h, ["", fox_r[1]])
add("only white space", [" \u00a0\u3000"], ["a b"])
add("one word", ["yes"], ["yes"])
add("two words, one right", ["yes sir"], ["yes madam"])
add("three words", ["a b c"], ["a b c"])
add("no match", ["alpha beta gamma delta"], ["one two three four five"])
add("unigrams only", ["d c b a e"], ["a x b y c z"])
add("too short", ["We left"], ["We left early because the last bus was full."])
add("too long", ["We left very very very early because of the bus bus bus"], ["We left early."])
add("repeated words", ["the the the the the the the"], ["the cat is on the mat"])
add("numbers", ["It costs 1,000.5 euros, or 3.14, or .5 or 5."], ["It costs 1,000.50 euros or 3.14, or .5, or 5."],
    "13a", "zh", "none")
add("stops", ["Wait... what?! a.b,c.,d 1.a a.1 1., 2"], ["Wait .. what ?! a.b, c., d 1.a a.1 1.,2"])
add("hyphens", ["A well-known 5-year 2020-21 plan -- really-"], ["A well-known five-year 2020-2021 plan - really"])
add("entities", ["&quot;Fish &amp; chips&quot; &lt;b&gt; &amp;lt; &apos;"], ['"Fish & chips" <b> < \'&apos;'])
add("skipped", ["one <skipped> two three four five"], ["one two three four <skipped>five"])
add("line break inside", ["hyphen-\nated and\nbroken line here"], ["hyphenated and broken line here"])
add("brackets", ["(hi) [there] {you} f(x)=y/z; a|b~c `d` ^e_f\\g"], ["( hi ) [there] {you} f(x) = y / z; a|b ~c 'd' ^e_f"])
add("no-break space", ["Prix :\u00a05\u202f000 \u20ac \u00ab\u00a0bon\u00a0\u00bb"],
    ["Prix : 5\u202f000 \u20ac, \u00ab bon\u00a0\u00bb"], "13a", "char", "none")
add("zero-width space", ["zero\u200bwidth and more words here"], ["zero width and more words here"])
add("trailing space", ["ends with space \u3000\u0085"], ["ends with space"], "13a", "zh")
add("separators", ["a\u2028b\u001cc\u0085d e"], ["a b c d e"])
add("combining", ["cafe\u0301 nai\u0308ve re\u0301sume\u0301 here"], ["caf\u00e9 nai\u0308ve r\u00e9sum\u00e9 here"],
    "13a", "char")
add("emoji", ["Well done \U0001f44d\U0001f3fd \U0001f468\u200d\U0001f469\u200d\U0001f467 !"],
    ["Well done \U0001f44d \U0001f468\u200d\U0001f469\u200d\U0001f467!"], "13a", "char", "zh")
add("Chinese", ["\u6211\u5011\u4eca\u5929\u53bb\u5e02\u5834\u8cb7\u4e862.5\u516c\u65a4\u860b\u679c\u3002", "\u4ed6\u4f7f\u7528 C++ 20\uff0c\u901f\u5ea6\u5feb\u3002"],
    ["\u6211\u4eec\u4eca\u5929\u5230\u5e02\u573a\u4e70\u4e862.5\u516c\u65a4\u82f9\u679c\u3002", "\u4ed6\u7528C++20\uff0c\u901f\u5ea6\u5f88\u5feb\uff01"], "zh", "char", "13a")
add("zh odd ranges", ["\u20ac5 \u2192 \u2018x\u2019 \U00020000\U0002f800 \u00e9\u2014\u2000z\u2a6d\u2a6e\u2f80"],
    ["\u20ac 5 \u2192\u2018x\u2019 \U00020000 \U0002f800 \u00e9 \u2014 z \u2a6d \u2a6e \u2f80"], "zh")
add("zh compatibility", ["\uf900\ufa2e\ufa6b\uff21\uffe5\u33ff\u2600\u27bf\u31a0\ufe10\u9fbc"],
    ["\uf900 \ufa2e \ufa6b \uff21 \uffe5 \u33ff \u2600 \u27bf \u31a0 \ufe10 \u9fbc"], "zh")
add("Japanese", ["\u5f7c\u306f\u65b0\u3057\u3044\u30ab\u30e1\u30e9\u3067\u6d77\u3092\u64ae\u3063\u305f\u3002", "\u3000\u6771\u4eac \u3078\u884c\u304f\u3002"],
    ["\u5f7c\u306f\u53e4\u3044\u30ab\u30e1\u30e9\u3067\u5c71\u3092\u64ae\u3063\u305f\u3002", "\u6771\u4eac\u3078\u884c\u304f\u3002"], "char", "13a")
add("Korean", ["\uc800\ub294 \uc5b4\uc81c \uce5c\uad6c\uc640 \uc601\ud654\ub97c \ubd24\uc2b5\ub2c8\ub2e4."], ["\ub098\ub294 \uc5b4\uc81c \uce5c\uad6c\ub791 \uc601\ud654\ub97c \ubd24\uc2b5\ub2c8\ub2e4."], "13a", "char")
add("Cyrillic", ["\u041e\u043d\u0430 \u043a\u0443\u043f\u0438\u043b\u0430 \u0445\u043b\u0435\u0431, \u043c\u043e\u043b\u043e\u043a\u043e \u0438 \u00ab\u0427\u0430\u0439\u00bb."],
    ["\u041e\u043d\u0430 \u043a\u0443\u043f\u0438\u043b\u0430 \u0445\u043b\u0435\u0431, \u0441\u044b\u0440 \u0438 \u00ab\u0427\u0430\u0439\u00bb."])
add("case", ["THE Cat Sat On The Mat"], ["the cat sat on the mat"])

rng = random.Random(7)
words = "red green blue stone river light house seven 12 3.5 quick-step (maybe) end. so, it's".split()
long_r = [" ".join(rng.choice(words) for _ in range(rng.randint(0, 60))) for _ in range(30)]
long_h = [" ".join(w for w in line.split() if rng.random() > 0.1) for line in long_r]
add("long", long_h, long_r, "13a", "none")
add("very long line", [" ".join(long_h)], [" ".join(long_r)])

json.dump(dict(sacrebleu=sacrebleu.__version__, cases=CASES), sys.stdout, ensure_ascii=True, indent=1)
print()
