"""The driver of benchmarks/: the order of the turns, the bars, the report and the files. No figure is asserted."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parents[2]))

from benchmarks import __main__ as driver
from benchmarks import bench_realnvp, page, report, timing
from benchmarks.report import COPY_INTO, OURS, Case

TINY = timing.Effort(rounds=3, batches=1, seconds=1e-9)


def test_variants_take_turns(monkeypatch):
    order = []
    monkeypatch.setattr(timing, "_calls_per_batch", lambda call, seconds: 1)
    variants = {name: (lambda name=name: order.append(name)) for name in "ABC"}
    times = timing.interleaved(variants, TINY)
    assert "".join(order) == "ABCBCACAB" and not times.failed
    assert all(len(rounds) == 3 for rounds in times.rounds.values())


def test_median_of_the_fastest_batches(monkeypatch):
    figures = iter([5.0, 3.0, 9.0, 8.0, 1.0, 4.0])
    monkeypatch.setattr(timing, "_calls_per_batch", lambda call, seconds: 1)
    monkeypatch.setattr(timing, "_seconds", lambda call, calls: next(figures))
    times = timing.interleaved({"A": int}, timing.Effort(rounds=3, batches=2, seconds=0.0))
    assert times.rounds == {"A": [3.0, 8.0, 1.0]} and times.seconds == {"A": 3.0}


def broken():
    raise RuntimeError("no such kernel")


def test_a_failing_variant_is_reported(capsys):
    case = Case("one", {OURS: int, "rival": broken}, [report.ratio_bar(1.0, "rival"), report.microseconds_bar(1e9)])
    entry = report.run_case(case, TINY)
    assert entry["failed"] == {"rival": "RuntimeError: no such kernel"}
    assert [bar["met"] for bar in entry["bars"]] == [False, True]
    text = capsys.readouterr().out
    assert "FAILED: RuntimeError: no such kernel" in text and "no figure for rival" in text


def test_bars():
    seconds = {OURS: 2e-6, "a": 5e-6, "b": 3e-6, COPY_INTO: 1e-6}
    reached = report.ratio_bar(2.4, "a").judge(seconds)
    assert reached == {"text": ">= 2.4x a", "value": pytest.approx(2.5), "met": True}
    assert not report.ratio_bar(2.0, "a", "b").judge(seconds)["met"]
    assert report.never_slower_bar().judge(seconds)["value"] == pytest.approx(1.5)
    assert report.microseconds_bar(2.1).judge(seconds)["met"] and not report.microseconds_bar(1.9).judge(seconds)["met"]


def test_every_benchmark_that_is_named_somewhere_is_there():
    root = Path(__file__).resolve().parents[2]
    texts = [root / "README.md", *root.glob("docs/*.md"), *root.glob("benchmarks/*.py"), *root.glob("pyflowk/*.py")]
    named = {name for path in texts for name in re.findall(r"--only\s+(\w+)`", path.read_text())}
    assert len(named) > 10 and {name for name in named if not any(name in known for known in driver.NAMES)} == set()


def test_models_must_be_of_one_size(monkeypatch):
    class Larger(bench_realnvp.LayeredFlow):
        def __init__(self, features, couplings):
            super().__init__(features, couplings + 1)

    monkeypatch.setattr(bench_realnvp, "HalvesFlow", Larger)
    with pytest.raises(ValueError, match="equal numbers of parameters"):
        bench_realnvp.models(2, [])


@pytest.fixture
def one_thread():
    threads, limit = torch.get_num_threads(), torch._dynamo.config.recompile_limit
    yield
    torch.set_num_threads(threads)
    torch._dynamo.config.recompile_limit = limit


def test_the_driver_writes_its_files(tmp_path, monkeypatch, capsys, one_thread):
    contest = driver.importlib.import_module("benchmarks.bench_affine_coupling")
    whole = contest.case("256x2", (256, 2), "forward", "none", [])
    kept = {name: whole.variants[name] for name in (OURS, contest.EAGER, COPY_INTO)}
    case = Case(whole.name, kept, whole.bars, whole.traffic)
    monkeypatch.setattr(contest, "cases", lambda quick: iter([case]))
    monkeypatch.setattr(report, "interleaved", lambda variants, effort: timing.interleaved(variants, timing.QUICK))
    monkeypatch.setattr(driver, "load", lambda: ([], {"zuko": "No module named 'zuko'"}))
    assert driver.main(["--only", "affine", "--out", str(tmp_path)]) == 0
    page = json.loads((tmp_path / "affine_coupling.json").read_text())
    assert set(page["cases"][0]["variants"]) == set(kept) and page["machine"]["threads"] == 1
    assert (tmp_path / "affine_coupling.png").stat().st_size > 5000
    text = capsys.readouterr().out
    assert "peer zuko is missing" in text and "| forward, 256x2 |" in text and "bars met" in text


def test_a_broken_variant_of_ours_is_an_error(monkeypatch, one_thread):
    contest = driver.importlib.import_module("benchmarks.bench_affine_coupling")
    monkeypatch.setattr(contest, "cases", lambda quick: iter([Case("one", {OURS: broken, "eager": int})]))
    assert driver.main(["--only", "affine", "--quick"]) == 1


def test_unknown_names_list_the_right_ones(capsys):
    with pytest.raises(SystemExit) as stop:
        driver.main(["--only", "no-such-benchmark"])
    assert stop.value.code == 2
    assert f"there are {', '.join(driver.NAMES)}" in capsys.readouterr().err


def test_the_page_of_all_figures_is_up_to_date():
    path = report.RESULTS / "README.md"
    if not path.exists():
        pytest.skip("a source archive holds no results")
    assert path.read_text() == page.render(report.RESULTS), "python -m benchmarks --page writes it anew"


def test_rows_of_several_seeds_are_one(tmp_path):
    rows = [{"method": "a", "seed": seed, "w2": w2, "steps": 3} for seed, w2 in enumerate((1.0, 2.0, 3.0))]
    bars = [{"text": ">= 2x a", "value": 1.5, "met": False}]
    entry = {"case": "one", "variants": {OURS: {"seconds": 0.02, "ratio": 1.0}, "a": {"seconds": 0.03, "ratio": 1.5}}}
    machine = {"processor": "a chip", "load": 1.25, "when": "today"}
    report.save(tmp_path, "many", {"machine": machine, "floor": {"x": 0.5}, "by": ["method"], "rows": rows})
    report.save(tmp_path, "some", {"machine": machine, "notes": {"a": "a rival"}, "cases": [{**entry, "bars": bars}]})
    text = page.render(tmp_path)
    assert "a chip, load 1.2, today." in text and "floor: x 0.5" in text
    assert "| method | seeds | w2 | steps |" in text and "| a | 3 | 2 +- 0.58 | 3 |" in text
    assert "| one | 20,000 | 1.50 | 0 of 1 |" in text and "- one: >= 2x a, came to 1.5" in text
