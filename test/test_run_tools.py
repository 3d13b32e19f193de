#!/usr/bin/env python3
"""Seeing a run: plot.py, watch.py, tb_export.py and plot_needle.py on a run of the trainer itself and on logs made up for the purpose."""
import contextlib
import fcntl
import functools
import html.parser
import json
import math
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time

from tool_test import ROOT, TEMPORARY, Skip, case, check, contents, equal, fresh, package, read, run_cases, tool, write

sys.path.insert(0, os.path.join(ROOT, "dev"))
import runlog
import tb_export

dev_tool = functools.partial(tool, folder="dev")
BATCH = 128


@functools.lru_cache(None)
def real_run():
    """25 steps of a micro model: (run directory, what the trainer printed)."""
    for target in ("train_moba_cpu", "build/data/bytes"):
        made = subprocess.run(["make", "-s", target], cwd=ROOT, capture_output=True, text=True)
        check(made.returncode == 0, f"make {target} failed: {made.stderr.strip()[-300:]}")
    text, out = fresh("text.bin"), fresh("run")
    subprocess.run([os.path.join(ROOT, "build/data/bytes"), "--out", text, os.path.join(ROOT, "README.md")], check=True, capture_output=True)
    done = subprocess.run([os.path.join(ROOT, "train_moba_cpu"), "--train-data", text, "--val-data", text, "--out", out, "--layers", "2", "--channels", "16",
                           "--heads", "2", "--mlp", "16", "--pattern", "S16,M16:2", "--seq-len", "64", "--micro-batch", "2", "--steps", "25",
                           "--lr", "0.003", "--eval-every", "10", "--eval-batches", "2"], capture_output=True, text=True,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})
    equal(done.returncode, 0, f"exit status of the trainer ({done.stderr.strip()[-300:]})")
    return out, done.stdout


def made_up(name, steps, loss=lambda step: 3 + 7 / step, start=None, more=()):
    """A run directory with a log of so many steps and further records."""
    folder = os.path.join(fresh("runs"), name)
    os.makedirs(folder)
    records = [{"kind": "start", "step": 0, "time": "2025-01-01T00:00:00Z", "device": "a </script> & \"device\"", "commit": "c0ffee", "params": 1234567,
                "options": {"steps": 2 * steps, "pattern": "S256,M128:8", **(start or {})}}]
    for step in range(1, steps + 1):
        records.append({"kind": "step", "step": step, "loss": loss(step), "norm": 1.5, "lr": 1e-3, "ms": 500.0, "tok_s": 2000.0, "mfu": 0.25,
                        "tokens": 1000 * step, "mem_mib": 100.0})
        if step % 10 == 0:
            records.append({"kind": "eval", "step": step, "set": "validation", "loss": loss(step) - 0.125, "ppl": 1})
    with open(os.path.join(folder, "log.jsonl"), "w") as file:
        file.writelines(json.dumps(record) + "\n" for record in records + list(more))
    return folder


# ---- the log itself, and what the trainer derives from it ------------------------------------------------------------------

@case
def run_log_rates_follow_from_times():
    columns = runlog.Reader(real_run()[0]).more().columns
    equal(columns["step"], list(range(1, 26)), "steps")
    for i, step in enumerate(columns["step"]):
        equal(columns["tokens"][i], BATCH * step, f"tokens after step {step}")
        check(math.isclose(columns["tok_s"][i], BATCH / columns["ms"][i] * 1000, rel_tol=1e-6), f"step {step}: {columns['tok_s'][i]} tokens/s in {columns['ms'][i]} ms")


