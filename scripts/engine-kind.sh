#!/usr/bin/env bash
# Print which engine suits this machine: gpu where an NVIDIA GPU is found, else cpu.
set -euo pipefail

if [[ -e /dev/nvidia0 ]] || nvidia-smi --list-gpus >/dev/null 2>&1; then
    echo gpu
else
    echo cpu
fi
