#!/usr/bin/env bash
# The trainer around the model, on micro shapes: skipped steps, stops, what a run directory says, evaluation and prompts.
. "$(dirname "$0")/script.sh"
export OMP_NUM_THREADS=1                              # the shapes are too small to share
HOOKS=${HOOKS:-build/test/hooks/train_moba_cpu}       # the program with the hooks of train_moba.cu (LLMC_TEST)

make_shard "$WORK/text.bin"
run() {     # run OUT OPTIONS...: 12 steps of a micro model; what it prints is in $WORK/console and $WORK/err
    local out=$1; shift
    "$HOOKS" --train-data "$WORK/text.bin" --out "$out" --layers 2 --channels 16 --heads 2 --mlp 16 --pattern S16,M16:2 --seq-len 64 \
        --micro-batch 2 --steps 12 --lr 0.003 --save-every 1 --keep 20 "$@" > "$WORK/console" 2> "$WORK/err"
}
check()   { local name=$1; shift; if "$@"; then ok "$name"; else fail "$name" "'$*' fails: $(tail -n 1 "$WORK/err")"; fi; }
same()    { build/model/compare "$1" "$2" "$3" || failures=$((failures + 1)); }
records() { grep -c "\"kind\":\"$2\"" "$1/log.jsonl"; }
step()    { printf '%s/checkpoints/step_%08d' "$1" "$2"; }

run "$WORK/clean" || fail trainer_clean_run "$(tail -n 1 "$WORK/err")"

check trainer_config_names_commit_and_device  grep -qE '^\{"commit":"[^"]+","device":"[^"]+","options":\{"train-data":' "$WORK/clean/config.json"

check trainer_says_what_waiting_for_data_took grep -qE '^loader +[0-9.]+ % of the steps' "$WORK/console"

# ---- R14: a NaN in the gradients of one step, of several in a row
MOBA_TEST_NAN_STEPS=3-3 run "$WORK/nan"; status=$?
check trainer_nan_run_finishes                [ $status = 0 ]
check trainer_nan_step_is_logged              grep -q '{"kind":"skip","step":3,"why":".*not finite"}' "$WORK/nan/log.jsonl"
check trainer_nan_step_stands_once            [ "$(columns "$WORK/nan" | wc -l)" = 11 ]
check trainer_nan_leaves_the_steps_before     cmp -s <(columns "$WORK/clean" | head -n 2) <(columns "$WORK/nan" | head -n 2)
same  trainer_nan_changes_no_bit_of_the_state "$(step "$WORK/nan" 2)" "$(step "$WORK/nan" 3)"
check trainer_nan_is_overcome                 [ "$(columns "$WORK/nan" | tail -n 1 | cut -d ' ' -f 1)" = 12 ]

MOBA_TEST_NAN_STEPS=5-9 run "$WORK/stuck" --max-bad-steps 3; status=$?
check trainer_bad_steps_in_a_row_stop         [ $status = 70 ]
check trainer_bad_steps_are_named             grep -q '^error: step 7: 3 steps in a row were skipped' "$WORK/err"
check trainer_bad_steps_name_what_is_good     grep -q 'stopped without saving over the good checkpoint of step 6' "$WORK/err"
check trainer_bad_steps_stop_without_saving   [ ! -e "$(step "$WORK/stuck" 7)" ]
same  trainer_bad_steps_keep_the_good_state   "$(step "$WORK/stuck" 4)" "$(step "$WORK/stuck" 6)"
MOBA_TEST_NAN_STEPS=7-7 run "$WORK/stuck" --max-bad-steps 3; status=$?
check trainer_bad_steps_count_across_a_resume [ $status = 70 ]
run "$WORK/stuck" --max-bad-steps 3; status=$?
check trainer_bad_steps_can_be_resumed_from   [ $status = 0 ]

