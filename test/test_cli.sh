#!/usr/bin/env bash
# Bad input gets one sentence and the right exit status, before a device is touched (RELIABILITY R8, R9, R17).
. "$(dirname "$0")/script.sh"

small=(--preset tiny --layers 2 --pattern "S64,M64:2" --seq-len 64 --micro-batch 2 --steps 2 --save-every 0)
make_shard "$WORK/good.bin"

# ---- R9: shards. bytes_of N: little-endian int32; header MAGIC VERSION COUNT
int32()  { for n in "$@"; do printf "\\x$(printf %02x $((n & 255)))\\x$(printf %02x $((n >> 8 & 255)))\\x$(printf %02x $((n >> 16 & 255)))\\x$(printf %02x $((n >> 24 & 255)))"; done; }
header() { int32 "$1" "$2" "$3"; head -c 1012 /dev/zero; }
shard()  { header "$2" "$3" "$4" > "$1"; head -c "$5" /dev/zero >> "$1"; }

shard "$WORK/magic.bin"   12345    1 1000 2000
shard "$WORK/version.bin" 20240520 2 1000 2000
shard "$WORK/count.bin"   20240520 1 1000 1900
shard "$WORK/cut.bin"     20240520 1 1000 1999
shard "$WORK/short.bin"   20240520 1 10   20
: > "$WORK/empty.bin"
mkdir "$WORK/directory.bin"
{ printf '\x01\x34\xd8\x88'; head -c 3000 /dev/zero; } > "$WORK/swapped.bin"
mkdir "$WORK/mixed"; shard "$WORK/mixed/a.bin" 20240520 1 1000 2000; shard "$WORK/mixed/b.bin" 20240801 7 1000 4000
{ header 20240520 1 1000; head -c 1000 /dev/zero; printf '\x01\x01'; head -c 998 /dev/zero; } > "$WORK/vocab.bin"     # id 257 at token 500

bad() { expect "cli_shard_$1" "$2" "$3" timeout 5 "$PROGRAM" "${small[@]}" --out "$WORK/run_$1" --train-data "$4"; }
bad none_match    66 'nothing\.bin'                         "$WORK/nothing.bin"
bad long_path     66 "no token shard matches .* ... .*README"  "$WORK/$(printf '%0500d' 0)"
bad glob_none     66 'nothing'                              "$WORK/nothing*.bin"
bad wrong_magic   65 'magic\.bin.*20240520'                 "$WORK/magic.bin"
bad wrong_version 65 'version\.bin.*version'                "$WORK/version.bin"
bad byte_swapped  65 'swapped\.bin'                         "$WORK/swapped.bin"
bad count         65 'count\.bin.*1000'                     "$WORK/count.bin"
bad cut_by_one    65 'cut\.bin'                             "$WORK/cut.bin"
bad empty         65 'empty\.bin'                           "$WORK/empty.bin"
bad short_row     65 'short\.bin'                           "$WORK/short.bin"
bad directory     65 'directory\.bin'                       "$WORK/directory.bin"
bad both_magics   65 'mixed/'                               "$WORK/mixed/*.bin"
bad token_id      65 'vocab\.bin.*257'                      "$WORK/vocab.bin"
# more shards, for training and validation, than a process may have open files
mkdir "$WORK/many"; for i in $(seq 70); do cp "$WORK/good.bin" "$WORK/many/$i.bin"; done
(ulimit -n 64; "$PROGRAM" "${small[@]}" --out "$WORK/run_many" --train-data "$WORK/many/*.bin" --val-data "$WORK/many/*.bin" --eval-batches 2) > "$WORK/out" 2> "$WORK/err" \
    && ok cli_many_shards_and_few_open_files || fail cli_many_shards_and_few_open_files "status $?: $(tail -n 1 "$WORK/err")"
rm -r "$WORK/many"
cp "$WORK/good.bin" "$WORK/secret.bin"; chmod 000 "$WORK/secret.bin"
if [ "$(id -u)" != 0 ]; then bad unreadable 66 'secret\.bin' "$WORK/secret.bin"
elif command -v setpriv > /dev/null; then          # root reads everything, unless the right to do so is taken away
    expect cli_shard_unreadable 66 'secret\.bin' setpriv --inh-caps=-dac_override,-dac_read_search --bounding-set=-dac_override,-dac_read_search \
        "$PROGRAM" "${small[@]}" --out "$WORK/run_unreadable" --train-data "$WORK/secret.bin"
else skip cli_shard_unreadable "(root reads everything, and there is no setpriv)"; fi

said=$("$PROGRAM" --version); status=$?
if [ $status = 0 ] && grep -qE '^moba\.c [^ ]+, (CPU|CUDA)$' <<< "$said"; then ok cli_version; else fail cli_version "status $status: $said"; fi

