#!/usr/bin/env bash
# What sanitize_gpu.sh makes of compute-sanitizer's reports: a library's are those of kernels known as a library's, all others are ours.
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

[ $failures -eq 0 ]
