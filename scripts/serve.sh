#!/usr/bin/env bash
# Start `forebay serve` with the arguments given, and with an API key for this run unless keys are set already.
set -euo pipefail

keys=${FOREBAY_API_KEYS:-${API_KEYS:-}}
if [[ -z $keys ]] && ! grep -qs '^api_keys' "${FOREBAY_CONFIG:-forebay.toml}"; then
    API_KEYS=$(.venv/bin/python -c 'import secrets; print("sk-" + secrets.token_urlsafe(24))')
    export API_KEYS
fi
exec .venv/bin/forebay serve "$@"