# ---- R17: every option with an empty, negative, huge, textual and NaN value: 64 with one sentence, or accepted as documented; never a crash
refused=0; accepted=0; wrong=""
for option in $("$PROGRAM" --help | sed -nE 's/^ +--([a-z0-9-]+) .*/\1/p'); do
    for value in "" -5 99999999999999999999 banana nan; do
        timeout 20 "$PROGRAM" "${small[@]}" --dry-run "--$option=$value" > /dev/null 2> "$WORK/err"; status=$?
        case $status in
            0)  accepted=$((accepted + 1)) ;;
            64) refused=$((refused + 1)); [ "$(grep -c '^error:' "$WORK/err")" = 1 ] || wrong="$wrong --$option='$value':no-sentence" ;;
            *)  wrong="$wrong --$option='$value':status-$status" ;;
        esac
    done
done
if [ -n "$wrong" ]; then fail cli_every_option_with_bad_values "$wrong"
elif [ $refused -lt 120 ]; then fail cli_every_option_with_bad_values "only $refused values were refused ($accepted accepted)"
else ok cli_every_option_with_bad_values; fi

# what is asked for and cannot be written is no success; a stream that was closed is nobody's file
expect cli_dry_run_on_a_full_disk 74 'standard output'     bash -c '"$@" > /dev/full' x "$PROGRAM" --dry-run
expect cli_dry_run_beyond_a_limit 74 'standard output'     bash -c 'head -c 1024 /dev/zero > "$1"; ulimit -f 1; "${@:2}" >> "$1"' x "$WORK/limited" "$PROGRAM" --dry-run
"$PROGRAM" "${small[@]}" --out "$WORK/closed" --train-data "$WORK/good.bin" --steps 100000 <&- >&- 2>&- &
closed=$!
for _ in $(seq 200); do [ -s "$WORK/closed/log.jsonl" ] && break; sleep 0.05; done
holder=$(cat "$WORK/closed/lock")
kill -TERM $closed; wait $closed 2> /dev/null; status=$?
[ $status = 75 ] && ok cli_closed_streams_stop_as_others_do || fail cli_closed_streams_stop_as_others_do "status $status"
case "$holder" in '{"host":'*"$closed"*) ok cli_closed_streams_leave_the_lock_alone ;; *) fail cli_closed_streams_leave_the_lock_alone "it holds '${holder:0:80}'" ;; esac
grep -qv '^{"kind":.*}$' "$WORK/closed/log.jsonl" && fail cli_closed_streams_leave_the_log_alone "$(grep -nv '^{"kind":.*}$' "$WORK/closed/log.jsonl" | head -n 3)" \
    || ok cli_closed_streams_leave_the_log_alone

expect cli_unknown_option        64 'keep'                 "$PROGRAM" --kep 3
expect cli_value_missing         64 'steps'                "$PROGRAM" --steps
expect cli_out_of_range          64 'keep: 1 .*\[2, 1000\]' "$PROGRAM" --keep 1
expect cli_bad_choice            64 'cosine'               "$PROGRAM" --schedule triangle
expect cli_bad_pattern           64 'pattern'              "$PROGRAM" --dry-run --pattern S256,Q7
expect cli_bad_topk              64 'M128:33'              "$PROGRAM" --dry-run --pattern M128:33
expect cli_heads_do_not_divide   64 'heads'                "$PROGRAM" --dry-run --channels 100 --heads 3
expect cli_total_batch_nearest   64 'total-batch.*256'     "$PROGRAM" --dry-run "${small[@]}" --total-batch 200
expect cli_contradiction         64 '(prompt|eval-only)'   "$PROGRAM" --prompt hello --eval-only --eval-data x
expect cli_train_data_missing    64 'train-data'           "$PROGRAM" "${small[@]}" --out "$WORK/none"
expect cli_steps_beyond_64_bits  64 'total-batch.*64 bits' "$PROGRAM" "${small[@]}" --train-data "$WORK/good.bin" --out "$WORK/none" --micro-batch auto --total-batch 1099511627776 --steps 100000000
expect cli_mpi_of_another_kind   64 'started 2 ranks, but MPI knows of 1|without MPI' env PMI_RANK=0 PMI_SIZE=2 "$PROGRAM" "${small[@]}" --train-data "$WORK/good.bin" --out "$WORK/none"
expect cli_hopper_on_a_cpu       64 'attn-path'            ./train_moba_cpu "${small[@]}" --train-data "$WORK/good.bin" --out "$WORK/none" --attn-path hopper
expect cli_no_checkpoint         66 'checkpoint'           "$PROGRAM" --prompt hello --out "$WORK/none"
expect cli_tokenizer_missing     66 'nowhere\.tok'         "$PROGRAM" "${small[@]}" --train-data "$WORK/good.bin" --out "$WORK/none" --sample-every 1 --tokenizer "$WORK/nowhere.tok"
if [ "$(id -u)" != 0 ]; then
    expect cli_out_not_writable  73 'proc'                 "$PROGRAM" "${small[@]}" --train-data "$WORK/good.bin" --out /proc/nothing
