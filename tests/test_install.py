"""The source distribution: what is in it, that it installs, and what a source folder without kernels says."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import pyflowk

ROOT = Path(__file__).resolve().parents[1]
#: forgets an editable install of this checkout, so that the copy under test is what gets imported
ALONE = "import sys; sys.meta_path[:] = [f for f in sys.meta_path if 'ScikitBuild' not in type(f).__name__]; "


def python(script: str, where: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(where)}
    return subprocess.run(
        [sys.executable, "-c", ALONE + script], cwd=where, env=environment, capture_output=True, text=True
    )


#: a pretended nvcc that knows these
NVCC = """#!/bin/sh
[ "$1" = --list-gpu-arch ] || exit 1
for known in {known}; do echo compute_$known; done
"""


@pytest.mark.parametrize(
    "known, chosen",
    [
        ("75 80 86 87 88 89 90 100 110 103 120 121", "75-real;80-real;86-real;89-real;90-real;100-real;120"),
        ("50 52 60 61 70 72 75 80 86 87 89 90", "75-real;80-real;86-real;89-real;90"),
        ("52 60 61 70 75 80", "75-real;80"),
    ],
    ids=["13.0", "12.4", "11.0"],
)
def test_cards_that_nvcc_knows_are_compiled_for(known: str, chosen: str, tmp_path: Path) -> None:
    assert architectures(tmp_path, NVCC.format(known=known)) == f"-- {chosen}"


def test_an_nvcc_that_cannot_tell_is_named(tmp_path: Path) -> None:
    for text, why in ((NVCC.format(known="30 35"), "knows no card"), ("#!/bin/sh\nexit 1\n", "CUDA 11.8 is needed")):
        assert why in architectures(tmp_path, text)


def architectures(folder: Path, nvcc: str) -> str:
    """What the build chooses beside this nvcc, or says."""
    (folder / "nvcc").write_text(nvcc)
    (folder / "nvcc").chmod(0o755)
    (folder / "ask.cmake").write_text(
        f"include({ROOT}/cmake/architectures.cmake)\n"
        f'pyflowk_architectures({folder}/nvcc chosen)\nmessage(STATUS "${{chosen}}")\n'
    )
    done = subprocess.run(["cmake", "-P", folder / "ask.cmake"], capture_output=True, text=True)
    return " ".join((done.stderr or done.stdout).split())


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    script = f"from scikit_build_core.build import build_sdist; build_sdist({str(folder)!r})"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True)
    (archive,) = folder.iterdir()
    return archive


def test_the_sdist_holds_the_sources_and_nothing_else(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames()}
    for needed in ("csrc/cpu/affine_coupling.cpp", "csrc/cuda/affine_coupling.cu", "csrc/bind/module.cpp",
                   "CMakeLists.txt", "cmake/architectures.cmake", "LICENSE", "pyflowk/py.typed",
                   "pyflowk/ops/_router.py", "tests/ops/cases/base.py", "examples/posterior.py"):  # fmt: skip
        assert needed in names
    tops = {name.split("/")[0] for name in names}
    files = {"CMakeLists.txt", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "PKG-INFO", "constraints.txt"}
    assert tops <= {"cmake", "csrc", "pyflowk", "tests", "examples", "benchmarks", "docs"} | files
    assert not [name for name in names if name.endswith((".so", ".pyc", ".whl"))]


def test_the_citation_is_of_this_version() -> None:
    assert f"\nversion: {pyflowk.__version__}\n" in (ROOT / "CITATION.cff").read_text()


#: A compiler's launcher. Where `make` has built the checkout, whose texts are those of the sdist, an object is taken
#: from there, once it was seen that the sdist holds all that it includes; else it is compiled, but not optimised.
LAUNCHER = """#!/bin/sh
for word; do
    [ "$before" = -o ] && object=$word
    before=$word
done
[ -f "{made}/$object" ] || exec "$@" -O0
"$@" -E && cp "{made}/$object" "$object"
"""


def test_the_sdist_installs(sdist: Path, tmp_path: Path) -> None:
    compiler, where = tmp_path / "compiler", tmp_path / "installed"
    compiler.write_text(LAUNCHER.format(made=ROOT / "build" / "make"))
    compiler.chmod(0o755)
    environment = {key: value for key, value in os.environ.items() if key != "CMAKE_ARGS"}
    environment["CMAKE_CXX_COMPILER_LAUNCHER"] = str(compiler)
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", where, sdist]
    subprocess.run([*command, "-C", "cmake.define.PYFLOWK_CUDA=OFF"], check=True, capture_output=True, env=environment)
    done = python("import pyflowk; print(pyflowk.__version__, pyflowk.__file__); pyflowk.show_config()", where)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{pyflowk.__version__} {where}") and "back end cpu: ready" in done.stdout


def test_a_source_folder_without_kernels_says_what_to_do(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "pyflowk", tmp_path / "pyflowk", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    done = python("import pyflowk", tmp_path)
    assert done.returncode != 0 and "not built" in done.stderr and "pip install" in done.stderr
    older = "ImportError: pyflowk._cpu is older than the Python files beside it: pip install -e ."
    for compiled, what in (("", ""), ("_arguments = {'lipswish': 2, 'nearest': 2}", " again (nearest is another now)")):
        (tmp_path / "pyflowk" / "_cpu.py").write_text(compiled)  # what an earlier version's sources gave
        done = python("import pyflowk", tmp_path)
        assert older in done.stderr and what in done.stderr
