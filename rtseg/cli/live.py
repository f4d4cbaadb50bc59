"""What a run with a window has beside others: controls, and the networks to choose from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from rtseg.cli.backend import attend
from rtseg.cli.options import Flags, ModelFlags
from rtseg.cli.plan import Plan
from rtseg.cli.report import teller
from rtseg.contracts import Source
from rtseg.nets import default_model, shipped
from rtseg.nets.weights import weights_path
from rtseg.segmenter import Segmenter
from rtseg.session.desk import Desk, open_desk
from rtseg.sinks import SinkOptions, find_kind
from rtseg.stats import Stats
from rtseg.zoo import MODELS

INDEX_OUTPUTS = ("mask", "json", "figure")
"""Outputs that name classes, or hold their numbers: they need the same ones to the end."""

Load = Callable[[Flags, Plan], Segmenter]


def desk_for(
    flags: Flags, plan: Plan, source: Source, segmenter: Segmenter, stats: Stats, load: Load
) -> Desk:
    """The controls of a run with a window.

    Args:
        load: loads the network of such flags.
    """

    def load_named(name: str) -> Segmenter:
        loaded = load(*_flags_for(name, flags, plan, segmenter))
        known = [c for c in plan.classes if c.casefold() in map(str.casefold, loaded.labels.names)]
        loaded.selected = loaded.labels.select(known) if known else None
        attend(loaded.backend, stats)
        return loaded

    return open_desk(
        replace(plan.view, hud=bool(flags.view.hud)),
        source,
        segmenter,
        stats,
        names=network_names(flags, plan),
        load=load_named,
        hud=plan.view.hud and (source.info.frame_count != 1 or bool(flags.view.hud)),
        folder=plan.screenshots,
        options=SinkOptions(audio=flags.output.audio),
        same_labels=any(find_kind(target)[0] in INDEX_OUTPUTS for target in plan.outputs),
        tell=teller(quiet=flags.run.quiet),
    )


def network_names(flags: Flags, plan: Plan) -> tuple[str, ...]:
    """What `m` goes through: the run's own, and those named, or whose weights are here."""
    here = [
        name
        for name, spec in MODELS.items()
        if spec.weights is not None and weights_path(spec.weights).is_file()
    ]
    first = flags.model.model or default_model()
    return tuple(dict.fromkeys((first, *(plan.models or (*shipped(), *here)))))


def _flags_for(name: str, flags: Flags, plan: Plan, running: Segmenter) -> tuple[Flags, Plan]:
    """The flags with which another network is loaded: what was said of the first is not its own."""
    if name == (flags.model.model or default_model()):
        model, inputs = flags.model, plan.input_flags
    else:
        random = flags.model.weights if flags.model.weights == "random" else None
        model, inputs = replace(flags.model, model=name, weights=random), {}
    backend = _backend_for(name, model, running.info.name)
    model = replace(model, backend=backend)  # type: ignore[arg-type]  # one of its literals
    quiet = replace(flags.run, quiet=True, remeasure=False)
    return replace(flags, model=model, run=quiet), replace(plan, classes=(), input_flags=inputs)


def _backend_for(name: str, model: ModelFlags, running: str) -> str:
    """The backend that runs already, where it can: beside a run none can be measured."""
    if name.partition("?")[0] == "stub":
        return "stub"
    if model.backend != "auto":
        return model.backend
    return "onnx" if running == "stub" or name.endswith(".onnx") else running