@case
def run_log_times_are_those_of_the_steps():
    run = runlog.Reader(real_run()[0]).more()
    times = run.columns["ms"]
    usual = sorted(times)[len(times) // 2]
    for step, ms in zip(run.columns["step"], times):
        check(ms > usual / 10, f"step {step} took {ms} ms beside {usual} of the others: a step before an evaluation or the end, counted with its neighbour?")
    check(sum(times) <= 1000 * run.end["seconds"], f"the steps took {sum(times)} ms of {run.end['seconds']} s")


@case
def run_mfu_is_the_share_of_the_datasheets_peak():
    if subprocess.run(["nvidia-smi", "-L"], capture_output=True).returncode if shutil.which("nvidia-smi") else True:
        raise Skip("needs a GPU")
    text, out = fresh("text.bin"), fresh("run")
    subprocess.run([os.path.join(ROOT, "build/data/bytes"), "--out", text, os.path.join(ROOT, "README.md")], check=True, capture_output=True)
    done = subprocess.run([os.path.join(ROOT, "train_moba"), "--train-data", text, "--out", out, "--pattern", "S64,M64:2", "--seq-len", "256", "--micro-batch", "4",
                           "--steps", "10"], capture_output=True, text=True)
    equal(done.returncode, 0, f"exit status of train_moba ({done.stderr.strip()[-300:]})")
    run = runlog.Reader(out).more()
    flops = float(re.search(r"^FLOPs +(\S+) a token", done.stdout, re.M).group(1))
    peaks = [flops * rate / share for rate, share in zip(run.columns["tok_s"], run.columns["mfu"])]
    check(max(peaks) / min(peaks) < 1.001, f"steps stand for other peaks: {peaks}")
    if "H100" in run.start["device"] and "PCIe" not in run.start["device"] and "NVL" not in run.start["device"]:
        check(math.isclose(peaks[0], 989e12, rel_tol=1e-3), f"the peak is {peaks[0]:.4g}, the datasheet's 989e12")


@case
def run_console_eta_is_the_time_of_the_steps_left():
    folder, printed = real_run()
    lines = (line for line in read(os.path.join(folder, "log.jsonl")).decode().splitlines())
    shown = {int(step): eta for step, eta in re.findall(r"^step +(\d+)/25 .* ETA (\S+)$", printed, re.M)}
    equal(sorted(shown), list(range(1, 26)), "steps on the console")
    run = runlog.Run(folder)
    for line in lines:
        record = json.loads(line)
        run.take(record)
        if record["kind"] == "step":
            equal(shown[record["step"]], runlog.duration(runlog.ms_left(run)), f"ETA at step {record['step']}")


@case
def run_eta_of_even_steps_is_exact():
    run = runlog.Reader(made_up("even", 40)).more()
    equal(runlog.ms_left(run), 40 * 500.0, "milliseconds left")
    for ms, text in ((59e3, "59s"), (125e3, "2m05s"), (6000e3, "1h40m"), (47.5 * 3600e3, "47h30m"), (50 * 3600e3, "2d02h"), (math.inf, "?")):
        equal(runlog.duration(ms), text, f"duration of {ms} ms")


# ---- plot.py ------------------------------------------------------------------------------------------------------------

class Page(html.parser.HTMLParser):
    """What a browser would fetch, and the data the page carries."""

    def __init__(self, text):
        super().__init__()
        self.outside, self.inside, self.data, self.tags = [], None, "", []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.inside = dict(attributes).get("id") if tag == "script" else None
        self.outside += [value for name, value in attributes if name in ("src", "href", "data", "action")]

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        self.data += data if self.inside == "data" else ""


def page_of(out):
    text = read(out + ".html").decode()
    page = Page(text)
    equal(page.outside, [], "what the page refers to")
    check("http" not in text.replace("http://www.w3.org/2000/svg", ""), "the page names an address")
    check("@import" not in text and "url(" not in text, "the style refers to something")
    return json.loads(page.data), page


@case
def plot_page_stands_alone_and_holds_the_runs():
    one, other, out = made_up("one", 50), made_up("other", 30, start={"pattern": "S256,D"}), fresh("compare")
    said = dev_tool("plot", one, other, "--out", out, "--no-png")
    equal(said.split(), [out + ".html"], "what was written")
    folder = fresh("folder") + os.sep
    equal(dev_tool("plot", one, "--out", folder, "--no-png").split(), [folder + "plot.html"], "what was written into a folder")
    equal(os.listdir(folder), ["plot.html"], "what is in the folder")
    data, page = page_of(out)
    equal(page.tags.count("script"), 2, "scripts: the device's name must not end one")
    equal([run["name"] for run in data["runs"]], ["one", "other"], "names")
    curves = data["runs"][0]["curves"]
    equal(curves["loss"], [float(f"{3 + 7 / step:.6g}") for step in range(1, 51)], "losses")
    equal(curves["tokens"][-1], 50000, "tokens")
    check(math.isclose(curves["hours"][-1], 50 * 500 / 3.6e6, rel_tol=1e-6), "hours")
    equal(data["runs"][0]["evals"]["validation"]["step"], [10, 20, 30, 40, 50], "evaluated steps")
    equal(data["differing"], [["pattern", ['"S256,M128:8"', '"S256,D"']], ["steps", ["100", "60"]]], "options that differ")
    summary = dict(data["runs"][1]["summary"])
    equal((summary["steps"], summary["tokens"], summary["MFU, mean"]), ("30 of 60", "30k", "25.0 %"), "figures")
    check(summary["validation loss, best"].startswith(f"{3 + 7 / 30 - 0.125:.4f} (perplexity {math.exp(3 + 7 / 30 - 0.125):.2f})"), "best validation loss")


@case
def plot_page_of_a_long_run_is_thinned_without_losing_its_ends():
    out = fresh("long")
    dev_tool("plot", made_up("long", 10001, loss=lambda step: float(step)), "--out", out, "--no-png")
    curves = page_of(out)[0]["runs"][0]["curves"]
    equal((curves["per_point"], len(curves["loss"]), curves["step"][-1]), (4, 2501, 10001), "steps a point, points, last step")
    equal((curves["loss"][0], curves["loss"][-1]), (2.5, 10001), "first and last mean")


@case
def plot_draws_a_real_run_and_values_that_are_not_finite():
    folder, _ = real_run()
    dev_tool("plot", folder, "--no-png")
    curves = page_of(os.path.join(folder, "plot"))[0]["runs"][0]["curves"]
    equal(len(curves["loss"]), 25, "steps of the real run")
    if not runlog.Reader(folder).more().start["device"].startswith("NVIDIA"):
        equal(curves["mfu"], [None] * 25, "MFU of a device whose peak nobody knows")
    out = fresh("broken")
    dev_tool("plot", made_up("broken", 5, loss=lambda step: math.nan if step == 2 else math.inf if step == 3 else 1.0), "--out", out, "--no-png")
    equal(page_of(out)[0]["runs"][0]["curves"]["loss"], [1, None, None, 1, 1], "losses")


@case
def plot_is_the_same_twice():
    folder, first, second = made_up("one", 40), fresh("a"), fresh("b")
    for out in (first, second):
        dev_tool("plot", folder, "--out", out, "--no-png")
    check(read(first + ".html") == read(second + ".html"), "two pages of one run differ")


@case
def plot_writes_a_picture():
    package("matplotlib")
    out = fresh("picture")
    dev_tool("plot", made_up("one", 40), made_up("few", 3), "--out", out)
    data = read(out + ".png")
    check(data.startswith(b"\x89PNG\r\n\x1a\n") and data.endswith(b"IEND\xaeB\x60\x82"), "not a whole PNG")
    width, height = struct.unpack(">II", data[16:24])
    check(width > 1000 and height > 500 and len(data) > 20000, f"a picture of {width} x {height} in {len(data)} bytes")


@case
def plot_without_matplotlib_writes_the_page():
    out, lacking = fresh("page"), fresh("lacking")
    os.mkdir(lacking)
    with open(os.path.join(lacking, "matplotlib.py"), "w") as file:
        file.write("raise ImportError('none here')\n")
    said = dev_tool("plot", made_up("one", 40), "--out", out, PYTHONPATH=lacking)
    check("matplotlib" in said and os.path.exists(out + ".html") and not os.path.exists(out + ".png"), said)


@case
def plot_page_runs_in_a_browser():
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        raise Skip("needs chromium")
    out = fresh("page")
    dev_tool("plot", made_up("one", 50), made_up("other", 30), "--out", out, "--no-png")
    done = subprocess.run([browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={fresh('profile')}", "--dump-dom", "file://" + out + ".html"],
                          capture_output=True, text=True, timeout=120)
    panels = [part.split("</figure>")[0] for part in done.stdout.split("<figure>")[1:]]
    equal(len(panels), 8, "panels in the page")
    for panel in panels:
        check(panel.count("<path") >= 2 and "none in the log" not in panel, f"a panel without curves: {panel[:80]}")
    check("<td>a &lt;/script&gt; &amp; \"device\"</td>" in done.stdout, "the table of runs is not there")


# ---- watch.py -----------------------------------------------------------------------------------------------------------

@case
def watch_shows_a_run_once():
    more = [{"kind": "save", "step": 40}, {"kind": "skip", "step": 41, "why": "loss nan"}]
    said = dev_tool("watch", "--once", "--ascii", made_up("one", 40, more=more), COLUMNS="90", LINES="40")
    lines = said.splitlines()
    check(all(len(line) <= 90 for line in lines), "a line is wider than the terminal")
    for text in ("one   running", "step 40/80", "50.0%  ETA 20s", "loss 3.", "MFU 25%", "validation loss 3.0500 (perplexity 21.12) at step 40", "saved at step 40",
                 "1 steps skipped, the last at step 41"):
        check(text in said, f"'{text}' is not shown:\n{said}")
    equal(sum("*" in line for line in lines[4:]) > 3, True, "whether there is a curve")
    check(said.isascii(), "--ascii shows other characters")
    check("\u28ff" not in said and any("\u2800" < c <= "\u28ff" for c in dev_tool("watch", "--once", made_up("one", 40), PYTHONIOENCODING="utf-8")), "no braille curve")


@case
def watch_shows_runs_that_have_not_begun_and_that_ended():
    said = dev_tool("watch", "--once", made_up("fresh", 0), made_up("done", 5, more=[{"kind": "end", "step": 5, "why": "stopped by SIGTERM"}]))
    check("fresh   no step yet" in said and "done   ended: stopped by SIGTERM" in said, f"states are missing:\n{said}")


@case
def watch_follows_a_log_that_grows_and_is_cut():
    folder = made_up("grows", 10)
    reader, path = runlog.Reader(folder), os.path.join(folder, "log.jsonl")
    equal(reader.more().last_step, 10, "last step")
    whole = read(path)
    line = b'{"kind":"step","step":11,"loss":2.5}\n'
    open(path, "ab").write(line[:20])
    equal(reader.more().last_step, 10, "last step while a line is half written")
    open(path, "ab").write(line[20:])
    equal((reader.more().last_step, reader.run.columns["loss"][-1]), (11, 2.5), "step of the line when it is whole")
    open(path, "wb").write(b"".join(whole.splitlines(keepends=True)[:6]))
    equal(reader.more().last_step, 5, "last step after a resume cut the log")
    longer = read(path) + b"".join(b'{"kind":"step","step":%d,"loss":4.25}\n' % step for step in range(6, 40))
    open(path, "wb").write(whole)
    reader.more()
    open(path, "wb").write(longer)
    equal((reader.more().last_step, reader.run.columns["loss"][9]), (39, 4.25), "last step, tenth loss after a cut log has outgrown what it was")


@contextlib.contextmanager
def terminal(*arguments):
    """watch.py as the one process of a terminal of 100 x 30: its keys, and a function that reads until a pattern, or until the end for (text, exit status)."""
    process, keys = pty.fork()
    if process == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("4H", 30, 100, 0, 0))
        os.environ.update(PYTHONIOENCODING="utf-8", TERM="xterm")
        os.execv(sys.executable, [sys.executable, "-B", os.path.join(ROOT, "dev", "watch.py"), "--every", "1", *arguments])
    deadline = time.monotonic() + 30

    def until(pattern):
        text, ended = "", False
        while time.monotonic() < deadline and not ended and not (pattern and re.search(pattern, text)):
            if select.select([keys], [], [], 1)[0]:
                try:
                    text += os.read(keys, 65536).decode(errors="replace")
                except OSError:                        # Linux' way to say that the other side is closed
                    ended = True
        if pattern:
            check(re.search(pattern, text), f"'{pattern}' is not shown: {text[-2000:]!r}")
            return text
        check(ended, f"it does not end: {text[-2000:]!r}")
        return text, os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])

    try:
        yield keys, until
    finally:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):       # it ended, and was waited for
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
        os.close(keys)


