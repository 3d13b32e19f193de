#!/usr/bin/env bash
# Several GPUs, on one host or many, started by Open MPI. MPI only starts the processes and lets them meet; NCCL joins the GPUs.
#
#   GPUS=8 scripts/multi_node/mpirun.sh ./train_moba --preset 340M ...                        one host
#   HOSTS=node1:8,node2:8 GPUS=16 scripts/multi_node/mpirun.sh ./train_moba ...               two; the same paths on both, ssh without password
#
# Stop it with `kill -USR1` of mpirun, which passes it on: all ranks save and exit 75. A SIGTERM to mpirun ends the ranks before they can.
# The train data, --out and the program must be on a file system that all hosts share.
set -eu
root=$([ "$(id -u)" = 0 ] && echo --allow-run-as-root || true)
# --bind-to none: the data reader, the checkpoint writer and the watchdog of a rank are threads beside the one that drives the GPU
# -x: what NCCL is to know goes to all hosts, e.g. NCCL_SOCKET_IFNAME, NCCL_IB_HCA, NCCL_NVLS_ENABLE
nccl=$(env | sed -n 's/^\(NCCL_[A-Z_0-9]*\)=.*/-x \1/p')
# shellcheck disable=SC2086
exec mpirun $root -np "${GPUS:?how many GPUs in all}" ${HOSTS:+--host "$HOSTS"} --bind-to none -x PATH -x LD_LIBRARY_PATH $nccl "$@" --init mpi
