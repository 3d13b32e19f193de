#!/usr/bin/env python3
"""What a run must survive (R1, R2, R5, R6, R12, R14, R15, R19): the trainer as a process, and what the world does to it.

    test/test_survive.py                        the short forms, as in make test
    test/test_survive.py --soak [--seed N]      the long forms, as in make soak: 50 kills, 20 signals, 100 flipped bits, 10 000 steps
    test/test_survive.py --gpu                  the CUDA program with the hooks of the tests, forms between the two
    test/test_survive.py ... NAME...            cases whose name contains one of these

A run is right when its step, loss, norm and lr columns are, to the byte, those of the same command undisturbed.
"""
import argparse
import glob
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
COLUMNS = re.compile(r'^\{"kind":"step","step":(\d+),"loss":([^,]*),"norm":([^,]*),"lr":([^,]*),')
CPU_SHAPE = "--layers 2 --channels 16 --heads 2 --mlp 16 --pattern S16,M16:2 --seq-len 64 --micro-batch 2"
GPU_SHAPE = "--preset tiny --layers 2 --pattern S64,M64:2 --seq-len 256 --micro-batch 2"
CPU_MICRO = "--layers 1 --channels 16 --heads 2 --mlp 16 --pattern S16 --kconv 0 --seq-len 16 --micro-batch 1"
GPU_MICRO = "--preset tiny --layers 1 --channels 64 --heads 1 --mlp 64 --pattern S64 --kconv 0 --seq-len 64 --micro-batch 1"


class Fault(Exception):
    """A case that is not as it should be."""


def check(condition, text):
    if not condition:
        raise Fault(text)


def prose(path):
    """200 KB of made-up words with Zipf's frequencies, the same in every run: no edit of a source file makes a batch an outlier."""
    draw = random.Random(1)
    words = ["".join(draw.choice("bdfgklmnprst") + draw.choice("aeiou") for _ in range(draw.randint(1, 4))) for _ in range(2000)]
    frequencies = [1 / rank for rank in range(1, len(words) + 1)]
    with open(path, "w") as text:
        for _ in range(3000):
            text.write(" ".join(draw.choices(words, frequencies, k=draw.randint(5, 20))).capitalize() + ".\n")
    return path


class World:
    """The program, its data, a scratch directory and the size of the cases."""

    def __init__(self, args, work):
        self.work, self.soak, self.gpu = work, args.soak, args.gpu
        self.random = random.Random(args.seed)
        self.program = os.path.join(ROOT, "build/test/hooks", "train_moba" if args.gpu else "train_moba_cpu")
        self.shape = (GPU_SHAPE if args.gpu else CPU_SHAPE).split()
        self.micro = (GPU_MICRO if args.gpu else CPU_MICRO).split()
        self.data = os.path.join(work, "text.bin")
        subprocess.run([os.path.join(ROOT, "build/data/bytes"), "--out", self.data, prose(os.path.join(work, "text.txt"))], check=True, stdout=subprocess.DEVNULL)
        self.runs, self.started = 0, []

    def size(self, short, gpu, soak):
        return soak if self.soak else gpu if self.gpu else short

    def new_run(self, options, shape=None):
        self.runs += 1
        return Run(self, os.path.join(self.work, f"run{self.runs}"), (shape or self.shape) + options.split())

    def end_all(self):
        for process in self.started:
            process.kill()
            process.wait()
        self.started.clear()


class Run:
    """One run directory and the one command that belongs to it."""

    def __init__(self, world, out, options):
        self.world, self.out = world, out
        self.errors = out + ".err"
        self.command = [world.program, "--train-data", world.data, "--val-data", world.data, "--out", out, "--lr", "0.003", "--eval-batches", "2"] + options

    def start(self, hooks=None):
        env = dict(os.environ, OMP_NUM_THREADS="1", **(hooks or {}))
        with open(self.errors, "w") as errors:
            process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=errors, env=env)
        self.world.started.append(process)
        return process

    def finish(self, hooks=None, status=0):
        process = self.start(hooks)
        found = process.wait(timeout=600)
        check(found == status, f"exit status {found}, expected {status}: {self.said()[-200:]}")

    def said(self):
        with open(self.errors) as file:
            return file.read()

    def columns(self):
        with open(os.path.join(self.out, "log.jsonl")) as file:
            return [match.groups() for match in map(COLUMNS.match, file) if match]

    def checkpoints(self):
        folder = os.path.join(self.out, "checkpoints")
        return sorted(name for name in os.listdir(folder) if name.startswith("step_")) if os.path.isdir(folder) else []

    def saving(self):
        """Is a save under way? Seen by its temporary directory."""
        try:
            return any(name.startswith(".tmp-step") for name in os.listdir(os.path.join(self.out, "checkpoints")))
        except FileNotFoundError:
            return False

    def step_path(self, step):
        return os.path.join(self.out, "checkpoints", f"step_{step:08d}")

    def info(self, *arguments):
        return subprocess.run([os.path.join(ROOT, "build/data/ckptinfo")] + list(arguments), capture_output=True, text=True)

    def all_whole(self):
        return self.info("list", self.out).returncode == 0


