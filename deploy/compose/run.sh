#!/usr/bin/env bash
# Start Forebay with Compose: run.sh [--cpu] [--production] [--observability] [--dry-run] [COMMAND …]
#
#   --cpu            no GPU; chosen by itself where there is none
#   --production     two gateways, NGINX with TLS, Valkey, PostgreSQL
#   --observability  Prometheus, Alertmanager, Grafana, Loki, Tempo
#   --dry-run        say what would be run, and with which GPUs
#   COMMAND          of `docker compose`; `up --detach --build --wait` by default
#
# It makes .env and the secrets where they are missing. The model is spread over the GPUs that CUDA_VISIBLE_DEVICES names,
# else all that nvidia-smi lists: over the largest power of two of them, since a model's heads divide by that and by
# little else. TENSOR_PARALLEL_SIZE, there or in .env, says otherwise; what a model really allows, `forebay plan` tells.
set -euo pipefail
cd "$(dirname "$0")"

say() { printf '%s\n' "$*" >&2; }
die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# A variable of the environment, else of .env.
told() { printf '%s' "${!1:-$(sed -n "s/^$1=//p" .env 2>/dev/null | tail -1)}"; }

# The GPUs to use, one a line.
gpus() {
    local named
    named=$(told CUDA_VISIBLE_DEVICES)
    if [[ -n $named ]]; then
        tr ',' '\n' <<<"$named" | sed '/^ *$/d'
    else
        nvidia-smi -L 2>/dev/null | sed -n 's/^GPU \([0-9]*\):.*/\1/p'
    fi
}

power_of_two_up_to() {
    local size=1
    while ((size * 2 <= $1)); do size=$((size * 2)); done
    echo "$size"
}

# Set what Compose passes on to the engine. GPUs beyond the power of two are left alone: better, run another engine there.
choose_gpus() {
    local -a found
    local size
    mapfile -t found < <(gpus)
    size=$(told TENSOR_PARALLEL_SIZE)
    [[ -z $size || $size =~ ^[1-9][0-9]*$ ]] || die "TENSOR_PARALLEL_SIZE=$size is no number of GPUs"
    size=${size:-$(power_of_two_up_to "${#found[@]}")}
    ((size <= ${#found[@]})) || die "TENSOR_PARALLEL_SIZE=$size, but there are ${#found[@]} GPUs: ${found[*]}"
    TENSOR_PARALLEL_SIZE=$size
    CUDA_VISIBLE_DEVICES=$(IFS=, && echo "${found[*]:0:size}")
    export TENSOR_PARALLEL_SIZE CUDA_VISIBLE_DEVICES
    say "GPUs $CUDA_VISIBLE_DEVICES of ${#found[@]}, tensor_parallel_size $TENSOR_PARALLEL_SIZE"
}

cpu='' production='' observability='' dry_run=''
while (($#)); do
    case $1 in
        --cpu) cpu=yes ;;
        --production) production=--production ;;
        --observability) observability=yes ;;
        --dry-run) dry_run="echo" ;;
        -h | --help) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" && exit ;;
        -*) die "no such option: $1; run.sh --help lists them" ;;
        *) break ;;
    esac
    shift
done

[[ -e .env ]] || cp .env.example .env
[[ -n $(told MODEL) ]] || die "MODEL is not set; name one in .env"
if [[ -z $cpu && -z $(gpus) ]]; then
    say "no GPU found: for the CPU (slow, and for small models only)"
    cpu=yes
fi
[[ -n $cpu ]] || choose_gpus
files=(--file "compose${cpu:+.cpu}.yaml")
[[ -z $production ]] || files+=(--file compose.production.yaml)
[[ -z $observability ]] || files+=(--file compose.observability.yaml)
(($#)) || set -- up --detach --build --wait
[[ -n $dry_run ]] || ./secrets.sh $production >&2
${dry_run:-exec} docker compose "${files[@]}" "$@"
