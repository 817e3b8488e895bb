#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Rewrites one section of RESULTS.md, between its markers, from what run.sh measured.

  write_results.py SECTION FOLDER THREADS LOAD
"""
import csv, datetime, json, pathlib, subprocess, sys

HERE = pathlib.Path(__file__).resolve().parent


def benchmarks(path):
    """Counters of every case of a Google Benchmark file, by the parts of its name."""
    if not path.exists():
        return {}
    cases = {}
    for b in json.loads(path.read_text())["benchmarks"]:
        if b.get("error_occurred"):
            print(f"{b['name']}: {b['error_message']}", file=sys.stderr)
            continue
        cases[tuple(p for p in b["name"].split("/") if not p.startswith(("iterations:", "manual_time")))] = b
    return cases


def peers(path, keys):
    """The last column of a CSV by its first `keys` columns; repeated header lines are skipped."""
    if not path.exists():
        return {}
    with path.open() as f:
        return {tuple(r[:keys]): r for r in csv.reader(f) if len(r) > keys and r[0] != "precision"}


def table(head, rows):
    return "\n".join(["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)] +
                     ["| " + " | ".join(r) + " |" for r in rows])


def number(v, digits=2):
    return "-" if v is None else f"{v:.{digits}f}"


def moe_layer(folder):
    ours = benchmarks(folder / "moe_layer.json") | benchmarks(folder / "moe_layer_onednn.json")
    if not ours:
        sys.exit("write_results.py: moe_layer left no results; the section stays as it was")
    torch = peers(folder / "peer_moe_layer.csv", 5)
    text = ["One sparse layer, forward and backward. `layer / GEMM`: its time over that of its own expert products alone, "
            "same provider, shapes and counts, alternating in one process; 1 is the limit."]
    for precision in ("fp32", "bf16"):
        providers = [p for p in ("native", "onednn", "eigen") if any(k[0] == precision and k[1] == p for k in ours)]
        rows = []
        for key in [k for k in ours if k[0] == precision and k[1] == "native" and k[2] == "switch-1.25"]:
            _, _, router, dims, tokens, experts = key
            width = dims.split("x")[0]
            peer = {v: float(torch[k][5]) for v in ("loop", "sorted", "einsum", "gemm")
                    if (k := (precision, width, tokens[1:], experts[1:], v)) in torch}
            best = min((peer[v] for v in ("loop", "sorted", "einsum") if v in peer), default=None)
            row = [dims, tokens[1:], experts[1:]]
            fastest = None
            for p in providers:
                c = ours.get((precision, p, router, dims, tokens, experts))
                row += [number(c and c["layer_ms"], 1), number(c and c["ratio"])]
                if c:
                    fastest = min(fastest or c["layer_ms"], c["layer_ms"])
            for r in ("switch", "top-2"):
                c = ours.get((precision, "native", r, dims, tokens, experts))
                row.append(number(c and c["ratio"]))
            native = ours[key]["layer_ms"]
            row += [number(best, 1), number(peer.get("gemm"), 1), number(best and best / native),
                    number(best and best / fastest), number(peer["einsum"] / native if "einsum" in peer else None)]
            rows.append(row)
        head = ["d x ff", "T", "E"]
        for p in providers:
            head += [f"{p} ms", "layer / GEMM"]
        head += ["the same, dropless", "the same, top-2", "best torch ms", "torch GEMM ms", "best torch : native",
                 "best torch : our best", "torch einsum : native"]
        text += [f"**{precision}**, Switch, capacity factor 1.25", table(head, rows)]
    return "\n\n".join(text)


def expert_stream(folder):
    ours = benchmarks(folder / "expert_stream.json")
    if not ours:
        sys.exit("write_results.py: expert_stream left no results; the section stays as it was")
    rows = [[weights, experts[1:], batch[1:], number(c["token_ms"], 2), f"{c['token_experts']:.0f}",
             number(c["token_GBps"], 1), number(c["read_GBps"], 1), f"{100 * c['read_share']:.0f} %",
             number(c["GFLOPs"], 0), number(c["task_ms"], 2), number(c["token_to_task"], 1)]
            for (weights, experts, batch), c in ours.items()]
    return ("The feed-forward network of E experts (512 x 2048) for a decoding step of B tokens, top-2. `by token`: every "
            "chosen expert's weights are read once, and `share` is that against a sum over the same weights in the same "
            "process. `by task`: two experts for all, which stay in cache. `int8`: fp32 arithmetic.\n\n" +
            table(["weights", "E", "B", "by token ms", "experts read", "GB/s", "sum GB/s", "share", "GFLOP/s", "by task ms",
                   "token : task"], rows))


def transformer(folder):
    ours, torch = benchmarks(folder / "transformer.json"), peers(folder / "peer_transformer.csv", 2)
    if not ours:
        sys.exit("write_results.py: transformer left no results; the section stays as it was")
    rows = []
    for (precision, model, what), c in ours.items():
        peer = torch.get((precision, what)) if model == "dense" else None
        peer = float(peer[2]) if peer else None
        rows.append([precision, model, what, f"{c['tokens_per_s']:,.0f}", number(c["ms"], 1), f"{100 * c['products_share']:.0f} %",
                     f"{peer:,.0f}" if peer else "-", number(peer and c["tokens_per_s"] / peer)])
    return ("Encoder-decoder, width 256, 4 heads, hidden 1024, 3 + 3 layers, vocabulary 8000. `train`: a step of 2048 target "
            "tokens with AdamW; `greedy-n`: batch n, source 32, 64 new tokens, kept keys and values. `token-task`: two "
            "of 8 experts by token in the encoder and by task in the decoder, every second layer.\n\n" +
            table(["precision", "model", "what", "tokens/s", "ms", "share of time in products", "PyTorch tokens/s", "ours : PyTorch"], rows))


def compile_time(folder):
    with (folder / "compile_time.csv").open() as f:
        rows = list(csv.reader(f))
    return "Processor seconds of one compiler run, and the memory of its largest process.\n\n" + table(
        rows[0], [[f"`{r[0]}`", r[1], r[2]] for r in rows[1:]])


def machine():
    model = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), "unknown processor")
    cpus = sum(l.startswith("processor") for l in open("/proc/cpuinfo"))
    flags = next((l.split(":")[1].split() for l in open("/proc/cpuinfo") if l.startswith("flags")), [])
    kinds = [f for f in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f in flags]
    return f"{model}, {cpus} processors ({', '.join(kinds)})"


def main():
    section, folder, threads, load = sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3], sys.argv[4]
    body = {"moe-layer": moe_layer, "expert-stream": expert_stream, "transformer": transformer, "compile-time": compile_time}[section](folder)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True).stdout.strip()
    title = {"moe-layer": "The sparse layer", "expert-stream": "Few rows an expert", "transformer": "A small transformer", "compile-time": "Compile time"}[section]
    about = f"{machine()}; {threads} bound threads; load {load} at the start; commit {commit}; {datetime.date.today()}; `benchmarks/run.sh {section}`"
    if section == "compile-time":
        about = about.replace(f"{threads} bound threads; ", "")
    begin, end = f"<!-- {section} -->", f"<!-- end {section} -->"
    new = f"{begin}\n## {title}\n\n{about}\n\n{body}\n{end}"
    path = HERE / "RESULTS.md"
    text = path.read_text() if path.exists() else "# Results\n"
    if begin in text:
        text = text[: text.index(begin)] + new + text[text.index(end) + len(end):]
    else:
        text = text.rstrip("\n") + "\n\n" + new + "\n"
    path.write_text(text)
    print(f"{path}: section {section} written")


main()