MOBA_TEST_NAN_STEPS=2-4 run "$WORK/unsaved" --max-bad-steps 3 --save-every 0
check trainer_bad_steps_promise_no_checkpoint grep -q 'stopped without saving anything, and there is no checkpoint yet' "$WORK/err"

# ---- the last state of a run cannot be saved: an error, and nothing says that all is well
ends() { grep '^{"kind":"end",' "$1/log.jsonl" | tail -n 1; }
(ulimit -f 24; run "$WORK/full" --save-every 0); status=$?
check trainer_unsaved_run_is_an_error         [ $status = 74 -a "$(grep -c '^error:' "$WORK/err")" = 1 ]
check trainer_unsaved_run_says_what_is_lost   grep -q '^error: step 12 is not saved (the warning above says why); there is no checkpoint' "$WORK/err"
check trainer_unsaved_run_says_why            grep -q '^warning: step 12 is not saved: .*File too large' "$WORK/err"
check trainer_unsaved_run_is_logged_so        grep -q '"status":74,"why":"finished, but not saved"' <(ends "$WORK/full")
check trainer_unsaved_run_is_shown_so         grep -q '^finished, but not saved at step 12/12' "$WORK/console"
run "$WORK/full" --steps 4 --save-every 4
check trainer_saved_run_is_logged_so          grep -q '"status":0,"why":"finished"' <(ends "$WORK/full")
(ulimit -f 24; MOBA_TEST_STOP_STEP=6 run "$WORK/full" --steps 12 --new-schedule --save-every 0); status=$?
check trainer_unsaved_stop_is_an_error        [ $status = 74 -a -n "$(grep '^error: step 6 is not saved.*the same command goes on from step 4$' "$WORK/err")" ]
check trainer_unsaved_stop_is_logged_so       grep -q '"status":74,"why":"stopped by SIG[A-Z0-9]*, but not saved"' <(ends "$WORK/full")

# ---- R12: a signal that comes when step 5 is wholly done still finds it saved
MOBA_TEST_STOP_STEP=5 run "$WORK/stopped" --save-every 0; status=$?
check trainer_stop_between_steps_exits_75     [ $status = 75 ]
check trainer_stop_between_steps_saves        [ -e "$(step "$WORK/stopped" 5)" ]
run "$WORK/stopped" --save-every 0
check trainer_stop_between_steps_goes_on      cmp -s <(columns "$WORK/clean") <(columns "$WORK/stopped")

run "$WORK/gpt2" --steps 1 --tokenizer "$WORK/nowhere.tok"
cp "$WORK/text.bin" "$WORK/bare.bin"

# ---- the number of threads shows nowhere; a validation set smaller than --eval-batches is used whole, whatever the micro-batch
OMP_NUM_THREADS=3 run "$WORK/threads"
check trainer_threads_do_not_show             cmp -s <(columns "$WORK/clean") <(columns "$WORK/threads")
whole() { "$PROGRAM" --out "$WORK/clean" --eval-only --val-data "$WORK/small.bin" --eval-batches "$1" --micro-batch "$2" | sed -nE 's/^validation loss +([0-9.]+) .*/\1/p'; }
build/data/bytes --out "$WORK/small.bin" Makefile > /dev/null
check trainer_small_validation_set_is_whole   [ -n "$(whole 1000000 1)" -a "$(whole 1000000 1)" = "$(whole 1000000 7)" ]

# ---- a finished run leaves the directory as it was: nobody holds it
run "$WORK/clean"; status=$?
check trainer_finished_run_lets_go            [ $status = 0 -a ! -s "$WORK/clean/lock" ]