def same_curve(run, undisturbed):
    found, expected = run.columns(), undisturbed.columns()
    if found != expected:
        first = next((i for i, pair in enumerate(zip(found, expected)) if pair[0] != pair[1]), min(len(found), len(expected)))
        raise Fault(f"{len(found)} of {len(expected)} steps, the first that differs is number {first}: {found[first:first + 1]}, not {expected[first:first + 1]}")


def seconds_of(run):
    begun = time.monotonic()
    run.finish()
    return time.monotonic() - begun


# ---- R1 --------------------------------------------------------------------------------------------------------------
def survive_kill_9(world):
    kills, steps = world.size(9, 10, 50), world.size(60, 120, 300)
    options = f"--steps {steps} --save-every 10 --eval-every 25"
    undisturbed = world.new_run(options)
    whole = seconds_of(undisturbed)
    done, in_window, rounds = 0, 0, 0
    while done < kills:
        run, finished, rounds = world.new_run(options), False, rounds + 1
        while not finished:
            process, window = run.start(), done % 3 == 2
            deadline = time.monotonic() + world.random.random() * whole * (1 if world.gpu else 0.7)
            while process.poll() is None and done < kills:
                if run.saving() if window else time.monotonic() > deadline:
                    break
                time.sleep(0.0002)
            if process.poll() is None and done < kills:
                time.sleep(world.random.random() * 0.004 if window else 0)
                in_window += run.saving()
                process.kill()
                done += process.wait() == -signal.SIGKILL
            finished = process.wait(timeout=600) == 0
            check(finished or process.returncode == -signal.SIGKILL, f"exit status {process.returncode}: {run.said()[-200:]}")
            check("damaged" not in run.said(), f"a damaged checkpoint was seen: {run.said()[-200:]}")
        same_curve(run, undisturbed)
    return f"{done} kills, {in_window} of them inside a save, {rounds} runs of {steps} steps, 0 curves lost"


# ---- R2 --------------------------------------------------------------------------------------------------------------
def survive_resume_to_the_bit(world):
    options = "--steps 30 --save-every 15 --eval-every 10"
    whole, halves = world.new_run(options), world.new_run(options)
    whole.finish()
    halves.finish({"MOBA_TEST_STOP_STEP": "15"}, status=75)
    halves.finish()
    same_curve(halves, whole)
    said = whole.info("diff", whole.step_path(30), halves.step_path(30)).stdout
    check(not re.search(r"^(master|m|v|counters|detector)\b", said, re.M) and "to the bit" in said, f"tensors differ: {said[:300]}")
    return said.strip().splitlines()[-1] + " (options name the directory)"


# ---- R12 -------------------------------------------------------------------------------------------------------------
def wait_for_handlers(process):
    """Until then nothing has begun that a signal could cost."""
    while process.poll() is None:
        with open(f"/proc/{process.pid}/status") as status:
            caught = int(re.search(r"^SigCgt:\s*([0-9a-f]+)", status.read(), re.M).group(1), 16)
        if caught >> (signal.SIGTERM - 1) & 1:
            return
        time.sleep(0.0005)


