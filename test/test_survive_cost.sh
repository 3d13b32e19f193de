#!/usr/bin/env bash
# What surviving costs the device: the pause of a save at 340M, and memory over ten thousand steps (R19): test_survive.py --gpu. Skipped without a GPU.
# alone: a step is timed, and what is in use on the whole device is read
. "$(dirname "$0")/script.sh"

cases=(survive_saves_cost_little survive_many_steps)
if nvidia-smi -L > /dev/null 2>&1; then exec test/test_survive.py --gpu "${cases[@]}"; fi
for case in "${cases[@]}"; do skip "${case}_cuda" "(needs a GPU)"; done
