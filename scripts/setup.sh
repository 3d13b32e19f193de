#!/usr/bin/env bash
# Installs what a fresh Debian or Ubuntu machine lacks, from its package manager alone; says nothing when all is there.
#   scripts/setup.sh          what building and training on the CPU needs
#   scripts/setup.sh test     and what the tests of the Python tools need
set -eu
missing=()
command -v cc  > /dev/null || missing+=(gcc libc6-dev)
command -v make > /dev/null || missing+=(make)
command -v git > /dev/null || missing+=(git)
[ -e /usr/include/zlib.h ] || missing+=(zlib1g-dev)
if [ "${1:-}" = test ]; then
    command -v python3 > /dev/null || missing+=(python3)
    python3 -m pip --version > /dev/null 2>&1 || missing+=(python3-pip)
fi
if [ ${#missing[@]} -gt 0 ]; then
    command -v apt-get > /dev/null || { echo "error: missing ${missing[*]}, and there is no apt-get; install them by hand" >&2; exit 66; }
    sudo=; [ "$(id -u)" = 0 ] || sudo=sudo
    echo "installing ${missing[*]}"
    $sudo apt-get update -qq
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" > /dev/null
fi
if [ "${1:-}" = test ] && ! python3 -c 'import numpy, tiktoken' 2> /dev/null; then
    # Debian's python refuses to mix pip with its own packages unless told; tests that need these say so when they are not to be had
    python3 -m pip install -q numpy tiktoken 2> /dev/null || python3 -m pip install -q --break-system-packages numpy tiktoken 2> /dev/null \
        || echo "note: numpy and tiktoken could not be installed; tests that need them will be skipped"
fi
