#!/usr/bin/env bash
# usage: tools/dist_train.sh CONFIG GPUS [OPTIONS]; NNODES, NODE_RANK, MASTER_ADDR, PORT from the environment
set -euo pipefail

CONFIG=${1:?see the usage line at the top}
GPUS=${2:?see the usage line at the top}
NNODES=${NNODES:-1}
NODE_RANK=${NODE_RANK:-0}
PORT=${PORT:-29500}
MASTER_ADDR=${MASTER_ADDR:-"127.0.0.1"}
HERE="$(dirname "$0")"

PYTHONPATH="$HERE/..:${PYTHONPATH:-}" \
torchrun \
    --nnodes="$NNODES" \
    --node_rank="$NODE_RANK" \
    --master_addr="$MASTER_ADDR" \
    --nproc_per_node="$GPUS" \
    --master_port="$PORT" \
    "$HERE/train.py" "$CONFIG" \
    --launcher pytorch "${@:3}"
