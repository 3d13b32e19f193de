#!/usr/bin/env bash
# The CUDA program as a whole: resumes like the CPU's, and trains like it from the same seed. Counted as skipped without a GPU.
# alone: what is in use on the whole device is compared with the plan
. "$(dirname "$0")/script.sh"

if ! nvidia-smi -L > /dev/null 2>&1; then
    skip gpu_resume "(needs a GPU)"
    skip gpu_first_loss_is_the_cpu_s "(needs a GPU)"
    skip gpu_fifty_losses_are_the_cpu_s "(needs a GPU)"
    skip gpu_evaluation_is_that_of_one_row_at_a_time "(needs a GPU)"
    skip gpu_tasks_are_answered_as_the_cpu_does "(needs a GPU)"
    skip gpu_accumulation_is_that_of_one_batch "(needs a GPU)"
    skip gpu_measured_plans_are_resumed_with "(needs a GPU)"
    skip gpu_memory_is_as_planned "(needs a GPU)"
    skip gpu_auto_takes_the_most_that_fits "(needs a GPU)"
    exit 0
fi

PROGRAM=./train_moba SUFFIX=_cuda LONG=400 test/test_resume.sh || failures=$((failures + 1))

# same seed, same data, tiny preset: the first loss within 0.1 %, each of 50 within 1 %, their mean difference under 0.3 %
make_shard "$WORK/text.bin"
for program in train_moba_cpu train_moba; do
    "./$program" --train-data "$WORK/text.bin" --out "$WORK/$program" --preset tiny --pattern S64,M64:3 --kconv 3 --seq-len 512 --micro-batch 2 \
        --steps 50 --lr 0.001 --save-every 0 > "$WORK/console" 2>&1 || fail "gpu_$program" "$(tail -n 1 "$WORK/console")"
done
paste -d ' ' <(columns "$WORK/train_moba_cpu") <(columns "$WORK/train_moba") | awk '
    { d = ($6 - $2) / $2; if (d < 0) d = -d; if (NR == 1) first = d; if (d > worst) worst = d; sum += d; n++ }
    END { printf "%d %.6f %.6f %.6f\n", n, first, worst, n ? sum / n : 1 }' > "$WORK/difference"
read -r steps first worst mean < "$WORK/difference"
echo "# CPU against GPU over $steps steps, relative: first $first, worst $worst, mean $mean"
awk -v d="$first" 'BEGIN { exit !(d <= 0.001) }' && [ "$steps" = 50 ] && ok gpu_first_loss_is_the_cpu_s || fail gpu_first_loss_is_the_cpu_s "differs by $first of itself"
awk -v w="$worst" -v m="$mean" 'BEGIN { exit !(w <= 0.01 && m <= 0.003) }' && ok gpu_fifty_losses_are_the_cpu_s || fail gpu_fifty_losses_are_the_cpu_s "worst $worst, mean $mean"

# a host that runs ahead of the device must not spoil what the device has yet to read: many small batches against few large ones
near() { awk -v a="$1" -v b="$2" 'BEGIN { d = (a - b) / b; exit !(a > 0 && d < 1e-3 && d > -1e-3) }'; }
validation() { ./train_moba --eval-only --val-data "$WORK/text.bin" --eval-batches 1000 --out "$WORK/train_moba" "$@" 2>&1 | sed -nE 's/^validation loss +([0-9.]+).*/\1/p'; }
one=$(validation --micro-batch 1) many=$(validation --micro-batch 64)
near "$one" "$many" && ok gpu_evaluation_is_that_of_one_row_at_a_time || fail gpu_evaluation_is_that_of_one_row_at_a_time "loss $one by one row, $many by 64"

# tasks, scored by both programs from the same checkpoint: every log-likelihood within 1 %, their mean difference under 0.3 %, as for losses; and
# the same answer to every question, unless two choices are nearer to each other than that
python3 - "$WORK/rows.jsonl" README.md <<'PY'
import json, sys
lines = [line.strip() for line in open(sys.argv[2]) if 40 < len(line) < 200][:90]           # contexts of several blocks: four lines each
with open(sys.argv[1], "w") as file:
    for i in range(0, len(lines) - 6, 3):
        print(json.dumps({"query": " ".join(lines[i:i + 4]), "choices": [line[:40] for line in lines[i + 4:i + 7]], "gold": 0}), file=file)
PY
python3 data/eval_tasks.py --tokenizer byte --task arc_easy --out "$WORK/tasks.bin" "$WORK/rows.jsonl" > /dev/null
for program in train_moba_cpu train_moba; do
    "./$program" --out "$WORK/train_moba" --eval-only --eval-data "$WORK/tasks.bin" --micro-batch 4 --eval-out "$WORK/$program.scores" > "$WORK/console" 2>&1 ||
        fail "gpu_tasks_$program" "$(tail -n 1 "$WORK/console")"
done
if python3 - "$WORK/train_moba_cpu.scores" "$WORK/train_moba.scores" > "$WORK/difference" 2>&1 <<'PY'
import json, sys
ours, theirs = ([json.loads(line)["loglik"] for line in open(path)] for path in sys.argv[1:])           # three choices a question
off = [abs(x - y) / abs(x) for x, y in zip(ours, theirs, strict=True)]
other = 0
for i in range(0, len(ours), 3):
    a, b = ours[i:i + 3], theirs[i:i + 3]
    first, second = sorted(a)[-1:-3:-1]
    other += a.index(first) != b.index(max(b)) and first - second > 0.01 * abs(first)
