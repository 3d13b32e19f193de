#!/usr/bin/env bash
# The paper's comparison at 340M, 8K context: dense, block 512, 256, 128 at the same 1024 keys a query, then key convolution 3 and 5.
#
#   scripts/paper_table.sh wikitext2.bin            a run each in runs/paper/NAME, then runs/paper/table.txt and compare.html
#   TOKENS=2500000000 scripts/paper_table.sh ...    the same comparison with fewer tokens
#
# tokens   100e9 a row, as in the paper: 1001 shards, 200 GB     (data/download_fineweb_edu.py --count 1001)
# hours    135 a row on one H100 at the 205.7k tokens/s of README's table of speed, the dense row more; six rows on eight GPUs
#          (LAUNCH='scripts/multi_node/local.sh 8') are 104 at the very least
# memory   33.9 GiB, 0.5 of them CUDA's own (train_moba --dry-run prints the table)
#
# wikitext2.bin is made by data/wikitext2.py. Run it again after any interruption: it goes on where it was. DATA, OUT, TOKENS, PRESET, LAUNCH,
# PROGRAM may be set from outside; further options go to the trainer. Runs end apart by chance: dev/LOG.md measured 0.03 in loss between seeds
# of short runs, so for a small TOKENS repeat with --seed.
set -eu -o pipefail
if [ $# -lt 1 ] || [ ! -f "$1" ]; then echo "error: expected WikiText-2 as a shard (data/wikitext2.py) as the first argument" >&2; exit 64; fi
wiki=$(realpath "$1"); shift
cd "$(dirname "$0")/.."
data=${DATA:-data/edu_fineweb100B} out=${OUT:-runs/paper} program=${PROGRAM:-./train_moba} batch=${BATCH:-524288}
steps=$((${TOKENS:-100000000000} / batch))

row() {     # row NAME PATTERN KCONV OPTIONS...
    local name=$1 pattern=$2 kconv=$3; shift 3
    ${LAUNCH:-} "$program" --preset "${PRESET:-340M}" --pattern "$pattern" --kconv "$kconv" --seq-len 8192 --micro-batch 4 --total-batch "$batch" --steps "$steps" \
        --lr 6e-4 --train-data "$data/edu_fineweb_train_*.bin" --val-data "$data/edu_fineweb_val_*.bin" --save-every 500 --out "$out/$name" "$@"
    "$program" --out "$out/$name" --eval-only --eval-data "$wiki" > "$out/$name/wikitext2.txt"
    local loss; loss=$(sed -nE 's/^\{"kind":"eval",.*"loss":([0-9.]+),.*/\1/p' "$out/$name/log.jsonl" | tail -n 1)
    printf '%-12s %-12s %5s   %-15s %s\n' "$name" "$pattern" "$kconv" "${loss:--}" "$(sed -nE 's/^token perplexity +([0-9.]+).*/\1/p' "$out/$name/wikitext2.txt")" \
        >> "$out/table.new"
}

mkdir -p "$out"
printf '%-12s %-12s %5s   %-15s %s\n' run pattern kconv "validation loss" "WikiText-2 token perplexity" > "$out/table.new"
row dense         S256,D      0 "$@"
row block512      S256,M512:2 0 "$@"
row block256      S256,M256:4 0 "$@"
row block128      S256,M128:8 0 "$@"
row block128_k3   S256,M128:8 3 "$@"
row block128_k5   S256,M128:8 5 "$@"
mv "$out/table.new" "$out/table.txt"
cat "$out/table.txt"
python3 dev/plot.py "$out"/{dense,block512,block256,block128,block128_k3,block128_k5} --out "$out/compare" --no-png
