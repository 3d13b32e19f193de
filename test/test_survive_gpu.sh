#!/usr/bin/env bash
# What a run must survive, with the CUDA program (R1, R2, R6, R12, R14, R19, and what a save costs at 340M): test_survive.py --gpu. Skipped without a GPU.
# alone: a save's cost is compared with a step's time
. "$(dirname "$0")/script.sh"

cases=(saves_cost resume_to_the_bit kill_9 signals second_signal full_disk survive_nan many_steps)
if ! nvidia-smi -L > /dev/null 2>&1; then
    for case in "${cases[@]}"; do skip "survive_${case#survive_}_cuda" "(needs a GPU)"; done
    exit 0
fi
exec test/test_survive.py --gpu "${cases[@]}"
