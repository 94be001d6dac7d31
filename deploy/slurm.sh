#!/bin/bash
# A search on Slurm: a Ray cluster over the nodes of one allocation, and the driver beside its head.
#
#   sbatch deploy/slurm.sh search.toml
#
# Submit it again after a time limit or a preemption: it goes on with the search. Slurm sends SIGTERM two minutes
# before the limit, on which the driver saves what is done, as on Ctrl-C.
#
# Set in your environment: NAS_DB, a PostgreSQL; PGPASSFILE, a file with its password (mode 600); NAS_ARTIFACTS, a
# folder that all nodes see; PATH, with the environment that nas is installed in.
#SBATCH --job-name=nas
#SBATCH --nodes=3
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --mem-per-cpu=2G
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
set -euo pipefail

config=${1:?usage: sbatch deploy/slurm.sh CONFIG}
: "${NAS_DB:?}" "${NAS_ARTIFACTS:?}"
port=6379
folder=$(mktemp --directory "$HOME/.nas-$SLURM_JOB_ID-XXXX")
trap 'rm -rf "$folder"' EXIT

# Whoever reaches the head's port, and has the token, may run code: it is in a file that only you may read.
(umask 077 && od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$folder/token")
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$folder/token RAY_USAGE_STATS_ENABLED=0

nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=$(head -n 1 <<<"$nodes")
address=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address | cut -d' ' -f1)

# The driver shares the first node with the head, which leaves it a core.
srun --nodes=1 --ntasks=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" --nodelist="$head" --overlap \
    ray start --head --block --node-ip-address="$address" --port=$port --include-dashboard=false \
    --num-cpus=$((SLURM_CPUS_PER_TASK - 1)) &
ray=$!
until (exec 3<>"/dev/tcp/$address/$port") 2>/dev/null; do
    kill -0 $ray 2>/dev/null || { echo "error: Ray's head does not start on $head; see above." >&2; exit 1; }
    sleep 1
done

workers=$((SLURM_CPUS_PER_TASK - 1))
if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
    # The other nodes train, and never see the database.
    srun --nodes=$((SLURM_JOB_NUM_NODES - 1)) --ntasks-per-node=1 \
        --cpus-per-task="$SLURM_CPUS_PER_TASK" --exclude="$head" \
        env --unset=NAS_DB --unset=PGPASSFILE --unset=PGPASSWORD \
        ray start --address="$address:$port" --block --num-cpus="$SLURM_CPUS_PER_TASK" &
    workers=$((workers + SLURM_CPUS_PER_TASK * (SLURM_JOB_NUM_NODES - 1)))
fi

nas run "$config" --resume-or-start "$(basename "$config" .toml)" --workers "$workers" \
    --ray-address "$address:$port" &
driver=$!
trap 'kill -TERM $driver' TERM
code=0
wait $driver || code=$?
# A signal ends the first wait; the second is for the driver, which saves what is done.
while kill -0 $driver 2>/dev/null; do wait $driver || code=$?; done
exit $code
