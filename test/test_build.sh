#!/usr/bin/env bash
# The build: what needs nvcc compiles where nvcc is, any path will do, nothing is built twice, what is missing is named in a sentence.
. "$(dirname "$0")/script.sh"
unset MAKEFLAGS MFLAGS MAKELEVEL        # these builds are not part of the one that runs the tests

# builds NAME DIRECTORY TARGET...
builds() {
    local name=$1 directory=$2; shift 2
    if make -s -C "$directory" -j"$(nproc)" "$@" > "$WORK/said" 2>&1; then ok "$name"
    else fail "$name" "$(grep -m 1 -iE 'error|warning' "$WORK/said")"; fi
}

if make -s nvcc 2> /dev/null; then
    builds build_cuda_program_compiles    . train_moba
    builds build_cuda_tests_compile       . cuda-tests
    builds build_cuda_benchmarks_compile  . benchmarks
    builds build_cuda_program_for_initcheck_compiles . build/test/written/train_moba
    # (without --wrap it would not link: the wrapper calls __real_cublasLtMatmul)
    wrappers() { nm "$1" | grep -c ' T __wrap_cublasLtMatmul$'; }
    wrapped=$(wrappers build/test/written/train_moba) plain=$(wrappers train_moba)
    [ "$wrapped/$plain" = 1/0 ] && ok build_wraps_products_for_initcheck_alone || fail build_wraps_products_for_initcheck_alone "wrappers: $wrapped there, $plain in train_moba"
else
    skip build_cuda_program_compiles "(needs nvcc)"
    skip build_cuda_tests_compile "(needs nvcc)"
    skip build_cuda_benchmarks_compile "(needs nvcc)"
    skip build_cuda_program_for_initcheck_compiles "(needs nvcc)"
    skip build_wraps_products_for_initcheck_alone "(needs nvcc)"
fi

copy="$WORK/a path with spaces"
mkdir "$copy"
cp -r Makefile train_moba.cu llmc data "$copy"
builds build_in_a_path_with_spaces "$copy" train_moba_cpu tools
touch "$WORK/built"
make -s -C "$copy" train_moba_cpu tools > "$WORK/said" 2>&1
changed=$(find "$copy" -type f -newer "$WORK/built" | head -n 3 | tr '\n' ' ')
if [ -x "$copy/train_moba_cpu" ] && [ -z "$changed" ]; then ok build_again_does_nothing; else fail build_again_does_nothing "made anew: $changed"; fi

# make's own exit status is 2, whatever the recipe's was
expect build_without_nvcc_says_so      2 'needs nvcc'              make -s -C "$copy" train_moba NVCC=
expect build_test_of_no_op_says_so     2 'no test/test_nothing\.cu' make -s test OP=nothing
expect build_bench_without_a_gpu_says_so 2 'needs a GPU' make -s bench HAS_GPU=

[ $failures -eq 0 ]
