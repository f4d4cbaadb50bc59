"""What the command line gives a live run: networks to choose from, and where to save."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rtseg.cli.app import main
from rtseg.cli.options import Flags
from rtseg.cli.plan import make_plan
from rtseg.cli.run import _flags_for, model_names
from rtseg.nets import default_model
from rtseg.nets.weights import weights_path
from rtseg.zoo import MODELS


def asked(**given: object) -> Flags:
    return Flags.of(input=("test://?frames=1",), show=False, **given)


def names(flags: Flags) -> tuple[str, ...]:
    return model_names(flags)


def test_m_goes_through_what_is_here_the_run_s_own_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RTSEG_CACHE", str(tmp_path))
    assert names(asked()) == (default_model(),)
    weights = MODELS["fcn_resnet50"].weights
    assert weights is not None
    path = weights_path(weights)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    assert names(asked()) == (default_model(), "fcn_resnet50")
    assert names(asked(model="stub"))[0] == "stub"


def test_models_are_what_was_named_without_repeats() -> None:
    flags = asked(model="stub", models=("person", "stub", "a.onnx"))
    assert names(flags) == ("stub", "person", "a.onnx")


def test_what_was_said_of_the_first_network_is_not_said_of_the_next() -> None:
    from live_controls import stub

    flags = asked(model="mine.onnx", labels="a,b", weights=None, models=("person",))
    plan = make_plan(flags)
    quiet, other = _flags_for("person", flags, plan, stub())
    assert other.network.model == "person"
    assert other.network.foreign == {}
    assert quiet.run.quiet
    _, own = _flags_for("mine.onnx", flags, plan, stub())
    assert own.network.foreign == {"labels": "a,b"}


@pytest.mark.parametrize(
    ("name", "backend", "running", "taken"),
    [
        ("person", "auto", "openvino", "openvino"),
        ("person", "auto", "stub", "onnx"),
        ("net.onnx", "auto", "torch", "onnx"),
        ("person", "torch", "torch", "torch"),
        ("stub?delay=5ms", "torch", "torch", "stub"),
    ],
)
def test_the_next_network_takes_the_backend_that_runs(name, backend, running, taken) -> None:
    from live_controls import stub

    segmenter = stub()
    segmenter.backend.info = replace(segmenter.backend.info, name=running)
    flags = asked(model="fcn_resnet50", backend=backend)
    assert _flags_for(name, flags, make_plan(flags), segmenter)[1].network.backend == taken


def test_a_folder_for_screenshots_that_makes_no_sense_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    clip = ("test://?frames=1", "-m", "stub", "--no-show")
    assert main([*clip, "--screenshots", str(tmp_path / "file")]) == 2
    assert "it is a file" in capsys.readouterr().err
    assert main([*clip, "--screenshots", str(tmp_path / "no" / "such")]) == 2
    assert "there is no folder" in capsys.readouterr().err
    assert main([*clip, "--screenshots", str(tmp_path / "new")]) == 0
    assert not (tmp_path / "new").exists(), "only when there is something to save"
