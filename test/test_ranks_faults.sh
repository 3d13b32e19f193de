#!/usr/bin/env bash
# Many ranks on the CPU over MPI: no rank that is lost, stopped, slow or wrong goes unnoticed, and what goes wrong is said once.
# long: up to three minutes, most of it waiting for time-outs
. "$(dirname "$0")/ranks.sh"
if ! have_mpi; then skip ranks_faults_under_mpirun "(needs mpirun)"; exit 0; fi

# ---- R12: USR1 to one rank alone, and to mpirun, which passes it on (of an mpirun that does not do so with a shell, nothing is asked)
SLOW=(--steps 100 --schedule constant --warmup 1)
ranks 2 "$WORK/long" "${SLOW[@]}"
# usr1 NAME OUT WHOM: begins that run on a link that makes it last 20 seconds, and signals $(WHOM PID-OF-TIMEOUT) when it has done 20 steps
usr1() {
    local name=$1 out=$2 pid status whom
    MOBA_TEST_LINK_MS=20 timeout -k 5 60 mpirun -n 2 "$HOOKS" "${MICRO[@]}" --out "$out" "${SLOW[@]}" > "$WORK/console" 2> "$WORK/err" &
    pid=$!
    for _ in $(seq 3000); do grep -q '"kind":"step","step":20,' "$out/log.jsonl" 2> /dev/null && break; sleep 0.005; done
    whom=$($3 $pid); kill -USR1 $whom; wait $pid; status=$?
    [ $status = 75 ] || echo "the signal went to $whom ($(ps -o comm= -p "${whom:-0}"))" >> "$WORK/err"
    check "$name" [ $status = 75 ]
    ranks 2 "$out" "${SLOW[@]}"
    check "${name}_and_goes_on_identically" identical "$WORK/long" "$out" 100
}
mpirun_of() { pgrep -P "$1"; }
rank_of()   { pgrep -P "$(mpirun_of "$1")" -f "$HOOKS" | tail -n 1; }
mpirun_passes_usr1_on() {
    local pid
    timeout 20 mpirun -n 1 sh -c 'trap "exit 75" USR1; echo ready; while sleep 0.05; do :; done' > "$WORK/probe" 2> /dev/null &
    pid=$!
    for _ in $(seq 1000); do grep -q ready "$WORK/probe" && break; sleep 0.01; done
    kill -USR1 $(mpirun_of $pid); wait $pid
    [ $? = 75 ]
}
usr1 ranks_usr1_to_a_rank_saves_and_exits_75 "$WORK/usr1" rank_of
if mpirun_passes_usr1_on; then usr1 ranks_usr1_to_mpirun_saves_and_exits_75 "$WORK/usr1_mpirun" mpirun_of
else skip ranks_usr1_to_mpirun_saves_and_exits_75 "(this mpirun does not pass USR1 on)"; fi

# ---- R13: a rank is killed, or stopped; the others end by their own watchdogs and name it; nothing is saved after
export MOBA_TEST_RANK=1
MOBA_TEST_KILL_STEP=30 ranks 3 "$WORK/killed" --timeout 6 --save-every 20; status=$?
check ranks_killed_ends_the_job       [ $status != 0 ]
check ranks_killed_leaves_no_process  nobody
check ranks_killed_saves_nothing_more [ ! -e "$(step "$WORK/killed" 30)" -a -e "$(step "$WORK/killed" 20)" ]
check ranks_killed_names_the_rank     words 'rank 1 '
for victim in 0 2; do
    MOBA_TEST_RANK=$victim MOBA_TEST_FREEZE_STEP=30 ranks 3 "$WORK/frozen$victim" --timeout 4 --save-every 20; status=$?
    ms=$(($(date +%s%3N) - $(date -r "$WORK/frozen$victim/log.jsonl" +%s%3N)))          # since the last step that was done
    check "ranks_frozen_${victim}_exits_71"          [ $status = 71 ]
    check "ranks_frozen_${victim}_within_timeout"    [ $ms -gt 1000 -a $ms -lt 6000 ]
    check "ranks_frozen_${victim}_is_named"          words "^error: rank $victim of 3 \(.*gives no sign of life, while rank [0-9].* is in step 3[01], (waiting in|after) (the|reduction|gathering) "
    check "ranks_frozen_${victim}_leaves_no_process" nobody
    check "ranks_frozen_${victim}_saves_nothing"     [ ! -e "$(step "$WORK/frozen$victim" 30)" ]
done

# ---- a slow link and a straggler are no faults
MOBA_TEST_STRAGGLE_MS=30 MOBA_TEST_LINK_MS=1 ranks 3 "$WORK/slow" --steps 10 --timeout 4 --schedule constant --warmup 1; status=$?
check ranks_slow_rank_is_no_loss      [ $status = 0 ]

