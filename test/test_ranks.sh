#!/usr/bin/env bash
# Many ranks on the CPU over MPI: the curve does not depend on their number, whatever they resume from, and a killed rank changes nothing.
#   KILLS=20 test/test_ranks.sh      the long form: a rank killed that many times
# long: a minute and a half
. "$(dirname "$0")/ranks.sh"
KILLS=${KILLS:-3}
SEED=${SEED:-$(($(date +%s) % 100000))}

# ---- without MPI: refusals and the estimate
expect ranks_tcp_needs_an_address    64 'needs --meet'            "$PROGRAM" "${MICRO[@]}" --init tcp --ranks 2 --rank 0
expect ranks_rank_out_of_range       64 'rank 2 of 2'             "$PROGRAM" "${MICRO[@]}" --init file --meet "$WORK/meet" --ranks 2 --rank 2
expect ranks_alone_takes_no_number   64 'are for --init tcp'      "$PROGRAM" "${MICRO[@]}" --ranks 2
expect ranks_cpu_program_needs_mpi   64 'start them with mpirun|without MPI'  "$PROGRAM" "${MICRO[@]}" --init tcp --meet 127.0.0.1:29999 --ranks 2 --rank 0
"$PROGRAM" --dry-run --preset 340M --ranks 16 --micro-batch 4 --gpu-tok-s 200000 > "$WORK/dry" 2> "$WORK/err"
check ranks_dry_run_goes_to_1024     grep -qE '^ +1024 +[0-9]+ .*%' "$WORK/dry"
check ranks_dry_run_says_assumptions grep -q 'assumed: 200000 tok/s on one GPU' "$WORK/dry"

# the launcher for one host: the status is that of the first that failed, and nobody stays behind
start=$SECONDS
GRACE=1 scripts/multi_node/local.sh 3 bash -c 'case "$*" in *"--ranks 3 --rank 1") exit 71 ;; *) exec sleep 31.4159 ;; esac' x; status=$?
check ranks_local_passes_the_status_on  [ $status = 71 -a $((SECONDS - start)) -lt 8 ]
sleep 0.2
check ranks_local_leaves_nobody_behind  [ -z "$(pgrep -f '^sleep 31\.4159')" ]
without_a_number() { for first in "" 0 -1 x8 true; do scripts/multi_node/local.sh "$first" true > "$WORK/console" 2> "$WORK/err"; [ $? = 64 ] || return 1; done; }
check ranks_local_wants_a_number        without_a_number

if ! have_mpi; then
    skip ranks_under_mpirun "(needs mpirun)"
    [ $failures -eq 0 ]; exit
fi

# ---- gradients of one backward, against one rank that does all rows
GRADIENTS=(--train-data none --layers 3 --channels 24 --heads 3 --mlp 40 --pattern "S16,M16:2" --seq-len 64 --micro-batch 1 --total-batch 1536 --vocab 57)
for n in 1 2 3 4 8; do
    for zero in 0 1; do
        mpirun -n $n build/test/gradients "${GRADIENTS[@]}" --zero $zero 2> "$WORK/err" | grep -E '^(ok|FAIL) ' || fail "ranks_gradients_program_${n}_zero_$zero" "$(tail -n 1 "$WORK/err")"
    done
done > "$WORK/gradients"
cat "$WORK/gradients"; failures=$((failures + $(grep -c ^FAIL "$WORK/gradients")))
mpirun -n 3 build/test/gradients "${GRADIENTS[@]}" --zero 1 --reduce bf16 2> "$WORK/err" | grep -E '^(ok|FAIL) ' > "$WORK/gradients"
mpirun -n 2 build/test/gradients overlap --train-data none --layers 8 --channels 64 --heads 2 --mlp 128 --pattern "S16,M16:2" --seq-len 64 --micro-batch 1 2>> "$WORK/err" | grep -E '^(ok|FAIL) ' >> "$WORK/gradients"
cat "$WORK/gradients"; failures=$((failures + $(grep -c ^FAIL "$WORK/gradients")))
[ "$(wc -l < "$WORK/gradients")" = 4 ] || fail ranks_gradients_programs_end "$(tail -n 1 "$WORK/err")"

# ---- the curve: 50 losses on any number of ranks, divided or not
"$HOOKS" "${MICRO[@]}" --out "$WORK/one" --val-data "$WORK/text.bin" --eval-every 25 > "$WORK/console" 2> "$WORK/err" || fail ranks_one_runs "$(tail -n 1 "$WORK/err")"
for n in 1 2 3 4 8; do
    for zero in 0 1; do
        ranks $n "$WORK/r$n$zero" --zero $zero --save-every 25 --val-data "$WORK/text.bin" --eval-every 25
        check "ranks_curve_${n}_zero_$zero" near "$WORK/one" "$WORK/r$n$zero" 50
    done
