#!/usr/bin/env bash
# Print what a running gateway answers on a page: ask.sh URL PAGE. The key, where there is one, is FOREBAY_API_KEY; it
# goes in by a pipe, for a list of processes shows arguments.
set -euo pipefail
source "$(dirname "$0")/say.sh"

url=${1%/} page=$2
command -v curl >/dev/null || die "there is no curl; install it"
key=()
[[ -z ${FOREBAY_API_KEY:-} ]] || key=("header = \"authorization: Bearer $FOREBAY_API_KEY\"")
status=0
printf '%s\n' "${key[@]}" |
    curl --config - --silent --show-error --max-time 10 --fail-with-body "$url$page" || status=$?
case $status in
0) [[ $page == /metrics ]] || echo ;;
22) echo && die "$url$page was refused; its words are above, and FOREBAY_API_KEY says who asks" ;;
*) die "no answer from $url; is a gateway running there? Name another with URL=" ;;
esac
