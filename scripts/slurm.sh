#!/usr/bin/env bash
# Train under Slurm on any number of nodes: sbatch --nodes=4 --gpus-per-node=8 scripts/slurm.sh CONFIG [key=value ...]
#
# One task per GPU. Two minutes before the time limit, or at pre-emption, every task gets SIGUSR1: training ends at the
# next step, saves, and asks Slurm to start the job again; the same command then goes on from the checkpoint. For
# pre-emption by SIGTERM it saves and ends with status 143, and --requeue starts it again.
#
#SBATCH --job-name=hybrid
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=SIGUSR1@120
#SBATCH --output=%x-%j.out
#SBATCH --time=24:00:00
set -euo pipefail

usage="usage: sbatch --nodes=N --gpus-per-node=G scripts/slurm.sh CONFIG [key=value ...]; options of sbatch come first"
if [ $# -lt 1 ]; then
    echo "$usage" >&2
    exit 2
fi
if [ -z "${SLURM_JOB_ID:-}" ]; then
    echo "slurm.sh: this is no Slurm job; $usage" >&2
    exit 2
fi
nodes=${SLURM_JOB_NUM_NODES:-1}
# What Slurm was asked for per node: GPUs, or else tasks.
devices=${SLURM_GPUS_ON_NODE:-${SLURM_NTASKS_PER_NODE:-1}}
cpus=$((${SLURM_CPUS_ON_NODE:-$devices} / devices))
MASTER_ADDR=$(scontrol show hostnames "${SLURM_JOB_NODELIST:-localhost}" | sed -n 1p)
MASTER_PORT=$((15000 + SLURM_JOB_ID % 20000)) # a job's own, the same on every node
OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cpus > 0 ? cpus : 1))}
export MASTER_ADDR MASTER_PORT OMP_NUM_THREADS
export TORCH_NCCL_ASYNC_ERROR_HANDLING=1 # a lost rank is an error within train.timeout, not a hang

# A task that dies ends the others. srun passes signals on; waiting in the background lets bash notice them too.
trap 'true' USR1
srun --nodes="$nodes" --ntasks-per-node="$devices" --kill-on-bad-exit=1 \
    "${HYBRID:-hybrid}" train "$@" train.devices="$devices" train.num_nodes="$nodes" --no-progress &
status=0
while :; do
    wait $! && status=0 || status=$?
    kill -0 $! 2>/dev/null || break # else a signal ended the wait, not the job step
done
exit "$status"
