#!/usr/bin/env bash
# A real cluster on one machine: a Ray head, nodes that each are a `ray start` of their own, and a PostgreSQL.
#
#   eval "$(scripts/local_cluster.sh up 3)"     starts what does not run; prints what to export
#   scripts/local_cluster.sh cut 2              takes node 2 off the network; `join 2` brings it back
#   scripts/local_cluster.sh kill 2             kills node 2, all at once, or `kill head`; `up` starts it again
#   scripts/local_cluster.sh database stop      stops PostgreSQL, `database crash` kills it; `database start`
#   scripts/local_cluster.sh down               ends everything, and deletes it
#
# As root on Linux each node has a network namespace of its own, so that it can be cut off, and a host name, node1
# and so on. Elsewhere nodes are processes of one host. Ray takes token authentication, PostgreSQL a password; both lie in files.
#
# NAS_CLUSTER_DIR      folder of everything (/tmp/nas-cluster); its path has at most 30 characters
# NAS_CLUSTER_CPUS     cores that each node offers (1)
# NAS_CLUSTER_DB       URL of a database to use, in place of a PostgreSQL of its own
# NAS_CLUSTER_PORT     of the head (6380); the Jobs API is at NAS_CLUSTER_JOBS_PORT (8266), PostgreSQL at
#                      NAS_CLUSTER_DB_PORT (5434)
# NAS_CLUSTER_SUBNET   of the nodes (10.89.77)
set -euo pipefail

dir=${NAS_CLUSTER_DIR:-/tmp/nas-cluster}
cpus=${NAS_CLUSTER_CPUS:-1}
port=${NAS_CLUSTER_PORT:-6380}
jobs_port=${NAS_CLUSTER_JOBS_PORT:-8266}
db_port=${NAS_CLUSTER_DB_PORT:-5434}
subnet=${NAS_CLUSTER_SUBNET:-10.89.77}
tag=nas-$(cksum <<<"$dir" | cut -c1-4) # so that several clusters do not meet
bridge=$tag-b
marker=NAS_LOCAL_CLUSTER=$dir
store_bytes=100000000
tries=5

say() { printf '%s\n' "$*" >&2; }
fail() { say "error: $*"; exit 1; }

lives() { # PIDFILE
    [ -s "$1" ] && kill -0 "$(cat "$1")" 2>/dev/null
}

started_with() { # NAME=VALUE : every process that was started with this, and what these started
    grep --files-with-matches --no-messages --null-data --line-regexp --fixed-strings "$1" /proc/[0-9]*/environ \
        | cut -d/ -f3
}

finish_all() { # NAME=VALUE
    local found
    mapfile -t found < <(started_with "$1")
    finish "${found[@]}"
}