ENTER, LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"           # the alternate screen without a cursor, and back


def check_left(text, step):
    """The screen is as it was before, and the last view stands on it as plain text."""
    live, left, plain = text.partition(LEAVE)
    check(left and ENTER not in live and LEAVE not in plain, f"the screen is not left once: {text[-500:]!r}")
    check(f"step {step}/20" in plain and "\x1b" not in plain, f"what is left on the terminal: {plain!r}")


@case
def watch_live_shows_new_steps_until_ctrl_c():
    folder = made_up("live", 10)
    with terminal(folder) as (keys, until):
        first = until("step 10/20")
        check(ENTER in first and first.index(ENTER) < first.index("step 10/20") and "step 11/20" not in first, f"the first view: {first!r}")
        with open(os.path.join(folder, "log.jsonl"), "a") as file:
            file.write(json.dumps({"kind": "step", "step": 11, "loss": 2.5, "norm": 1.5, "lr": 1e-3, "ms": 500.0, "tok_s": 2000.0, "mfu": 0.25, "tokens": 11000, "mem_mib": 100.0}) + "\n")
        check("\x1b[H" in until("step 11/20"), "the view is not drawn in place")
        os.write(keys, b"\x03")
        text, status = until(None)
        equal(status, 0, "exit status after Ctrl-C, which is how one ends it")
        check_left(text, 11)


