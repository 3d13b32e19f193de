#!/usr/bin/env bash
# A run that is interrupted and resumed is the run that was not: step, loss, norm and lr to the byte.
. "$(dirname "$0")/script.sh"
LONG=${LONG:-12}

make_shard "$WORK/text.bin"
run() {     # run OUT OPTIONS...
    local out=$1; shift
    "$PROGRAM" --train-data "$WORK/text.bin" --val-data "$WORK/text.bin" --out "$out" --preset tiny --layers 2 --pattern S64,M64:2 --seq-len 256 \
        --micro-batch 2 --total-batch 1024 --eval-batches 2 --eval-every 4 --lr 0.003 --deterministic "$@" > "$WORK/console" 2> "$WORK/console.err"
}
same_columns() { [ "$(columns "$1" | wc -l)" = "$3" ] && cmp -s <(columns "$1") <(columns "$2"); }

run "$WORK/whole" --steps 12 --save-every 3 --keep 10
status=$?
[ $status = 0 ] && [ "$(columns "$WORK/whole" | wc -l)" = 12 ] && ok resume_plain_run_finishes || fail resume_plain_run_finishes "status $status: $(tail -n 1 "$WORK/console.err")"

# R3: the same command twice
run "$WORK/again" --steps 12 --save-every 3 --keep 10
same_columns "$WORK/whole" "$WORK/again" 12 && ok resume_same_command_twice_is_identical || fail resume_same_command_twice_is_identical "columns differ"

# R2: stopped in the middle (its later checkpoints are gone, as after a crash), the same command again
cp -r "$WORK/whole" "$WORK/half"
rm -rf "$WORK"/half/checkpoints/step_00000009 "$WORK"/half/checkpoints/step_00000012
run "$WORK/half" --steps 12 --save-every 3 --keep 10
same_columns "$WORK/whole" "$WORK/half" 12 && ok resume_from_the_middle_is_identical || fail resume_from_the_middle_is_identical "columns differ"
build/model/compare "resume_every_tensor_is_bit_equal$SUFFIX" "$WORK"/{whole,half}/checkpoints/step_00000012 || failures=$((failures + 1))

# a finished run says so
run "$WORK/whole" --steps 12 --save-every 3 --keep 10
status=$?
[ $status = 0 ] && grep -q 'finished its 12 steps' "$WORK/console" && ok resume_finished_run_says_so || fail resume_finished_run_says_so "status $status"

# R12 in short: a signal saves and exits 75; the same command again goes on to the same curve. LONG steps: enough to be met in their midst.
run "$WORK/long" --steps $LONG --save-every 0
for signal in TERM INT USR1; do
    out="$WORK/signal_$signal"
    "$PROGRAM" --train-data "$WORK/text.bin" --val-data "$WORK/text.bin" --out "$out" --preset tiny --layers 2 --pattern S64,M64:2 --seq-len 256 \
        --micro-batch 2 --total-batch 1024 --eval-batches 2 --eval-every 4 --lr 0.003 --deterministic --steps $LONG --save-every 0 > "$WORK/console" 2> "$WORK/console.err" &
    pid=$!
    for _ in $(seq 600); do [ -f "$out/log.jsonl" ] && grep -q '"kind":"step","step":3' "$out/log.jsonl" && break; sleep 0.05; done
    kill -"$signal" $pid
    wait $pid; status=$?
    if [ $status != 75 ]; then fail "resume_after_SIG$signal" "exit status $status, expected 75"; continue; fi
    run "$out" --steps $LONG --save-every 0
    same_columns "$WORK/long" "$out" $LONG && ok "resume_after_SIG$signal" || fail "resume_after_SIG$signal" "columns differ"
done

# R5 in short: a damaged newest checkpoint is named and passed over, and the run completes
cp -r "$WORK/whole" "$WORK/damaged"
rm -rf "$WORK/damaged/checkpoints/step_00000012"
printf 'x' | dd of="$WORK/damaged/checkpoints/step_00000009/part_0000.bin" bs=1 seek=100000 conv=notrunc 2> /dev/null
run "$WORK/damaged" --steps 12 --save-every 3 --keep 10
if same_columns "$WORK/whole" "$WORK/damaged" 12 && grep -q step_00000009 "$WORK/console.err" && grep -q step_00000006 "$WORK/console.err"
then ok resume_passes_over_a_damaged_checkpoint; else fail resume_passes_over_a_damaged_checkpoint "$(head -c 300 "$WORK/console.err")"; fi

# all recompute levels write the same curve
for level in 1 2 3 4; do
    run "$WORK/level$level" --steps 4 --recompute $level --save-every 0 --warmup 1 --schedule constant
    [ $level = 1 ] && { run "$WORK/level0" --steps 4 --save-every 0 --warmup 1 --schedule constant; }
    same_columns "$WORK/level0" "$WORK/level$level" 4 && ok "resume_recompute_${level}_is_identical" || fail "resume_recompute_${level}_is_identical" "columns differ"
done

[ $failures -eq 0 ]
