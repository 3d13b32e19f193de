#!/usr/bin/env bash
# Trains on text of your own: makes shards of it, then trains a small model whose sizes further options override.
#
#   scripts/own_data.sh runs/mine book1.txt book2.txt                       plain text: ids are bytes, no tokenizer is needed
#   scripts/own_data.sh runs/mine documents.jsonl.zst                       .jsonl .jsonl.gz .jsonl.zst .parquet: GPT-2's tokenizer
#   TOKENIZER=tokenizer.json scripts/own_data.sh runs/mine *.parquet        the same with any tokenizer of Hugging Face's tokenizers
#   scripts/own_data.sh runs/mine documents.jsonl -- --preset 124M --steps 5000 --total-batch 524288
#
# Shards go into runs/mine/shards. A tenth of plain text is for validation; of documents the first shard (SHARD tokens, 1e6) is. FIELD names the
# column of the text. The trainer is train_moba where a GPU is, else train_moba_cpu; PROGRAM may be set from outside.
set -eu -o pipefail
if [ $# -lt 2 ]; then sed -n '2,/^set/p' "$0" | grep '^#' | cut -c3- >&2; exit 64; fi
out=$(realpath -m "$1"); shift                        # names are of where it was called
files=()
while [ $# -gt 0 ] && [ "$1" != "--" ]; do
    if [ ! -f "$1" ]; then echo "error: $1: no such file; expected a run directory, then text or documents (options of the trainer follow after --)" >&2; exit 66; fi
    files+=("$(realpath "$1")"); shift
done
if [ $# -gt 0 ]; then shift; fi
if [ -f "${TOKENIZER:-}" ]; then TOKENIZER=$(realpath "$TOKENIZER"); fi
cd "$(dirname "$0")/.."
program=train_moba_cpu
if nvidia-smi -L > /dev/null 2>&1 && { command -v nvcc > /dev/null || [ -x /usr/local/cuda/bin/nvcc ]; }; then program=train_moba; fi
make -s "$program" build/data/bytes
program=${PROGRAM:-./$program}
shards=$out/shards
mkdir -p "$shards"

case "${files[0]}" in
    *.jsonl|*.jsonl.gz|*.jsonl.zst|*.parquet)
        python3 data/fineweb_edu.py --out "$shards" --name own --shard-size "${SHARD:-1e6}" --field "${FIELD:-text}" --tokenizer "${TOKENIZER:-gpt2}" "${files[@]}"
        vocab=$(python3 -c 'import sys; sys.path.insert(0, "data"); import argparse, encoders
print(encoders.open_encoder(argparse.Namespace(tokenizer=sys.argv[1], eot=None, encoder=None, vocab_bpe=None)).vocab)' "${TOKENIZER:-gpt2}")
        model=(--preset 30M --vocab "$vocab" --seq-len 2048) ;;
    *)
        build/data/bytes --out "$shards/own_train_000001.bin" --val-out "$shards/own_val_000000.bin" --val-fraction 0.1 "${files[@]}"
        model=(--preset tiny --pattern S64,M64:2 --seq-len 512 --micro-batch 4 --lr 0.002) ;;
esac
plain=$(sed 's/[][*?\\]/\\&/g' <<< "$shards")         # the folder's own characters are no pattern
exec "$program" --train-data "$plain/own_train_*.bin" --val-data "$plain/own_val_*.bin" --out "$out" --steps 300 "${model[@]}" "$@"