@case
def watch_live_ends_with_the_run():
    folder = made_up("ends", 10)
    with terminal(folder) as (_, until):
        until("step 10/20")
        with open(os.path.join(folder, "log.jsonl"), "a") as file:
            file.write('{"kind":"end","step":10,"why":"stopped by SIGTERM"}\n')
        text, status = until(None)
        equal(status, 0, "exit status")
        check_left(text, 10)
        check("ended: stopped by SIGTERM" in text.partition(LEAVE)[2], text)


# ---- plot_needle.py -------------------------------------------------------------------------------------------------------

@case
def needle_heat_maps_show_every_cell():
    row = lambda task, length, depth, greedy: json.dumps({"task": task, "item": 0, "choice": 0, "loglik": -1, "greedy": greedy, "length": length, "depth": depth})
    scores = [row("s_niah_1", 500, 0, True), row("s_niah_1", 500, 0, False), row("s_niah_1", 600, 100, True), row("<b>", 500, 50, False),
              json.dumps({"task": "piqa", "item": 0, "choice": 0, "loglik": -1})]
    out = fresh("needles.svg")
    tool("plot_needle", write("scores.jsonl", "\n".join(scores)), out, folder="dev")
    import xml.etree.ElementTree as tree
    drawn = tree.parse(out).getroot()
    words = [node.text for node in drawn.iter() if node.tag.endswith("text")]
    equal([word for word in words if "." in word], ["0.50", "1.00", "0.00"], "cells")
    check("s_niah_1: 2 of 3 right" in words and "<b>: 0 of 1 right" in words and "600" in words, f"words: {words}")
    equal(sum(node.tag.endswith("rect") for node in drawn.iter()), 1 + 3, "rectangles")
    check("no needle's score" in tool("plot_needle", write("s.jsonl", scores[-1]), out, folder="dev", status=65), "no word of needles")
    check("line 1 is not a score" in tool("plot_needle", write("s.jsonl", scores[0][:-5]), out, folder="dev", status=65), "no word of line 1")


