#!/usr/bin/env bash
# The paper's run, 340M over 100e9 tokens, on the eight GPUs of one host: scripts/train_340M_8gpu.sh [options of the trainer]. Says first how long it takes.
#
# tokens   100e9: 1001 shards of 100M                            (data/download_fineweb_edu.py --count 1001)
# steps    190735 of 524288 tokens: 64 rows of 8192, eight a GPU in 2 micro-batches of 4; master weights and moments are divided (--zero 1)
# hours    17.4 on eight H200: the trainer's estimate from GPU_TOK_S, what one GPU alone does with such steps (an H200 205k tokens/s, dev/results/ranks.jsonl;
#          an H100 205.7k, README's table of speed: the same). Eight have not been measured yet
#
# GPUS=4 goes on with half of them: the curve stays the same. OUT is runs/340M_100B; DATA, TOKENIZER and PROGRAM as in train_340M.sh.
set -eu -o pipefail
cd "$(dirname "$0")/.."
gpus=${GPUS:-8}
case "$gpus" in ''|0*|*[!0-9]*) echo "error: GPUS=$gpus is no number of GPUs" >&2; exit 64 ;; esac
export OUT=${OUT:-runs/340M_100B}
train=(scripts/train_340M.sh --steps 190735 --zero 1 "$@")
estimate=(--dry-run --ranks "$gpus" --gpu-tok-s "${GPU_TOK_S:-204950}")
case " $* " in *" --help "*|*" --dry-run "*) exec "${train[@]}" "${estimate[@]}" ;; esac
"${train[@]}" "${estimate[@]}" | grep '^time'
LAUNCH="scripts/multi_node/local.sh $gpus" exec "${train[@]}"          # signals are the ranks'
