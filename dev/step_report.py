#!/usr/bin/env python3
"""README's tables of speed and their picture, from dev/results/step.jsonl and ranks.jsonl.

    make bench OP=step                       writes dev/results/step.jsonl
    dev/ranks.sh                             writes dev/results/ranks.jsonl, on a host with several GPUs
    dev/step_report.py --write               README between <!-- speed --> and <!-- /speed -->, <!-- ranks --> and <!-- /ranks -->, and dev/results/step.svg
    dev/step_report.py --check               says whether both are what the results make them
    dev/step_report.py --ops 'ROW' [BEFORE]  a row's step op by op as a Markdown table, beside the same of another file
    dev/step_report.py --over                what is over 1.5 times its floor in some row: how many times, and the most it is of a step

Lines with "peer" are of PyTorch on the same GPU, added to the results by whoever ran it:
{"peer":"PyTorch S256,D","T":8192,"tokens":32768,"ms":224.2,"tok_s":146159,"peak_gib":37.8}
"""
import argparse
import json
import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
RESULTS, RANKS, PICTURE, README = (os.path.join(ROOT, name) for name in ("dev/results/step.jsonl", "dev/results/ranks.jsonl", "dev/results/step.svg", "README.md"))
# the MoBA hybrid with the kernels published with the paper (flash-moba) in the same PyTorch step, H100, measured once on 2026-11-22; None: out of memory
FLASH_MOBA = {8192: 117691, 32768: 107199, 65536: None}
OVER = 1.5                     # times its floor: what is named


def fail(sentence):
    sys.exit(f"error: {sentence}")


def read(path):
    """Rows by name, their ops, what the machine does (a record of each process), the peers; of lines of one row the last counts."""
    rows, ops, speeds, peers = {}, {}, [], []
    if not os.path.exists(path):
        fail(f"{path} is not there: make bench OP=step writes it")
    with open(path) as lines:
        for line in lines:
            if not line.startswith("{"):
                continue
            record = json.loads(line)
            if "options" in record:
                rows[record["row"]] = record
            elif "op" in record:
                ops.setdefault(record["row"], {})[record["op"]] = record
            elif "peer" in record:
                peers.append(record)
            else:
                speeds.append(record)
    return rows, ops, speeds, peers


def context(row):
    words = row["options"].split()
    return int(words[words.index("--seq-len") + 1])


def level(row):
    words = row["options"].split()
    return int(words[words.index("--recompute") + 1]) if "--recompute" in words else 0


def is_dense(row):
    return "S256,D" in row["row"]


def length(tokens):
    return f"{tokens >> 20}M" if tokens >= 1 << 20 else f"{tokens >> 10}K"


def thousands(tok_s):
    return f"{tok_s / 1e3:.1f}k"


def peer_of(row, peers):
    """PyTorch's step of as many tokens on the same GPU: dense where it was run, and the paper's kernels where those were."""
    if not row["row"].startswith("340M"):
        return ""
    found = [f"dense {thousands(peer['tok_s'])}" for peer in peers if peer["T"] == context(row) and peer["tokens"] == row["tokens"]]
    if not is_dense(row) and context(row) in FLASH_MOBA:
        flash = FLASH_MOBA[context(row)]
        found.append(f"MoBA {thousands(flash)}" if flash else "MoBA: out of memory")
    return ", ".join(found)


# ---- README ------------------------------------------------------------------------------------------------------------
def measured(speeds, key, unit, digits):
    values = sorted({f"{record[key] / unit:.{digits}f}" for record in speeds}, key=float)
    return " to ".join(values[:1] + values[1:][-1:])


def section(rows, speeds, peers):
    lines = ["", "| model, context | tokens a step | ms | tokens/s | of its GEMM bound | recompute level | GiB used, planned | device idle | PyTorch, tokens/s |",
             "|---|---|---|---|---|---|---|---|---|"]
    for row in rows.values():
        idle = f"{100 * row['idle_share']:.2f} %" if row["idle_share"] >= 0 else ""
        lines.append(f"| {row['row']} | {length(int(row['tokens']))} | {row['ms']:.1f} | {thousands(row['tok_s'])} | {100 * row['of_gemm_bound']:.0f} % | {level(row)} | "
                     f"{row['used_mib'] / 1024:.1f}, {row['planned_mib'] / 1024:.1f} | {idle} | {peer_of(row, peers)} |")
    texts = sorted({record["data"] for record in speeds if "data" in record})
    stall = 100 * max(row["loader_share"] for row in rows.values())
    lines += ["", "![tokens a second against context](dev/results/step.svg)", "",
              f"The loader never takes more than {stall:.3f} % of the time. The same GPU copies {measured(speeds, 'copy_gb_s', 1e3, 2)} TB/s and runs an 8192^3 product at "
              f"{measured(speeds, 'gemm_8192_tflops', 1, 0)} TFLOP/s." + (f" Text: {', '.join(texts)}." if texts else ""), ""]
    return "\n".join(lines) + "\n"