# ---- tb_export.py ---------------------------------------------------------------------------------------------------------

def records_of(data):
    out = []
    while data:
        length, length_crc = struct.unpack("<QI", data[:12])
        body, body_crc = data[12:12 + length], struct.unpack("<I", data[12 + length:16 + length])[0]
        equal((tb_export.masked_crc(data[:8]), tb_export.masked_crc(body)), (length_crc, body_crc), "checksums")
        out.append(body)
        data = data[16 + length:]
    return out


@case
def tb_export_writes_event_files():
    def unmask(masked):
        rotated = (masked - 0xa282ead8) & 0xffffffff
        return (rotated >> 17 | rotated << 15) & 0xffffffff
    equal(unmask(tb_export.masked_crc(b"123456789")), 0xe3069283, "CRC-32C of the standard's example")
    equal(tb_export.event(0.0, 300, scalars=[("a", 1.0)]).hex(), "090000000000000000" + "10ac02" + "2a0a" + "0a08" + "0a0161" + "150000803f", "an event by hand")
    out, again, folder = fresh("tb"), fresh("tb"), made_up("one", 20)
    dev_tool("tb_export", folder, "--out", out)
    dev_tool("tb_export", folder, "--out", again)
    path = os.path.join("one", "events.out.tfevents.1735689600.moba")
    found = records_of(read(os.path.join(out, path)))
    equal(len(found), 21, "records")
    check(b"brain.Event:2" in found[0] and b"train/loss" in found[1] and b"eval/validation_loss" in found[10], "tags")
    check(read(os.path.join(out, path)) == read(os.path.join(again, path)), "two exports differ")


@case
def tb_export_is_read_by_tensorboard():
    package("tensorboard")
    out, folder = fresh("tb"), real_run()[0]
    dev_tool("tb_export", folder, "--out", out)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    events = EventAccumulator(os.path.join(out, os.path.basename(folder)))
    events.Reload()
    losses = runlog.Reader(folder).more().columns["loss"]
    found = events.Scalars("train/loss")
    equal([point.step for point in found], list(range(1, 26)), "steps")
    check(all(math.isclose(point.value, loss, rel_tol=1e-6) for point, loss in zip(found, losses)), "losses")


# ---- ncu's table ----------------------------------------------------------------------------------------------------------