# ---- nor is a slow disk: shards and a checkpoint that one rank reads, or one that it writes, for longer than --timeout; but one that gives
# nothing for so long is
ranks 3 "$WORK/disk" --steps 2 --zero 1
# slow_disk NAME VICTIM OUT STEPS OPTIONS...: that run takes longer than --timeout, and ends well
slow_disk() {
    local name=$1 victim=$2 out=$3 steps=$4 start=$(date +%s%N) status ms; shift 4
    MOBA_TEST_RANK=$victim ranks 3 "$out" --steps $steps --new-schedule --zero 1 --timeout 3 "$@"; status=$?
    ms=$((($(date +%s%N) - start) / 1000000))
    check "ranks_slow_${name}_of_rank_${victim}_is_slow"    [ $ms -gt 3000 ]
    check "ranks_slow_${name}_of_rank_${victim}_is_no_loss" [ $status = 0 -a -e "$(step "$out" $steps)" ]
}
MOBA_TEST_READ_MS=80  slow_disk checkpoint 0 "$WORK/disk" 3
MOBA_TEST_READ_MS=80  slow_disk checkpoint 1 "$WORK/disk" 4
MOBA_TEST_WRITE_MS=80 slow_disk save 0 "$WORK/disk" 5
MOBA_TEST_WRITE_MS=80 slow_disk save 1 "$WORK/disk" 6
for i in $(seq 10 69); do ln "$WORK/text.bin" "$WORK/part_$i.bin"; done
MOBA_TEST_READ_MS=30  slow_disk shards 1 "$WORK/shards" 2 --train-data "$WORK/part_*.bin"
MOBA_TEST_RANK=0 MOBA_TEST_READ_MS=60000 ranks 3 "$WORK/disk" --steps 8 --new-schedule --timeout 3; status=$?
check ranks_disk_that_hangs_in_a_read_is_a_loss  [ $status = 71 ]
check ranks_disk_that_hangs_in_a_read_is_said    words 'rank 0 has left, or gave no sign of life for 3 s \(--timeout\) \(in the opening of files\)'
MOBA_TEST_RANK=0 MOBA_TEST_WRITE_MS=60000 ranks 3 "$WORK/disk" --steps 8 --new-schedule --timeout 3; status=$?
check ranks_disk_that_hangs_in_a_write_is_a_loss [ $status = 71 ]
check ranks_disk_that_hangs_in_a_write_is_said   words '^error: rank 0 of 3 .* is lost: it does not arrive, while rank [12] '

# ---- R14: not finite on one rank, skipped by all; R16: a flipped bit
MOBA_TEST_NAN_STEPS=3-3 ranks 2 "$WORK/nan" --steps 5 --save-every 1 --keep 20 --zero 1; status=$?
check ranks_nan_run_finishes          [ $status = 0 ]
check ranks_nan_is_skipped_by_all     grep -q '{"kind":"skip","step":3,"why":".*not finite"}' "$WORK/nan/log.jsonl"
same  ranks_nan_changes_no_bit        "$(step "$WORK/nan" 2)" "$(step "$WORK/nan" 3)"
MOBA_TEST_NAN_STEPS=3-9 ranks 2 "$WORK/stuck" --max-bad-steps 3; status=$?
check ranks_bad_steps_stop_all        [ $status = 70 -a "$(grep -c '^error:' "$WORK/err")" = 1 ]
for zero in 0 1; do
    MOBA_TEST_FLIP_STEP=7 ranks 3 "$WORK/flip$zero" --check-every 5 --zero $zero --save-every 1 --steps 10; status=$?
    if [ $zero = 0 ]; then at=10; else at=7; MOBA_TEST_FLIP_STEP=7 ranks 3 "$WORK/flip7" --check-every 7 --zero 1 --save-every 1 --steps 10; status=$?; fi
    check "ranks_flipped_bit_is_found_zero_$zero" [ $status = 70 ]
    check "ranks_flipped_bit_is_named_zero_$zero" words "step $at: the weights of rank 1 .* differ from those of the others"
done
unset MOBA_TEST_RANK
ranks 3 "$WORK/clean" --check-every 1 --steps 10; status=$?
check ranks_clean_run_raises_no_alarm [ $status = 0 ]

# ---- errors of the start are said once, with their own status
said_once() { [ "$(grep -c '^error:' "$WORK/err")" = 1 ]; }
ranks 3 "$WORK/x" --train-data "$WORK/nothing.bin"; status=$?
check ranks_missing_data_is_66        [ $status = 66 ]
check ranks_missing_data_is_said_once said_once
# the first is late: mpirun would end it, if another ended before
timeout -k 5 60 mpirun -n 1 sh -c 'sleep 1; exec "$0" "$@"' "$HOOKS" --zero 2 : -n 2 "$HOOKS" --zero 2 > "$WORK/console" 2> "$WORK/err"; status=$?
check ranks_bad_option_is_64          [ $status = 64 ]
check ranks_bad_option_is_said_once   said_once
check ranks_bad_option_is_named       words '^error: --zero'
timeout -k 5 60 mpirun -n 1 "$HOOKS" "${MICRO[@]}" --out "$WORK/x" : -n 1 "$HOOKS" --zero 2 > "$WORK/console" 2> "$WORK/err"; status=$?
check ranks_bad_option_of_one_is_64        [ $status = 64 ]
check ranks_bad_option_of_one_is_said_once said_once
check ranks_bad_option_of_one_is_named     words '^error: rank 1: --zero'
ranks 5 "$WORK/x"; status=$?
check ranks_batch_must_divide         [ $status = 64 ]
check ranks_batch_names_the_nearest   words 'micro-batch x seq-len x ranks = 1 x 64 x 5; the nearest that is: 1600'