finish() { # PID… : first kindly, then not
    [ $# -gt 0 ] || return 0
    kill -TERM "$@" 2>/dev/null || true
    for _ in $(seq 50); do
        kill -0 "$@" 2>/dev/null || return 0
        sleep 0.1
    done
    kill -KILL "$@" 2>/dev/null || true
}

in_background() { # NAME COMMAND…
    local name=$1
    shift
    env "$marker" "NAS_LOCAL_PART=$dir/$name" "${environment[@]}" setsid "$@" >"$dir/logs/$name.log" 2>&1 </dev/null &
    echo $! >"$dir/$name.pid"
}

# The network

namespaces() { # whether nodes have their own
    [ -e "$dir/namespaces" ]
}

make_network() {
    [ "$(uname)" = Linux ] && [ "$(id -u)" = 0 ] && command -v ip >/dev/null || return 1
    if ! ip link show "$bridge" >/dev/null 2>&1; then
        ip link add "$bridge" type bridge 2>/dev/null || return 1
        ip address add "$subnet.1/24" dev "$bridge"
        ip link set "$bridge" up
    fi
    if ! ip netns add "$tag-probe" 2>/dev/null; then
        ip link delete "$bridge"
        return 1
    fi
    ip netns delete "$tag-probe"
}

make_space() { # NODE
    local space=$tag-node$1
    ip netns add "$space"
    ip link add "$tag-v$1" type veth peer name eth0 netns "$space"
    ip -n "$space" link set lo up
    ip -n "$space" address add "$subnet.$((10 + $1))/24" dev eth0
    ip -n "$space" link set eth0 up
}

# The database

postgres_bin() {
    local found
    for found in "$(command -v initdb || true)" /usr/lib/postgresql/*/bin/initdb /usr/pgsql-*/bin/initdb; do
        [ -x "$found" ] && dirname "$(readlink -f "$found")" && return
    done
    return 1
}

as_owner() { # PostgreSQL does not run as root
    if [ "$(id -u)" = 0 ]; then runuser -u postgres -- env "$marker" "$@"; else env "$marker" "$@"; fi
}

start_database() {
    [ -z "${NAS_CLUSTER_DB:-}" ] || return 0
    local bin data=$dir/postgres
    bin=$(postgres_bin) || fail "PostgreSQL's initdb is not here: install PostgreSQL, or set NAS_CLUSTER_DB to a URL."
    if [ ! -e "$data/PG_VERSION" ]; then
        say "Making a PostgreSQL database in $data…"
        install -d -m 700 "$data"
        local secret
        secret=$(random 16)
        (umask 077 && echo "$secret" >"$dir/password" && echo "127.0.0.1:$db_port:*:nas:$secret" >"$dir/pgpass")
        if [ "$(id -u)" = 0 ]; then chown postgres "$data" "$dir/password"; fi
        as_owner "$bin/initdb" -D "$data" -U nas --auth=scram-sha-256 --pwfile="$dir/password" -E UTF8 --locale=C \
            >"$dir/logs/initdb.log"
        rm "$dir/password"
    fi
    as_owner "$bin/pg_ctl" -D "$data" status >/dev/null 2>&1 && return
    touch "$dir/logs/postgres.log"
    if [ "$(id -u)" = 0 ]; then chown postgres "$dir/logs/postgres.log"; fi
    as_owner "$bin/pg_ctl" -D "$data" -w -l "$dir/logs/postgres.log" \
        -o "-h 127.0.0.1 -p $db_port -k $data" start >/dev/null \
        || fail "PostgreSQL does not start: $(tail -n 2 "$dir/logs/postgres.log" | tr '\n' ' ')See $dir/logs/postgres.log."
    if ! PGPASSFILE=$dir/pgpass "$bin/psql" -h 127.0.0.1 -p "$db_port" -U nas -d nas -c '' 2>/dev/null; then
        PGPASSFILE=$dir/pgpass "$bin/createdb" -h 127.0.0.1 -p "$db_port" -U nas nas
    fi
}

stop_database() { # fast|immediate
    local bin
    [ -e "$dir/postgres/postmaster.pid" ] && bin=$(postgres_bin) || return 0
    as_owner "$bin/pg_ctl" -D "$dir/postgres" -m "$1" -w stop >/dev/null || true
}

database() { # start|stop|crash
    [ -e "$dir/postgres" ] || fail "NAS_CLUSTER_DIR=$dir has no PostgreSQL of its own."
    case ${1:-} in
        start) start_database ;;
        stop) stop_database fast ;;
        crash) stop_database immediate ;;
        *) fail "${1:-}: expected start, stop or crash." ;;
    esac
}

# Ray

random() { od -An -N"$1" -tx1 /dev/urandom | tr -d ' \n'; }

describe() { # what a driver needs, and the head for the drivers that are submitted to it
    environment=(
        RAY_ADDRESS="$head:$port"
        RAY_API_SERVER_ADDRESS="http://127.0.0.1:$jobs_port"
        RAY_AUTH_MODE=token
        RAY_AUTH_TOKEN_PATH="$dir/token"
        RAY_USAGE_STATS_ENABLED=0
        NAS_ARTIFACTS="$dir/artifacts"
    )
    if [ -n "${NAS_CLUSTER_DB:-}" ]; then
        environment+=(NAS_DB="$NAS_CLUSTER_DB")
    else
        environment+=(NAS_DB="postgresql+psycopg://nas@127.0.0.1:$db_port/nas" PGPASSFILE="$dir/pgpass")
    fi
}

own_ports() { # NODE : fixed, so that no part of a node waits for another to tell its own
    local first=$((jobs_port + 100 + 10 * $1))
    echo --node-manager-port=$first --object-manager-port=$((first + 1)) --metrics-export-port=$((first + 2)) \
        --dashboard-agent-grpc-port=$((first + 3)) --dashboard-agent-listen-port=$((first + 4)) \
        --runtime-env-agent-port=$((first + 5))
}

start_head() {
    lives "$dir/head.pid" && return
    say "Starting the head at $head:$port…"
    start head env -u RAY_ADDRESS -u RAY_API_SERVER_ADDRESS ray start --head --block \
        --node-ip-address="$head" --port="$port" --dashboard-host=127.0.0.1 --dashboard-port="$jobs_port" \
        --num-cpus=0 --object-store-memory=$store_bytes --temp-dir="$dir/ray" --node-name=head $(own_ports 0)
}