def survive_signals(world):
    signals, steps = world.size(6, 6, 20), world.size(120, 200, 300)
    options = f"--steps {steps} --save-every 20 --eval-every 10"
    undisturbed = world.new_run(options)
    whole, sent, slowest = seconds_of(undisturbed), 0, 0.0
    while sent < signals:
        run, status = world.new_run(options), 75
        while status == 75:
            process = run.start()
            wait_for_handlers(process)
            time.sleep(world.random.random() * whole * 0.5 if sent % 5 else 0)
            if sent < signals and process.poll() is None:
                process.send_signal((signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)[sent % 3])
                begun, sent = time.monotonic(), sent + 1
                status = process.wait(timeout=60)
                slowest = max(slowest, time.monotonic() - begun)
            else:
                status = process.wait(timeout=600)
            check(status in (0, 75), f"exit status {status}: {run.said()[-200:]}")
        same_curve(run, undisturbed)
    return f"{sent} signals, the slowest saved and stopped after {slowest:.2f} s"


def wait_until_stopped(process):
    """All its threads: one that still runs would take a signal the others have not seen."""
    deadline = time.monotonic() + 10
    for status in glob.glob(f"/proc/{process.pid}/task/*/status"):
        while True:
            with open(status) as lines:
                if "State:\tT" in lines.read():
                    break
            check(time.monotonic() < deadline, "not stopped by SIGSTOP in 10 s")
            time.sleep(0.001)


def survive_second_signal(world):
    run = world.new_run("--steps 1000000 --save-every 0")
    for first, second in ((signal.SIGTERM, signal.SIGINT), (signal.SIGUSR1, signal.SIGUSR1)):
        process = run.start()
        wait_for_handlers(process)
        process.send_signal(signal.SIGSTOP)              # both arrive before it can act on the first
        wait_until_stopped(process)
        process.send_signal(first)
        process.send_signal(second)
        process.send_signal(signal.SIGCONT)
        status = process.wait(timeout=60)
        if first == second:                              # the kernel keeps one of a kind: this is one signal
            check(status == 75, f"exit status {status}, expected 75")
        else:
            check(status in (128 + first, 128 + second), f"exit status {status}, expected {128 + first} or {128 + second}")
    return "exits 128 + n"


# ---- R6 --------------------------------------------------------------------------------------------------------------
def survive_full_disk(world):
    options = f"--steps {world.size(250, 400, 2000)} --save-every 10 --eval-every 0 --keep 1000"
    undisturbed = world.new_run(options)
    undisturbed.finish()
    run = world.new_run(options)
    process = run.start()
    while process.poll() is None and len(run.checkpoints()) < 3:
        time.sleep(0.001)
    before = run.checkpoints()
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (20000, resource.RLIM_INFINITY))    # less than a checkpoint, less than the log too
    while process.poll() is None and run.said().count("is not saved") < 3:
        time.sleep(0.001)
    check(process.poll() is None, f"ended with status {process.returncode}: {run.said()[-300:]}")
    refused = {f"step_{int(step):08d}" for step in re.findall(r"warning: step (\d+) is not saved", run.said())}
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    status = process.wait(timeout=600)
    check(status == 0, f"exit status {status}: {run.said()[-300:]}")
    check(not refused & set(run.checkpoints()), f"{refused & set(run.checkpoints())} were not saved and are there")
    check(set(before) <= set(run.checkpoints()), f"of {before} only {run.checkpoints()} are left")
    check(run.checkpoints()[-1] > max(refused), "no save worked afterwards")
    check(run.all_whole(), run.info("list", run.out).stdout[-300:])
    check(not run.saving(), "a temporary is left")
    same_curve(run, undisturbed)
    return f"{len(refused)} saves refused, {len(run.checkpoints())} whole"


