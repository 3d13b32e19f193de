#!/usr/bin/env bash
# R20 on a GPU: sanitize_gpu.sh PROGRAM TEST_PROGRAM...   memcheck, racecheck and initcheck of compute-sanitizer over three training steps of
# PROGRAM (- for none) and over kernel tests. TOOLS="memcheck" picks; JOBS of them run side by side, LIMIT seconds each and TOTAL for all: what
# is cut short is said, and counts as skipped. racecheck and initcheck slow kernels a hundredfold, so that they see one or some cases of the
# longer tests (CASES=all: all of them). Reports inside a library's kernels do not count, but are listed with its name.
. "$(dirname "$0")/script.sh"
program=$1; shift
command -v compute-sanitizer > /dev/null || PATH=$PATH:/usr/local/cuda/bin
command -v compute-sanitizer > /dev/null || { skip sanitize_gpu "(needs compute-sanitizer)"; exit 0; }
LIMIT=${LIMIT:-120} JOBS=${JOBS:-$((($(nproc) + 1) / 2))} TOTAL=${TOTAL:-86400} start=$EPOCHSECONDS
grep -hoE '\b[a-z0-9_]+_kernel\(' llmc/*.cu llmc/*.cuh | tr -d '(' | sort -u > "$WORK/kernels"     # ours

# judge NAME TOOL COMMAND...: its verdict goes to $WORK/NAME.TOOL.verdict
judge() {
    local name=$1 tool=$2 status=0 said=$WORK/$1.$2 begun=$EPOCHSECONDS limit; shift 2
    limit=$((start + TOTAL - begun < LIMIT ? start + TOTAL - begun : LIMIT))
    if [ $limit -le 2 ]; then skip "${tool}_$name" "(no time left)"; return; fi
    timeout "$limit" compute-sanitizer --tool "$tool" --error-exitcode 9 --print-limit 20 "$@" > "$said" 2>&1 || status=$?
    if [ $status = 9 ] && ! grep '^=========' "$said" | grep -qwFf "$WORK/kernels" && ! grep -qE '^FAIL|Host API|Program hit' "$said"; then
        echo "# ${tool}_$name: $(grep -oE 'at (void )?[A-Za-z_][A-Za-z0-9_:]*' "$said" | sort -u | head -n 4 | tr '\n' ' ')is a library's"
        status=0
    fi
    case $status in
        0)   ok "${tool}_$name"; echo "#  $((EPOCHSECONDS - begun)) s, $(grep -c ^ok "$said") cases" ;;
        124) skip "${tool}_$name" "(not finished in $limit s: $(grep -c '^ok ' "$said") cases without a report)" ;;
        *)   fail "${tool}_$name" "status $status: $(grep -m 3 -E '^=========.*(Error|Invalid|Race|Uninitialized|at )|^FAIL' "$said" | tr '\n' ' ')" ;;
    esac
}

# a part of the names of the cases of a test that the slow tools run: every kernel, both head dims where there are two
short_cases() {
    case $1 in
        test_moba_attn)  echo block128 ;;
        test_moba_index) echo lists_every_pick ;;
        test_moba_topk)  echo ragged ;;
        test_swa)        echo T300 ;;
    esac
}

[ "$program" = - ] || make_shard "$WORK/text.bin"
for tool in ${TOOLS:-memcheck racecheck initcheck}; do
    for test in $([ "$program" = - ] || echo training) "$@"; do
        name=$(basename "$test") cases=
        [ "$tool" = memcheck ] || [ "${CASES:-}" = all ] || cases=$(short_cases "$name")
        while [ "$(jobs -rp | wc -l)" -ge "$JOBS" ]; do wait -n; done
        case $name in
            training) judge training "$tool" "$program" --train-data "$WORK/text.bin" --out "$WORK/run_$tool" --preset tiny --pattern S64,M64:3 --kconv 3 \
                          --seq-len 256 --micro-batch 2 --steps 3 --save-every 2 > "$WORK/training.$tool.verdict" & ;;
            *)        judge "$name" "$tool" "$test" ${cases:+"$cases"} > "$WORK/$name.$tool.verdict" & ;;
        esac
    done
done
wait
cat "$WORK"/*.verdict
! grep -q '^FAIL ' "$WORK"/*.verdict
