#!/usr/bin/env bash
# README and the recipes: what they name exists, what they run is accepted, and the small ones go through on a CPU.
. "$(dirname "$0")/script.sh"
export OMP_NUM_THREADS=1
check() { local name=$1; shift; if "$@" > "$WORK/out" 2> "$WORK/err"; then ok "$name"; else fail "$name" "'$*' fails: $(tail -n 1 "$WORK/err")"; fi; }
report() { if [ -z "$2" ]; then ok "$1"; else fail "$1" "$2"; fi; }       # report NAME WHAT-IS-WRONG

# ---- README: files, options and messages it names
missing=""
for path in $(grep -hoE '\b(scripts|data|dev|test|export|llmc)/[A-Za-z0-9_./*]*[A-Za-z0-9_]' README.md scripts/README.md | sort -u); do
    case "$path" in data/edu*|dev/results*|*NAME*) continue ;; esac
    compgen -G "$path" > /dev/null || [ -e "build/$path" ] || missing="$missing $path"
done
report readme_names_files_that_exist "$missing"

known=$({ "$PROGRAM" --help; for tool in data/*.py dev/*.py; do grep -q ArgumentParser\\\|common.Parser "$tool" && python3 "$tool" --help; done
          for tool in build/data/*; do "$tool" --help; done; } 2> /dev/null | grep -oE -- '--[a-z][a-z0-9-]+' | sort -u)
unknown=""
for option in $(sed '/<!-- options -->/,/<!-- \/options -->/d' README.md | grep -oE -- '--[a-z][a-z0-9-]+' | sort -u); do
    case "$option" in --gpus|--logdir|--nodes) continue ;; esac           # docker's, tensorboard's, sbatch's
    grep -qxF -- "$option" <<< "$known" || unknown="$unknown $option"
done
report readme_names_options_that_exist "$unknown"

unsaid="" messages=0
while IFS= read -r message; do
    messages=$((messages + 1))
    grep -qrF -- "$message" llmc train_moba.cu Makefile data || unsaid="$unsaid '$message'"
done < <(sed -n '/^## When something goes wrong/,/^## /p' README.md | sed -nE 's/^\| `([^`]+)` \|.*/\1/p')
[ "$messages" -gt 10 ] || unsaid="$unsaid only $messages messages found"
report readme_quotes_what_the_programs_say "$unsaid"

# ---- recipes: their options are accepted, by a program that would not begin
for recipe in train_124M train_340M; do
    check "recipe_${recipe}_is_accepted" env PROGRAM="$PROGRAM" "scripts/$recipe.sh" --dry-run
    grep -qE '^tokens +524288 a step' "$WORK/out" && ok "recipe_${recipe}_steps_have_524288_tokens" || fail "recipe_${recipe}_steps_have_524288_tokens" "$(grep ^tokens "$WORK/out")"
done
check recipe_8gpu_is_accepted           env PROGRAM="$PROGRAM" scripts/train_340M_8gpu.sh --dry-run
grep -qE '^time +17\.4 hours for 190735 steps on 8 GPUs' "$WORK/out" && ok recipe_8gpu_estimates_its_hours || fail recipe_8gpu_estimates_its_hours "$(grep ^time "$WORK/out")"
env GPUS=2 GPU_TOK_S=4e5 PROGRAM="$PROGRAM" OUT="$WORK/8gpu" scripts/train_340M_8gpu.sh --steps 1000 > "$WORK/out" 2> "$WORK/err"; status=$?        # then it is begun, which needs GPUs
[ $status = 64 ] && grep -q 'tcp and file are for GPUs' "$WORK/err" && grep -qE '^time +0\.2 hours for 1000 steps on 2 GPUs' "$WORK/out" && ok recipe_8gpu_says_its_hours_first || fail recipe_8gpu_says_its_hours_first "status $status, $(head -n 1 "$WORK/out") $(head -n 1 "$WORK/err")"
expect recipe_8gpu_names_a_wrong_number 64 'GPUS=0 is no number' env GPUS=0 scripts/train_340M_8gpu.sh
cat > "$WORK/waits" <<'EOF'
#!/usr/bin/env bash
case " $* " in *" --dry-run "*) echo "time 1 hour"; exit ;; esac
trap 'exit 75' TERM; : > "$OUT.$BASHPID"; while :; do sleep 0.05; done
EOF
chmod +x "$WORK/waits"
GPUS=2 OUT="$WORK/begun" PROGRAM="$WORK/waits" scripts/train_340M_8gpu.sh > /dev/null 2>&1 &
recipe=$!
for _ in $(seq 200); do [ "$(compgen -G "$WORK/begun.*" | wc -l)" = 2 ] && break; sleep 0.05; done
kill -TERM $recipe; wait $recipe; status=$?
[ $status = 75 ] && ok recipe_8gpu_passes_signals_on || fail recipe_8gpu_passes_signals_on "status $status"
expect recipe_names_a_program_that_is_missing 69 'make train_moba' env PROGRAM="$WORK/nothing" scripts/train_340M.sh
check recipe_launch_stands_in_front     env LAUNCH="env SAID=1" PROGRAM="$PROGRAM" scripts/train_124M.sh --dry-run
refused() { "$@" > "$WORK/out" 2> "$WORK/err"; [ $? = 64 ]; }
check recipes_want_their_input          eval 'refused scripts/fineweb_edu_340M.sh && refused scripts/paper_table.sh "$WORK/none" && refused scripts/own_data.sh && refused scripts/evaluate.sh'

# ---- text and documents of one's own become a model that speaks
head -c 6000 README.md > "$WORK/own.txt"
check recipe_own_text_trains            env PROGRAM="$PROGRAM" scripts/own_data.sh "$WORK/own" "$WORK/own.txt" -- --steps 2 --layers 2 --channels 16 --heads 2 --mlp 16 --seq-len 128
check recipe_own_text_speaks            "$PROGRAM" --out "$WORK/own" --prompt "The " --sample-tokens 5
here=$PWD program=$(realpath "$PROGRAM")
elsewhere() { (cd "$WORK" && env PROGRAM="$program" "$here/scripts/own_data.sh" there own.txt -- --steps 1 --layers 2 --channels 16 --heads 2 --mlp 16 --seq-len 128); }
check recipe_takes_names_of_where_it_is_called elsewhere
[ -d "$WORK/there/checkpoints" ] && ok recipe_writes_where_it_is_called || fail recipe_writes_where_it_is_called "no run in $WORK/there"
check recipe_takes_a_folder_of_any_name env PROGRAM="$PROGRAM" scripts/own_data.sh "$WORK/own [1]*" "$WORK/own.txt" -- --steps 1 --layers 2 --channels 16 --heads 2 --mlp 16 --seq-len 128
expect recipe_names_a_text_that_is_missing 66 'nothing.txt: no such file' scripts/own_data.sh "$WORK/own" nothing.txt
python3 -c 'import json
for i in range(40): print(json.dumps({"text": "words of document %d " % i * 10}))' > "$WORK/own.jsonl"
check recipe_own_documents_train        env PROGRAM="$PROGRAM" TOKENIZER=byte SHARD=3000 scripts/own_data.sh "$WORK/documents" "$WORK/own.jsonl" -- --steps 2 --layers 2 \
                                            --channels 16 --heads 2 --mlp 16 --seq-len 128

# ---- the paper's table in small: six runs, six rows, a page
mkdir "$WORK/shards"
build/data/bytes --out "$WORK/shards/edu_fineweb_train_000001.bin" --val-out "$WORK/shards/edu_fineweb_val_000000.bin" --val-fraction 0.1 "$WORK/own.txt" > /dev/null
check recipe_paper_table_runs           env PROGRAM="$PROGRAM" DATA="$WORK/shards" OUT="$WORK/paper" PRESET=tiny BATCH=256 TOKENS=512 scripts/paper_table.sh \
                                            "$WORK/shards/edu_fineweb_val_000000.bin" --layers 2 --channels 16 --heads 2 --mlp 16 --seq-len 128 --micro-batch 2
[ "$(grep -cE '^(dense|block)[0-9_k]* +S256,[DM0-9:]+ +[035] +[0-9.]+ +[0-9.]+$' "$WORK/paper/table.txt")" = 6 ] && ok recipe_paper_table_has_six_rows \
    || fail recipe_paper_table_has_six_rows "$(tr '\n' ';' < "$WORK/paper/table.txt")"
check recipe_paper_table_is_drawn       [ -s "$WORK/paper/compare.html" ]

# ---- the 340M from the vocabulary to the perplexity, in small: a vocabulary of one merge, shards that are there already, a list of their checksums
small_340M() {
    env PROGRAM="$PROGRAM" DATA="$WORK/shards" OUT="$WORK/340M" TOKENIZER="$WORK/small.tok" BPE="$WORK" CHECKSUMS="$WORK/sums" SHARDS=1 \
        scripts/fineweb_edu_340M.sh "$WORK/wiki.test.raw" --layers 2 --channels 16 --heads 2 --mlp 16 --vocab 258 --seq-len 128 --micro-batch 2 --total-batch 256 \
        --steps 2 --sample-every 0
}
if PYTHONPATH=build/python${PYTHONPATH:+:$PYTHONPATH} python3 -c 'import tiktoken' 2> /dev/null; then
    python3 -c 'import json, sys; sys.path.insert(0, "data"); import common
ids = {character: i for i, character in enumerate(common.byte_alphabet())}
json.dump({**ids, "th": 256, common.EOT_TEXT: 257}, open(sys.argv[1] + "/encoder.json", "w"))
open(sys.argv[1] + "/vocab.bpe", "w").write("#version: 0.2\nt h\n")' "$WORK"
    printf ' = Page = \n \n the text of a page . \n' > "$WORK/wiki.test.raw"
    (cd "$WORK/shards" && sha256sum edu_fineweb_*.bin > "$WORK/sums")
    check recipe_340M_runs               small_340M
    [ -s "$WORK/small.tok" ] && grep -q '"vocab": 258' "$WORK/340M/wikitext2.json" && ok recipe_340M_prepares || fail recipe_340M_prepares "$(cat "$WORK/340M/wikitext2.json")"
    grep -qE '^token perplexity +[0-9.]+$' "$WORK/340M/wikitext2.txt" && grep -qE '^context, stride +128, 64$' "$WORK/340M/wikitext2.txt" \
        && ok recipe_340M_ends_in_a_perplexity || fail recipe_340M_ends_in_a_perplexity "$(tr '\n' ';' < "$WORK/340M/wikitext2.txt")"
    [ -s "$WORK/340M/plot.html" ] && ok recipe_340M_is_drawn || fail recipe_340M_is_drawn "no plot.html in $(ls "$WORK/340M" | tr '\n' ' ')"
    cp "$WORK/340M/wikitext2.txt" "$WORK/first.txt"
    check recipe_340M_runs_again         small_340M
    [ "$(grep -c 'there already' "$WORK/out")" = 2 ] && grep -q 'finished' "$WORK/out" && cmp -s "$WORK/first.txt" "$WORK/340M/wikitext2.txt" \
        && ok recipe_340M_passes_over_what_is_done || fail recipe_340M_passes_over_what_is_done "$(tr '\n' ';' < "$WORK/out")"
else
    skip recipe_340M_runs "(needs the Python package tiktoken)"
fi
[ $failures -eq 0 ]
