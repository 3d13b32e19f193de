#!/usr/bin/env bash
# Installs what a fresh Debian or Ubuntu machine lacks, from its package manager alone; says nothing when all is there.
#   scripts/setup.sh          what building and training on the CPU needs
#   scripts/setup.sh data     and what data's Python tools need for GPT-2's tokens; what pip brings goes into build/python, not among the system's packages
#   scripts/setup.sh test     and what the tests need; what cannot be had for them is a note
set -eu
cd "$(dirname "$0")/.."
what=${1:-}

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
if [ -n "$what" ]; then command -v python3 > /dev/null || missing+=(python3); fi
if [ ${#missing[@]} -gt 0 ]; then install "${missing[@]}" || exit 66; fi

# several ranks on the CPU: without MPI one process is all there is, and the tests of many are skipped
if [ "$what" = test ] && ! { command -v mpicc && command -v mpirun; } > /dev/null 2>&1; then
    install openmpi-bin libopenmpi-dev || echo "note: Open MPI could not be installed, tests of several ranks are skipped"
fi

case "$what" in data) packages=(tiktoken) ;; test) packages=(tiktoken tokenizers) ;; *) exit 0 ;; esac
imports=$(IFS=,; echo "${packages[*]}")
if ! PYTHONPATH=build/python${PYTHONPATH:+:$PYTHONPATH} python3 -c "import $imports" 2> /dev/null; then
    if ! python3 -m pip --version > /dev/null 2>&1; then install python3-pip || true; fi
    if ! said=$(python3 -m pip install -q --retries 1 --timeout 10 --target build/python "${packages[@]}" 2>&1); then
        if [ "$what" = data ]; then echo "error: pip could not install ${packages[*]}: $(tail -n 1 <<< "$said")" >&2; exit 66; fi
        echo "note: ${packages[*]} could not be installed, tests that need them are skipped: $(tail -n 1 <<< "$said")"
    fi
fi
