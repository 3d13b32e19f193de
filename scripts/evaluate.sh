#!/usr/bin/env bash
# Every evaluation the program has, on a trained run: scripts/evaluate.sh RUN SETS [OPTIONS OF THE PROGRAM...]
#
# SETS is a folder with what there is of: wiki.test.raw, hellaswag_val_full.txt.bz2 (or .txt, hellaswag_val.jsonl), lambada_openai.jsonl, arc_easy.jsonl,
# arc_challenge.jsonl, piqa.jsonl, haystack.txt (running text for needles), encoder.json and vocab.bpe (GPT-2's; fetched where they are missing).
# Texts and tasks are scored at the model's own context (--eval-context for another), needles at the longest of LENGTHS, of which each length and depth gets
# ITEMS. Token files go to SETS/prepared, once; scores of every continuation to RUN/scores.jsonl. TOKENIZER=byte for a byte-level model, PROGRAM for another build.
set -eu
if [ $# -lt 2 ] || [ ! -d "$1" ] || [ ! -d "$2" ]; then echo "error: expected a run directory and a folder of evaluation sets: scripts/evaluate.sh RUN SETS [OPTIONS...]" >&2; exit 64; fi
run=$1; sets=$2; shift 2
here=$(dirname "$0")/..
program=${PROGRAM:-$here/train_moba}
made=$sets/prepared
mkdir -p "$made"

tokenizer=(--tokenizer "${TOKENIZER:-gpt2}")
if [ "${TOKENIZER:-gpt2}" = gpt2 ] && [ -e "$sets/encoder.json" ]; then tokenizer+=(--encoder "$sets/encoder.json" --vocab-bpe "$sets/vocab.bpe"); fi

# make NAME TOOL ARGUMENTS... SOURCE: unless it is there, or the source is not
make_set() {
    local name=$1 tool=$2; shift 2
    if [ ! -e "${*: -1}" ] || [ -e "$made/$name.json" ]; then return 0; fi
    python3 "$here/data/$tool.py" "${tokenizer[@]}" --out "$made/$name.bin" "$@"
}
make_set wikitext_a wikitext2 --protocol a "$sets/wiki.test.raw"
make_set wikitext_b wikitext2 --protocol b "$sets/wiki.test.raw"
for source in hellaswag_val_full.txt.bz2 hellaswag_val_full.txt hellaswag_val.jsonl; do make_set hellaswag eval_tasks --task hellaswag "$sets/$source"; done
make_set lambada eval_tasks --task lambada "$sets/lambada_openai.jsonl"
for task in arc_easy arc_challenge piqa; do make_set $task eval_tasks --task $task "$sets/$task.jsonl"; done
lengths=${LENGTHS:-4096 8192}
needles=(--items "${ITEMS:-2}" --lengths $lengths)
[ -e "$made/needle_1.json" ] || python3 "$here/data/needle.py" "${tokenizer[@]}" --kind 1 "${needles[@]}" --out "$made/needle_1.bin"
for kind in 2 3; do make_set needle_$kind needle --kind $kind "${needles[@]}" --haystack "$sets/haystack.txt"; done

missing=()
for name in wikitext_a wikitext_b hellaswag lambada arc_easy arc_challenge piqa needle_1 needle_2 needle_3; do [ -e "$made/$name.json" ] || missing+=("$name"); done
if [ ${#missing[@]} -gt 0 ]; then echo "note: $sets has no files for ${missing[*]}; the head of $0 lists the names" >&2; fi

longest=0
for length in $lengths; do if [ "$length" -gt "$longest" ]; then longest=$length; fi; done
score() {     # score FILES OPTIONS...
    "$program" --out "$run" --eval-only --eval-data "$1" "${@:2}" --eval-out "$run/scores.part"
    cat "$run/scores.part" >> "$run/scores.new"; rm "$run/scores.part"
}
rm -f "$run/scores.new"
if compgen -G "$made/[!n]*.bin" > /dev/null; then score "$made/[!n]*.bin" "$@"; fi          # all but needle_*
score "$made/needle_*.bin" "$@" --eval-context "$longest" --eval-stride 0
mv "$run/scores.new" "$run/scores.jsonl"
