#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""compare.py BUILD DIRECTORY... -- runs sparsemoe-generate of BUILD on checkpoints whose outputs are known, and compares.

A directory holds model/, input.txt and expected.json, in one of two forms: what hf_random.py writes ("runs" with their
arguments), or "greedy" and "beam4" lists whose options stand in a line "Command: ..." of README.md. Ids must be equal;
scores within 1e-4, relative above 1. Where a row has no ids (text), scores are compared. One line a directory; exit status 1
if any differs. The last line is the sum."""
import json
import pathlib
import re
import shlex
import subprocess
import sys


def runs_of(directory, expected):
    if "runs" in expected:
        return [(name, expected["arguments"] + run["arguments"], run["outputs"]) for name, run in expected["runs"].items()]
    arguments = []
    readme = directory / "README.md"
    command = next((l for l in readme.read_text().splitlines() if l.startswith("Command:")), "") if readme.exists() else ""
    words = shlex.split(re.sub(r"^Command:\s*|`|<\S+|\(.*", "", command))
    i = 1
    while i < len(words):
        if words[i] in ("--model", "--beam"):
            i += 2
        elif words[i] == "--json":
            i += 1
        else:
            arguments.append(words[i])
            i += 1
    return [(name, arguments + ["--beam", beams], expected[name]) for name, beams in (("greedy", "1"), ("beam4", "4")) if name in expected]


def differences(got, want, is_ids):
    if len(got) != len(want):
        return [f"{len(got)} rows, expected {len(want)}"]
    problems = []
    for i, (line, one) in enumerate(zip(got, want), 1):
        output = json.loads(line)["outputs"][0]
        if is_ids and "ids" in one and list(map(int, output["text"].split())) != one["ids"]:
            problems.append(f"line {i}: ids {output['text']}, expected {' '.join(map(str, one['ids']))}")
        elif "score" in one and not abs(output["score"] - one["score"]) <= 1e-4 * max(1, abs(one["score"])):
            problems.append(f"line {i}: score {output['score']}, expected {one['score']}")
    return problems


def check(generate, directory):
    expected = json.loads((directory / "expected.json").read_text(encoding="utf8"))
    words = []
    runs = runs_of(directory, expected)
    for name, arguments, want in runs:
        if not want:
            continue
        with open(directory / "input.txt", encoding="utf8") as lines:
            run = subprocess.run([generate, "--model", directory / "model", "--json", "--threads", "1", *arguments], stdin=lines,
                                 capture_output=True, text=True)
        if run.returncode != 0:
            words.append(f"{name}: exit {run.returncode}: {(run.stderr.strip().splitlines() or [''])[-1][:200]}")
            continue
        problems = differences(run.stdout.splitlines(), want, "--ids" in arguments)
        if problems:
            words.append(f"{name}: {len(problems)} of {len(want)} differ, {problems[0]}")
    return words if runs else ["nothing to compare"]


def main():
    if len(sys.argv) < 3 or sys.argv[1] in ("-h", "--help"):
        print(__doc__)
        return 0 if "-h" in sys.argv or "--help" in sys.argv else 64
    generate = pathlib.Path(sys.argv[1]).resolve() / "sparsemoe-generate"
    failed = 0
    directories = [d for d in map(pathlib.Path, sys.argv[2:]) if (d / "expected.json").exists() and (d / "input.txt").exists()]
    for directory in directories:
        words = check(generate, directory)
        failed += bool(words)
        print("FAIL" if words else "ok  ", directory.name, "; ".join(words), flush=True)
    print(f"{len(directories) - failed} passed, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
