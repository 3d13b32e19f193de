#!/usr/bin/env bash
# 124M hybrid of sliding windows and MoBA on FineWeb-Edu, one GPU.
#
# tokens   2.5e9, 20 a parameter: 25 shards of 100M             (data/download_fineweb_edu.py --count 25)
# steps    4768 of 524288 tokens: 64 rows of 8192, in 8 micro-batches of 8
# hours    1.2 on one H100 at the 571.5k tokens/s of README's table of speed
# memory   23.8 GiB at --recompute 0, 0.5 of them CUDA's own (train_moba --dry-run prints the table)
#
# Run it again after any interruption: it goes on where it was. DATA, OUT, TOKENIZER, LAUNCH and PROGRAM may be set from outside.
set -eu
cd "$(dirname "$0")/.."
program=${PROGRAM:-./train_moba}
command -v "$program" > /dev/null || { echo "error: $program is not there: make train_moba builds it" >&2; exit 69; }
exec ${LAUNCH:-} "$program" --preset 124M --pattern S256,M128:8 --kconv 3 --seq-len 8192 --micro-batch 8 --total-batch 524288 --steps 4768 --lr 6e-4 \
    --train-data "${DATA:-data/edu_fineweb100B}/edu_fineweb_train_*.bin" --val-data "${DATA:-data/edu_fineweb100B}/edu_fineweb_val_*.bin" \
    --tokenizer "${TOKENIZER:-gpt2.tok}" --sample-every 500 --save-every 500 --out "${OUT:-runs/124M}" "$@"
