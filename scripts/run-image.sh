#!/usr/bin/env bash
# Run the gateway's image, as it runs in production, read-only and without capabilities, in front of running engines:
# run-image.sh DOCKER IMAGE UPSTREAM PORT [ARGUMENT …]. Callers' keys are read from API_KEYS, the engines' from
# FOREBAY_UPSTREAM_API_KEY; both are passed on by name. An engine on this host is at host.docker.internal.
set -euo pipefail
source "$(dirname "$0")/say.sh"

docker=$1 image=$2 upstream=$3 port=$4
shift 4
command -v "$docker" >/dev/null || die "there is no $docker; install it, or name another with DOCKER=podman"
[[ -n $upstream ]] || die "say where an engine is, as UPSTREAM=http://host.docker.internal:8001"
[[ -n ${API_KEYS:-} ]] || die "set API_KEYS to the keys that callers shall have, comma-separated"
"$docker" image inspect "$image" >/dev/null 2>&1 || die "there is no image $image; make docker-build builds it"
exec "$docker" run --rm --name forebay-gateway --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges \
    --add-host host.docker.internal:host-gateway --publish "127.0.0.1:$port:8000" \
    --env API_KEYS --env FOREBAY_UPSTREAM_API_KEY --env "FOREBAY_UPSTREAM=$upstream" "$image" gateway "$@"
