#!/usr/bin/env bash
# usage: tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [OPTIONS]; GPUS, GPUS_PER_NODE, CPUS_PER_TASK, SRUN_ARGS from the environment
set -euo pipefail

PARTITION=${1:?see the usage line at the top}
JOB_NAME=${2:?see the usage line at the top}
CONFIG=${3:?see the usage line at the top}
WORK_DIR=${4:?see the usage line at the top}
GPUS=${GPUS:-8}
GPUS_PER_NODE=${GPUS_PER_NODE:-8}
CPUS_PER_TASK=${CPUS_PER_TASK:-5}
SRUN_ARGS=${SRUN_ARGS:-""}
HERE="$(dirname "$0")"

# SRUN_ARGS holds several arguments: left to word splitting on purpose
# shellcheck disable=SC2086
PYTHONPATH="$HERE/..:${PYTHONPATH:-}" \
srun -p "$PARTITION" \
    --job-name="$JOB_NAME" \
    --gres="gpu:$GPUS_PER_NODE" \
    --ntasks="$GPUS" \
    --ntasks-per-node="$GPUS_PER_NODE" \
    --cpus-per-task="$CPUS_PER_TASK" \
    --kill-on-bad-exit=1 \
    $SRUN_ARGS \
    python -u "$HERE/train.py" "$CONFIG" --work-dir="$WORK_DIR" --launcher="slurm" "${@:5}"