else
    : > "$WORK/file"
    expect cli_out_not_writable  73 'file'                 "$PROGRAM" "${small[@]}" --train-data "$WORK/good.bin" --out "$WORK/file/run"
fi

# ---- R8: resume with another network or data order is refused with both values; a changed schedule needs a word
"$PROGRAM" "${small[@]}" --out "$WORK/run" --train-data "$WORK/good.bin" > /dev/null 2>&1 || fail cli_first_run "did not finish"
expect cli_resume_from_a_run     66 "a run, with checkpoints, not a checkpoint; give one of them, such as $WORK/run/checkpoints/step_00000002, or" \
    "$PROGRAM" "${small[@]}" --out "$WORK/other_run" --train-data "$WORK/good.bin" --resume "$WORK/run"
expect cli_prompt_from_a_folder  66 "a folder of checkpoints, not a checkpoint; give one of them, such as $WORK/run/checkpoints/step_00000002, or" \
    "$PROGRAM" --prompt hello --resume "$WORK/run/checkpoints"
mkdir -p "$WORK/no_saves/checkpoints"
expect cli_resume_from_no_run    66 "a run without checkpoints" \
    "$PROGRAM" "${small[@]}" --out "$WORK/other_run" --train-data "$WORK/good.bin" --resume "$WORK/no_saves"
again() { local name=$1 status=$2 pattern=$3; shift 3; expect "cli_resume_$name" "$status" "$pattern" "$PROGRAM" "${small[@]}" --out "$WORK/run" --train-data "$WORK/good.bin" "$@"; }
again layers   64 'layers.*4.*2|layers.*2.*4'  --layers 4
again heads    64 'heads'                       --heads 1
again widths   64 'channels'                    --channels 256
again mlp      64 'mlp'                         --mlp 256
again vocab    64 'vocab'                       --vocab 300
again pattern  64 'pattern.*M64:2'              --pattern S64,M64:3
again kconv    64 'kconv'                       --kconv 5
again seed     64 'seed'                        --seed 2
again steps    64 'steps.*--new-schedule'       --steps 4
"$PROGRAM" "${small[@]}" --out "$WORK/run" --train-data "$WORK/good.bin" --steps 4 --new-schedule > /dev/null 2>&1 \
    && [ "$(columns "$WORK/run" | wc -l)" = 4 ] && ok cli_new_schedule_goes_on || fail cli_new_schedule_goes_on "status $?"

# the training set is the run's, not its name; other data, or another batch size, go on behind what was used
cp "$WORK/good.bin" "$WORK/renamed.bin"
build/data/bytes --out "$WORK/other.bin" Makefile > /dev/null
goes_on() { local name=$1 steps=$2; shift 2
    "$PROGRAM" "${small[@]}" --out "$WORK/run" --steps "$steps" "$@" > "$WORK/out" 2> "$WORK/err" && [ "$(columns "$WORK/run" | wc -l)" = "$steps" ] \
        && ok "cli_$name" || fail "cli_$name" "status $?: $(tail -n 1 "$WORK/err")"; }
goes_on same_data_under_another_name 5 --train-data "$WORK/renamed.bin" --new-schedule
expect cli_other_data_is_refused 64 'train-data: .*tokens.*--new-schedule' "$PROGRAM" "${small[@]}" --steps 5 --out "$WORK/run" --train-data "$WORK/other.bin"
goes_on other_data_with_a_word 6 --train-data "$WORK/other.bin" --new-schedule
goes_on another_batch_size     8 --train-data "$WORK/other.bin" --new-schedule --total-batch 512
tokens=$(sed -nE 's/^\{"kind":"step",.*"tokens":([0-9]+).*/\1/p' "$WORK/run/log.jsonl" | tail -n 1)
[ "$tokens" = $((6 * 128 + 2 * 512)) ] && ok cli_tokens_are_those_used || fail cli_tokens_are_those_used "$tokens after 6 steps of 128 and 2 of 512"

# ---- R18: a second run in the same directory
"$PROGRAM" "${small[@]}" --steps 100000 --out "$WORK/locked" --train-data "$WORK/good.bin" > /dev/null 2>&1 &
first=$!
for _ in $(seq 200); do [ -s "$WORK/locked/log.jsonl" ] && break; sleep 0.05; done
expect cli_second_run_is_refused 73 "$first" "$PROGRAM" "${small[@]}" --out "$WORK/locked" --train-data "$WORK/good.bin"
kill -9 $first; wait $first 2> /dev/null
"$PROGRAM" "${small[@]}" --out "$WORK/locked" --train-data "$WORK/good.bin" --resume none > /dev/null 2>&1 \
    && ok cli_lock_of_a_dead_process_is_free || fail cli_lock_of_a_dead_process_is_free "status $?"

[ $failures -eq 0 ]
