#!/usr/bin/env bash
# Train on machines that ssh reaches without a password:  ./ssh.sh train.yaml HOST HOST ...
# Each machine has tiltlm in its PATH and sees this folder under the same name. Ctrl-C saves a checkpoint and ends all.
set -euo pipefail
config=${1:?name a configuration, such as train.yaml}
shift
[ $# -gt 0 ] || {
  echo "name the machines after the configuration" >&2
  exit 2
}
hosts=("$@")
gpus=${GPUS:-8} # on each machine
id=tiltlm-$$
command="cd $(printf %q "$PWD") && exec env TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
  torchrun --nnodes=${#hosts[@]} --nproc-per-node=$gpus --max-restarts=3
  --rdzv-backend=c10d --rdzv-id=$id --rdzv-endpoint=${hosts[0]}:29500 --shutdown-timeout=240
  -m tiltlm train $(printf %q "$config") --resume-if-exists"
command=${command//$'\n'/ }

# shellcheck disable=SC2329 # trap calls it
stop() {
  for host in "${hosts[@]}"; do
    ssh -n "$host" "pkill -TERM -f -- --rdzv-id=$id" || true
  done
}
trap stop INT TERM

steps=()
for host in "${hosts[@]}"; do
  setsid ssh -n "$host" "$command" & # Ctrl-C reaches this script only
  steps+=($!)
done
code=0
for step in "${steps[@]}"; do
  while :; do
    result=0
    wait "$step" || result=$?
    kill -0 "$step" 2>/dev/null || break # it has ended; else a signal has ended only the wait
  done
  [ "$result" -eq 0 ] || code=$result
done
exit "$code"