mkdir -p "$WORK/own0/checkpoints" "$WORK/own1/checkpoints"           # each rank its own --out, as on hosts that share none
timeout -k 5 60 mpirun -n 1 "$HOOKS" "${MICRO[@]}" --out "$WORK/own0" : -n 1 "$HOOKS" "${MICRO[@]}" --out "$WORK/own1" > "$WORK/console" 2> "$WORK/err"; status=$?
check ranks_out_that_is_not_shared_is_73        [ $status = 73 ]
check ranks_out_that_is_not_shared_is_said_once said_once
check ranks_out_that_is_not_shared_is_named     words '^error: rank 1 \(.*\): --out: what rank 0 puts into .*/own1/checkpoints is not there .*give a directory that all hosts share'
check ranks_out_that_is_not_shared_stays_empty  [ -z "$(ls -A "$WORK/own0/checkpoints" "$WORK/own1/checkpoints" | grep -v :)" -a ! -e "$WORK/own0/log.jsonl" ]

mkdir -p "$WORK/nolog/log.jsonl"
ranks 2 "$WORK/nolog" --steps 5; status=$?
check ranks_log_that_cannot_be_opened_is_73    [ $status = 73 ]
check ranks_log_that_cannot_be_opened_is_said_once said_once
ranks 2 "$WORK/large" --micro-batch auto --layers 96 --channels 4096 --heads 64 --mlp 16384; status=$?
check ranks_micro_batch_finds_no_room_is_64    [ $status = 64 ]
check ranks_micro_batch_finds_no_room_is_named words 'auto finds no room'
check ranks_micro_batch_finds_no_room_is_said_once said_once

# ---- a part that cannot be written: said once, with the ranks it was; training goes on
MOBA_TEST_RANK=1 MOBA_TEST_FILE_BYTES=5000 ranks 3 "$WORK/full" --steps 4 --save-every 2; status=$?
check ranks_save_that_fails_is_74     [ $status = 74 ]
check ranks_save_that_fails_is_said_once       [ "$(grep -c '^warning: .* is not saved' "$WORK/err")" = 2 -a "$(grep -c '^warning' "$WORK/err")" = 2 ]
check ranks_last_save_that_fails_is_an_error   [ "$(grep -c '^error:' "$WORK/err")" = 1 -a -n "$(grep '^error: step 4 is not saved' "$WORK/err")" ]
check ranks_save_that_fails_names_the_rank     words '^warning: step 2 is not saved: rank 1 \(.*\): checkpoint .*step_00000002 cannot be written: File too large'

# ---- an old checkpoint that cannot be removed is warned of
mkdir -p "$WORK/old/checkpoints/step_00000000/kept"
ranks 2 "$WORK/old" --resume none --steps 5 --save-every 1 --keep 2; status=$?
check ranks_removal_that_fails_is_no_error     [ $status = 0 ]
check ranks_removal_that_fails_is_warned_of    words '^warning: .*removed_00000000 cannot be removed'

# ---- data that goes bad under one rank while a save is under way: that rank says so, and does not wait for the others to answer about the save
cp "$WORK/text.bin" "$WORK/own.bin"
CUT=("${MICRO[@]}" --out "$WORK/cut" --steps 2000 --save-every 1 --timeout 30)
MOBA_TEST_STRAGGLE_MS=20 timeout -k 5 60 mpirun -n 1 "$HOOKS" "${CUT[@]}" : -n 1 "$HOOKS" "${CUT[@]}" --train-data "$WORK/own.bin" : \
    -n 1 "$HOOKS" "${CUT[@]}" --out "$WORK/cut" --steps 2000 --save-every 1 --timeout 30 > "$WORK/console" 2> "$WORK/err" &
pid=$!
for _ in $(seq 1000); do grep -q '"kind":"step","step":5,' "$WORK/cut/log.jsonl" 2> /dev/null && break; sleep 0.01; done
truncate -s 4096 "$WORK/own.bin"; start=$SECONDS; wait $pid; status=$?
check ranks_data_cut_under_a_rank_is_65        [ $status = 65 ]
check ranks_data_cut_under_a_rank_is_named     words '^error: .*own\.bin'
check ranks_data_cut_under_a_rank_is_no_loss   [ "$(grep -c '^error:' "$WORK/err")" -le 2 -a "$(grep -c 'is lost' "$WORK/err")" = 0 ]
check ranks_data_cut_under_a_rank_is_heard_of  words '^error: rank 1 of 3 \(.*\) has ended with an error of its own, while rank 0 '
check ranks_data_cut_under_a_rank_ends_soon    [ $((SECONDS - start)) -lt 15 ]

[ $failures -eq 0 ]