done
validation() { sed -nE 's/^\{"kind":"eval","step":25,.*"loss":([^,]*),.*/\1/p' "$1/log.jsonl"; }
check ranks_validation_is_the_same awk -v a="$(validation "$WORK/one")" -v b="$(validation "$WORK/r81")" 'BEGIN { exit !(a > 0 && (a - b) / a < 1e-4 && (b - a) / a < 1e-4) }'
saved_bytes() { sed -nE 's/^\{"kind":"save","step":50,.*"bytes":([0-9]+),.*/\1/p' "$1/log.jsonl"; }
check ranks_save_counts_all_parts  [ "$(saved_bytes "$WORK/one")" -gt 0 -a "$(saved_bytes "$WORK/one")" = "$(saved_bytes "$WORK/r81")" ]
expect ranks_evaluate_in_one_process  64 'one process, and this is one of 2'  mpirun -n 2 "$PROGRAM" --eval-only --val-data "$WORK/text.bin" --out "$WORK/one"
check ranks_map_is_printed         grep -qE '^ranks +0 to 7 on ' "$WORK/console"
ranks 2 "$WORK/bf16" --reduce bf16
check ranks_bf16_error_is_said     grep -qE '^reduce +bf16: the first bucket of gradients is off by 0\.00[0-9]* of its 2-norm' "$WORK/console"
check ranks_hidden_share_is_said   grep -qE '^communication .* are hidden' "$WORK/console"

# ---- R2: N steps are N/2, a resume and N/2; R4: on another number of ranks
for zero in 0 1; do
    for n in 1 2 4; do
        cp -r "$WORK/r$n$zero" "$WORK/half"; rm -rf "$(step "$WORK/half" 50)"
        ranks $n "$WORK/half" --zero $zero --save-every 25
        check "ranks_resume_from_the_half_${n}_zero_$zero" resumed 25
        check "ranks_resume_is_identical_${n}_zero_$zero" identical "$WORK/r$n$zero" "$WORK/half" 50
        same  "ranks_resume_tensors_are_bit_equal_${n}_zero_$zero" "$(step "$WORK/r$n$zero" 50)" "$(step "$WORK/half" 50)"
        rm -rf "$WORK/half"
    done
done
for change in "4 1 3 0" "4 0 8 1" "8 1 1 0" "3 0 2 1"; do
    read -r n zero then_n then_zero <<< "$change"
    cp -r "$WORK/r$n$zero" "$WORK/half"; rm -rf "$(step "$WORK/half" 50)"
    ranks "$then_n" "$WORK/half" --zero "$then_zero"
    check "ranks_resume_of_${n}_zero_${zero}_happens_on_${then_n}_zero_$then_zero" resumed 25
    check "ranks_resume_${n}_zero_${zero}_on_${then_n}_zero_$then_zero" near "$WORK/one" "$WORK/half" 50
    rm -rf "$WORK/half"
done

# ---- R1 in short: a random rank killed at random moments, the same command again, until the run is done
RANDOM=$SEED
again=0
for kill in $(seq "$KILLS"); do
    mpirun -n 3 "$HOOKS" "${MICRO[@]}" --out "$WORK/r1" --steps 200 --save-every 10 --zero 1 --timeout 5 > "$WORK/console" 2> "$WORK/err" &
    pid=$!
    sleep "$(awk -v r=$RANDOM 'BEGIN { print 0.6 + r / 32768 * 1.2 }')"
    victims=($(pgrep -f "^$HOOKS.*$WORK"))
    [ ${#victims[@]} -gt 0 ] && kill -9 "${victims[$((RANDOM % ${#victims[@]}))]}" 2> /dev/null && again=$((again + 1))
    for _ in $(seq 200); do kill -0 $pid 2> /dev/null || break; sleep 0.1; done
    if kill -0 $pid 2> /dev/null; then fail ranks_random_kill_ends_the_job "seed $SEED, kill $kill: still there after 20 s"; kill -9 $pid; fi
    wait $pid 2> /dev/null
    nobody || fail ranks_random_kill_leaves_no_process "seed $SEED, kill $kill"
done
ranks 3 "$WORK/r1" --steps 200 --save-every 10 --zero 1 && ranks 3 "$WORK/whole" --steps 200 --save-every 0 --zero 1
if [ $again -gt 0 ] && identical "$WORK/whole" "$WORK/r1" 200; then ok ranks_random_kills_leave_the_same_curve
else fail ranks_random_kills_leave_the_same_curve "seed $SEED, $again kills"; fi

[ $failures -eq 0 ]
