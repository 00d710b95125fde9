"""Reading what the processor can do."""

from __future__ import annotations

import platform

import pytest

from llm_bridge.engines import cpu

FULL = "flags\t\t: fpu sse2 avx avx2 fma f16c bmi1 bmi2 avx512f\n"
OLD = "flags\t\t: fpu sse2 avx\n"
TWO_CORES_FOUR_THREADS = "\n\n".join(
    f"processor\t: {n}\nphysical id\t: 0\ncore id\t\t: {n // 2}" for n in range(4)
)  # fmt: skip


@pytest.mark.parametrize(
    ("cpuinfo", "machine", "missing"),
    [
        (FULL, "x86_64", ()),
        (OLD, "x86_64", ("avx2", "fma", "f16c", "bmi2")),
        (OLD, "aarch64", ()),
        ("", "x86_64", ()),
    ],
)
def test_names_what_is_missing(cpuinfo: str, machine: str, missing: tuple[str, ...]) -> None:
    assert cpu.missing_features(cpuinfo, machine) == missing


def test_the_message_names_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_read", lambda _path: OLD)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    reason = cpu.unsupported()
    assert reason is not None
    assert all("AVX2" in text and "LLM_BRIDGE_ENGINE=ollama" in text for text in reason)


def test_counts_cores_and_not_their_threads() -> None:
    assert cpu.physical_cores(TWO_CORES_FOUR_THREADS, {0, 1, 2, 3}) == 2
    assert cpu.physical_cores(TWO_CORES_FOUR_THREADS, {0, 1}) == 1
    assert cpu.physical_cores("model name: something else", {0}) == 0


@pytest.mark.parametrize(
    ("text", "cpus"), [("max 100000", 0), ("200000 100000", 2), ("50000 100000", 1), ("", 0), ("1 0", 0)]
)
def test_a_containers_quota(text: str, cpus: int) -> None:
    assert cpu.quota(text) == cpus


def test_threads_are_at_least_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_read", lambda _path: "")
    assert cpu.threads() >= 1
