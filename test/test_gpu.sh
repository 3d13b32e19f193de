#!/usr/bin/env bash
# The CUDA program as a whole: resumes like the CPU's, and trains like it from the same seed. Counted as skipped without a GPU.
# alone: what is in use on the whole device is compared with the plan
. "$(dirname "$0")/script.sh"

if ! nvidia-smi -L > /dev/null 2>&1; then
    skip gpu_resume "(needs a GPU)"
    skip gpu_first_loss_is_the_cpu_s "(needs a GPU)"
    skip gpu_fifty_losses_are_the_cpu_s "(needs a GPU)"
    skip gpu_evaluation_is_that_of_one_row_at_a_time "(needs a GPU)"
    skip gpu_accumulation_is_that_of_one_batch "(needs a GPU)"
    skip gpu_measured_plans_are_resumed_with "(needs a GPU)"
    skip gpu_memory_is_as_planned "(needs a GPU)"
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

[ $failures -eq 0 ]
