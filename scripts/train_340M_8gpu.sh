#!/usr/bin/env bash
# The paper's run, 340M over 100e9 tokens, on the eight GPUs of one host: scripts/train_340M_8gpu.sh [options of the trainer]. Begins by saying how long it takes.
#
# tokens   TOKENS, 100e9: 1001 shards                            (data/download_fineweb_edu.py --count 1001)
# steps    190735 of 524288 tokens: 64 rows of 8192, eight a GPU in 2 micro-batches of 4; master weights and moments are divided (--zero 1)
# rate     RATE tokens/s of all GPUs together: 1.64e6, which README estimates for eight H200 from two; set it to what your own log says
#
# GPUS=4 goes on with half of them: the curve stays the same. DATA, OUT, TOKENIZER and PROGRAM as in train_340M.sh.
set -eu
cd "$(dirname "$0")/.."
GPUS=${GPUS:-8} TOKENS=${TOKENS:-100e9} RATE=${RATE:-1.64e6}
steps=$(awk -v tokens="$TOKENS" 'BEGIN { n = tokens / 524288; steps = int(n) + (n > int(n)); if (steps < 1) exit 1; print steps }') \
    || { echo "error: TOKENS=$TOKENS is no number of tokens" >&2; exit 64; }
awk -v steps="$steps" -v rate="$RATE" -v gpus="$GPUS" 'BEGIN { if (rate + 0 <= 0) exit 1
    printf "340M: %.3g tokens in %d steps on %d GPUs, %.1f hours at %.3g tokens/s\n", steps * 524288, steps, gpus, steps * 524288 / rate / 3600, rate }' \
    || { echo "error: RATE=$RATE is no number of tokens a second" >&2; exit 64; }
LAUNCH="scripts/multi_node/local.sh $GPUS" exec scripts/train_340M.sh --steps "$steps" --zero 1 "$@"
