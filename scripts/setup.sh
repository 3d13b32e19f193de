#!/usr/bin/env bash
# Installs what a fresh Debian or Ubuntu machine lacks, from its package manager alone; says nothing when all is there.
#   scripts/setup.sh          what building and training on the CPU needs
#   scripts/setup.sh test     and what the tests of the Python tools need; what pip brings goes into build/python, not among the system's packages
set -eu
cd "$(dirname "$0")/.."

# install PACKAGE...: false, and a sentence, when that cannot be done
install() {
    local as_root=()
    if ! command -v apt-get > /dev/null; then echo "error: missing $*, and there is no apt-get; install them by hand" >&2; return 1; fi
    if [ "$(id -u)" != 0 ]; then
        if ! command -v sudo > /dev/null; then echo "error: missing $*; as root: apt-get install $*" >&2; return 1; fi
        as_root=(sudo)
    fi
    echo "installing $*"
    if ! { "${as_root[@]}" apt-get update -qq &&
           "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" > /dev/null; }; then
        echo "error: apt-get could not install $*; its own words are above" >&2; return 1
    fi
}
header() { echo "#include <$1>" | cc -E - > /dev/null 2>&1; }

missing=()
command -v cc > /dev/null || missing+=(gcc)
header stdio.h || missing+=(libc6-dev)
header zlib.h || missing+=(zlib1g-dev)
command -v make > /dev/null || missing+=(make)
if [ "${1:-}" = test ]; then command -v python3 > /dev/null || missing+=(python3); fi
if [ ${#missing[@]} -gt 0 ]; then install "${missing[@]}" || exit 66; fi

# several ranks on the CPU: without MPI one process is all there is, and the tests of many are skipped
if [ "${1:-}" = test ] && ! { command -v mpicc && command -v mpirun; } > /dev/null 2>&1; then
    install openmpi-bin libopenmpi-dev || echo "note: Open MPI could not be installed, tests of several ranks are skipped"
fi

# tests that need these packages are skipped where they are not to be had: without them, no more than a note
if [ "${1:-}" = test ] && ! PYTHONPATH=build/python python3 -c 'import tiktoken, tokenizers' 2> /dev/null; then
    if ! python3 -m pip --version > /dev/null 2>&1; then install python3-pip || true; fi
    said=$(python3 -m pip install -q --retries 1 --timeout 10 --target build/python tiktoken tokenizers 2>&1) \
        || echo "note: tiktoken and tokenizers could not be installed, tests that need them are skipped: $(tail -n 1 <<< "$said")"
fi
