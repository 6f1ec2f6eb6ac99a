#!/usr/bin/env bash
# Start `forebay serve` with the arguments given; where no API key is set, one is made for this run.
set -euo pipefail

exec .venv/bin/forebay serve --new-key "$@"
