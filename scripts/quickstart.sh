#!/usr/bin/env bash
# From nothing to a trained tiny model and a sample of its text: installs what is missing, builds, makes byte-level shards from the text of
# this repository, trains into runs/quickstart, prints a sample. Runs on a GPU where there is one, else on two CPU cores in about two minutes.
set -eu -o pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-passive}"     # threads that spin while they wait starve others where cores are shared
program=train_moba_cpu
if nvidia-smi -L > /dev/null 2>&1 && { command -v nvcc > /dev/null || [ -x /usr/local/cuda/bin/nvcc ]; }; then program=train_moba; fi
make -s "$program" build/data/bytes

out=runs/quickstart
rm -rf "$out"
mkdir -p "$out"
build/data/bytes --out "$out/train.bin" --val-out "$out/val.bin" --val-fraction 0.1 README.md train_moba.cu llmc/*.c llmc/*.h llmc/cpu/*.c llmc/*.cu

# 4 rows of 256 bytes a step; the pattern in small: a window of 64, MoBA with blocks of 64 of which a query reads 2
"./$program" --train-data "$out/train.bin" --val-data "$out/val.bin" --out "$out" --preset tiny --pattern S64,M64:2 --kconv 3 \
    --seq-len 256 --micro-batch 4 --steps 300 --lr 0.002 --warmup 20 --eval-every 100 --save-every 0 --log-every 20

# the run is only a success if it learned: the mean loss of the last 5 steps is under 0.7 of the first
awk -F'"loss":' '/"kind":"step"/ { split($2, a, ","); loss[++n] = a[1] }
    END { if (n < 5) { exit 1 } last = (loss[n] + loss[n-1] + loss[n-2] + loss[n-3] + loss[n-4]) / 5
          printf "loss        %.3f at the first step, %.3f over the last five\n", loss[1], last; exit !(last < 0.7 * loss[1]) }' "$out/log.jsonl" \
    || { echo "error: the loss did not fall as it should; see $out/log.jsonl" >&2; exit 70; }

echo; echo "a sample, after the words \"// The\":"
"./$program" --out "$out" --prompt "// The" --sample-tokens 120 --temperature 0.7 | tail -n +2
echo; echo "next: python3 dev/watch.py $out shows its curve; README.md, 'Use your own data' and 'Train 340M on FineWeb-Edu'"
