"""Reads run directories: log.jsonl as the trainer writes it (README, llmc/logger.h). Shared by plot.py, watch.py and tb_export.py."""
import calendar
import json
import math
import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "data"))
sys.dont_write_bytecode = True
from common import EXIT_DATA, EXIT_NO_INPUT, ToolError

FIELDS = ("step", "loss", "norm", "lr", "ms", "tok_s", "mfu", "tokens", "mem_mib")      # of a step record


def number(value):
    """A number of the log; what is not finite stands there as null or as a word."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def text_of(path):
    """A path as text, which its bytes need not be."""
    return os.fsencode(path).decode(errors="replace")


class Run:
    """What a log has said so far: take() adds a record."""

    def __init__(self, path):
        self.path = path
        self.name = text_of(os.path.basename(os.path.abspath(path)))
        self.start = {}                                # the last start record
        self.columns = {field: [] for field in FIELDS}
        self.evals = {}                                # set: [(step, loss), ...]
        self.saves, self.skips, self.end = [], [], None

    def take(self, record):
        kind = record.get("kind")
        if kind == "start":
            self.start, self.end = record, None
        elif kind == "step":
            for field in FIELDS:
                self.columns[field].append(number(record.get(field)))
            if self.columns["mfu"][-1] == 0:           # no peak is known of the device
                self.columns["mfu"][-1] = math.nan
        elif kind == "eval":
            self.evals.setdefault(str(record.get("set", "validation")), []).append((number(record.get("step")), number(record.get("loss"))))
        elif kind == "save":
            self.saves.append(record)
        elif kind == "skip":
            self.skips.append(record)
        elif kind == "end":
            self.end = record

    @property
    def options(self):
        return self.start.get("options") or {}

    @property
    def total_steps(self):
        return int(number(self.options.get("steps", 0)) or 0)

    @property
    def last_step(self):
        return int(self.columns["step"][-1]) if self.columns["step"] else 0

    def hours(self):
        """Training time up to each step."""
        total, out = 0.0, []
        for ms in self.columns["ms"]:
            total += 0 if math.isnan(ms) else ms / 3.6e6
            out.append(total)
        return out

    def started_at(self):
        """Seconds since 1970 by the start record; 0 where it says nothing."""
        try:
            return calendar.timegm(time.strptime(self.start.get("time", ""), "%Y-%m-%dT%H:%M:%SZ"))
        except ValueError:
            return 0


class Reader:
    """A log that may still grow: more() takes the lines that have come since, whole ones only. A log that was cut, as on a resume, is read anew."""

    def __init__(self, path):
        self.file = path if os.path.isfile(path) else os.path.join(path, "log.jsonl")
        self.path = path
        self.begin()

    def begin(self):
        self.run, self.position, self.lines, self.tail = Run(self.path), 0, 0, b""

    def more(self):
        try:
            with open(self.file, "rb") as file:
                file.seek(self.position - len(self.tail))
                if file.read(len(self.tail)) != self.tail:           # what was read last is no longer there
                    self.begin()
                    file.seek(0)
                data = file.read()
        except OSError as error:
            raise ToolError(EXIT_NO_INPUT, f"{self.file}: {error.strerror} (expected a run directory, the trainer's --out)")
        whole = data[:data.rfind(b"\n") + 1]
        self.position += len(whole)
        self.tail = (self.tail + whole)[-256:]
        for line in whole.splitlines():
            self.lines += 1
            try:
                record = json.loads(line)
                if not isinstance(record, dict):
                    raise ValueError("not an object")
            except ValueError as error:
                raise ToolError(EXIT_DATA, f"{self.file}: line {self.lines} is not a JSON object ({error})")
            self.run.take(record)
        return self.run


def read_runs(paths):
    """Whole logs, each with a name of its own."""
    runs = [Reader(path).more() for path in paths]
    names = [run.name for run in runs]
    for run in runs:
        if not run.columns["step"]:
            raise ToolError(EXIT_DATA, f"{run.path}: its log has no step yet")
        if names.count(run.name) > 1:
            run.name = text_of(os.path.normpath(run.path))
    return runs


def smoothed(values, weight):
    """Exponential mean, corrected for its beginning; what is not finite is passed over."""
    mean, mass, out = 0.0, 0.0, []
    for value in values:
        if math.isfinite(value):
            mean, mass = weight * mean + (1 - weight) * value, weight * mass + (1 - weight)
        out.append(mean / mass if mass else math.nan)
    return out


def ms_left(run):
    """The trainer's own estimate (llmc/logger.c): a mean at first, without the slow first step, then the last twenty steps or so."""
    smooth = 0.0
    for i, ms in enumerate(run.columns["ms"]):
        smooth += (1 if i <= 1 else 1 / i if i < 20 else 0.05) * (ms - smooth)
    return smooth * max(run.total_steps - run.last_step, 0)


def duration(ms):
    seconds = ms / 1000
    if not seconds < 1e9:
        return "?"
    for limit, small, large, letters in ((6000, 1, 60, "ms"), (48 * 3600, 60, 3600, "hm"), (math.inf, 3600, 86400, "dh")):
        if seconds < 100:
            return f"{seconds:.0f}s"
        if seconds < limit:
            return f"{int(seconds // large)}{letters[0]}{int(seconds % large // small):02d}{letters[1] if letters != 'ms' else 's'}"


def short(value, digits=4):
    """A number for people: 412k, 1.23G, 3.2100."""
    if value is None or not math.isfinite(value):
        return "-"
    for factor, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= factor:
            return f"{value / (factor if factor > 1e4 else 1e3):.3g}{letter}"
    return f"{value:.{digits}g}"
