"""The audit itself is tested: each planted defect fails its gate, a sound kernel passes, occupancy is NVIDIA's."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks" / "audit"))

pytest.importorskip("tomllib", reason="the audit needs Python 3.11")
import audit  # noqa: E402
import calls  # noqa: E402
import machine  # noqa: E402
import sass  # noqa: E402

pytestmark = pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")

PLANTED = r"""
template <int N, int ALIGN> struct alignas(ALIGN) Vec { float v[N]; };

template <class V, class Op> __device__ void map(const V* x, const V* s, const V* t, V* y, int n, Op op) {
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n / 4; i += gridDim.x * blockDim.x) {
        V a = x[i], b = s[i], c = t[i];
        for (int k = 0; k < 4; ++k) a.v[k] = op(a.v[k], b.v[k], c.v[k]) + c.v[k];
        y[i] = a;
    }
}
#define KERNEL(name, align, ...)                                                                    \
    __global__ void name(const float* x, const float* s, const float* t, float* y, int n) {         \
        using V = Vec<4, align>;                                                                    \
        map((const V*)x, (const V*)s, (const V*)t, (V*)y, n, [=](float a, float b, float c) {       \
            return __VA_ARGS__;                                                                     \
        });                                                                                         \
    }
KERNEL(sound, 16, a * expf(b))
KERNEL(narrow, 4, a * expf(b))
KERNEL(accidental_double, 16, a * expf(b) * 1.1)
KERNEL(extra_read, 16, a * expf(b) + y[n])
KERNEL(heavy, 16, a * powf(tanhf(powf(tanhf(powf(powf(b, a), b)), b)), tanhf(powf(powf(a, c), tanhf(b)))))
__global__ void __launch_bounds__(1024, 2) spilling(const float* x, float* y, int n) {
    float v[96];
    for (int k = 0; k < 96; ++k) v[k] = x[k * n + threadIdx.x];
    for (int j = 0; j < n; ++j) {
        for (int k = 0; k < 96; ++k) v[k] = v[k] * v[(k + 5) % 96] + x[j];
        y[j * blockDim.x + threadIdx.x] = v[j & 1];
    }
    for (int k = 0; k < 96; ++k) y[k * n + threadIdx.x] = v[k];
}
__global__ void indexed(const float* x, float* y, int n) {
    float v[16];
    for (int k = 0; k < 16; ++k) v[k] = x[k];
    for (int k = threadIdx.x; k < n; k += blockDim.x) y[n + k] = v[int(x[k]) & 15] += 1.f;
    for (int i = threadIdx.x; i < n; i += blockDim.x) y[i] = x[i] + v[i & 15];
}
__global__ void lonely(const float* x, float* y, int n) {
    float sum = 0;
#pragma unroll 1
    for (int i = threadIdx.x; i < n; i += blockDim.x) sum += sqrtf(x[i]);
    y[threadIdx.x] = sum;
}
__global__ void hungry(const float* x, const float* s, float* y, int n) {
    float sum = 0;
#pragma unroll 1
    for (int i = threadIdx.x; i < n; i += blockDim.x) sum = sum * x[i] + s[i];
    y[threadIdx.x] = sum;
}
__global__ void crowded(const float* x, float* y, int n) {
    extern __shared__ float tile[];
    for (int i = threadIdx.x; i < n; i += blockDim.x) y[i] = x[i] + tile[i & 15];
}
"""

# label, extra keys of its row, what its one failure must say ("" = passes)
ROWS = [
    ("sound", "loads_in_flight = 3", ""),
    ("narrow", "", "hot loop has 32-bit global accesses, expected only 128-bit"),
    ("accidental_double", "", "double-precision instructions"),
    ("extra_read", "", "hot loop has 32-bit"),
    ("heavy", "", "bound by issue on H100, expected by memory"),
    ("spilling", "access_bits = []\nthreads = 1024\nminimum_bytes = 8", "bytes of spill stores and loads"),
    ("indexed", "access_bits = []\nminimum_bytes = 8", "bytes of local memory"),
    (
        "lonely",
        "access_bits = [32]\nstore_bytes = 0\nload_bytes = 4\nminimum_bytes = 4\nloads_in_flight = 2\n"
        "memory_bound = []",
        "1 loads in flight in the hot loop, expected 2",
    ),
    (
        "hungry",
        "access_bits = [32]\nstore_bytes = 0\nload_bytes = 4\nminimum_bytes = 4\nloads_a_product = 0.5\n"
        "memory_bound = []",
        "2.00 loads a product, expected at most 0.5",
    ),
    ("crowded", "access_bits = [32]\nminimum_bytes = 8\nshared = 100000\nmemory_bound = []", "occupancy 25%"),
]


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A spec over one source with a defect in each kernel; the source is read once, so its cubin is built once."""
    folder = tmp_path_factory.mktemp("audit")
    (folder / "planted.cu").write_text(PLANTED)
    common = 'threads = 256\nstore_bytes = 4\nminimum_bytes = 16\nmemory_bound = ["H100"]\n'
    rows = [
        {**dict(line.split(" = ", 1) for line in extra.splitlines()), "label": f'"{name}"', "match": f"'\\b{name}\\('"}
        for name, extra, _ in ROWS
    ]
    text = f'source = "{folder}/planted.cu"\n[common]\n{common}'
    text += "".join("[[kernel]]\n" + "".join(f"{key} = {value}\n" for key, value in row.items()) for row in rows)
    (folder / "planted.toml").write_text(text)
    return folder / "planted.toml"