start_node() { # NODE
    lives "$dir/node$1.pid" && return
    say "Starting node $1…"
    local own=(--node-ip-address="$head") before=()
    if namespaces; then
        ip netns list | grep -qw "$tag-node$1" || make_space "$1"
        ip link set "$tag-v$1" master "$bridge" up # a space that another cluster left has lost its bridge
        own=(--node-ip-address="$subnet.$((10 + $1))")
        before=(ip netns exec "$tag-node$1" unshare --uts bash -c 'hostname "$0" && exec "$@"' "node$1")
    fi
    # A node holds no password of the database: drivers alone write it.
    local environment=(RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$dir/token" RAY_USAGE_STATS_ENABLED=0)
    start "node$1" env -u RAY_ADDRESS -u NAS_DB -u PGPASSFILE -u PGPASSWORD "${before[@]}" \
        ray start --address="$head:$port" --block "${own[@]}" --num-cpus="$cpus" \
        --object-store-memory=$store_bytes --temp-dir="$dir/ray$1" --node-name="node$1" $(own_ports "$1")
}

start() { # NAME COMMAND… : again if need be, for on a busy machine Ray gives itself too little time
    local name=$1
    for _ in $(seq $tries); do
        in_background "$@"
        while lives "$dir/$name.pid"; do
            if grep -q 'Ray runtime started' "$dir/logs/$name.log"; then return; fi
            sleep 0.2
        done
        finish_all "NAS_LOCAL_PART=$dir/$name"
    done
    rm -f "$dir/$name.pid"
    fail "$name does not start; see $dir/logs/$name.log."
}

stop_node() { # NODE
    finish_all "NAS_LOCAL_PART=$dir/node$1"
    rm -f "$dir/node$1.pid"
    if namespaces; then
        ip netns delete "$tag-node$1" 2>/dev/null || true
        ip link delete "$tag-v$1" 2>/dev/null || true
    fi
}

kill_part() { # NODE|head
    local part=${1:?expected the number of a node, or head} found
    [ "$part" = head ] || part=node$part
    mapfile -t found < <(started_with "NAS_LOCAL_PART=$dir/$part")
    [ ${#found[@]} -eq 0 ] || kill -KILL "${found[@]}" 2>/dev/null || true
    [ "$part" = head ] || rm -f "$dir/$part.pid"
}

node_numbers() { # those there are
    find "$dir" -maxdepth 1 -name 'node*.pid' -printf '%f\n' 2>/dev/null | tr -dc '0-9\n' | sort -n
}

up() {
    local nodes=$1
    [[ $nodes =~ ^[1-9][0-9]?$ ]] || fail "$nodes: expected a number of nodes, from 1 to 99."
    [ ${#dir} -le 30 ] || fail "NAS_CLUSTER_DIR=$dir: Ray's sockets do not fit; give a path of at most 30 characters."
    command -v ray >/dev/null || fail "ray is not on the PATH: activate the environment that nas is installed in."
    python -c 'import aiohttp, aiohttp_cors, opencensus' 2>/dev/null \
        || say "warning: without \`pip install 'nas-service[cluster]'\` there is no Jobs API, and no \`nas submit\`."
    if [ -e "$dir/head.pid" ] && ! lives "$dir/head.pid"; then # its nodes go with it; the database stays
        for number in $(node_numbers); do stop_node "$number"; done
        finish_all "NAS_LOCAL_PART=$dir/head"
        rm "$dir/head.pid"
    fi
    [ -e "$dir/token" ] || [ -z "$(ls -A "$dir" 2>/dev/null)" ] \
        || fail "NAS_CLUSTER_DIR=$dir has files that are of no local cluster, and \`down\` would delete them: name a new folder."
    install -d "$dir/logs" "$dir/artifacts"
    [ -s "$dir/token" ] || (umask 077 && random 32 >"$dir/token")
    if [ ! -e "$dir/head.pid" ]; then
        if make_network; then
            touch "$dir/namespaces"
        else
            say "Nodes are plain processes, which cannot be cut off: that takes root on Linux, and \`ip\`."
        fi
    fi
    head=127.0.0.1
    if namespaces; then head=$subnet.1; fi
    start_database
    describe
    start_head
    for number in $(node_numbers); do
        [ "$number" -le "$nodes" ] || stop_node "$number"
    done
    for number in $(seq "$nodes"); do start_node "$number"; done
    say "The cluster is up: a head, $nodes nodes of $cpus cores each; its logs are in $dir/logs."
    printf 'export %q\n' "${environment[@]}"
}

down() {
    [ -e "$dir" ] || return 0
    [ -e "$dir/token" ] || fail "NAS_CLUSTER_DIR=$dir is not of a local cluster; nothing was deleted."
    for number in $(node_numbers); do stop_node "$number"; done
    stop_database fast
    finish_all "$marker"
    if namespaces; then ip link delete "$bridge" 2>/dev/null || true; fi
    rm -rf "$dir"
    say "The cluster is down; nothing of it is left."
}

link() { # NODE up|down
    namespaces || fail "Nodes are plain processes here, which cannot be cut off."
    ip link set "$tag-v${1:?expected the number of a node}" "$2"
}

case ${1:-} in
    up) up "${2:-2}" ;;
    down) down ;;
    cut) link "${2:-}" down ;;
    join) link "${2:-}" up ;;
    kill) kill_part "${2:-}" ;;
    database) database "${2:-}" ;;
    *) sed -n '2,/^set /s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