print(f"{len(ours) // 3} questions; log-likelihoods differ by {sum(off) / len(off):.5f} in the mean, {max(off):.5f} at most; {other} answers differ")
sys.exit(not (len(ours) >= 60 and max(off) <= 0.01 and sum(off) / len(off) <= 0.003 and other == 0))
PY
then ok gpu_tasks_are_answered_as_the_cpu_does; else fail gpu_tasks_are_answered_as_the_cpu_does "$(tail -n 1 "$WORK/difference")"; fi
echo "# tasks: $(cat "$WORK/difference")"

for rows in 1 16; do
    ./train_moba --train-data "$WORK/text.bin" --out "$WORK/rows$rows" --preset tiny --pattern S64,M64:3 --seq-len 512 --micro-batch $rows --total-batch 8192 \
        --steps 3 --lr 0.001 --save-every 0 > "$WORK/console" 2>&1 || fail "gpu_accumulation" "$(tail -n 1 "$WORK/console")"
done
paste -d ' ' <(columns "$WORK/rows1") <(columns "$WORK/rows16") | awk '{ d = ($2 - $6) / $6; if (d > 1e-3 || d < -1e-3) bad = 1; n++ } END { exit !(n == 3 && !bad) }' \
    && ok gpu_accumulation_is_that_of_one_batch || fail gpu_accumulation_is_that_of_one_batch "$(columns "$WORK/rows1" | tr '\n' ';') against $(columns "$WORK/rows16" | tr '\n' ';')"

# without --deterministic GEMM plans are measured; a resumed run takes the checkpoint's and writes the bytes of the run never stopped
plans() { ./train_moba --train-data "$WORK/text.bin" --out "$1" --preset tiny --pattern S64,M64:3 --seq-len 512 --micro-batch 4 \
    --steps 8 --lr 0.001 --save-every 4 --keep 5 > "$WORK/console" 2>&1; }
plans "$WORK/planned"
cp -r "$WORK/planned" "$WORK/halfway"
rm -rf "$WORK/halfway/checkpoints/step_00000008"
plans "$WORK/halfway"
if [ "$(columns "$WORK/halfway" | wc -l)" = 8 ] && cmp -s <(columns "$WORK/planned") <(columns "$WORK/halfway") && grep -qE '^GEMM plans +[1-9][0-9]* from the checkpoint, 0 ' "$WORK/console"
then ok gpu_measured_plans_are_resumed_with; else fail gpu_measured_plans_are_resumed_with "$(grep '^GEMM plans' "$WORK/console")"; fi

# the printed plan against what the device says is in use, where the model and not the runtime is what takes it
./train_moba --train-data "$WORK/text.bin" --out "$WORK/memory" --preset 124M --tokenizer byte --seq-len 2048 --micro-batch 8 --steps 2 --save-every 0 --deterministic > "$WORK/console" 2>&1
planned=$(sed -nE 's/^memory .*in all ([0-9.]+) MiB.*/\1/p' "$WORK/console") used=$(sed -nE 's/.*"mem_mib":([0-9.]+).*/\1/p' "$WORK/memory/log.jsonl" | tail -n 1)
echo "# memory: $planned MiB planned, $used in use"
awk -v p="$planned" -v u="$used" 'BEGIN { d = (u - p) / u; exit !(p > 0 && d < 0.03 && d > -0.03) }' && ok gpu_memory_is_as_planned || fail gpu_memory_is_as_planned "$planned MiB planned, $used in use"

# --micro-batch auto: the plan of what it takes is within what is free, that of the next divisor is not
rows=60 length=32768
auto=(--train-data "$WORK/text.bin" --preset 124M --tokenizer byte --seq-len $length --total-batch $((rows * length)) --save-every 0)
./train_moba "${auto[@]}" --out "$WORK/auto" --micro-batch auto --steps 1 > "$WORK/console" 2>&1
read -r taken room <<< "$(sed -nE "s/^micro-batch ([0-9]+) of $rows rows: .* fit ([0-9.]+) MiB.*/\1 \2/p" "$WORK/console")"
plan_of() { ./train_moba "${auto[@]}" --micro-batch "$1" --steps 1 --dry-run | grep -A 1 '^--recompute 0 ' | sed -nE 's/.*in all ([0-9.]+) MiB.*/\1/p'; }
next=${taken:-$rows}
for ((next = next + 1; next < rows && rows % next != 0; next++)); do :; done
takes=$([ -z "$taken" ] || plan_of "$taken") would=$(if [ $next -gt $rows ]; then echo 1e9; else plan_of $next; fi)
echo "# auto: $taken of $rows rows, $takes MiB; $next: $would; $room free"
awk -v takes="$takes" -v would="$would" -v room="$room" 'BEGIN { exit !(takes > 0 && takes <= room && would > room) }' && [ -n "$(columns "$WORK/auto")" ] \
    && ok gpu_auto_takes_the_most_that_fits || fail gpu_auto_takes_the_most_that_fits "$taken of $rows rows: $(tail -n 1 "$WORK/console")"

[ $failures -eq 0 ]
