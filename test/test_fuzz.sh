#!/usr/bin/env bash
# R21: no bytes crash what reads shards, checkpoints, options, logs and tokenizer files.
#   test/test_fuzz.sh             each target for 10 seconds, two at a time; skipped without clang and its libFuzzer
#   SECONDS_EACH=300 test/test_fuzz.sh
. "$(dirname "$0")/script.sh"
unset MAKEFLAGS MFLAGS MAKELEVEL
seconds=${SECONDS_EACH:-10} seed=${SEED:-1}
targets=(shard checkpoint options log tokenizer)

if ! command -v clang > /dev/null || ! echo 'int LLVMFuzzerTestOneInput(const char* d, unsigned long n) { return d && n ? 0 : 0; }' |
        clang -x c - -fsanitize=fuzzer,address,undefined -o "$WORK/probe" 2> /dev/null; then
    for target in "${targets[@]}"; do skip "fuzz_$target" "(needs clang with libFuzzer)"; done
    exit 0
fi
if ! make -s -j2 fuzzers > "$WORK/said" 2>&1; then fail fuzz_builds "$(grep -m 1 -E 'error' "$WORK/said")"; exit 1; fi
mkdir "$WORK/seeds"; build/fuzz/seeds "$WORK/seeds" > "$WORK/said" 2>&1 || fail fuzz_seeds "$(cat "$WORK/said")"

fuzz() {     # fuzz TARGET: leaves its findings in $WORK/TARGET.*
    mkdir -p "$WORK/$1.corpus"
    (cd "$WORK" && "$OLDPWD/build/fuzz/$1" -max_total_time="$seconds" -seed="$seed" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
        -artifact_prefix="$WORK/$1.found." "$1.corpus" "seeds/$1") > "$WORK/$1.said" 2>&1
    echo $? > "$WORK/$1.status"
}
for target in "${targets[@]}"; do
    while [ "$(jobs -rp | wc -l)" -ge 2 ]; do wait -n; done
    fuzz "$target" &
done
wait
for target in "${targets[@]}"; do
    runs=$(sed -nE 's/^stat::number_of_executed_units: *//p' "$WORK/$target.said")
    if [ "$(cat "$WORK/$target.status")" = 0 ] && [ "${runs:-0}" -gt 100 ]; then ok "fuzz_$target"; echo "#  $runs executions in $seconds s, seed $seed"
    else fail "fuzz_$target" "$(grep -m 1 -E 'ERROR|runtime error|SUMMARY|error:' "$WORK/$target.said") ($(basename "$(ls "$WORK/$target".found.* 2> /dev/null | head -n 1)"): $(head -c 200 "$(ls "$WORK/$target".found.* 2> /dev/null | head -n 1)" 2> /dev/null | base64 -w 0))"; fi
done
[ $failures -eq 0 ]
