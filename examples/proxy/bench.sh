#!/usr/bin/env bash
# Hits of this proxy beside those of nginx (proxy_cache) and Varnish: one object of 8 KB, from one origin, under one load, on one core, in turns.
#
# It needs nginx, varnishd, wrk, curl and taskset, and two cores: one serves, the other asks. Nothing that it starts outlives it.
#
#   ROUNDS=5 SECONDS_EACH=5 CONNECTIONS=64 examples/proxy/bench.sh
#
# PROXY names a proxy that is built already.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
PATH=$PATH:/usr/sbin

rounds=${ROUNDS:-5}
seconds=${SECONDS_EACH:-5}
connections=${CONNECTIONS:-64}
serving=0
asking=1

for tool in nginx varnishd wrk curl taskset; do
    command -v "$tool" >/dev/null || { echo "bench.sh: $tool is missing" >&2; exit 1; }
done
proxy=${PROXY:-}
if [[ ! $proxy ]]; then
    cargo build --quiet --release --locked --all-features --example proxy
    proxy=$(cargo metadata --no-deps --format-version 1 | python3 -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')/release/examples/proxy
fi

scratch=$(mktemp -d)
chmod 755 "$scratch"
started=()
end() {
    ((${#started[@]} == 0)) || kill "${started[@]}" 2>/dev/null || true
    wait 2>/dev/null || true
    rm -rf "$scratch"
}
trap end EXIT

read -r -a ports <<<"$(python3 -c '
import socket
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(4)]
print(*(socket.getsockname()[1] for socket in sockets))')"
declare -A port=([origin]=${ports[0]} [nginx]=${ports[1]} [varnish]=${ports[2]} [proxy]=${ports[3]})

# Starts something on a core of its own.
start() {
    local core=$1
    shift
    taskset --cpu-list "$core" "$@" >"$scratch/log" 2>&1 </dev/null &
    started+=($!)
}

# nginx in a directory of its own, with what stands in its http block.
nginx_with() {
    local core=$1 directory=$scratch/$2
    mkdir -p "$directory"
    cat >"$directory/nginx.conf" <<CONF
daemon off; master_process off; pid $directory/pid; error_log $directory/error.log;
events { worker_connections 1024; }
http {
    client_body_temp_path $directory/body; fastcgi_temp_path $directory/fastcgi; uwsgi_temp_path $directory/uwsgi; scgi_temp_path $directory/scgi;
    proxy_temp_path $directory/proxy;
    access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000000;
    $3
}
CONF
    start "$core" nginx -p "$directory" -c "$directory/nginx.conf"
}

mkdir "$scratch/files"
head -c 8192 /dev/urandom >"$scratch/files/object"
nginx_with "$asking" origin "server { listen 127.0.0.1:${port[origin]}; root $scratch/files; add_header Cache-Control max-age=86400; }"
nginx_with "$serving" nginx "proxy_cache_path $scratch/cache keys_zone=objects:10m; open_file_cache max=100;
    server { listen 127.0.0.1:${port[nginx]}; location / { proxy_pass http://127.0.0.1:${port[origin]}; proxy_cache objects; } }"
start "$serving" varnishd -F -a "127.0.0.1:${port[varnish]}" -b "127.0.0.1:${port[origin]}" -s malloc,64m -n "$scratch/varnish"
start "$serving" "$proxy" --listen "127.0.0.1:${port[proxy]}" --origin "http://127.0.0.1:${port[origin]}" --rfc

servers=(nginx varnish proxy)
url() { echo "http://127.0.0.1:${port[$1]}/object"; }
for server in origin "${servers[@]}"; do
    # Twice: once to be there, once more to have it.
    for _ in 1 2; do
        curl --silent --show-error --fail --max-time 20 --retry 100 --retry-connrefused --retry-delay 1 --output "$scratch/got" "$(url "$server")"
        cmp "$scratch/got" "$scratch/files/object"
    done
done

for ((round = 1; round <= rounds; round++)); do
    for server in "${servers[@]}"; do
        taskset --cpu-list "$asking" wrk --threads 1 --connections "$connections" --duration "${seconds}s" --latency "$(url "$server")" >"$scratch/run"
        if grep -qE 'Non-2xx|Socket errors' "$scratch/run"; then
            cat "$scratch/run" >&2
            exit 1
        fi
        awk -v server="$server" '/Requests\/sec/ {rate = $2} $1 == "50%" {half = $2} $1 == "99%" {most = $2} END {print server, rate, half, most}' \
            "$scratch/run" | tee -a "$scratch/results" >&2
    done
done

python3 - "$scratch/results" "$rounds" "$seconds" "$connections" <<'PYTHON'
import statistics, sys

path, rounds, seconds, connections = sys.argv[1:]
runs = {}
for line in open(path):
    server, rate, half, most = line.split()
    runs.setdefault(server, []).append((float(rate), half, most))
print(f"{rounds} rounds of {seconds} s, {connections} connections\n")
print("| | hits per second, median (least to most) | to nginx | to Varnish | latency of the median round: half, 99 % |\n|---|---|---|---|---|")
median = {server: statistics.median(rate for rate, _, _ in of) for server, of in runs.items()}
names = {"nginx": "nginx `proxy_cache`", "varnish": "Varnish", "proxy": "this proxy"}
for server, of in runs.items():
    rates = sorted(of)
    _, half, most = rates[len(rates) // 2]
    ratio = lambda other: f"{median[server] / median[other]:.2f}x"
    print(f"| {names[server]} | {median[server]:,.0f} ({rates[0][0]:,.0f} to {rates[-1][0]:,.0f}) | {ratio('nginx')} | {ratio('varnish')} | {half}, {most} |")
PYTHON
