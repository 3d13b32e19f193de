#!/usr/bin/env bash
# R20 on a GPU: sanitize_gpu.sh PROGRAM TEST_PROGRAM...   memcheck, racecheck and initcheck of compute-sanitizer over three training steps of
# PROGRAM and over kernel tests. TOOLS="memcheck" picks; LIMIT seconds a program (racecheck slows kernels a hundredfold: what is cut
# short is said, and counts as skipped). A report in a library's kernel is printed with that kernel's name.
. "$(dirname "$0")/script.sh"
program=$1; shift
command -v compute-sanitizer > /dev/null || PATH=$PATH:/usr/local/cuda/bin
command -v compute-sanitizer > /dev/null || { skip sanitize_gpu "(needs compute-sanitizer)"; exit 0; }

judge() {     # judge NAME TOOL COMMAND...
    local name=$1 tool=$2 status=0; shift 2
    timeout "${LIMIT:-120}" compute-sanitizer --tool "$tool" --error-exitcode 9 --print-limit 5 "$@" > "$WORK/said" 2>&1 || status=$?
    case $status in
        0)   ok "${tool}_$name" ;;
        124) skip "${tool}_$name" "(not finished in ${LIMIT:-120} s: $(grep -c '^ok ' "$WORK/said") cases without a report)" ;;
        *)   fail "${tool}_$name" "$(grep -m 3 -E '^=========.*(Error|Invalid|Race|Uninitialized|at )|^FAIL' "$WORK/said" | tr '\n' ' ')" ;;
    esac
}
make_shard "$WORK/text.bin"
for tool in ${TOOLS:-memcheck racecheck initcheck}; do
    judge training "$tool" "$program" --train-data "$WORK/text.bin" --out "$WORK/run_$tool" --preset tiny --pattern S64,M64:3 --kconv 3 --seq-len 256 \
        --micro-batch 2 --steps 3 --save-every 2
    for test in "$@"; do judge "$(basename "$test")" "$tool" "$test"; done
done
[ $failures -eq 0 ]