# ---- --micro-batch auto: as many rows as fit, the checkpoint's on resume, and nothing that would make the step itself depend on memory
auto() { local out=$1; shift; run "$out" --micro-batch auto --total-batch 768 --save-every 6 "$@"; }
auto "$WORK/auto"; status=$?
check trainer_auto_takes_the_whole_step       [ $status = 0 -a -n "$(grep -E '^micro-batch 12 of 12 rows' "$WORK/console")" ]
check trainer_auto_is_saved_as_a_number       grep -q '"micro-batch":12,' "$WORK/auto/config.json"
run "$WORK/fixed" --micro-batch 3 --total-batch 768 --save-every 6 --steps 6 --schedule constant
auto "$WORK/fixed" --steps 8 --new-schedule --schedule constant
check trainer_auto_resumes_with_the_checkpoint_s grep -q '"micro-batch":3,' "$WORK/fixed/config.json"
auto=("$HOOKS" --train-data "$WORK/text.bin" --out "$WORK/refused" --seq-len 64 --micro-batch auto)
expect trainer_auto_needs_a_total_batch       64 'auto needs --total-batch'           "${auto[@]}"
expect trainer_auto_wants_whole_rows          64 'total-batch: 100 is not a multiple' "${auto[@]}" --total-batch 100
expect trainer_auto_is_not_for_a_dry_run      64 'micro-batch: auto asks the device'  "${auto[@]}" --total-batch 64 --dry-run
expect trainer_auto_without_room              64 'auto finds no room: one row of 64 tokens takes [0-9.]+ MiB' \
                                                 "${auto[@]}" --total-batch 64 --layers 1024 --channels 8192 --heads 64 --mlp 65536

# ---- windows that score nothing, a pass too large to count
expect trainer_eval_context_of_one  64 'eval-context: 1'         "$PROGRAM" --out "$WORK/clean" --eval-only --eval-data "$WORK/text.bin" --eval-context 1
expect trainer_eval_pass_too_large  64 'micro-batch: 4096 rows'  "$PROGRAM" --out "$WORK/clean" --eval-only --eval-data "$WORK/text.bin" \
                                                                 --eval-context 1000000 --micro-batch 4096

# ---- ckptinfo: what is there, what is whole, what differs
info() { build/data/ckptinfo "$@" > "$WORK/out" 2> "$WORK/err"; }
info list "$WORK/clean"; status=$?
check trainer_ckptinfo_lists                  [ $status = 0 -a "$(tail -n 1 "$WORK/out")" = "12 checkpoints, 0 damaged" ]
info show "$(step "$WORK/clean" 12)"
check trainer_ckptinfo_shows_tensors          grep -qE '^  master/layer\.00\.wqkv +fp32 +48 x 16 ' "$WORK/out"
info diff "$(step "$WORK/clean" 11)" "$(step "$WORK/clean" 12)"; status=$?
check trainer_ckptinfo_finds_differences      [ $status = 1 -a "$(grep -c '^master/.* elements differ' "$WORK/out")" = 15 ]
cp -r "$(step "$WORK/clean" 12)" "$WORK/copy"
info diff "$(step "$WORK/clean" 12)" "$WORK/copy"; status=$?
check trainer_ckptinfo_finds_none             [ $status = 0 ]
printf x | dd of="$(step "$WORK/stopped" 5)/part_0000.bin" bs=1 seek=1000 conv=notrunc 2> /dev/null
info list "$WORK/stopped"; status=$?
check trainer_ckptinfo_names_the_damaged      [ $status = 65 -a -n "$(grep 'step_00000005/part_0000.bin' "$WORK/out")" ]
expect trainer_ckptinfo_needs_a_checkpoint 66 'no checkpoint' build/data/ckptinfo list "$WORK"

# ---- the seed of a sample is free, and the sample is a function of it
sampled() { "$PROGRAM" --out "$WORK/clean" --prompt "int " --sample-tokens 40 "$@" 2> "$WORK/err" | tail -n +2 | od -c; }
check trainer_sample_is_a_function_of_the_seed [ "$(sampled --seed 5)" = "$(sampled --seed 5)" ]
check trainer_sample_follows_the_seed          [ "$(sampled --seed 5)" != "$(sampled --seed 6)" ]
check trainer_sample_says_its_times            grep -qE '^[0-9]+ tokens after a prompt of 5 \(context 45\): prompt [0-9.]+ s, then [0-9.]+ ms a token$' "$WORK/err"