@case
def ncu_table_is_made_of_what_ncu_prints():
    """An ncu that prints one kernel a call, 10000 cycles long, and a metric whose value is a word."""
    rows = [("Duration", "50,000"), ("Elapsed Cycles", "10,000"), ("# SMs", "132"), ("Function Cache Configuration", "PolicySpread"), ("DRAM Throughput", "58.5")]
    folder = fresh("ncu")
    os.makedirs(folder)
    table, ncu, out = (os.path.join(folder, name) for name in ("table", "ncu", "lines"))
    with open(table, "w") as file:
        file.write('"Kernel Name","Metric Name","Metric Value"\n' + "".join(f'"KERNEL<64, 128>(int)","{name}","{value}"\n' for name, value in rows))
    with open(ncu, "w") as file:
        file.write(f"""#!/bin/sh
case "$*" in *hopper_forward*) k=hopper_forward ;; *hopper_backward*) k=hopper_backward ;; *routed*) k=own_forward ;; *) k=backward_combine ;; esac
sed "s/KERNEL/void moba_${{k}}_kernel/" {table}
""")
    os.chmod(ncu, 0o755)
    program = f"import sys, ncu_attention as n; n.PROGRAM, n.RESULTS = sys.executable, {out!r}; n.main()"
    done = subprocess.run([sys.executable, "-c", program, "--T", "1024"], capture_output=True, text=True, cwd=os.path.join(ROOT, "dev"),
                          env={**os.environ, "PATH": folder + ":" + os.environ["PATH"]})
    equal(done.returncode, 0, f"exit status ({done.stderr[-300:]})")
    lines = [json.loads(line) for line in open(out)]
    equal([line["us"] for line in lines], [50.0] * 8, "microseconds")
    equal([line["D"] for line in lines], [64, 64, 128, 128] * 2, "head dims")
    # 1024 queries of 32 heads: 28 / 8 past blocks of 128 keys and 64.5 keys of their own on average, each 2 * 64 flops a product
    flops = {"hopper_forward": 2 * (448 + 64.5), "hopper_backward": 5 * (448 + 64.5), "own_forward": 2 * 64.5}
    for line in lines:
        products = next((n for name, n in flops.items() if name in line["kernel"]), None)
        share = products and 100 * products * 128 * 32 * 1024 / (10000 * 132 * 4096)
        if share is not None:
            share *= line["D"] / 64
        check(line["tensor %"] == share or math.isclose(line["tensor %"], share), f"{line['kernel']}: {line['tensor %']}, not {share}")
    check("| hopper | moba_hopper_forward_kernel<64, 128> | 50 | 58.5 |" in done.stdout, done.stdout)


# ---- bad input --------------------------------------------------------------------------------------------------------------

@case
def run_tools_say_what_is_wrong():
    good, out = made_up("good", 3), fresh("never")
    damaged = made_up("damaged", 3)
    open(os.path.join(damaged, "log.jsonl"), "a").write('{"kind":\n')
    empty = made_up("empty", 0)
    for name, more in (("plot", ["--out", out, "--no-png"]), ("tb_export", ["--out", out]), ("watch", ["--once"])):
        check("log.jsonl" in dev_tool(name, fresh("nowhere"), *more, status=66), f"{name}: the missing log was not named")
        check("line 5" in dev_tool(name, damaged, *more, status=65), f"{name}: the damaged line was not named")
        dev_tool(name, good, "--colour", status=64)
        dev_tool(name, status=64)
        check("usage" in dev_tool(name, "--help"), f"{name} has no --help")
    for name, more in (("plot", ["--out", out, "--no-png"]), ("tb_export", ["--out", out])):
        check("no step" in dev_tool(name, empty, *more, status=65), f"{name}: a log without steps was drawn")
    strange = os.path.join(os.fsencode(fresh("runs")), b"bad\xff")        # a name that is no text
    shutil.copytree(good, os.fsdecode(strange))
    for name, more in (("plot", ()), ("watch", ("--once",)), ("tb_export", ("--out", fresh("tb")))):
        dev_tool(name, os.fsdecode(strange), *more, PYTHONIOENCODING="utf-8:backslashreplace")
    check("bad\ufffd" in read(os.path.join(os.fsdecode(strange), "plot.html")).decode(), "the page does not name the run")
    check("twice" in dev_tool("tb_export", good, good, "--out", out, status=64), "one run, two folders")
    dev_tool("plot", good, "--out", os.path.join(good, "log.jsonl", "x"), "--no-png", status=73)
    check(not os.path.exists(out + ".html"), "a refused run left a page")


run_cases()