# ---- R5 --------------------------------------------------------------------------------------------------------------
def damages(world, part, other):
    """What can be done to a file, as (name, function of its path)."""
    size = os.path.getsize(part)

    def flip(place):
        def change(path):
            with open(path, "r+b") as file:
                file.seek(place // 8)
                byte = file.read(1)[0]
                file.seek(place // 8)
                file.write(bytes([byte ^ 1 << place % 8]))
        return change

    cuts = [(f"cut to {cut}", lambda path, cut=cut: os.truncate(path, cut)) for cut in (0, 1, size // 2, size - 1)]
    flips = [(f"bit {place} flipped", flip(place)) for place in (world.random.randrange(size * 8) for _ in range(world.size(6, 3, 100)))]
    return cuts + flips + [("deleted", os.remove), ("swapped with another step's", lambda path: shutil.copy(other, path)),
                           ("a byte longer", lambda path: open(path, "ab").write(b"\0"))]


def survive_damaged_checkpoints(world):
    options = "--steps 40 --save-every 10 --keep 10 --eval-every 0"
    undisturbed = world.new_run(options)
    undisturbed.finish()
    part, other = (os.path.join(undisturbed.step_path(step), "part_0000.bin") for step in (30, 20))
    tried = 0
    for name, damage in damages(world, part, other):
        run = world.new_run(options)
        shutil.copytree(undisturbed.out, run.out)
        shutil.rmtree(run.step_path(40))
        damage(os.path.join(run.step_path(30), "part_0000.bin"))
        run.finish()
        check("step_00000030/part_0000.bin" in run.said() and "resuming from" in run.said() and "step_00000020" in run.said(),
              f"{name}: not noticed, or not named: {run.said()[-300:]}")
        same_curve(run, undisturbed)
        check(run.all_whole(), f"{name}: step 30 is damaged still")
        shutil.rmtree(run.out)
        tried += 1
    return f"{tried} of {tried} found before a step was taken"


# ---- R14, R15 --------------------------------------------------------------------------------------------------------
def skips(run):
    with open(os.path.join(run.out, "log.jsonl")) as file:
        return [int(step) for step in re.findall(r'"kind":"skip","step":(\d+)', file.read())]


def survive_nan(world):
    clean, run, stuck = (world.new_run("--steps 12 --save-every 1 --keep 20 --eval-every 0") for _ in range(3))
    clean.finish()
    run.finish({"MOBA_TEST_NAN_STEPS": "3-3"})
    check(skips(run) == [3], f"skipped {skips(run)}")
    check(run.columns()[:2] == clean.columns()[:2] and len(run.columns()) == 11, "the other steps are not logged as they should be")
    said = run.info("diff", run.step_path(2), run.step_path(3)).stdout
    check(not re.search(r"^(master|m|v)/", said, re.M) and "to the bit" in said, f"a skipped step changed {said[:200]}")
    stuck.command += ["--max-bad-steps", "3"]
    stuck.finish({"MOBA_TEST_NAN_STEPS": "5-9"}, status=70)
    check("3 steps in a row" in stuck.said() and stuck.checkpoints()[-1] == "step_00000006", f"{stuck.checkpoints()[-1]}: {stuck.said()[-200:]}")
    return "skipped, nothing changed, the third in a row stops"


def survive_spikes_with_skip_z(world):
    options = "--steps 220 --save-every 0 --eval-every 0 --schedule constant --warmup 10 --skip-z 8"
    run, halves = world.new_run(options), world.new_run(options)
    hooks = {"MOBA_TEST_SPIKE_STEPS": "180-181"}
    run.finish(hooks)
    check(skips(run) == [180, 181], f"skipped {skips(run)}")
    check(max(float(row[2]) for row in run.columns()[100:]) < 1000, "a spike went through")
    halves.finish(dict(hooks, MOBA_TEST_STOP_STEP="150"), status=75)     # what the detector has seen comes back with the checkpoint
    halves.finish(hooks)
    check(skips(halves) == [180, 181], f"skipped {skips(halves)} after a resume")
    same_curve(halves, run)
    return "both steps of the spike skipped, before and after a resume"


def survive_1000_clean_steps_with_skip_z(world):
    options = "--steps 1000 --save-every 0 --eval-every 0 --micro-batch 8"      # of two rows the norm's tail is long in truth
    plain, judged = world.new_run(options), world.new_run(options + " --skip-z 6")
    plain.finish()
    judged.finish()
    check(skips(judged) == [], f"skipped {skips(judged)}")
    same_curve(judged, plain)
    return "no false alarm"


# ---- R19 -------------------------------------------------------------------------------------------------------------
def survive_many_steps(world):
    steps = world.size(2000, 10000, 10000)
    run = world.new_run(f"--steps {steps} --save-every 500 --eval-every 100 --eval-batches 1", world.micro)
    log = os.path.join(run.out, "log.jsonl")
    process, readings = run.start(), []                  # resident MiB, open files, bytes of the log
    while process.poll() is None:
        try:
            written = os.path.getsize(log)
            with open(f"/proc/{process.pid}/statm") as statm:
                resident = int(statm.read().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20
            readings.append((resident, len(os.listdir(f"/proc/{process.pid}/fd")), written))
        except (FileNotFoundError, PermissionError):
            pass                                         # no log yet, or the process has just ended
        time.sleep(0.004)
    check(process.wait() == 0, run.said()[-200:])
    with open(log) as file:
        text = file.read()
    memory = [float(x) for x in re.findall(r'"mem_mib":([0-9.]+)', text)]
    check(len(memory) == steps, f"{len(memory)} of {steps} steps are logged")
    early, late = memory[steps // 4], memory[-1]         # of the device; on the CPU the process's own
    check(late - early <= 1.0, f"device memory went from {early:.1f} to {late:.1f} MiB")
    body = [(resident, files) for resident, files, written in readings if 0.25 < written / len(text) < 0.98]      # while it trains
    check(len(body) > 20, f"only {len(body)} readings while it trained")
    resident = [max(r for r, _ in body[:10]), max(r for r, _ in body[-10:])]
    files = [max(f for _, f in body[:10]), max(f for _, f in body[-10:])]
    check(min(r for r, _ in body) > 0 and resident[1] - resident[0] <= 1.0, f"resident memory went from {resident[0]:.1f} to {resident[1]:.1f} MiB")
    check(files[1] <= files[0] + 1, f"open files went from {files[0]} to {files[1]}")
    return (f"{steps} steps, {len(body)} readings: device memory {early:.1f} to {late:.1f} MiB, resident {resident[0]:.1f} to {resident[1]:.1f} MiB, "
            f"files {files[0]} to {files[1]}")


def survive_saves_cost_little(world):
    """The 340M model saves while it trains: what the save takes from training, and what it takes in all."""
    shape = "--preset 340M --pattern S256,M128:8 --kconv 3 --seq-len 8192 --micro-batch 4".split()
    run = world.new_run("--steps 120 --save-every 40 --eval-every 0 --keep 2", shape)
    begun = time.monotonic()
    run.finish()
    with open(os.path.join(run.out, "log.jsonl")) as file:
        text = file.read()
    steps = sorted(float(ms) for ms in re.findall(r'"kind":"step".*?"ms":([0-9.e+]+)', text))
    step = steps[len(steps) // 2]
    saves = [tuple(map(float, save)) for save in re.findall(r'"kind":"save","step":(\d+).*?"bytes":(\d+),"ms":([0-9.e+]+),"pause_ms":([0-9.e+]+)', text)]
    check(len(saves) == 3 and [save[0] for save in saves] == [40, 80, 120], f"saves {saves}")
    pause = max(save[3] for save in saves)
    share = pause / (1000 * step)
    shutil.rmtree(run.out)
    check(share < 0.005, f"a save takes {pause:.0f} ms from training, {100 * share:.2f} % of 1000 steps of {step:.0f} ms")
    return (f"{saves[0][1] / 2**20:.0f} MiB; training paused {' '.join(f'{save[3]:.0f}' for save in saves)} ms, written and visible after {' '.join(f'{save[2]:.0f}' for save in saves)} ms; "
            f"median step {step:.1f} ms; {100 * share:.3f} % of the 1000 steps between saves by default ({100 * pause / (40 * step):.2f} % of 40 steps); in all {time.monotonic() - begun:.0f} s")


GPU_CASES = [survive_saves_cost_little]
CASES = GPU_CASES + [survive_resume_to_the_bit, survive_kill_9, survive_signals, survive_second_signal, survive_full_disk, survive_damaged_checkpoints, survive_nan,
         survive_spikes_with_skip_z, survive_1000_clean_steps_with_skip_z, survive_many_steps]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--soak", action="store_true")
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("names", nargs="*")
    args = parser.parse_args()
    failed, suffix = 0, "_cuda" if args.gpu else ""
    print(f"# test_survive: seed {args.seed}")
    with tempfile.TemporaryDirectory() as work:
        world = World(args, work)
        for case in CASES:
            if args.names and not any(name in case.__name__ for name in args.names) or case in GPU_CASES and not args.gpu:
                continue
            begun = time.monotonic()
            try:
                figures = case(world)
                print(f"ok {case.__name__}{suffix}\n#  {figures} ({time.monotonic() - begun:.1f} s)", flush=True)
            except (Fault, subprocess.TimeoutExpired) as fault:
                print(f"FAIL {case.__name__}{suffix} {fault}".replace("\n", " "), flush=True)
                failed = 1
            finally:
                world.end_all()
    return failed


if __name__ == "__main__":
    sys.exit(main())
