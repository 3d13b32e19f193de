# Sourced by sanitize_gpu.sh and test_sanitizer.sh: whose report is it?

# functions whose names a report of compute-sanitizer gives, one a line: of kernels, and of what is inlined into them
report_functions() {
    grep '^=========' "$1" | sed -nE 's/.*[[:space:]]at (void )?([A-Za-z_0-9:~]+).*/\2/p' | sort -u
}

LIBRARY_KERNELS='^(cublas|cutlass|nvjet|cudnn|sm[0-9]+_xmma|gemm|gemv|splitK|ncclDevKernel|ncclKernel)'
# what racecheck says of swa_hopper.cuh's bulk copies of scalars, whose readers wait for their mbarrier; to be believed unless it says so of
# test_bulk_copy's as well, which are evidently ordered
BULK_READERS='^(bulk_load|probabilities_by_key|gradients_by_key)$'

# report_kind TOOL FILE: library, if every function named is known as a library's; bulk, if racecheck's bulk copy meets the readers above and
# nobody else; otherwise ours. A report without names is ours, and so is one beside failed cases or errors of the program or the API.
report_kind() {
    local functions
    functions=$(report_functions "$2")
    if [ -z "$functions" ] || grep -qE '^FAIL|Host API|Program hit' "$2"; then echo ours; return; fi
    if ! grep -qvE "$LIBRARY_KERNELS" <<< "$functions"; then echo library; return; fi
    if [ "$1" = racecheck ] && grep -q '^bulk_load$' <<< "$functions" && ! grep -qvE "$BULK_READERS" <<< "$functions"; then echo bulk; return; fi
    echo ours
}