def test_planted_defects_fail_their_gate(planted: Path) -> None:
    facts, failures = audit.audit(audit.Spec.read(planted), [90])
    assert len(facts) == len(ROWS)
    for name, _, reason in ROWS:
        own = [line for line in failures if line.startswith(f"sm_90 {name}:")]
        assert all("\n" not in line for line in own)
        if reason:
            assert any(reason in line for line in own), (name, own)
        else:
            assert own == []


def test_spills_are_seen_without_the_log_of_ptxas(planted: Path) -> None:
    """As in the cubins that the package's build keeps."""
    spec = audit.Spec.read(planted)
    cubin, _ = sass.compile_cubin(spec.source, 90)
    (kernel,) = [k for k in sass.read_cubin(cubin, 90) if k.name.startswith("spilling")]
    (row,) = [row for row in spec.rows if row.label == "spilling"]
    assert any("bytes of local memory" in reason for reason in audit.Facts.of(kernel, row, 90).failures())


def test_what_the_build_kept_of_other_sources_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = ROOT / "csrc" / "cuda" / "rk_step.cu"
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    monkeypatch.setattr(sass, "KEPT", tmp_path)
    current = sass.package_is_current.__wrapped__
    assert not current()
    for line, answer in ((f"{digest}  csrc/cuda/rk_step.cu", True), (f"{digest[::-1]}  csrc/cuda/rk_step.cu", False),
                         (f"{digest}  csrc/cuda/deleted.cu", False)):  # fmt: skip
        (tmp_path / "sources.sha256").write_text(line + "\n")
        assert current() is answer


