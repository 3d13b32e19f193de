#!/usr/bin/env bash
# Throughput of the 340M hybrid at 8K on one GPU and on several of this host, without accumulation; a JSON line a row into dev/results/ranks.jsonl.
#   dev/ranks.sh [GPUS]          all of this host's if not given; about half a minute a row
# The estimate beside each row is --dry-run's, from the measurement on one GPU.
set -eu
cd "$(dirname "$0")/.."
gpus=${1:-$(nvidia-smi -L | wc -l)}
[ "$gpus" -ge 2 ] || { echo "error: two GPUs or more are needed, this host shows $gpus" >&2; exit 70; }
work=$(mktemp -d -p "$([ -w /dev/shm ] && echo /dev/shm || echo /tmp)"); trap 'rm -rf "$work"' EXIT
make -s build/data/synthetic
build/data/synthetic --kind zipf --tokens 30000000 --vocab 50257 --out "$work/text.bin" > /dev/null
base=(--train-data "$work/text.bin" --preset 340M --pattern S256,M128:8 --kconv 3 --seq-len 8192 --save-every 0 --warmup 5 --schedule constant --steps 30)

# row RANKS MICRO-BATCH OPTIONS...: prints a line, and leaves tok/s in $work/tok_s
row() {
    local ranks=$1 micro=$2; shift 2
    local options=("${base[@]}" --micro-batch "$micro" --out "$work/run" "$@")
    rm -rf "$work/run"
    if [ "$ranks" = 1 ]; then CUDA_VISIBLE_DEVICES=0 ./train_moba "${options[@]}" > "$work/console"
    else scripts/multi_node/local.sh "$ranks" ./train_moba "${options[@]}" > "$work/console"; fi
    local estimate=0
    if [ "$ranks" != 1 ]; then
        estimate=$(./train_moba --dry-run "${base[@]}" --micro-batch "$micro" --ranks "$ranks" --gpu-tok-s "$(cat "$work/one_$micro")" "$@" |
                   awk -v n="$ranks" '/ GPUs +tokens/ { table = 1 } table && $1 == n { print $7; exit }')
    fi
    python3 - "$work" "$ranks" "$micro" "$estimate" "$*" <<'PY'
import json, re, sys
work, ranks, micro, estimate, options = sys.argv[1:]
steps = [r for r in map(json.loads, open(work + '/run/log.jsonl')) if r['kind'] == 'step'][8:]
text = open(work + '/console').read()
median = lambda x: sorted(x)[len(x) // 2]
found = lambda pattern: float((re.search(pattern, text) or [0, 'nan'])[1])
line = {'gpus': int(ranks), 'micro_batch': int(micro), 'options': options, 'tok_s': round(median([s['tok_s'] for s in steps])), 'ms': round(median([s['ms'] for s in steps]), 2),
        'peak_mib': round(max(s['mem_mib'] for s in steps)), 'plan_mib': round(found(r'\nmemory .* in all ([0-9.]+) MiB'))}
if int(ranks) > 1:
    line.update(estimate_tok_s=round(float(estimate)), reduction_ms=found(r'communication +([0-9.]+) ms'), waited_ms=found(r'waited for ([0-9.]+) ms'),
                hidden_percent=found(r': ([0-9.]+) % are hidden'))
print(json.dumps(line))
open(work + '/tok_s', 'w').write(str(line['tok_s']))
PY
}

{
    for micro in 8 1; do
        row 1 $micro; cp "$work/tok_s" "$work/one_$micro"
        row "$gpus" $micro; row "$gpus" $micro --zero 1; row "$gpus" $micro --reduce bf16
    done
} | tee dev/results/ranks.jsonl
