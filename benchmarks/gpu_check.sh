#!/usr/bin/env bash
# Everything that only a machine with an NVIDIA card can tell, in one call: build, tests, self-check, benchmarks.
#
#   benchmarks/gpu_check.sh [folder for the logs, default gpu_check]
#
# Installs this checkout (editable) into the Python environment that is active, which must hold a torch that sees the
# card. Every step runs even if an earlier one failed; the exit status is 1 if any did. Attach the logs to a report.
set -u
cd "$(dirname "$0")/.." || exit 1
logs=${1:-gpu_check}
mkdir -p "$logs" || exit 1
failed=()

step() { # step NAME COMMAND...
    local name=$1
    shift
    printf '== %s: %s\n' "$name" "$*"
    if "$@" >"$logs/$name.log" 2>&1; then
        echo "   ok"
    else
        echo "   FAILED, see $logs/$name.log"
        tail -n 15 "$logs/$name.log" | sed 's/^/   | /'
        failed+=("$name")
    fi
}

python -c 'import torch; raise SystemExit(not torch.cuda.is_available())' || {
    echo "gpu_check: torch sees no card here" >&2
    exit 1
}
if ! command -v nvcc >/dev/null && [ -z "${CUDACXX:-}" ] && [ -z "${CUDA_HOME:-}" ]; then
    echo "gpu_check: no nvcc on PATH, in CUDACXX or in CUDA_HOME" >&2
    exit 1
fi

card=$(python -c 'import torch; print("%d%d" % torch.cuda.get_device_capability())')
step machine bash -c 'nvidia-smi; nvcc --version; python -m torch.utils.collect_env'
step build python -m pip install -v -e '.[test]' -C cmake.define.PYFLOWK_CUDA=ON -C "cmake.define.CMAKE_CUDA_ARCHITECTURES=$card"
step card_tests python -m pytest tests/cuda tests/triton_backend tests/ops tests/test_selfcheck.py
step selfcheck python -m pyflowk selfcheck --megabytes 256
if command -v compute-sanitizer >/dev/null; then
    step sanitizer compute-sanitizer --error-exitcode 1 python -m pytest tests/cuda/test_on_card.py -k "alignment or large"
fi
step benchmarks python -m pyflowk bench

cat "$logs/selfcheck.log"
if [ ${#failed[@]} -gt 0 ]; then
    echo "gpu_check: failed: ${failed[*]}"
    exit 1
fi
echo "gpu_check: all steps passed; logs are in $logs"
