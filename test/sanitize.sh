#!/usr/bin/env bash
# R20 on the CPU: sanitize.sh BUILD TEST_PROGRAM...   Test programs and a training run (save, resume, evaluate, sample) built with ASan and
# UBSan in BUILD/sanitize, then training and a resume of the program in BUILD/valgrind under valgrind. A report fails; nothing is suppressed.
. "$(dirname "$0")/script.sh"
build=$1; shift
export OMP_WAIT_POLICY=passive ASAN_OPTIONS=detect_leaks=1 UBSAN_OPTIONS=print_stacktrace=1

for program in "$@"; do
    name=sanitize_$(basename "$program")
    if "$program" > "$WORK/said" 2> "$WORK/err" && ! grep -q '^FAIL' "$WORK/said"; then ok "$name"
    else fail "$name" "$(grep -m 1 -hE '^FAIL|ERROR|runtime error' "$WORK/said" "$WORK/err")"; fi
done

"$build/sanitize/data/bytes" --out "$WORK/text.bin" README.md llmc/*.c > /dev/null
shape=(--layers 2 --channels 16 --heads 2 --mlp 16 --pattern S16,M16:2 --seq-len 64 --micro-batch 2 --save-every 2 --eval-every 2 --eval-batches 2)
data=(--train-data "$WORK/text.bin" --val-data "$WORK/text.bin" --out "$WORK/run")
trains() {    # trains NAME COMMAND...
    local name=$1; shift
    if "$@" > "$WORK/said" 2> "$WORK/err"; then ok "$name"; else fail "$name" "status $?: $(grep -m 1 -E 'ERROR|runtime error|error|lost:' "$WORK/err")"; fi
}
hooks=$build/sanitize/test/hooks/train_moba_cpu
trains sanitize_training    "$hooks" "${shape[@]}" "${data[@]}" --steps 5 --skip-z 6
rm -rf "$WORK/run/checkpoints/step_00000005"
trains sanitize_resume      "$hooks" "${shape[@]}" "${data[@]}" --steps 5 --recompute 3
trains sanitize_evaluation  "$hooks" --eval-only --val-data "$WORK/text.bin" --out "$WORK/run"
trains sanitize_sample      "$hooks" --prompt "int " --sample-tokens 8 --out "$WORK/run"
trains sanitize_dry_run     "$hooks" --dry-run --preset 124M
rm -rf "$WORK/run"
if command -v valgrind > /dev/null; then
    # (built without -march=native: valgrind does not know every instruction of a new CPU)
    trains valgrind_training env OMP_NUM_THREADS=1 valgrind --quiet --error-exitcode=9 --leak-check=full --errors-for-leak-kinds=definite,indirect \
        "$build/valgrind/test/hooks/train_moba_cpu" "${shape[@]}" "${data[@]}" --steps 3
    trains valgrind_resume   env OMP_NUM_THREADS=1 valgrind --quiet --error-exitcode=9 --leak-check=full --errors-for-leak-kinds=definite,indirect \
        "$build/valgrind/test/hooks/train_moba_cpu" "${shape[@]}" "${data[@]}" --steps 4 --new-schedule
else skip valgrind_training "(needs valgrind)"; skip valgrind_resume "(needs valgrind)"; fi
[ $failures -eq 0 ]