def read_ranks():
    if not os.path.exists(RANKS):
        fail(f"{RANKS} is not there: dev/ranks.sh writes it")
    with open(RANKS) as lines:
        records = [json.loads(line) for line in lines if line.startswith("{")]
    return [r for r in records if "estimate" not in r], [r for r in records if "estimate" in r]


def ranks_section(measured, estimates):
    lines = ["", "| GPUs | tokens a GPU and step | options | tokens/s | of linear | estimate | ms of reduction, hidden | GiB used, planned | losses off one GPU's |",
             "|---|---|---|---|---|---|---|---|---|"]
    for r in measured:
        if "--total-batch" in r["options"]:
            continue                                         # one GPU with as many tokens a step as several: what losses are compared with
        many = r["gpus"] > 1
        lines.append(f"| {r['gpus']} | {length(8192 * r['micro_batch'])} | {'`' + r['options'] + '`' if r['options'] else ''} | {thousands(r['tok_s'])} | "
                     + (f"{100 * r['of_linear']:.1f} % | {thousands(r['estimate_tok_s'])} | {r['reduction_ms']:.1f}, {r['hidden_percent']:.0f} % | " if many else "| | | ")
                     + f"{r['peak_mib'] / 1024:.1f}, {r['plan_mib'] / 1024:.1f} | " + (f"{r['loss_off']:.0e} |" if many else "|"))
    curve = ", ".join(f"{r['gpus']}: {r['tok_s'] / 1e6:.2f}M ({r['efficiency']})" for r in estimates if r["gpus"] in (8, 64, 256, 1024))
    lines += ["", f"The estimate goes on, from one GPU and {length(8192 * estimates[0]['micro_batch'])} tokens each, GPUs: tokens/s: {curve}. `--dry-run --ranks N` says what it assumes.", ""]
    return "\n".join(lines) + "\n"


def put(readme, name, text):
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->\n"
    if readme.count(begin) != 1 or readme.count(end) != 1:
        fail(f"README.md has not exactly one {begin.strip()} and one {end.strip()} line")
    return readme[:readme.index(begin) + len(begin)] + text + readme[readme.index(end):]


# ---- the picture: tokens a second of the 340M models against context, as bars -----------------------------------------------
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 900, 380, 70, 50, 50
COLOURS = {"moba.c, MoBA": "#c0392b", "moba.c, dense": "#e59866", "PyTorch, dense (torch.compile, cuDNN)": "#7f8c8d", "PyTorch, MoBA (flash-moba)": "#2471a3"}


def bars(rows, peers):
    """context -> [(name, tokens/s or None for out of memory)]"""
    groups = {}
    for row in rows.values():
        if row["row"].startswith("340M"):
            groups.setdefault(context(row), []).append(("moba.c, dense" if is_dense(row) else "moba.c, MoBA", row["tok_s"]))
    for peer in peers:
        groups.setdefault(peer["T"], []).append(("PyTorch, dense (torch.compile, cuDNN)", peer["tok_s"]))
    for T, tok_s in FLASH_MOBA.items():
        if T in groups:
            groups[T].append(("PyTorch, MoBA (flash-moba)", tok_s))
    return {T: sorted(groups[T], key=lambda bar: list(COLOURS).index(bar[0])) for T in sorted(groups)}


def text_at(x, y, text, anchor="middle", colour="#222", size=12):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}" font-size="{size}">{text}</text>'


