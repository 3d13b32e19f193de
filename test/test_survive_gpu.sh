#!/usr/bin/env bash
# What a run must survive, with the CUDA program (R1, R2, R6, R12, R14): test_survive.py --gpu. Skipped without a GPU.
. "$(dirname "$0")/script.sh"

cases=(survive_resume_to_the_bit survive_kill_9 survive_signals survive_second_signal survive_full_disk survive_nan)
if nvidia-smi -L > /dev/null 2>&1; then exec test/test_survive.py --gpu "${cases[@]}"; fi
for case in "${cases[@]}"; do skip "${case}_cuda" "(needs a GPU)"; done
