"""What the tests of Python tools share: named cases with assertions, tools run as a user runs them, files in a temporary folder.

    @case                        a case is a function; its name is unique in the tree
    def wikitext2_...():
        equal(found, expected, "what")
    run_cases()                  prints "ok NAME", "FAIL NAME why" or "skip NAME why"; an argument selects cases by substring"""
import importlib.util
import os
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
KIT = os.path.abspath(os.environ.get("MOBA_DATA") or os.path.join(ROOT, "..", "shared", "data"))
sys.path.insert(0, os.path.join(ROOT, "data"))
sys.dont_write_bytecode = True

CASES = []
FOLDER = tempfile.TemporaryDirectory(prefix="test_tools_")
TEMPORARY = FOLDER.name


class Skip(Exception):
    pass


def case(function):
    CASES.append(function)
    return function


def check(condition, why):
    check.count += 1
    if not condition:
        raise AssertionError(why)


def equal(found, expected, what):
    check(found == expected, f"{what} is {str(found)[:200]}, expected {str(expected)[:200]}")


def package(name):
    if importlib.util.find_spec(name) is None:
        raise Skip(f"needs the Python package {name}")


def kit(path):
    full = os.path.join(KIT, path)
    if not os.path.exists(full):
        raise Skip(f"needs {path} of the data kit (../shared/data or $MOBA_DATA)")
    return full


def tool(name, *arguments, status=0, folder="data", **environment):
    """Runs FOLDER/NAME.py, checks its exit status and that an error is one sentence; returns what it said."""
    done = subprocess.run([sys.executable, "-B", os.path.join(ROOT, folder, name + ".py"), *map(str, arguments)], capture_output=True, text=True,
                          env={**os.environ, **environment}, cwd=TEMPORARY)
    said = done.stdout + done.stderr
    equal(done.returncode, status, f"exit status of {name} ({said.strip()[-300:]})")
    if status:
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        check(len(errors) == 1 and "Traceback" not in said, f"{name}: expected one sentence, got {done.stderr!r}")
    return said


def fresh(name):
    """A path in the temporary folder that nothing has used."""
    fresh.count += 1
    return os.path.join(TEMPORARY, f"{fresh.count}_{name}")


def write(name, data):
    path = fresh(name)
    with open(path, "wb") as file:
        file.write(data if isinstance(data, bytes) else data.encode())
    return path


def read(path):
    with open(path, "rb") as file:
        return file.read()


def contents(folder):
    return {name: read(os.path.join(folder, name)) for name in sorted(os.listdir(folder))}


def run_cases():
    failed = 0
    for function in CASES:
        if len(sys.argv) > 1 and sys.argv[1] not in function.__name__:
            continue
        check.count = 0
        try:
            function()
            if check.count == 0:
                raise AssertionError("no assertion was reached")
            print(f"ok {function.__name__}", flush=True)
        except Skip as reason:
            print(f"skip {function.__name__} {reason}", flush=True)
        except Exception as error:
            failed += 1
            print(f"FAIL {function.__name__} {type(error).__name__}: {' '.join(str(error).split())}", flush=True)
    FOLDER.cleanup()
    sys.exit(1 if failed else 0)


check.count = fresh.count = 0
