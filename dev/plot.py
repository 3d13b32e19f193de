#!/usr/bin/env python3
"""Draws runs: loss, validation loss, perplexity, throughput, memory, gradient norm, learning rate.

    python3 dev/plot.py runs/340M                       writes runs/340M/plot.html, and plot.png where matplotlib is
    python3 dev/plot.py runs/moba runs/dense --out compare     compare.html and compare.png, the runs beside each other

The page is one file that a browser opens without a network: curves to zoom and read off, a table of what the runs are and where their options differ."""
import html
import json
import math
import os
import sys

import runlog
import common

MAX_POINTS = 3000                                      # of a curve on the page; beyond it neighbours are averaged
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a8a00", "#7a5ccc")
TEMPLATE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "plot_page.html")


def finite(values):
    return [value for value in values if math.isfinite(value)]


def mean(values):
    values = finite(values)
    return sum(values) / len(values) if values else math.nan


def binned(values, size):
    return [mean(values[i:i + size]) for i in range(0, len(values), size)] if size > 1 else values


def clean(values, digits=6):
    """For JSON: what is not finite becomes null."""
    return [float(f"{value:.{digits}g}") if math.isfinite(value) else None for value in values]


def curves_of(run):
    """The columns of a run, at most MAX_POINTS of each; `per_point` steps went into one, which stands where the last of them does."""
    count = len(run.columns["step"])
    size = -(-count // MAX_POINTS)
    ends = [min(i + size, count) - 1 for i in range(0, count, size)]
    places = {"step": run.columns["step"], "tokens": run.columns["tokens"], "hours": run.hours()}
    return {"per_point": size, **{field: clean([values[i] for i in ends], 10) for field, values in places.items()},
            **{field: clean(binned(run.columns[field], size)) for field in ("loss", "norm", "lr", "tok_s", "mfu", "mem_mib")}}


def eval_points(run):
    """Evaluations by set, each with the step's tokens and hours."""
    at = {int(step): i for i, step in enumerate(run.columns["step"])}
    hours, out = run.hours(), {}
    for name, points in run.evals.items():
        points = [(step, loss, at[int(step)]) for step, loss in points if math.isfinite(step) and int(step) in at]
        out[name] = {"step": [step for step, _, _ in points], "loss": clean([loss for _, loss, _ in points]),
                     "tokens": clean([run.columns["tokens"][i] for _, _, i in points], 10), "hours": clean([hours[i] for _, _, i in points])}
    return out


def summary(run):
    """Rows of the table: (label, text)."""
    column, validation = run.columns, run.evals.get("validation", [])
    losses = [loss for _, loss in validation]
    best = min(finite(losses), default=math.nan)
    tail = mean(column["loss"][-max(1, len(column["loss"]) // 50):])
    steady = column["tok_s"][1:] or column["tok_s"]
    return [
        ("device", str(run.start.get("device", "-"))), ("commit", str(run.start.get("commit", "-"))),
        ("parameters", runlog.short(runlog.number(run.start.get("params")))), ("pattern", str(run.options.get("pattern", "-"))),
        ("steps", f"{run.last_step} of {run.total_steps or '?'}" + (f", {len(run.skips)} skipped" if run.skips else "")),
        ("tokens", runlog.short(column["tokens"][-1])), ("training time", runlog.duration(3.6e6 * run.hours()[-1])),
        ("loss, mean of the last 2 %", f"{tail:.4f}" if math.isfinite(tail) else "-"),
        ("validation loss, last", f"{losses[-1]:.4f}" if losses else "-"),
        ("validation loss, best", f"{best:.4f} (perplexity {math.exp(min(best, 700)):.2f})" if math.isfinite(best) else "-"),
        ("tokens/s, mean", runlog.short(mean(steady))), ("MFU, mean", f"{100 * mean(column['mfu'][1:] or column['mfu']):.1f} %" if mean(column["mfu"]) > 0 else "-"),
        ("memory, largest", f"{max(finite(column['mem_mib']), default=math.nan):,.0f} MiB"),
        ("ended", str(run.end.get("why", "-")) if run.end else "has not (yet)"),
    ]


def differing_options(runs):
    """Options whose values are not the same in all runs: (name, [value of each run, "-" where a run knows no such option])."""
    names = sorted({name for run in runs for name in run.options} - {"out", "resume"})
    rows = [(name, [json.dumps(run.options[name]) if name in run.options else "-" for run in runs]) for name in names]
    return [row for row in rows if len(set(row[1])) > 1]


def write_page(path, runs, title):
    data = {"title": title, "runs": [{"name": run.name, "colour": COLOURS[i % len(COLOURS)], "curves": curves_of(run), "evals": eval_points(run),
                                      "summary": summary(run)} for i, run in enumerate(runs)],
            "differing": differing_options(runs)}
    page = common.read_bytes(TEMPLATE, "page").decode()
    text = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")      # no text of a run can end the script
    page = page.replace("{{title}}", html.escape(title)).replace("{{data}}", text)
    with common.whole_file(path) as file:
        file.write(page.encode())


# ---- PNG --------------------------------------------------------------------------------------------------------------

def centred(values, weight):
    """Smoothed from both sides, as on the page: a mean of the past alone lags behind a falling loss."""
    before, after = runlog.smoothed(values, weight), runlog.smoothed(values[::-1], weight)[::-1]
    return [(a + b) / 2 for a, b in zip(before, after)]


def panels(run):
    """(title, x, y, is logarithmic, drawn faintly behind it) of each panel of the picture; any of them may be empty."""
    column, validation = run.columns, [point for name, points in sorted(run.evals.items()) if name == "validation" for point in points]
    steps = column["step"]
    return [("loss", steps, centred(column["loss"], 0.9), False, column["loss"]),
            ("validation loss", [step for step, _ in validation], [loss for _, loss in validation], False, []),
            ("validation perplexity", [step for step, _ in validation], [math.exp(min(loss, 700)) for _, loss in validation], True, []),
            ("gradient norm", steps, centred(column["norm"], 0.9), True, column["norm"]),
            ("tokens/s", steps, column["tok_s"], False, []), ("memory, MiB", steps, column["mem_mib"], False, []),
            ("learning rate", steps, column["lr"], False, []), ("MFU, %", steps, [100 * value for value in column["mfu"]], False, [])]


def tidy(axis, steps, ticker):
    """After all runs are drawn: the same steps on every panel, ticks that can be read, and a word where there is nothing."""
    drawn = [y for line in axis.lines for y in finite(list(line.get_ydata()))]
    axis.grid(alpha=0.3)
    axis.set_xlabel("step")
    axis.set_xlim(0, max(steps) * 1.02)
    if not drawn:
        axis.text(0.5, 0.5, "none in the log", transform=axis.transAxes, ha="center", color="grey")
        axis.set_yticks([])
    elif axis.get_yscale() == "log":
        narrow = max(drawn) < 5 * min(drawn)
        axis.yaxis.set_major_locator(ticker.MaxNLocator(6) if narrow else ticker.LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
        axis.yaxis.set_minor_locator(ticker.NullLocator())


def write_picture(path, runs, title):
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker
    figure, axes = pyplot.subplots(2, 4, figsize=(20, 8.5), constrained_layout=True)
    for i, run in enumerate(runs):
        colour = COLOURS[i % len(COLOURS)]
        for axis, (label, x, y, logarithmic, faint) in zip(axes.flat, panels(run)):
            axis.set_title(label)
            if logarithmic and finite(y) and min(finite(y)) > 0:
                axis.set_yscale("log")
            if not finite(y):
                continue
            if faint:
                axis.plot(x, faint, color=colour, alpha=0.2, linewidth=0.8)
            axis.plot(x, y, color=colour, linewidth=1.4, label=run.name, marker="." if len(x) < 30 else None)
    for axis in axes.flat[4:]:
        axis.set_ylim(bottom=0)
    for axis in axes.flat:
        tidy(axis, [step for run in runs for step in run.columns["step"]], ticker)
    axes.flat[0].legend()
    figure.suptitle(title)
    with common.whole_file(path) as file:
        figure.savefig(file, format="png", dpi=90, metadata={"Software": None})
    pyplot.close(figure)


# ---- command line -----------------------------------------------------------------------------------------------------

def main():
    parser = common.Parser("Draws runs of the trainer: one self-contained HTML page, and a PNG where matplotlib is.")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run directory (the trainer's --out)")
    parser.add_argument("--out", metavar="NAME", help="writes NAME.html and NAME.png, for NAME/ plot in it (default: plot in the first run's directory)")
    parser.add_argument("--title", help="above the curves (default: the runs' names)")
    parser.add_argument("--no-png", action="store_true", help="the page alone")
    options = parser.parse_args()
    runs = runlog.read_runs(options.runs)
    out = options.out or os.path.join(options.runs[0] if os.path.isdir(options.runs[0]) else os.path.dirname(options.runs[0]), "plot")
    out += "plot" if out.endswith(os.sep) else ""
    title = options.title or ", ".join(run.name for run in runs)
    common.make_directory(os.path.dirname(out))
    write_page(out + ".html", runs, title)
    print(out + ".html")
    if not options.no_png:
        try:
            write_picture(out + ".png", runs, title)
            print(out + ".png")
        except ImportError:
            print(f"{out}.png is left out: it needs the Python package matplotlib (pip install matplotlib)", file=sys.stderr)


if __name__ == "__main__":
    common.run(main)
