#!/usr/bin/env bash
# R20 on a GPU: sanitize_gpu.sh PROGRAM TEST_PROGRAM...   memcheck, racecheck and initcheck of compute-sanitizer over three training steps
# and a sample of PROGRAM (- for none) and over kernel tests. TOOLS="memcheck" picks; JOBS of them run side by side, LIMIT seconds each
# and TOTAL for all: what is cut short is said, and counts as skipped. racecheck and initcheck slow kernels a hundredfold, so that they
# see some cases of a long test (CASES=all: all of them). Reports of nothing but a library's kernels do not count, but are listed with their
# names; nor does what racecheck says of bulk copies, if it says so of test_bulk_copy's too, which are evidently ordered (sanitizer_report.sh).
. "$(dirname "$0")/script.sh"
. test/sanitizer_report.sh
program=$1; shift
command -v compute-sanitizer > /dev/null || PATH=$PATH:/usr/local/cuda/bin
command -v compute-sanitizer > /dev/null || { skip sanitize_gpu "(needs compute-sanitizer)"; exit 0; }
LIMIT=${LIMIT:-120} JOBS=${JOBS:-$((($(nproc) + 1) / 2))} TOTAL=${TOTAL:-86400} start=$EPOCHSECONDS

export OMP_NUM_THREADS=$((($(nproc) + JOBS - 1) / JOBS)) OMP_WAIT_POLICY=passive

# a part of the names of the cases of a test that racecheck and initcheck run: every kernel, both head dims where there are two
some() {
    case $1 in
        test_matmul)        echo elsewhere ;;
        test_moba_attn)     echo block128 ;;
        test_moba_centroid) echo within_budget ;;
        test_moba_index)    echo lists_every_pick ;;
        test_moba_routing)  echo ragged ;;
        test_moba_topk)     echo ragged ;;
        test_swa)           echo T300 ;;
    esac
}

# judge NAME TOOL COMMAND...: says its verdict; true if there is nothing to report
judge() {
    local name=$1 tool=$2 status=0 said=$WORK/$1.$2 begun=$EPOCHSECONDS limit; shift 2
    limit=$((start + TOTAL - begun < LIMIT ? start + TOTAL - begun : LIMIT))
    if [ $limit -le 2 ]; then skip "${tool}_$name" "(no time left)"; return 1; fi
    timeout "$limit" compute-sanitizer --tool "$tool" --error-exitcode 9 --print-limit 20 "$@" > "$said" 2>&1 || status=$?
    if [ $status = 9 ]; then
        case $(report_kind "$tool" "$said") in
            library) echo "# ${tool}_$name: $(report_functions "$said" | head -n 4 | tr '\n' ' ')is a library's"; status=0 ;;
            bulk)    if [ -e "$WORK/bulk_false" ]; then echo "# ${tool}_$name: bulk copies, like those of test_bulk_copy"; status=0; fi ;;
        esac
    fi
    case $status in
        0)   ok "${tool}_$name"; echo "#  $((EPOCHSECONDS - begun)) s, $(grep -c ^ok "$said") cases" ;;
        124) skip "${tool}_$name" "(not finished in $limit s: $(grep -c '^ok ' "$said") cases without a report)" ;;
        *)   fail "${tool}_$name" "status $status: $(grep -m 3 -E '^=========.*(Error|Invalid|Race|Uninitialized|at )|^FAIL' "$said" | tr '\n' ' ')"
             grep -E '^=========|^FAIL' "$said" | head -n 30 | sed 's/^/#  /' ;;
    esac
    [ $status = 0 ]
}

# Three steps of two micro-batches, and a sample, of one layer of each kind; without measured plans, so that few of the library's kernels are looked into. initcheck
# does not see what cuBLASLt's products store through TMA, and would report whoever reads it; it gets the program in which a kernel fills the
# outputs with NaN first (test/written_products.cu). The other tools do not ask who wrote, and see the program as it is. A step whose loss
# is NaN is skipped without an error, so the steps are counted.
train() {
    local trained=$program steps
    if [ "$1" = initcheck ]; then trained=build/test/written/train_moba; fi
    judge training "$1" "$trained" --train-data "$WORK/text.bin" --out "$WORK/run_$1" --layers 3 --channels 64 --heads 1 --mlp 64 --pattern S32,M64:2,D --kconv 3 \
        --seq-len 192 --micro-batch 1 --total-batch 384 --steps 3 --save-every 2 --sample-every 3 --sample-tokens 8 --deterministic || return
    steps=$(columns "$WORK/run_$1" | wc -l)
    if [ "$steps" = 3 ]; then ok "$1_training_skips_no_step"; else fail "$1_training_skips_no_step" "$steps of 3 steps: $(grep '"kind":"skip"' "$WORK/run_$1/log.jsonl" | head -n 1)"; fi
}

# racecheck over test_bulk_copy: does it report bulk copies that are evidently ordered? What it says is printed.
try_bulk() {
    local way status
    for way in barrier ring; do
        status=0
        timeout 60 compute-sanitizer --tool racecheck --error-exitcode 9 --print-limit 4 "$1" "$way" > "$WORK/bulk" 2>&1 || status=$?
        if [ $status = 9 ] && grep -q '^ok bulk_copy' "$WORK/bulk" && grep -q '^=========.*bulk_load' "$WORK/bulk"; then
            touch "$WORK/bulk_false"
            echo "# bulk_copy, $way: sums are right, copies ordered, and racecheck says:"
            grep '^=========' "$WORK/bulk" | head -n 8 | sed 's/^/#  /'
            status=0
        fi
        if [ $status = 0 ]; then ok "racecheck_test_bulk_copy_$way"; else fail "racecheck_test_bulk_copy_$way" "status $status: $(head -c 300 "$WORK/bulk" | tr '\n' ' ')"; fi
    done
}

[ "$program" = - ] || make_shard "$WORK/text.bin"
bulk=$(printf '%s\n' "$@" | grep '/test_bulk_copy$')
if [ -n "$bulk" ] && [[ " ${TOOLS:-racecheck} " = *" racecheck "* ]]; then try_bulk "$bulk" > "$WORK/test_bulk_copy.racecheck.verdict"; fi
for tool in ${TOOLS:-memcheck racecheck initcheck}; do
    for test in training "$@"; do
        name=$(basename "$test") cases=
        if [ "$name/$program" = training/- ]; then continue; fi
        # no kernel of ours in it; see try_bulk; test_step takes these tools over 200 s, and training launches such graphs too
        case $name/$tool in test_matmul/racecheck | test_bulk_copy/racecheck | test_step/racecheck | test_step/initcheck) continue ;; esac
        while [ "$(jobs -rp | wc -l)" -ge "$JOBS" ]; do wait -n; done
        if [ "$tool" != memcheck ] && [ -z "${CASES:-}" ]; then cases=$(some "$name"); fi
        if [ "$name" = training ]; then train "$tool"; else judge "$name" "$tool" "$test" ${cases:+"$cases"}; fi > "$WORK/$name.$tool.verdict" &
    done
done
wait
cat "$WORK"/*.verdict
! grep -q '^FAIL ' "$WORK"/*.verdict
