#!/usr/bin/env bash
# What sanitize_gpu.sh makes of compute-sanitizer's reports: a library's are those of kernels known as a library's, all others are ours.
# And which program it trains with under which tool, as a compute-sanitizer sees it that only writes a log.
. "$(dirname "$0")/script.sh"
. test/sanitizer_report.sh

# says NAME KIND [TOOL]: the report on stdin, racecheck's if no other tool is named, is of this kind
says() {
    cat > "$WORK/report"
    local found
    found=$(report_kind "${3:-racecheck}" "$WORK/report")
    if [ "$found" = "$2" ]; then ok "sanitizer_$1"; else fail "sanitizer_$1" "'$found', expected '$2' of: $(head -c 300 "$WORK/report" | tr '\n' ' ')"; fi
}

race() {     # race NAME...: a hazard between these functions
    echo "========= COMPUTE-SANITIZER"
    echo "========= Error: Race reported between Write access at $1+0x1b0 in moba.cuh:150"
    shift
    for name in "$@"; do echo "=========     and Read access at $name+0x2c40 in moba.cuh:262 [384 hazards]"; done
    echo "========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)"
}

race 'void nvjet_hsh_64x8_64x16_2x1_v_bz_TNN()' 'nvjet_hsh_64x8_64x16_2x1_v_bz_TNN()' | says a_librarys_report_is_the_librarys library
race 'void cutlass::Kernel2<cutlass_80_wmma>(T1::Params)' 'void cublasLt::splitKreduce_kernel<32>(int)' | says two_kernels_of_libraries_are_a_librarys library
race 'void moba_hopper_merge_kernel<64>(float *)' 'void moba_hopper_merge_kernel<64>(float *)' | says a_kernel_of_ours_is_ours ours
race 'void cutlass::Kernel2<x>(T1::Params)' 'mask_own(float (&)[32], int, int)' | says one_of_ours_beside_a_librarys_is_ours ours
race 'issue_scores(float (&)[32])' 'store_ds(float *)' | says inlined_functions_are_ours ours
race 'something_new(int)' 'something_new(int)' | says an_unknown_name_is_ours ours
race 'bulk_load(void *, const void *, int, unsigned long *)' 'void probabilities_by_key<(int)32>(float (&)[32])' 'void gradients_by_key<(int)32>(float (&)[32])' \
    | says a_bulk_copy_and_its_readers_are_bulk bulk
printf '%s\n' "========= Invalid __shared__ write of size 16 bytes" "=========     at bulk_load(void *, const void *, int, unsigned long *)+0x120 in hopper_ptx.cuh:80" \
    | says a_bulk_copy_out_of_bounds_is_ours ours memcheck
race 'bulk_load(void *, const void *, int, unsigned long *)' 'void mask_by_key<(int)32>(float (&)[32])' | says a_bulk_copy_and_others_are_ours ours
race 'void probabilities_by_key<(int)32>(float (&)[32])' 'void gradients_by_key<(int)32>(float (&)[32])' | says readers_without_a_bulk_copy_are_ours ours
echo "========= ERROR SUMMARY: 3 errors" | says a_report_without_names_is_ours ours
printf '%s\n' "========= Invalid __global__ read of size 4 bytes" "=========     at 0x120 in rope.cu:12:rope_kernel" | says an_address_alone_is_ours ours
{ race 'void nvjet_hsh(int)' 'void nvjet_hsh(int)'; echo "FAIL matmul_by_hand out is 3, expected 4"; } | says a_failed_case_is_ours ours
{ race 'void nvjet_hsh(int)' 'void nvjet_hsh(int)'; echo "========= Program hit cudaErrorInvalidValue (error 1) due to \"invalid argument\""; } | says an_error_of_the_program_is_ours ours

# compute-sanitizer --tool TOOL --error-exitcode 9 --print-limit 20 PROGRAM ... --out DIRECTORY ...
mkdir "$WORK/bin"
cat > "$WORK/bin/compute-sanitizer" << 'END'
#!/usr/bin/env bash
echo "$2 $7" >> "$PROGRAMS"
while [ "$1" != --out ]; do shift; done
mkdir -p "$2"
for step in $STEPS; do echo "{\"kind\":\"step\",\"step\":$step,\"loss\":5.5,\"norm\":1.5,\"lr\":0.001,\"ms\":1}"; done > "$2/log.jsonl"
END
chmod +x "$WORK/bin/compute-sanitizer"

# trains STEPS: sanitize_gpu.sh over training alone, where these steps are logged
trains() { TOOLS= PATH="$WORK/bin:$PATH" PROGRAMS="$WORK/programs" STEPS=$1 test/sanitize_gpu.sh ./train_moba > "$WORK/verdicts" 2>&1; }

trains '1 2 3'; status=$?
programs=$(sort "$WORK/programs" | tr '\n' ' ')
[ "$status $programs" = "0 initcheck build/test/written/train_moba memcheck ./train_moba racecheck ./train_moba " ] \
    && ok sanitizer_gives_initcheck_the_program_with_written_products || fail sanitizer_gives_initcheck_the_program_with_written_products "status $status, $programs"
[ "$(grep -c '^ok .*_training' "$WORK/verdicts")" = 6 ] && ok sanitizer_counts_steps_of_training || fail sanitizer_counts_steps_of_training "$(tr '\n' ';' < "$WORK/verdicts")"
if trains '1 3' || [ "$(grep -c '^FAIL .*_training_skips_no_step' "$WORK/verdicts")" != 3 ]; then
    fail sanitizer_fails_where_a_step_is_skipped "$(tr '\n' ';' < "$WORK/verdicts")"
else
    ok sanitizer_fails_where_a_step_is_skipped
fi

[ $failures -eq 0 ]
