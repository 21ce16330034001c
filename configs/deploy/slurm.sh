#!/bin/bash
# One command of Latent Foundry on the nodes that Slurm allots, in a Ray of their own:
#     sbatch --nodes=4 configs/deploy/slurm.sh curate --config laion --set output=/shared/run ...
# from the project's folder, on a disk that every node mounts, with its .venv, or the environment
# that ENVIRONMENT names. The exit code is the command's own. What Slurm stopped goes on by the same
# line; scancel --batch --signal=TERM JOB ends it in order.
#SBATCH --job-name=latent-foundry
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=4
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --no-kill
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
#SBATCH --signal=B:TERM@120
set -euo pipefail
source "${ENVIRONMENT:-.venv}/bin/activate"

# Of this job alone: its ports, its folder on each node (sockets want a short path), its token.
port=$((20000 + 2 * (SLURM_JOB_ID % 5000)))
export RAY_TMPDIR="/tmp/lf-$SLURM_JOB_ID" RAY_USAGE_STATS_ENABLED=0
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN

# The first node runs this script, Ray's head and the command. A lost node ends neither the job nor
# the other workers. Since Slurm 22.05 srun takes no --cpus-per-task over from sbatch.
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
ip=$(python -c 'import ray; print(ray.util.get_node_ip_address())')
on() {  # in the background, where exec leaves srun alone to be stopped
  exec srun --ntasks-per-node=1 "--cpus-per-task=$SLURM_CPUS_PER_TASK" --overlap --no-kill \
    --kill-on-bad-exit=0 "$@" --block --disable-usage-stats "--num-cpus=$SLURM_CPUS_PER_TASK" \
    --object-store-memory=200000000 --min-worker-port=0 --max-worker-port=0 \
    --dashboard-agent-listen-port=0 --dashboard-agent-grpc-port=0 --metrics-export-port=0
}

command=
stop() { # first the command, in order; then Ray
  trap '' TERM INT
  [[ -z $command ]] || { kill -TERM "$command" && wait "$command"; } 2>/dev/null || true
  kill $(jobs -p) 2>/dev/null || true
  wait
}
trap 'stop; exit 143' TERM INT
trap stop EXIT

on --nodes=1 "--nodelist=$head" ray start --head "--node-ip-address=$ip" "--port=$port" \
  "--ray-client-server-port=$((port + 1))" --include-dashboard=false &
until (: <"/dev/tcp/$ip/$port") 2>/dev/null; do
  kill -0 $! 2>/dev/null || { echo "Ray's head did not start" >&2; exit 75; }
  sleep 1
done
if ((SLURM_JOB_NUM_NODES > 1)); then
  on "--nodes=$((SLURM_JOB_NUM_NODES - 1))" "--exclude=$head" ray start "--address=$ip:$port" &
fi

# Nodes that come a little later are taken in; engine.wait_for_resources_s bounds the wait.
RAY_ADDRESS=$ip:$port latent-foundry "$@" &
command=$!
wait "$command"
