#!/usr/bin/env bash
# Runs the steps, keeps their JSON lines in dev/results/moba_ladder.jsonl and prints them as a Markdown table.
#   run.sh PROGRAM...        make ladder builds and names them
set -euo pipefail
cd "$(dirname "$0")/../../.."
[ $# -gt 0 ] || { echo "error: run.sh wants the ladder's programs; make ladder names them" >&2; exit 64; }
lines=dev/results/moba_ladder.jsonl
mkdir -p dev/results
for program in "$@"; do "$program"; done > "$lines.new"
mv "$lines.new" "$lines"

number() { sed -nE "s/.*\"$1\":([0-9.]+).*/\1/p" <<< "$2"; }
text()   { sed -nE "s/.*\"$1\":\"([^\"]*)\".*/\1/p" <<< "$2"; }
echo "| step | idea | ms | over the step before | over naive | error |"
echo "|---|---|---|---|---|---|"
first= before=
while read -r line; do
    ms=$(number ms "$line"); first=${first:-$ms}
    awk -v step="$(text step "$line")" -v idea="$(text idea "$line")" -v ms="$ms" -v before="${before:-$ms}" -v first="$first" -v error="$(number error "$line")" \
        'BEGIN { printf "| %s | %s | %.3g | %.1fx | %.0fx | %.2f |\n", step, idea, ms, before / ms, first / ms, error }'
    before=$ms
done < "$lines"
