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
said() { env PROGRAM="$PROGRAM" "$@" scripts/train_340M_8gpu.sh --dry-run > "$WORK/out" 2> "$WORK/err" && head -n 1 "$WORK/out"; }
line=$(said GPUS=2 TOKENS=1e9 RATE=4e5)
[ "$line" = "340M: 1e+09 tokens in 1908 steps on 2 GPUs, 0.7 hours at 4e+05 tokens/s" ] && ok recipe_8gpu_says_its_hours || fail recipe_8gpu_says_its_hours "$line $(tail -n 1 "$WORK/err")"
grep -qE '^ +steps +1908$' "$WORK/out" && ok recipe_8gpu_is_accepted || fail recipe_8gpu_is_accepted "$(grep steps "$WORK/out" | head -n 1)"
expect recipe_8gpu_names_a_wrong_number 64 'RATE=fast is no number' env RATE=fast scripts/train_340M_8gpu.sh
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
[ $failures -eq 0 ]