def picture(rows, peers):
    groups = bars(rows, peers)
    highest = max(tok_s or 0 for group in groups.values() for _, tok_s in group)
    step = 50e3
    top = step * (int(highest / step) + 1)
    y = lambda tok_s: HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * tok_s / top
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif"><rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>']
    for tick in range(int(top / step) + 1):
        out.append(f'<line x1="{LEFT}" x2="{WIDTH - 10}" y1="{y(tick * step):.1f}" y2="{y(tick * step):.1f}" stroke="#ddd"/>')
        out.append(text_at(LEFT - 8, y(tick * step) + 4, f"{tick * step / 1e3:.0f}k", "end"))
    wide = (WIDTH - 10 - LEFT) / len(groups)
    for g, (T, group) in enumerate(groups.items()):
        bar, left = wide * 0.8 / 4, LEFT + g * wide + wide * 0.1 + wide * 0.1 * (4 - len(group))
        for i, (name, tok_s) in enumerate(group):
            x = left + i * bar
            if tok_s:
                out.append(f'<rect x="{x:.1f}" y="{y(tok_s):.1f}" width="{bar - 3:.1f}" height="{HEIGHT - BOTTOM - y(tok_s):.1f}" fill="{COLOURS[name]}"><title>{name}: {tok_s:.0f} tokens/s</title></rect>')
                out.append(text_at(x + bar / 2 - 1.5, y(tok_s) - 4, f"{tok_s / 1e3:.0f}", size=11))
            else:
                out.append(f'<g transform="rotate(-90 {x + bar / 2:.1f} {HEIGHT - BOTTOM - 6})">{text_at(x + bar / 2, HEIGHT - BOTTOM - 2, "out of memory", "start", COLOURS[name], 11)}</g>')
        out.append(text_at(LEFT + (g + 0.5) * wide, HEIGHT - BOTTOM + 20, length(T)))
    out.append(text_at((LEFT + WIDTH) / 2, HEIGHT - 8, "context, tokens"))
    out.append(text_at(LEFT, 18, "340M training, tokens a second on one H100", "start", size=14))
    for i, (name, colour) in enumerate(COLOURS.items()):
        x = LEFT + i * (WIDTH - LEFT) / 4.3 + (i == 3) * 40
        out.append(f'<rect x="{x:.1f}" y="28" width="10" height="10" fill="{colour}"/>' + text_at(x + 14, 37, name, "start", size=11))
    return "\n".join(out) + "\n</svg>\n"


# ---- op by op ------------------------------------------------------------------------------------------------------------
def print_ops(name, ops, rows, before):
    if name not in ops:
        fail(f"no row '{name}' in {RESULTS}: {', '.join(ops)}")
    old = read(before)[1].get(name, {}) if before else {}
    print("| op | calls | " + ("before, ms | " if old else "") + "ms | share | floor, ms | of floor |\n|---|---|" + ("---|" if old else "") + "---|---|---|---|")
    for op, record in ops[name].items():
        earlier = f" {old[op]['ms']:.2f} |" if op in old else " |" if old else ""
        mark = " *" if record["ms"] > OVER * record["floor_ms"] else ""
        print(f"| {op} | {record['calls']} |{earlier} {record['ms']:.2f} | {100 * record['share']:.1f} % | {record['floor_ms']:.2f} | {100 * record['of_roof']:.0f} %{mark} |")
    row = rows[name]
    print(f"\nStep {row['ms']:.1f} ms; speed of light (sum of floors) {row['speed_of_light_ms']:.1f} ms; * over {OVER} times its floor.")


def print_over(ops):
    over = {}                                              # op (products of all shapes) -> row -> [ms, floor, share of the step]
    for row, records in ops.items():
        for op, record in records.items():
            if record["ms"] > OVER * record["floor_ms"]:
                sums = over.setdefault(op.split(" ")[0] if op.startswith("matmul") else op, {}).setdefault(row, [0, 0, 0])
                sums[:] = (total + record[key] for total, key in zip(sums, ("ms", "floor_ms", "share")))
    print("| op | times its floor | of a step, at most | rows |\n|---|---|---|---|")
    for op, rows in sorted(over.items(), key=lambda item: -max(share for _, _, share in item[1].values())):
        times = [ms / floor for ms, floor, _ in rows.values() if floor >= 0.01]
        names = "all" if len(rows) == len(ops) else ", ".join(rows) if len(rows) < 4 else len(rows)
        print(f"| {op} | {f'{min(times):.1f} to {max(times):.1f}' if times else ''} | {100 * max(share for _, _, share in rows.values()):.1f} % | {names} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--ops", nargs="+", metavar=("ROW", "BEFORE"))
    parser.add_argument("--over", action="store_true")
    parser.add_argument("--results", default=RESULTS)
    args = parser.parse_args()
    rows, ops, speeds, peers = read(args.results)
    if args.over:
        print_over(ops)
        return
    if args.ops:
        print_ops(args.ops[0], ops, rows, args.ops[1] if len(args.ops) > 1 else None)
        return
    with open(README) as file:
        readme = put(put(file.read(), "speed", section(rows, speeds, peers)), "ranks", ranks_section(*read_ranks()))
    made = {README: readme, PICTURE: picture(rows, peers)}
    for path, text in made.items():
        if args.write:
            with open(path, "w") as file:
                file.write(text)
        elif not os.path.exists(path) or open(path).read() != text:
            fail(f"{os.path.relpath(path, ROOT)} is not what {os.path.relpath(args.results, ROOT)} makes it: dev/step_report.py --write")


if __name__ == "__main__":
    main()
