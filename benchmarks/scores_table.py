#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Prints the scores.json files of runs (sparsemoe-nmt evaluate --scores) as one Markdown table, beside copying.

  scores_table.py token/task=run1/scores.json token/token=run2/scores.json
"""
import json
import sys


def main():
    if len(sys.argv) < 2 or any("=" not in a for a in sys.argv[1:]):
        sys.exit("usage: scores_table.py NAME=scores.json ...")
    runs = []
    for argument in sys.argv[1:]:
        name, path = argument.rsplit("=", 1)
        with open(path, encoding="utf-8") as file:
            runs.append((name, json.load(file)))
    first = runs[0][1]
    print("| direction | rows | copying: BLEU / chrF | " + " | ".join(f"{n}: BLEU / chrF" for n, _ in runs) + " |")
    print("|---|---:|---:|" + "---:|" * len(runs))
    for row in first["directions"]:
        same = [next(d for d in s["directions"] if d["direction"] == row["direction"]) for _, s in runs]
        cells = [f"{d['bleu']:.1f} / {d['chrf']:.1f}" for d in same]
        print(f"| {row['direction']} | {row['segments']} | {row['copy_bleu']:.1f} / {row['copy_chrf']:.1f} | " + " | ".join(cells) + " |")
    for name, mean in first["averages"].items():
        cells = [f"{s['averages'][name]['bleu']:.1f} / {s['averages'][name]['chrf']:.1f}" for _, s in runs]
        print(f"| **{name}** | {mean['directions']:.0f} directions | {mean['copy_bleu']:.1f} / {mean['copy_chrf']:.1f} | " + " | ".join(cells) + " |")


main()
