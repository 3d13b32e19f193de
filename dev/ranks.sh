#!/usr/bin/env bash
# Throughput of the 340M hybrid at 8K on one GPU and on several of this host, without accumulation, and whether the losses are those of one GPU.
#   dev/ranks.sh [GPUS [MICRO-BATCH...]]     all of this host's, and 8 and 1, if not given; about 20 seconds a row
# A JSON line a row goes to dev/results/ranks.jsonl. The estimate beside each row is --dry-run's, from the measurement on one GPU; the last
# lines are its curve to 1024 GPUs.
set -euo pipefail
cd "$(dirname "$0")/.."
gpus=${1:-$(nvidia-smi -L | wc -l)}; shift || true
micros=("$@"); [ $# -gt 0 ] || micros=(8 1)
[ "$gpus" -ge 2 ] || { echo "error: two GPUs or more are needed, this host shows $gpus" >&2; exit 70; }
work=$(mktemp -d -p "$([ -w /dev/shm ] && echo /dev/shm || echo /tmp)"); trap 'rm -rf "$work"' EXIT
[ -x build/data/synthetic ] || make -s build/data/synthetic
build/data/synthetic --kind zipf --tokens 30000000 --vocab 50257 --out "$work/text.bin" > /dev/null
# (a small learning rate: at 6e-4 one first token of a row can take the whole gradient, or not, by the last bit of a sum: dev/LOG.md)
base=(--train-data "$work/text.bin" --preset 340M --pattern S256,M128:8 --kconv 3 --seq-len 8192 --save-every 0 --lr 1e-4 --warmup 10 --schedule constant)

# the estimate's table: GPUs, tokens a step, ms of computing, of being slowed, of reducing, of waiting, of a step, tokens/s, efficiency
estimates() {
    local ranks=$1 micro=$2; shift 2
    ./train_moba --dry-run "${base[@]}" --micro-batch "$micro" --ranks "$ranks" --gpu-tok-s "$(cat "$work/one_$micro")" "$@" | awk '/ GPUs +tokens/ { table = 1; next } table && $1 ~ /^[0-9]+$/'
}

# row RANKS MICRO-BATCH STEPS OPTIONS...: prints a line, and leaves tok/s in $work/tok_s, losses in $work/losses
row() {
    local ranks=$1 micro=$2 steps=$3 estimate=0; shift 3
    local options=("${base[@]}" --micro-batch "$micro" --steps "$steps" --out "$work/run" "$@")
    rm -rf "$work/run"
    if [ "$ranks" = 1 ]; then CUDA_VISIBLE_DEVICES=0 ./train_moba "${options[@]}" > "$work/console"
    else
        GRACE=30 scripts/multi_node/local.sh "$ranks" ./train_moba "${options[@]}" > "$work/console"
        estimate=$(estimates "$ranks" "$micro" "$@" | awk -v n="$ranks" '$1 == n { print $8 }')
    fi
    python3 - "$work" "$ranks" "$micro" "$estimate" "$*" <<'PY'
import json, os, re, sys
work, ranks, micro, estimate, options = sys.argv[1:]
log = [r for r in map(json.loads, open(work + '/run/log.jsonl')) if r['kind'] == 'step']
steps, losses = log[8:], [r['loss'] for r in log]
text = open(work + '/console').read()
median = lambda x: sorted(x)[len(x) // 2]
found = lambda pattern: float((re.search(pattern, text) or [0, 'nan'])[1])
line = {'gpus': int(ranks), 'micro_batch': int(micro), 'options': options, 'tok_s': round(median([s['tok_s'] for s in steps])), 'ms': round(median([s['ms'] for s in steps]), 2),
        'peak_mib': round(max(s['mem_mib'] for s in steps)), 'plan_mib': round(found(r'\nmemory .* in all ([0-9.]+) MiB')), 'loss': losses[-1]}
if int(ranks) > 1:
    same = list(map(float, open('%s/losses_%s' % (work, micro)).read().split()))     # of one GPU with as many tokens a step
    line.update(estimate_tok_s=round(float(estimate)), of_linear=round(line['tok_s'] / int(ranks) / float(open('%s/one_%s' % (work, micro)).read()), 4),
                reduction_ms=found(r'communication +([0-9.]+) ms'), waited_ms=found(r'waited for ([0-9.]+) ms'), hidden_percent=found(r': ([0-9.]+) % are hidden'),
                loss_off=max(abs(a - b) / b for a, b in zip(losses, same)), losses_compared=len(same))
    if line['loss_off'] > 1e-3:
        print('losses', *losses[:len(same)], 'of one GPU', *same, file=sys.stderr)
print(json.dumps(line))
open(work + '/tok_s', 'w').write(str(line['tok_s']))
open(work + '/losses', 'w').write(' '.join(map(str, losses)))
PY
    rm -rf "$work/run"
}

{
    for micro in "${micros[@]}"; do
        steps=$((micro > 8 ? 20 : 30))                                      # the first 8 are not timed
        row 1 "$micro" $steps; cp "$work/tok_s" "$work/one_$micro"
        row 1 "$micro" 12 --total-batch $((gpus * micro * 8192)); cp "$work/losses" "$work/losses_$micro"
        row "$gpus" "$micro" $steps; row "$gpus" "$micro" $steps --zero 1; row "$gpus" "$micro" $steps --reduce bf16
    done
    estimates 1024 "${micros[0]}" | awk -v micro="${micros[0]}" '{ printf "{\"estimate\":true,\"gpus\":%d,\"micro_batch\":%d,\"ms\":%s,\"tok_s\":%.0f,\"efficiency\":\"%s\"}\n", $1, micro, $7, $8, $9 }'
} | tee dev/results/ranks.jsonl
