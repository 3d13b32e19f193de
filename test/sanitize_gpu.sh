#!/usr/bin/env bash
# R20 on a GPU: sanitize_gpu.sh PROGRAM TEST_PROGRAM...   memcheck, racecheck and initcheck of compute-sanitizer over three training steps
# and a sample of PROGRAM (- for none) and over kernel tests. TOOLS="memcheck" picks; JOBS of them run side by side, LIMIT seconds each
# and TOTAL for all: what is cut short is said, and counts as skipped. racecheck and initcheck slow kernels a hundredfold, so that they
# see some cases of a long test (CASES=all: all of them). Reports inside a library's kernels do not count, but are listed with its name.
. "$(dirname "$0")/script.sh"
program=$1; shift
command -v compute-sanitizer > /dev/null || PATH=$PATH:/usr/local/cuda/bin
command -v compute-sanitizer > /dev/null || { skip sanitize_gpu "(needs compute-sanitizer)"; exit 0; }
LIMIT=${LIMIT:-120} JOBS=${JOBS:-$((($(nproc) + 1) / 2))} TOTAL=${TOTAL:-86400} start=$EPOCHSECONDS
grep -hoE '\b[a-z0-9_]+_kernel\(' llmc/*.cu llmc/*.cuh | tr -d '(' | sort -u > "$WORK/kernels"     # ours

export OMP_NUM_THREADS=$((($(nproc) + JOBS - 1) / JOBS)) OMP_WAIT_POLICY=passive

# a part of the names of the cases of a test that racecheck and initcheck run: every kernel, both head dims where there are two
some() {
    case $1 in
        test_moba_attn)     echo block128 ;;
        test_moba_centroid) echo within_budget ;;
        test_moba_index)    echo lists_every_pick ;;
        test_moba_routing)  echo ragged ;;
        test_moba_topk)     echo ragged ;;
        test_swa)           echo T300 ;;
    esac
}

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

# three steps and a sample; one plan a product, so that few of the library's kernels are looked into
train() {
    judge training "$1" "$program" --train-data "$WORK/text.bin" --out "$WORK/run_$1" --preset tiny --pattern S64,M64:3 --kconv 3 --seq-len 256 --micro-batch 2 \
        --steps 3 --save-every 2 --sample-every 3 --sample-tokens 100 --deterministic
}

[ "$program" = - ] || make_shard "$WORK/text.bin"
for tool in ${TOOLS:-memcheck racecheck initcheck}; do
    for test in training "$@"; do
        name=$(basename "$test") cases=
        if [ "$name/$program" = training/- ]; then continue; fi
        if [ "$name/$tool" = test_matmul/racecheck ]; then continue; fi          # no kernel of ours in it
        while [ "$(jobs -rp | wc -l)" -ge "$JOBS" ]; do wait -n; done
        if [ "$tool" != memcheck ] && [ -z "${CASES:-}" ]; then cases=$(some "$name"); fi
        if [ "$name" = training ]; then train "$tool"; else judge "$name" "$tool" "$test" ${cases:+"$cases"}; fi > "$WORK/$name.$tool.verdict" &
    done
done
wait
cat "$WORK"/*.verdict
! grep -q '^FAIL ' "$WORK"/*.verdict
