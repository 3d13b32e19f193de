#!/usr/bin/env bash
# Runs test programs and scripts, prints their lines and "N passed, N failed, N skipped"; exit status 0 only if none failed.
#   test/run.sh [--skip-gpu-cases-of FILE...] [--record JSON] -- COMMAND...
# Each COMMAND is one word: a program or script that prints ok/FAIL/skip lines. --record (a GPU run of everything) writes what was proved.
# A program that dies without saying FAIL counts as one failure of its own name. TEST_JOBS=N runs N of them side by side;
# a script with a line "# alone: REASON" waits until the others are done, one with "# long: REASON" begins first.
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
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
log=$work/log; : > "$log"
run_one() {
    local name one start status
    name=$(basename "$1") one=$work/$BASHPID start=$(date +%s)
    "$1" > "$one" 2> "$one.err"; status=$?
    if [ $status -ne 0 ] && ! grep -q '^FAIL ' "$one"; then
        echo "FAIL $name ended with status $status: $(tail -n 1 "$one.err" | tr -d '\r')" >> "$one"
    fi
    exec 9>> "$log"; flock 9                                            # lines of one program stay together
    cat "$one" | tee -a "$log"
    [ -s "$one.err" ] && [ $status -ne 0 ] && tail -n 20 "$one.err" >&2
    echo "   ($name: $(($(date +%s) - start)) s)"
    rm -f "$one" "$one.err"
}
jobs=${TEST_JOBS:-1} last=() commands=("$@")
if [ "$jobs" -gt 1 ]; then                                              # side by side, what takes longest first: some scripts take minutes, programs seconds
    long=() scripts=() programs=()
    for command in "$@"; do
        if grep -qs '^# long: ' "$command"; then long+=("$command"); continue; fi
        case "$command" in *.sh|*.py) scripts+=("$command") ;; *) programs+=("$command") ;; esac
    done
    commands=("${long[@]}" "${scripts[@]}" "${programs[@]}")
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((3 * (($(nproc) + jobs - 1) / jobs)))}
fi
for command in "${commands[@]}"; do
    if [ "$jobs" -le 1 ]; then (run_one "$command"); continue; fi
    if grep -qs '^# alone: ' "$command"; then last+=("$command"); continue; fi
    set -m                                                              # a job of its own: otherwise SIGINT would be ignored in it
    while [ "$(jobs -r | wc -l)" -ge "$jobs" ]; do wait -n; done
    run_one "$command" &
done
wait
[ "$jobs" -le 1 ] || unset OMP_NUM_THREADS
for command in "${last[@]:-}"; do [ -z "$command" ] || (run_one "$command"); done
for source in "${sources[@]:-}"; do
    [ -n "$source" ] || continue
    sed -n 's/^GPU_TEST(\([a-zA-Z0-9_]*\)).*/skip \1 (needs a GPU)/p' "$source" | tee -a "$log"
done
passed=$(grep -c '^ok ' "$log"); failed=$(grep -c '^FAIL ' "$log"); skipped=$(grep -c '^skip ' "$log")
grep '^FAIL ' "$log" && echo
if [ -n "$record" ]; then
    printf '{"gpu":"%s","date":"%s","sources":"%s","passed":%d,"failed":%d,"skipped":%d}\n' \
        "$(nvidia-smi --query-gpu=name --format=csv,noheader | head -n 1)" "$(date -u +%Y-%m-%d)" "$(make -s source-hash)" \
        "$passed" "$failed" "$skipped" > "$record"
fi
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
