#!/usr/bin/env bash
# What only a machine with an NVIDIA card can tell, in one call, or in two where a call must be short.
#
#   benchmarks/gpu_check.sh --quick [folder for the logs]    build, self-check, every op on streams, in graphs and timed
#   benchmarks/gpu_check.sh [folder for the logs]            build, and the rest: all tests of ops, sanitizer, benchmarks
#
# Made for a bare machine: no index is asked, the build is for the one card that is there, and --quick ends within ten
# minutes on 16 cores, on fewer within as many more as there are cores too few. The active Python environment must hold a torch that sees the card; this checkout is installed into it
# (editable). What it lacks besides is taken from wheels in $WHEELS, or in wheels/ here. Logs and figures go to the
# folder, else to $OUT, else to gpu_check/. Every step runs even if an earlier one failed; the exit status is 1 if any did.
set -u
cd "$(dirname "$0")/.." || exit 1
quick=
[ "${1:-}" = --quick ] && quick=yes && shift
logs=${1:-${OUT:-gpu_check}}
python=${PYTHON:-python3}
failed=()
cores=$(env -u OMP_NUM_THREADS nproc) # which would answer in its place
times=$((cores < 16 ? 16 / cores : 1)) # as long as on 16 cores
end=$((24 * 3600 * times))             # of all steps, or, --quick, all but the last
[ $quick ] && end=$((530 * times))
mkdir -p "$logs" || exit 1

step() { # step NAME SECONDS COMMAND...
    local name=$1 limit=$(($2 * times)) left=$((end - SECONDS)) start=$SECONDS
    shift 2
    printf '== %s: %s\n' "$name" "$*"
    limit=$((left < limit ? left : limit))
    if timeout -k 10 $((limit > 1 ? limit : 1)) "$@" >"$logs/$name.log" 2>&1; then
        echo "   ok, $((SECONDS - start)) s"
    else
        echo "   FAILED after $((SECONDS - start)) s, see $logs/$name.log"
        tail -n 15 "$logs/$name.log" | sed 's/^/   | /'
        failed+=("$name")
    fi
}

"$python" -c 'import torch; raise SystemExit(not torch.cuda.is_available())' || {
    echo "gpu_check: torch sees no card here" >&2
    exit 1
}
if ! command -v nvcc >/dev/null && [ -z "${CUDACXX:-}" ] && [ -z "${CUDA_HOME:-}" ]; then
    echo "gpu_check: no nvcc on PATH, in CUDACXX or in CUDA_HOME" >&2
    exit 1
fi

card=$("$python" -c 'import torch; print("%d%d" % torch.cuda.get_device_capability())')
lacking=$("$python" -c 'from importlib.util import find_spec
print(*(name for name in ("cmake", "ninja", "pybind11", "pytest", "scikit_build_core") if find_spec(name) is None))')
install=("$python" -m pip --disable-pip-version-check install --no-index --no-deps)
step machine 30 bash -c "nvidia-smi; nvcc --version; nproc; $python -m pip list"
[ -n "$lacking" ] && step wheels 60 "${install[@]}" "${WHEELS:-wheels}"/*.whl
step build 300 "${install[@]}" -v --no-build-isolation -e . -C build-dir=build/card -C cmake.define.PYFLOWK_CUDA=ON \
    -C "cmake.define.CMAKE_CUDA_ARCHITECTURES=$card-real" -C cmake.define.PYFLOWK_LEVELS=native

tests=("$python" -m pytest -q -p no:cacheprovider)
if [ $quick ]; then
    step selfcheck 120 "$python" -c 'from pyflowk import selfcheck
report = selfcheck.run(megabytes=256)
print(report.text())
raise SystemExit(not report.ok)'
    step card_tests 240 "${tests[@]}" tests/cuda/test_on_card.py tests/cuda/test_streams_and_graphs.py -k "not pretended and not triton"
    end=$((580 * times))
    minutes=$(awk "BEGIN { print ($end - $SECONDS - 20 * $times) / 600 }") # a tenth of them, by themselves
    step card 580 "$python" -m benchmarks --only card --minutes "$minutes" --out "$logs"
    cat "$logs/selfcheck.log"
else
    step op_tests 1800 "${tests[@]}" tests/cuda tests/triton_backend tests/ops tests/test_selfcheck.py
    if command -v compute-sanitizer >/dev/null; then
        step sanitizer 1800 compute-sanitizer --error-exitcode 1 "${tests[@]}" tests/cuda/test_on_card.py \
            -k "alignment or large"
    fi
    step card 3600 "$python" -m benchmarks --only card --minutes 5 --out "$logs"
    step benchmarks 7200 "$python" -m pyflowk bench
fi

if [ ${#failed[@]} -gt 0 ]; then
    echo "gpu_check: failed: ${failed[*]}"
    exit 1
fi
echo "gpu_check: all steps passed in $SECONDS s; logs are in $logs"