def test_failing_gate_exits_1_with_its_reason(planted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit.main(["--spec", str(planted), "--arch", "sm_90"]) == 1
    captured = capsys.readouterr()
    assert "FAIL sm_90 narrow: hot loop has 32-bit global accesses, expected only 128-bit" in captured.err
    assert "Predicted milliseconds" in captured.out


def test_kernel_without_a_row_and_row_without_a_kernel_fail(planted: Path, tmp_path: Path) -> None:
    text = planted.read_text().replace("'\\bsound\\('", "'\\bforgotten\\('")
    (tmp_path / "short.toml").write_text(text)
    _, failures = audit.audit(audit.Spec.read(tmp_path / "short.toml"), [90])
    assert any("no kernel of planted.cu matches" in line for line in failures)
    assert any(line.startswith("sm_90 sound(") and "0 rows of the spec match it" in line for line in failures)


def test_real_kernels_pass_their_gates(capsys: pytest.CaptureFixture[str]) -> None:
    """The shipped kernels on H100's architecture; `python benchmarks/audit/audit.py` takes the others too."""
    assert audit.main(["--arch", "sm_90"]) == 0, capsys.readouterr().err
    assert "FAIL" not in capsys.readouterr().out


@pytest.mark.parametrize("arch", [80, 90, 100])
@pytest.mark.parametrize("name, reads, writes", [("_forward", 3, 1), ("_backward", 4, 3)])
def test_triton_kernels_pass_the_same_gates(name: str, reads: int, writes: int, arch: int, tmp_path: Path) -> None:
    pytest.importorskip("triton", reason="needs triton")
    from tests.triton_backend.test_compiled import TARGETS, binary

    target = next(t for t in TARGETS if t.arch == arch)
    for dtype, size in (("fp32", 4), ("bf16", 2)):
        made = binary(name, target, dtype, dtype, "half", "tanh", False, size=16384)
        (tmp_path / "triton.cubin").write_bytes(made.asm["cubin"])
        (kernel,) = sass.read_cubin(tmp_path / "triton.cubin", arch)
        row = audit.Row(name, ".", 128, (reads + writes) * size, store_bytes=writes * size, memory_bound=("H100",))
        assert audit.Facts.of(kernel, row, arch).failures() == []


def test_unknown_architecture_is_refused(planted: Path) -> None:
    with pytest.raises(SystemExit):
        audit.main(["--spec", str(planted), "--arch", "sm_42"])


def test_roofline_by_hand() -> None:
    cost = machine.Cost(bytes=16, instructions=25, fp32=12, fp64=0, mufu=3)
    got = machine.predict(machine.GPUS["H100"], cost)
    assert got.bound == "memory"
    assert got.time == pytest.approx(16e9 / (0.9 * 3.35e12) * 1e3)
    assert got.issue == pytest.approx(25e9 / (132 * 4 * 32 * 1.98e9) * 1e3)
    assert got.mufu == pytest.approx(3e9 / (132 * 16 * 1.98e9) * 1e3)


@pytest.mark.parametrize("name", machine.GPUS)
def test_peaks_are_the_data_sheets(name: str) -> None:
    teraflops = {"A100": 19.5, "H100": 67, "H200": 67, "B200": 75}
    gpu = machine.GPUS[name]
    assert gpu.fp32 * 2 * gpu.sms * gpu.clock / 1e12 == pytest.approx(teraflops[name], rel=0.01)


OCCUPANCY = r"""
#include <climits>
#include <cstdio>
#include <cuda_occupancy.h>
#include <initializer_list>
int main() {
    const int table[][6] = {%s};
    for (auto& row : table) {
        cudaOccDeviceProp prop;
        prop.computeMajor = row[0] / 10, prop.computeMinor = row[0] %% 10;
        prop.maxThreadsPerBlock = 1024, prop.maxThreadsPerMultiprocessor = row[1];
        prop.regsPerBlock = prop.regsPerMultiprocessor = 65536, prop.warpSize = 32;
        prop.sharedMemPerBlock = 49152, prop.sharedMemPerMultiprocessor = row[2];
        prop.sharedMemPerBlockOptin = row[2] - row[3], prop.reservedSharedMemPerBlock = row[3];
        prop.numSms = 1;
        cudaOccDeviceState state;
        for (int threads : {32, 96, 128, 256, 384, 512, 1024})
            for (int registers = 16; registers <= 255; registers += 7)
                for (int shared : {0, 1, 4096, 33000, 49152}) {
                    cudaOccFuncAttributes attributes;
                    attributes.maxThreadsPerBlock = INT_MAX, attributes.numRegs = registers;
                    attributes.sharedSizeBytes = shared;
                    attributes.partitionedGCConfig = PARTITIONED_GC_OFF;
                    attributes.shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN;
                    attributes.maxDynamicSharedSizeBytes = row[2], attributes.numBlockBarriers = 1;
                    cudaOccResult out;
                    if (cudaOccMaxActiveBlocksPerMultiprocessor(&out, &prop, &attributes, &state, threads, 0)) return 1;
                    int blocks = out.activeBlocksPerMultiprocessor;
                    printf("%%d %%d %%d %%d %%d\n", row[0], threads, registers, shared, blocks);
                }
    }
}
"""


# ---- whole calls -----------------------------------------------------------------------------------------------------


def test_formula_by_hand() -> None:
    """What is only looked at otherwise costs nothing, a small operation a launch, a large one its bytes or products."""
    gpu = machine.GPUS["H200"]
    x, w = torch.zeros(1024, 512), torch.zeros(512, 512)
    small = calls.of_formula(lambda: x.T[1:].view(511, 1024)[0] + 1, gpu)
    assert (small.launches, small.seconds) == (1, machine.LAUNCH)
    large = torch.zeros(1).expand(1 << 28)  # read once, written whole
    copied = calls.of_formula(lambda: large.contiguous(), gpu)
    assert copied.seconds == pytest.approx((4 + 2**30) / (0.9 * 4.8e12))
    product = calls.of_formula(lambda: x @ w, gpu)
    share = 1024 * 512 / (machine.GEMM_TILE * gpu.sms)
    assert share < 1 and product.seconds == pytest.approx(2 * 1024 * 512 * 512 / (0.9 * 66.9e12 * share), rel=1e-2)


def launch(blocks: int, **counted: int) -> SimpleNamespace:
    nothing = dict.fromkeys(("loads", "stores", "sectors", "shared", "wavefronts", "instructions"), 0)
    shape = {"kernel": "k", "grid": (blocks, 1, 1), "block": (256, 1, 1), "dynamic_shared": 0}
    return SimpleNamespace(**shape, **(nothing | counted))


def test_kernel_by_hand() -> None:
    """Bound by memory, by one multiprocessor's pipes, by the waits of a single block."""
    gpu = machine.GPUS["H200"]
    code = [sass.Instruction("LDG.E", "R0, [R2]", False), sass.Instruction("FADD", "R0, R0, R1", False)]
    kernels = {"k": sass.Kernel("k", "k", 32, 0, 0, 0, 0, code)}

    def seconds(moved: int, *launches: SimpleNamespace) -> float:
        return calls.of_launches(launches, kernels, moved, gpu).seconds

    assert seconds(0, launch(1), launch(1)) == 2 * machine.LAUNCH
    assert seconds(2**30, launch(2**15, sectors=1024)) == pytest.approx(2**30 / (0.9 * 4.8e12))
    busy = launch(2 * gpu.sms, instructions=32 * 4 * 10**6)
    assert seconds(0, busy) == pytest.approx(2 * 10**6 / gpu.clock)
    alone = launch(1, loads=8 * 1000, sectors=8 * 1000)
    assert seconds(32 * 8000, alone) == pytest.approx(1000 * machine.DRAM_LATENCY)
    assert seconds(0, alone) == pytest.approx(1000 * machine.CACHE_LATENCY / gpu.clock)


def test_of_loops_that_move_as_much_the_longest_is_judged_and_where_loads_count_no_store_does() -> None:
    load, store, add = (sass.Instruction(name, "R0, [R2]", False) for name in ("LDG.E.64", "STG.E.128", "IADD3"))
    loops = ([load], [load, add], [store])
    code, labels = [], {}
    for i, body in enumerate(loops):
        labels[f".L_{i}"] = len(code)
        code += [*body, sass.Instruction("BRA", f"`(.L_{i})", True)]
    kernel = sass.Kernel("k", "k", 32, 0, 0, 0, 0, code, labels)
    assert kernel.hot_loop(loads=True)[:-1] == loops[1] and kernel.hot_loop()[:-1] == loops[2]


def test_a_kernel_slower_than_its_formula_fails_unless_it_leaves_the_call() -> None:
    slow, fast = calls.Estimate(1, 1, 2e-5), calls.Estimate(9, 0, 1e-5)
    assert "64 rows: the kernel is predicted to take 20.0 us" in calls.Comparison("op", 64, slow, fast, False).failure
    assert calls.Comparison("op", 64, slow, fast, True).failure == ""
    assert calls.Comparison("op", 64, fast, slow, False).failure == ""


def test_a_real_call_is_compared() -> None:
    (forward, backward) = calls.compare(["hutchinson"], [64])
    assert forward.kernel.launches == backward.kernel.launches == 1 and forward.kernel.blocks >= 64
    assert not forward.failure and not backward.failure and "| hutchinson | 64 | 1 |" in calls.report([forward])


def test_occupancy_equals_nvidias_calculator(tmp_path: Path) -> None:
    rows = ", ".join(f"{{{a}, {s.threads}, {s.shared}, {s.shared_reserved}}}" for a, s in machine.SMS.items())
    (tmp_path / "occupancy.cpp").write_text(OCCUPANCY % rows)
    sass.run("nvcc", "-o", tmp_path / "occupancy", tmp_path / "occupancy.cpp")
    done = subprocess.run([tmp_path / "occupancy"], capture_output=True, text=True, check=True)
    lines = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    assert len(lines) == len(machine.SMS) * 7 * 35 * 5
    wrong = [line for line in lines if machine.occupancy(*line[:4])[0] != line[4]]
    assert not wrong, f"{len(wrong)} of {len(lines)}, first {wrong[0]}"
