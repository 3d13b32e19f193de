#!/usr/bin/env bash
# One step of the whole model (build/model/dump_*): the same bits at every recompute level, and kernels held against the reference. Generation
# (build/model/generate_*): one pass and the cache, both held against the reference.
# long: whole models on the CPU, twice
. "$(dirname "$0")/script.sh"
MODEL=${MODEL:-build/model}
COMMON="--train-data none --preset tiny --deterministic"

# dump PROGRAM OUT OPTIONS...: OUT becomes the dump's path under $WORK; a reason on failure
dump() {
    local program=$1 out=$2; shift 2
    mkdir -p "$WORK/$out"
    "$MODEL/${WHAT:-dump}_$program" "$WORK/$out" "$@" > "$WORK/console" 2>&1 || { reason="${WHAT:-dump}_$program: $(tail -n 1 "$WORK/console")"; return 1; }
}
at() { echo "$WORK/$1/step_00000001"; }
compare() { "$MODEL/${WHAT:-compare}" "$@" 2> "$WORK/margin" || failures=$((failures + 1)); cat "$WORK/margin" >&2; }

# levels PROGRAM NAME OPTIONS...: recompute levels 1 to 4 give the bits of level 0
levels() {
    local program=$1 name=$2; shift 2
    dump "$program" level_0 $COMMON "$@" || { fail "${name}_recompute_0" "$reason"; return; }
    for level in 1 2 3 4; do
        dump "$program" "level_$level" $COMMON "$@" --recompute $level || { fail "${name}_recompute_$level" "$reason"; continue; }
        compare "${name}_recompute_$level$SUFFIX" "$(at level_0)" "$(at "level_$level")"
    done
    rm -rf "$WORK"/level_*
}

all_levels() {     # all_levels PROGRAM
    for layers in 3 4; do
        levels "$1" "model_$1_hybrid_kconv3_L$layers" --pattern S64,M64:2 --kconv 3 --layers $layers --seq-len 300 --micro-batch 2
        levels "$1" "model_$1_hybrid_kconv0_L$layers" --pattern S64,M64:2 --kconv 0 --layers $layers --seq-len 300 --micro-batch 2
        levels "$1" "model_$1_dense_L$layers" --pattern D --layers $layers --seq-len 300 --micro-batch 2
    done
    # what is redone shares one buffer over all layers, here of different numbers of picked blocks
    levels "$1" "model_$1_mixed_blocks" --pattern M64:5,M128:2,S64,M64:1 --kconv 5 --layers 5 --seq-len 500 --micro-batch 1
}

# budget NAME OPTIONS...: the CUDA build within twice the rounding of the reference, on the reference's routing
budget() {
    local name=$1; shift
    dump cpu exact $COMMON "$@" && dump rounded rounded --routing "$(at exact)" $COMMON "$@" &&
        dump cuda kernel --routing "$(at exact)" $COMMON "$@" || { fail "$name" "$reason"; return; }
    compare "$name$SUFFIX" "$(at exact)" "$(at rounded)" "$(at kernel)"
    rm -rf "$WORK/exact" "$WORK/rounded" "$WORK/kernel"
}

all_budgets() {
    for width in 128 256; do        # two heads: head dims 64 and 128
        local size="--channels $width --heads 2 --seq-len 512 --micro-batch 2" head=D$((width / 2))
        budget "model_cuda_hybrid_kconv3_$head" $size --pattern S64,M64:3 --kconv 3
        budget "model_cuda_hybrid_kconv5_$head" $size --pattern S100,M128:2 --kconv 5
        budget "model_cuda_hybrid_kconv0_$head" $size --pattern S256,M64:8 --kconv 0
        budget "model_cuda_dense_$head"         $size --pattern S64,D
    done
    budget model_cuda_mixed_blocks_ragged --pattern M64:5,M128:2,S64,M64:1 --kconv 3 --seq-len 500 --micro-batch 2
}

# generated PROGRAM NAME [--dense] OPTIONS...: what PROGRAM says in one pass and through the cache of generation is within twice the rounding
# of the reference's one pass. PROGRAM `rounded`: the reference's own cached passes, which is what a machine without a GPU can show.
generated() {
    local program=$1 name=$2 routing kernel=kernel WHAT=generate; shift 2
    routing="--routing $(at exact)"
    if [ "$1" = --dense ]; then routing=--dense; shift; fi
    local options="$COMMON --seq-len 300 --micro-batch 1 $*"
    dump cpu exact ${routing##--routing*} $options && dump rounded rounded $routing $options || { fail "$name" "$reason"; return; }
    if [ "$program" = rounded ]; then kernel=rounded; else dump "$program" kernel $routing $options || { fail "$name" "$reason"; return; }; fi
    WHAT=compare_generated compare "$name$SUFFIX" "$(at exact)" "$(at rounded)" "$(at $kernel)"
    rm -rf "$WORK/exact" "$WORK/rounded" "$WORK/kernel"
}

all_generated() {     # all_generated PROGRAM: the kernels have blocks of 64 and more, and head dims 64 and 128
    generated "$1" "generate_$1_window"     --pattern S64
    generated "$1" "generate_$1_dense"      --pattern D --layers 2
    generated "$1" "generate_$1_moba"       --pattern M64:3 --kconv 3 --layers 2
    generated "$1" "generate_$1_moba_128"   --pattern M128:2 --kconv 5 --layers 2
    generated "$1" "generate_$1_hybrid"     --pattern S64,M64:3,S64,D --kconv 3
    generated "$1" "generate_$1_D128"       --pattern S64,M64:3 --kconv 3 --channels 256
    generated "$1" "generate_$1_dense_moba" --dense --pattern S64,M64:3 --kconv 3 --layers 2
}

gpu=$(nvidia-smi -L > /dev/null 2>&1 && echo yes)
for program in dump_cpu dump_rounded compare generate_cpu generate_rounded compare_generated ${gpu:+dump_cuda generate_cuda}; do
    [ -x "$MODEL/$program" ] || { fail model_programs "$MODEL/$program is not there: make model-dumps"; exit 1; }
done
all_levels cpu
# 66560 rows: the MLP walks them in two chunks
levels cpu model_cpu_two_chunks --pattern S16,M32:2 --layers 3 --channels 16 --heads 2 --mlp 16 --vocab 10 --seq-len 256 --micro-batch 260
all_generated rounded
if [ -n "$gpu" ]; then
    all_generated cuda
    all_levels cuda
    levels cuda model_cuda_two_chunks --pattern S64,M64:3 --layers 3 --seq-len 512 --micro-batch 129
    all_budgets
else
    skip model_cuda_recompute "(needs a GPU)"
    skip model_cuda_budget "(needs a GPU)"
    skip generate_cuda "(needs a GPU)"
fi
[ $failures -eq 0 ]
