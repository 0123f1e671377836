#!/bin/sh
# Flow matching in two processes, with a GPU each or on the CPU, some seconds: eight Gaussians.
#
# Each process takes half of every batch of 512, and their gradients are averaged. The ways from noise to data are the
# shorter, the larger the batch is that pairs are made in: so the noise of both processes is gathered, paired with the
# events of both and dealt out again. On several machines say torchrun's --nnodes and --rdzv-endpoint, not --standalone.
#
#     examples/several_processes.sh [FOLDER [OPTIONS of pyflowk train]]
set -e
out=${1:-runs/several}
[ $# -gt 0 ] && shift
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec "${PYTHON:-python}" -m torch.distributed.run --standalone --nproc-per-node 2 -m pyflowk train flow_matching \
    --data 8gaussians --batch-size 512 --steps 1000 --out "$out" \
    --set pairing=gathered_optimal_transport width=64 depth=2 "$@"
