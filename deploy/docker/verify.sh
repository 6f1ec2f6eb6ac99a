#!/usr/bin/env bash
# Build the gateway's image and try it, with no Docker and no registry: verify.sh [DIRECTORY]. Needs root and
# `apt-get install buildah podman runc netavark conmon mmdebstrap`; takes two minutes and 2 GB in DIRECTORY.
#
# The base is Debian's own Python, unpacked by mmdebstrap, in place of the one that the Dockerfile names; PYTHON_IMAGE
# names another. The container then runs as in production: uid 10001, read-only root, no capabilities.
set -euo pipefail
cd "$(dirname "$0")/../.."

work=$(mkdir -p "${1:-/tmp/forebay-images}" && cd "${1:-/tmp/forebay-images}" && pwd)
store=(--root "$work/store" --runroot "$work/run" --storage-driver overlay)
export BUILDAH_ISOLATION=chroot CONTAINERS_CONF=$work/containers.conf
cat >"$CONTAINERS_CONF" <<'CONF'
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
log_driver = "k8s-file"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
CONF

step() { printf '[%3d s] %s\n' "$SECONDS" "$*"; }
buildah() { command buildah "${store[@]}" "$@"; }
podman() { command podman "${store[@]}" "$@"; }
fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

if [[ -z ${PYTHON_IMAGE:-} ]]; then
    PYTHON_IMAGE=localhost/debian-python
    if ! buildah inspect --type image "$PYTHON_IMAGE" >/dev/null 2>&1; then
        step "unpacking Debian's Python"
        mmdebstrap --quiet --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$work/base.tar"
        container=$(buildah from scratch)
        buildah add --quiet "$container" "$work/base.tar" / >/dev/null
        buildah commit --quiet --rm "$container" "$PYTHON_IMAGE" >/dev/null
    fi
fi

step "building"
# What pip is told on this machine (an index, a certificate) holds while building, and is not in the image.
mounts=() settings=()
for file in /etc/pip.conf /etc/ssl/certs/ca-certificates.crt; do
    [[ -e $file ]] && mounts+=(--volume "$file:$file:ro")
done
for name in PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_TRUSTED_HOST PIP_CERT; do
    [[ -n ${!name:-} ]] && settings+=(--env "$name=${!name}")
done
buildah build --quiet --format docker "${mounts[@]}" "${settings[@]}" --build-arg "PYTHON_IMAGE=$PYTHON_IMAGE" \
    --file deploy/docker/gateway.Dockerfile --tag localhost/forebay-gateway . >/dev/null

step "sizes"
podman save --quiet --format oci-archive localhost/forebay-gateway | gzip -1 | wc -c |
    awk '{printf "  to download, with the base: %.0f MB\n", $1 / 1e6}'
podman image history --format '{{.Size}}\t{{.CreatedBy}}' localhost/forebay-gateway | cut -c1-100 | grep -v '^0B' | sed 's/^/  /'

step "running it: read-only, uid 10001, no capabilities"
container=$(podman run --detach --read-only --cap-drop ALL --security-opt no-new-privileges --network host \
    --tmpfs /tmp --env FOREBAY_HOST=127.0.0.1 --env FOREBAY_PORT=18999 --env API_KEYS=sk-verify --no-healthcheck \
    localhost/forebay-gateway gateway --upstream http://127.0.0.1:9)
trap 'podman rm --force "$container" >/dev/null 2>&1' EXIT
for _ in {1..100}; do
    podman exec "$container" python3 -IS /opt/forebay/health.py http://127.0.0.1:18999/health 2>/dev/null && break
    sleep 0.2
done
podman exec "$container" python3 -IS /opt/forebay/health.py http://127.0.0.1:18999/health || fail "it does not answer"
[[ $(podman exec "$container" id -u) == 10001 ]] || fail "it does not run as 10001"
! podman exec "$container" touch /opt/forebay/x 2>/dev/null || fail "its root can be written to"
podman exec "$container" touch /var/lib/forebay/x || fail "it has no place for its files"
! podman exec "$container" python3 -c 'import pip' 2>/dev/null || [[ $PYTHON_IMAGE != localhost/* ]] || fail "it has pip"
podman exec "$container" cat /opt/forebay/sbom.cdx.json | grep -c '"purl"' | sed 's/^/  packages listed: /'
podman stop --time 20 "$container" >/dev/null
[[ $(podman inspect --format '{{.State.ExitCode}}' "$container") == 0 ]] || fail "SIGTERM did not end it with 0"
step "all well"
