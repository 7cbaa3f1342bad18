#!/usr/bin/env bash
# Train on two machines with eight GPUs each under Slurm:  sbatch slurm.sh train.yaml
# Five minutes before the time limit the run saves a checkpoint and ends, and the job is queued again. The command is the
# same for the first start and for every restart.
#SBATCH --job-name=tiltlm
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=tiltlm-%j.log
set -euo pipefail
config=${1:?name a configuration, such as train.yaml}
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 # a restart by torchrun needs it
# torchrun passes SIGTERM on to its processes and gives them 240 seconds to save.
srun --kill-on-bad-exit=1 torchrun \
  --nnodes="$SLURM_JOB_NUM_NODES" --nproc-per-node="$SLURM_GPUS_ON_NODE" --max-restarts=3 \
  --rdzv-backend=c10d --rdzv-id="$SLURM_JOB_ID" --rdzv-endpoint="$first:29500" --shutdown-timeout=240 \
  -m tiltlm train "$config" --resume-if-exists &
step=$!

stopped=
trap 'stopped=yes; kill -TERM "$step"' TERM
code=0
wait "$step" || code=$?
if [ "$stopped" ]; then
  wait "$step" || true # the first wait ended with the signal, before the step did
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
