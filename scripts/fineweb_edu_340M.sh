#!/usr/bin/env bash
# From an empty disk to a WikiText-2 perplexity: builds, downloads FineWeb-Edu, trains the 340M hybrid, scores it, draws the curves.
#
#   GPUS=8 scripts/fineweb_edu_340M.sh wiki.test.raw       eight GPUs of one host; GPUS=1: one
#
# disk     72 shards of 200 MB, and 4.3 GB a checkpoint, of which three are kept
# time     the download, then the hours that scripts/train_340M.sh derives, divided by what --dry-run --ranks N says of N GPUs
#
# Each part is passed over when it is done: run it again after any interruption. wiki.test.raw is of the archive wikitext-2-raw-v1 (mirrored at
# wikitext.smerity.com). May be set from outside: DATA, OUT, TOKENIZER, SHARDS (how many to train on), CHECKSUMS (a file of sha256sum in place of the hub's
# list), BPE (a folder with OpenAI's encoder.json and vocab.bpe, which are fetched otherwise), PROGRAM (another build). Further options go to the trainer.
set -eu -o pipefail
if [ $# -lt 1 ] || [ ! -f "$1" ]; then echo "error: expected wiki.test.raw of wikitext-2-raw-v1 as the first argument" >&2; exit 64; fi
wiki=$(realpath "$1"); shift
cd "$(dirname "$0")/.."
gpus=${GPUS:-1}
export DATA=${DATA:-data/edu_fineweb100B} OUT=${OUT:-runs/340M} TOKENIZER=${TOKENIZER:-gpt2.tok}
if [ "$gpus" -gt 1 ]; then export LAUNCH="scripts/multi_node/local.sh $gpus"; fi

scripts/setup.sh data                                 # the test set is prepared by Python
export PYTHONPATH=$PWD/build/python${PYTHONPATH:+:$PYTHONPATH}
if [ -z "${PROGRAM:-}" ]; then make -s train_moba; fi
export PROGRAM=${PROGRAM:-./train_moba}
bpe=() checksums=()
if [ -n "${BPE:-}" ]; then bpe=(--encoder "$BPE/encoder.json" --vocab-bpe "$BPE/vocab.bpe"); fi
if [ -n "${CHECKSUMS:-}" ]; then checksums=(--checksums "$CHECKSUMS"); fi
[ -f "$TOKENIZER" ] || python3 data/gpt2_tokenizer.py "${bpe[@]}" "$TOKENIZER"
[ -f "$OUT/wikitext2.bin" ] || python3 data/wikitext2.py "${bpe[@]}" --out "$OUT/wikitext2.bin" "$wiki"
python3 data/download_fineweb_edu.py --count "${SHARDS:-72}" "${checksums[@]}" --out "$DATA"
scripts/train_340M.sh "$@"
"$PROGRAM" --out "$OUT" --eval-only --eval-data "$OUT/wikitext2.bin" | tee "$OUT/wikitext2.txt"      # at the model's context, moving on by half of it
python3 dev/plot.py "$OUT" --no-png
