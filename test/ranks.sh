# What test_ranks.sh and test_ranks_faults.sh share: a micro run on several ranks of the CPU program over MPI, and questions about it. Sourced.
. "$(dirname "$0")/script.sh"
export OMP_NUM_THREADS=1
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_btl_vader_single_copy_mechanism=none OMPI_MCA_mpi_yield_when_idle=1
HOOKS=build/test/hooks/train_moba_cpu
make_shard "$WORK/text.bin"
MICRO=(--train-data "$WORK/text.bin" --layers 2 --channels 16 --heads 2 --mlp 16 --pattern "S16,M16:2" --seq-len 64 --micro-batch 1
       --total-batch 1536 --lr 0.003 --steps 50 --save-every 0)

check() { local name=$1; shift; if "$@"; then ok "$name"; else fail "$name" "'$*' fails: $(tail -n 1 "$WORK/err" 2> /dev/null)"; fi; }
have_mpi() { command -v mpirun > /dev/null && "$PROGRAM" --dry-run --init mpi > /dev/null 2>&1; }
ranks() {   # ranks N OUT OPTIONS...: the micro run on N ranks; what it prints is in $WORK/console and $WORK/err
    local n=$1 out=$2; shift 2
    timeout -k 5 120 mpirun -n "$n" "$HOOKS" "${MICRO[@]}" --out "$out" "$@" > "$WORK/console" 2> "$WORK/err"
}
curve()     { columns "$1" | cut -d ' ' -f 2; }
near()      { [ "$(curve "$1" | wc -l)" = "$3" ] && [ "$(curve "$2" | wc -l)" = "$3" ] &&
              paste <(curve "$1") <(curve "$2") | awk '{ d = ($1 - $2) / $2; if (d < 0) { d = -d } if (!(d <= 1e-4)) { bad = 1 } } END { exit bad }'; }
identical() { [ "$(columns "$1" | wc -l)" = "$3" ] && cmp -s <(columns "$1") <(columns "$2"); }
step()      { printf '%s/checkpoints/step_%08d' "$1" "$2"; }
same()      { build/model/compare "$1" "$2" "$3" || failures=$((failures + 1)); }
nobody()    { for _ in $(seq 50); do pgrep -f "^$HOOKS.*$WORK" > /dev/null || return 0; sleep 0.1; done; return 1; }
resumed()   { grep -qE "^resuming +from .*/step_0*$1\$" "$WORK/console" && grep -q "^finished at step" "$WORK/console"; }
words()     { grep -qE "$1" "$WORK/err"; }
