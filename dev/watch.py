#!/usr/bin/env python3
"""Shows runs in a terminal as they go; plain text and colours, so that it works over ssh.

    python3 dev/watch.py runs/340M              until Ctrl-C; ssh HOST python3 moba.c/dev/watch.py RUN works too (-t for a live view)
    python3 dev/watch.py runs/340M --once       once, as text

The live view ends with the runs, or by Ctrl-C, which is exit status 0 too; the screen is then as it was, with the last view below it.
watch.py reads log.jsonl alone: the trainer is not asked anything, and need not run on this machine if the directory is shared."""
import math
import os
import shutil
import sys
import time

import runlog
import common

BRAILLE = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))      # dots of a cell, [row][column]


# ---- pictures of text -------------------------------------------------------------------------------------------------

def columns_of(values, width):
    """The mean of each of `width` equal parts of the values, None where a part has none."""
    parts = [[] for _ in range(width)]
    for i, value in enumerate(values):
        if math.isfinite(value):
            parts[i * width // len(values)].append(value)
    return [sum(part) / len(part) if part else None for part in parts]


def chart(values, width, height, unicode):
    """Lines of a curve, with its range on the left. Braille cells have 2 x 4 dots, letters one."""
    across, down = (2, 4) if unicode else (1, 1)
    room = width - 9
    means = columns_of(values, min(room * across, max(len(values), 1)))
    seen = sorted(value for value in means if value is not None)
    if not seen:
        return [" " * 9 + "nothing yet"]
    low, high = seen[0], seen[min(len(seen) - 1, int(len(seen) * 0.98))]      # the first few steps are far above the rest
    cells = [[0] * room for _ in range(height)]
    previous = None
    for x, value in enumerate(means):
        if value is None:
            continue
        share = (high - min(value, high)) / (high - low) if high > low else 0.5
        y = min(int(share * height * down), height * down - 1)
        rows = range(min(y, y if previous is None else previous), max(y, y if previous is None else previous) + 1)
        previous = y
        for row in rows if unicode else [y]:
            cells[row // down][x // across] |= BRAILLE[row % down][x % across] if unicode else 1
    draw = (lambda cell: chr(0x2800 + cell) if cell else " ") if unicode else (lambda cell: "*" if cell else " ")
    labels = {0: f"{high:8.4g} ", height - 1: f"{low:8.4g} "}
    return [(labels.get(row, " " * 9) + "".join(map(draw, line))).rstrip() for row, line in enumerate(cells)]


def bar(share, width, unicode):
    full = int(share * width)
    return ("█" if unicode else "#") * full + ("░" if unicode else "-") * (width - full)


# ---- one run ----------------------------------------------------------------------------------------------------------

def state_of(run):
    if run.end:
        return f"ended: {run.end.get('why', '?')}"
    return "running" if run.columns["step"] else "no step yet"


def quiet_for(reader, run):
    """A sentence when the log has been silent for longer than ten steps would take."""
    silent = time.time() - os.path.getmtime(reader.file)
    usual = (run.columns["ms"][-1] if run.columns["ms"] else 0) / 1000
    return f"nothing new for {runlog.duration(1000 * silent)}" if not run.end and silent > max(60, 10 * usual) else ""


def wrapped(notes, width):
    """Notes beside each other as far as the width goes."""
    lines = []
    for note in notes:
        if lines and len(lines[-1]) + 2 + len(note) <= width:
            lines[-1] += "  " + note
        else:
            lines.append(note)
    return lines


def view(reader, width, height, unicode):
    """The lines of a run."""
    run, column = reader.run, reader.run.columns
    lines = [f"{run.name}   {state_of(run)}   {run.start.get('device', '')}   {run.options.get('preset', '')} {run.options.get('pattern', '')}".rstrip()]
    if not column["step"]:
        return lines
    total, last = run.total_steps, run.last_step
    value = {field: column[field][-1] for field in column}
    lines.append(f"step {last}/{total or '?'}  {bar(min(last / total, 1) if total else 0, max(10, width - 60), unicode)}  "
                 f"{100 * last / total if total else 0:.1f}%  ETA {runlog.duration(runlog.ms_left(run)) if not run.end else '-'}")
    lines.append(f"loss {runlog.smoothed(column['loss'][-50:], 0.9)[-1]:.4f}  norm {value['norm']:.3f}  lr {value['lr']:.2e}  {value['ms']:.0f} ms  "
                 f"{runlog.short(value['tok_s'])} tok/s" + (f"  MFU {100 * value['mfu']:.0f}%" if value["mfu"] > 0 else "") +
                 f"  {runlog.short(value['tokens'])} tokens  {value['mem_mib']:,.0f} MiB")
    notes = [f"{name} loss {points[-1][1]:.4f} (perplexity {math.exp(min(points[-1][1], 700)):.2f}) at step {points[-1][0]:.0f}"
             for name, points in sorted(run.evals.items())]
    if run.saves:
        notes.append(f"saved at step {run.saves[-1].get('step', '?')}")
    if run.skips:
        notes.append(f"{len(run.skips)} steps skipped, the last at step {run.skips[-1].get('step', '?')}")
    notes.append(quiet_for(reader, run))
    return lines + wrapped([note for note in notes if note], width) + chart(column["loss"], width, height, unicode)


# ---- the terminal -----------------------------------------------------------------------------------------------------

def say_unicode(options):
    return not options.ascii and (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"


def show(readers, options):
    """All runs, within the terminal's size."""
    width, rows = shutil.get_terminal_size((100, 40))
    height = max(3, min(options.height, (rows - 2) // len(readers) - 6))
    lines = []
    for reader in readers:
        reader.more()
        lines += [line[:width] for line in view(reader, width, height, say_unicode(options))] + [""]
    return lines[:-1]


def watch(readers, options):
    """Redraws in place; the alternate screen leaves what was on the terminal untouched."""
    sys.stdout.write("\x1b[?1049h\x1b[?25l")
    try:
        while True:
            lines = show(readers, options)[:shutil.get_terminal_size((100, 40)).lines - 1]
            sys.stdout.write("\x1b[H" + "".join(line + "\x1b[K\n" for line in lines) + "\x1b[J")
            sys.stdout.flush()
            if all(reader.run.end for reader in readers):
                break
            time.sleep(options.every)
    except KeyboardInterrupt:
        pass
    finally:
        sys.stdout.write("\x1b[?25h\x1b[?1049l")
        sys.stdout.flush()
    print("\n".join(show(readers, options)))


def main():
    parser = common.Parser("Shows runs of the trainer in a terminal as they go.")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run directory (the trainer's --out)")
    parser.add_argument("--once", action="store_true", help="print once and end; so it does where the output is no terminal")
    parser.add_argument("--every", type=common.whole_number(1, 3600), default=2, metavar="SECONDS", help="between two looks")
    parser.add_argument("--height", type=common.whole_number(3, 100), default=12, metavar="LINES", help="of the loss curve")
    parser.add_argument("--ascii", action="store_true", help="no characters beyond ASCII; so it is where the terminal is not UTF-8")
    options = parser.parse_args()
    readers = [runlog.Reader(path) for path in options.runs]
    if options.once or not sys.stdout.isatty():
        print("\n".join(show(readers, options)))
    else:
        show(readers, options)                         # what is wrong is said before the screen is taken
        watch(readers, options)


if __name__ == "__main__":
    common.run(main)
