#!/usr/bin/env bash
# Make the secrets that are missing, each a file of ./secrets, and leave those that are there: secrets.sh [--production].
# To replace one: change or remove its file, run this, then `./run.sh … up -d --force-recreate`.
set -euo pipefail
cd "$(dirname "$0")"
umask 077
mkdir -p secrets

random() { head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n'; }

# Containers run as other users and read the files themselves; the directory keeps everybody else out.
keep() {
    cat >"secrets/$1"
    chmod 644 "secrets/$1"
    echo "made secrets/$1"
}

if [[ ! -e secrets/engine.toml ]]; then
    printf 'upstream_api_key = "%s"\n' "$(random)" | keep engine.toml
fi
if [[ ! -e secrets/gateway.toml ]]; then
    {
        echo "# The gateways' forebay.toml: any setting may stand here."
        printf 'api_keys = ["sk-%s"]\nadmin_keys = ["sk-%s"]\n' "$(random)" "$(random)"
        cat secrets/engine.toml
    } | keep gateway.toml
fi
[[ -e secrets/hf-token ]] || printf '%s' "${HF_TOKEN:-}" | keep hf-token
[[ -e secrets/grafana-password ]] || random | keep grafana-password
[[ ${1:-} == --production ]] || exit 0

[[ -e secrets/postgres-password ]] || random | keep postgres-password
[[ -e secrets/valkey.conf ]] || printf 'requirepass %s\n' "$(random)" | keep valkey.conf
if ! grep -q '^database_url' secrets/gateway.toml; then
    cat >>secrets/gateway.toml <<TOML
database_url = "postgresql://forebay:$(<secrets/postgres-password)@postgres/forebay"
redis_url = "redis://:$(cut -d' ' -f2 secrets/valkey.conf)@valkey:6379/0"
TOML
    echo "secrets/gateway.toml names the database and Valkey now"
fi
if [[ ! -e secrets/tls.crt ]]; then
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 365 -subj /CN=localhost \
        -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout secrets/tls.key -out secrets/tls.crt 2>/dev/null
    chmod 644 secrets/tls.key secrets/tls.crt
    echo "made secrets/tls.crt, signed by itself, for localhost: put a real certificate and its key in its place"
fi
