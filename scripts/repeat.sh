#!/usr/bin/env bash
# Run the tests of faults again and again, with fresh seeds, and say which failed how often: repeat.sh TIMES [PYTEST
# OPTIONS]. The seed of a run that failed is in its log; FOREBAY_CHAOS_SEED has the same misfortunes again.
set -euo pipefail
source "$(dirname "$0")/say.sh"

times=${1:-20}
python=${PYTHON_TO_TEST:-.venv/bin/python}
tests=(tests/gateway/test_{chaos,failover,resume,drain,stalls}.py)
logs=$(mktemp -d)
failed=0
for ((number = 1; number <= times; number++)); do
    log=$logs/$number.log
    began=$SECONDS
    if FOREBAY_CHAOS_SEED=$RANDOM "$python" -m pytest -q -rfE -m 'robustness or not robustness' "${tests[@]}" "${@:2}" >"$log" 2>&1; then
        say "run $number of $times: $(tail -1 "$log")"
    else
        failed=$((failed + 1))
        say "run $number of $times failed after $((SECONDS - began)) s; its log is $log"
        grep -E '^(FAILED|ERROR) tests' "$log" | tee -a "$logs/failures" || tail -5 "$log"
    fi
done
if ((failed)); then
    [[ ! -s $logs/failures ]] || sed 's/ - .*//' "$logs/failures" | sort | uniq -c | sort -rn
    die "$failed of $times runs failed"
fi
say "$times runs, no failure"