# ---- one candidate is what greedy decoding takes, whether --top-k or --top-p leaves it; without them the draw is another
hot=(--temperature 3 --seed 5)
check trainer_sample_of_top_k_one_is_greedy    [ "$(sampled "${hot[@]}" --top-k 1)" = "$(sampled --temperature 0)" ]
check trainer_sample_of_a_tiny_top_p_is_greedy [ "$(sampled "${hot[@]}" --top-p 1e-6)" = "$(sampled --temperature 0)" ]
check trainer_sample_of_all_is_not_greedy      [ "$(sampled "${hot[@]}")" != "$(sampled --temperature 0)" ]
check trainer_sample_of_top_k_is_of_few        [ "$(sampled "${hot[@]}" --top-k 2)" != "$(sampled "${hot[@]}")" -a "$(sampled "${hot[@]}" --top-k 2)" != "$(sampled --temperature 0)" ]

# ---- text comes as it is made. The pipe is one of packets: what the program writes at once is read at once, and it waits when 16 are unread, so that
# with more tokens than that to come it cannot have ended when the first is here.
streams() { python3 -c 'import os, subprocess, sys
read, write = os.pipe2(os.O_DIRECT)
program = subprocess.Popen(sys.argv[1:], stdout=write, stderr=subprocess.DEVNULL)
os.close(write)
text = b""
while len(text.partition(b"\nint ")[2]) < 1:             # the line of the checkpoint, the prompt, the first token
    text += os.read(read, 65536)
early = program.poll()
packets = [text.partition(b"\nint ")[2]]
while piece := os.read(read, 65536):
    packets.append(piece)
ended = program.wait()
longest = max(map(len, packets))
sys.exit(None if (early, ended, longest) == (None, 0, 1) and len(packets) == 41 else
         f"status {early} after the first token, {ended} at the end, {len(packets)} packets of up to {longest} bytes")' \
    "$PROGRAM" --out "$WORK/clean" --prompt "int " --temperature 0 --sample-tokens 40 2> "$WORK/err"; }
check trainer_sample_streams_token_by_token    streams

# ---- other uses take no steps: a signal ends them at once, and their input is checked before a device is touched
"$PROGRAM" --out "$WORK/clean" --prompt "int " --temperature 0 --sample-tokens 1000000 > "$WORK/prompt" 2> "$WORK/err" &
pid=$!
for _ in $(seq 200); do [ -s "$WORK/prompt" ] && break; sleep 0.05; done
kill -TERM $pid
for _ in $(seq 200); do kill -0 $pid 2> /dev/null || break; sleep 0.05; done
kill -9 $pid 2> /dev/null
wait $pid 2> /dev/null; status=$?
check trainer_prompt_ends_on_a_signal         [ $status = 143 ]

untouched() {     # untouched NAME STATUS PATTERN OPTIONS...: refused before the model is on the device
    local name=$1; shift
    expect "$name" "$1" "$2" "$PROGRAM" --out "$WORK/clean" "${@:3}"
    check "${name}_before_the_device" [ -z "$(grep '^checkpoint' "$WORK/out")" ]
}
untouched trainer_eval_data_missing     66 'nothing\.bin'     --eval-only --eval-data "$WORK/nothing.bin"
untouched trainer_eval_sidecar_missing  66 'sidecar'          --eval-only --eval-data "$WORK/bare.bin"
untouched trainer_val_data_missing      66 'nothing\.bin'     --eval-only --val-data "$WORK/nothing.bin"
untouched trainer_tokenizer_missing     66 'nowhere\.tok'     --prompt hello --resume "$(step "$WORK/gpt2" 1)"

[ $failures -eq 0 ]
