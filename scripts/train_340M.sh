#!/usr/bin/env bash
# The paper's 340M hybrid of sliding windows and MoBA on FineWeb-Edu: scripts/train_340M.sh on one GPU, on eight with LAUNCH='scripts/multi_node/local.sh 8' before it.
#
# tokens   7.2e9, 20 a parameter: 72 shards of 100M             (data/download_fineweb_edu.py --count 72)
# steps    13733 of 524288 tokens: 64 rows of 8192, in 16 micro-batches of 4
# hours    10 on one H100 at the 205.7k tokens/s of README's table of speed; the paper's 100e9 tokens would take 135
# memory   33.9 GiB at --recompute 0, 0.5 of them CUDA's own (train_moba --dry-run prints the table)
#
# Run it again after any interruption: it goes on where it was. DATA, OUT, TOKENIZER, LAUNCH and PROGRAM may be set from outside.
set -eu
cd "$(dirname "$0")/.."
program=${PROGRAM:-./train_moba}
command -v "$program" > /dev/null || { echo "error: $program is not there: make train_moba builds it" >&2; exit 69; }
exec ${LAUNCH:-} "$program" --preset 340M --pattern S256,M128:8 --kconv 3 --seq-len 8192 --micro-batch 4 --total-batch 524288 --steps 13733 --lr 6e-4 \
    --train-data "${DATA:-data/edu_fineweb100B}/edu_fineweb_train_*.bin" --val-data "${DATA:-data/edu_fineweb100B}/edu_fineweb_val_*.bin" \
    --tokenizer "${TOKENIZER:-gpt2.tok}" --sample-every 500 --save-every 500 --out "${OUT:-runs/340M}" "$@"
