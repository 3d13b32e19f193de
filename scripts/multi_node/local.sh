#!/usr/bin/env bash
# Several GPUs of one host, without mpirun or Slurm: a process a GPU, meeting on a port of this host.
#
#   scripts/multi_node/local.sh 8 ./train_moba --preset 340M ...
#
# SIGTERM, SIGINT and SIGUSR1 go to all of them: they save and exit 75. The status is that of the first process that did not end with 0; what
# is left GRACE seconds later (more than --timeout, in which the others notice by themselves) is killed: nothing stays behind.
set -u
case "${1:-}" in ''|0*|*[!0-9]*) set -- ;; esac          # without a number nothing would be started, and that would be status 0
[ $# -ge 2 ] || { echo "usage: $0 RANKS PROGRAM OPTIONS..." >&2; exit 64; }
ranks=$1; shift
GRACE=${GRACE:-660}
meet=${MEET:-127.0.0.1:$((20000 + RANDOM % 12000))}

pids=()
for rank in $(seq 0 $((ranks - 1))); do
    "$@" --init tcp --meet "$meet" --ranks "$ranks" --rank "$rank" &
    pids+=($!)
done
for signal in TERM INT USR1; do trap 'kill -'$signal' "${pids[@]}" 2> /dev/null' $signal; done
trap 'kill -9 "${pids[@]}" 2> /dev/null' EXIT

status=0 left=$ranks deadline=0
while [ "$left" -gt 0 ]; do
    left=0
    for i in "${!pids[@]}"; do
        if kill -0 "${pids[$i]}" 2> /dev/null; then left=$((left + 1)); continue; fi
        wait "${pids[$i]}"; ended=$?
        unset "pids[$i]"
        if [ $ended -ne 0 ] && [ $status -eq 0 ]; then status=$ended; deadline=$((SECONDS + GRACE)); fi
    done
    if [ $deadline -gt 0 ] && [ $SECONDS -ge $deadline ]; then break; fi
    [ "$left" -gt 0 ] && sleep 0.2
done
exit $status
