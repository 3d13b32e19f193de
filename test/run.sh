#!/usr/bin/env bash
# Runs test programs and scripts, prints their lines and "N passed, N failed, N skipped"; exit status 0 only if none failed.
#   test/run.sh [--skip-gpu-cases-of FILE...] [--record JSON] -- COMMAND...
# Each COMMAND is one word: a program or script that prints ok/FAIL/skip lines. --record (a GPU run of everything) writes what was proved.
# A program that dies without saying FAIL counts as one failure of its own name.
set -u
sources=() record=
while [ $# -gt 0 ] && [ "$1" != "--" ]; do
    case "$1" in
        --skip-gpu-cases-of) ;;
        --record) record=$2; shift ;;
        *) sources+=("$1") ;;
    esac
    shift
done
shift
export PYTHONPATH="$PWD/build/python${PYTHONPATH:+:$PYTHONPATH}"       # what scripts/setup.sh put there
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-passive}"                    # threads that spin while they wait starve others where cores are shared
if [ ! -w "${TMPDIR:-/tmp}" ]; then mkdir -p build/tmp; export TMPDIR="$PWD/build/tmp"; fi
log=$(mktemp); trap 'rm -f "$log"' EXIT
for command in "$@"; do
    start=$(date +%s)
    "$command" > "$log.one" 2> "$log.err"; status=$?
    cat "$log.one"
    if [ $status -ne 0 ] && ! grep -q '^FAIL ' "$log.one"; then
        echo "FAIL $(basename "$command") ended with status $status: $(tail -n 1 "$log.err" | tr -d '\r')" | tee -a "$log.one"
    fi
    [ -s "$log.err" ] && [ $status -ne 0 ] && tail -n 20 "$log.err" >&2
    echo "   ($(basename "$command"): $(($(date +%s) - start)) s)"
    cat "$log.one" >> "$log"
done
for source in "${sources[@]:-}"; do
    [ -n "$source" ] || continue
    sed -n 's/^GPU_TEST(\([a-zA-Z0-9_]*\)).*/skip \1 (needs a GPU)/p' "$source" | tee -a "$log"
done
rm -f "$log.one" "$log.err"
passed=$(grep -c '^ok ' "$log"); failed=$(grep -c '^FAIL ' "$log"); skipped=$(grep -c '^skip ' "$log")
grep '^FAIL ' "$log" && echo
if [ -n "$record" ]; then
    printf '{"gpu":"%s","date":"%s","sources":"%s","passed":%d,"failed":%d,"skipped":%d}\n' \
        "$(nvidia-smi --query-gpu=name --format=csv,noheader | head -n 1)" "$(date -u +%Y-%m-%d)" "$(make -s source-hash)" \
        "$passed" "$failed" "$skipped" > "$record"
fi
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
