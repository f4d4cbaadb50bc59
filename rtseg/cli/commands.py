"""The command line's grammar: verbs, flags and configuration file, read by cyclopts."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, TypeVar

from cyclopts import App, CycloptsError, Parameter, UnusedCliTokensError
from cyclopts.config import Dict

from rtseg._version import __version__
from rtseg.cli import options
from rtseg.cli.bench_flags import BenchFigureFlags, BenchFlags, BenchNetworkFlags, ClockFlags
from rtseg.cli.evaluate_flags import EvalFlags, FigureFlags, NetworkFlags, SetFlags
from rtseg.cli.export_flags import ExportFlags, ProofFlags
from rtseg.cli.options import (
    Flags,
    ModelFlags,
    OutputFlags,
    RunFlags,
    SourceFlags,
    Text,
    ViewFlags,
    flag,
)
from rtseg.cli.process import Stop
from rtseg.cli.train_flags import (
    DatasetFlags,
    PictureFlags,
    StartFlags,
    TrainFlags,
    TrainingFlags,
    TrainRunFlags,
)
from rtseg.errors import SinkError, SourceError, UsageError
from rtseg.session import keys
from rtseg.sources import target_help

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# ruff: noqa: B008 - the defaults are frozen


Names = Annotated[tuple[str, ...], Parameter(help="Names of `rtseg models`.", negative=())]

_NO_SHOW = "Write rtseg-demo.mp4 instead of opening a window."


def add_verbs(app: App, stop: Stop) -> None:
    """Add them to the program."""
    app.command(_models_app(stop))

    def cameras(
        *,
        measure: Annotated[
            bool, Parameter(help="Watch each for a second, and tell the rate that really comes.")
        ] = True,
        json: Annotated[bool, Parameter(help="Print JSON.", negative=())] = False,
    ) -> int:
        """List the cameras, their modes and the rate each really gives."""
        from rtseg.cli.cameras import print_cameras

        return stop.attend(lambda: print_cameras(measure=measure, as_json=json))

    def doctor(
        *, json: Annotated[bool, flag("As JSON, to be sent with a report.", "--json")] = False
    ) -> int:
        """Say what this machine has: versions, devices, providers, display, codecs, cache."""
        from rtseg.cli.doctor import examine

        return stop.attend(lambda: examine(as_json=json))

    def demo(
        *,
        seconds: Annotated[float, Parameter(help="Length of the clip.")] = 10.0,
        no_show: Annotated[bool, flag(_NO_SHOW, "--no-show", "--headless")] = False,
        output: Annotated[
            Text, flag("Write this instead, as rtseg -o does.", "--output", "-o")
        ] = None,
        overwrite: Annotated[bool, flag("Replace what -o names.", "--overwrite", "-y")] = False,
    ) -> int:
        """Segment a picture of a person, panned and zoomed into a clip."""
        from rtseg.cli.demo import run_demo

        return run_demo(stop, seconds, output=output, overwrite=overwrite, no_show=no_show)

    def evaluate(
        *,
        sets: SetFlags = SetFlags(),
        networks: NetworkFlags = NetworkFlags(),
        figures: FigureFlags = FigureFlags(),
    ) -> int:
        """Measure networks on labelled pictures: IoU per class, mean IoU, and more."""
        from rtseg.cli.eval import evaluate

        return evaluate(EvalFlags(sets, networks, figures), stop)

    def train(
        *,
        dataset: DatasetFlags = DatasetFlags(),
        start: StartFlags = StartFlags(),
        training: TrainingFlags = TrainingFlags(),
        pictures: PictureFlags = PictureFlags(),
        run: TrainRunFlags = TrainRunFlags(),
    ) -> int:
        """Fine-tune a network on labelled pictures; needs rtseg[train]."""
        from rtseg.cli.train import train

        return train(TrainFlags(dataset, start, training, pictures, run), stop)

    app.command(train, name="train")

    def bench(
        *,
        networks: BenchNetworkFlags = BenchNetworkFlags(),
        clocks: ClockFlags = ClockFlags(),
        figures: BenchFigureFlags = BenchFigureFlags(),
    ) -> int:
        """Time networks on backends: model only, pipeline, whole loop; side by side, in rounds."""
        from rtseg.cli.bench import bench

        return bench(BenchFlags(networks, clocks, figures), stop)

    app.command(bench, name="bench")
    app.command(evaluate, name="eval")

    def export(
        *,
        export: ExportFlags = ExportFlags(),
        proof: ProofFlags = ProofFlags(),
    ) -> int:
        """Write a network as an ONNX file, and prove that its masks are the same."""
        from rtseg.cli.export import export_file

        return export_file(export, proof, stop)

    app.command(export, name="export")
    app.command(cameras, name="cameras")
    app.command(doctor, name="doctor")
    app.command(demo, name="demo")


def _models_app(stop: Stop) -> App:
    app = App(name="models", help="List, show, download and verify networks.")

    def list_all() -> int:
        """List the networks (the default)."""
        from rtseg.cli.models import list_models

        return stop.attend(list_models)

    def show(name: str) -> int:
        """Show all that is known of one network."""
        from rtseg.cli.models import show_model

        return stop.attend(lambda: show_model(name))

    def download(
        *names: str,
        everything: Annotated[
            bool, Parameter(name="--all", help="All of them.", negative=())
        ] = False,
    ) -> int:
        """Fetch published weights into the cache."""
        from rtseg.cli.models import download_models

        return stop.attend(lambda: download_models(names, everything=everything, stop=stop))

    def verify() -> int:
        """Check the files that are here against their checksums."""
        from rtseg.cli.models import verify_models

        return stop.attend(verify_models)

    app.default(list_all)
    for name, verb in (
        ("list", list_all),
        ("show", show),
        ("download", download),
        ("verify", verify),
    ):
        app.command(verb, name=name)
    return app


_NOT_PRINTED = {"config", "print_config"}


def config_file(arguments: Sequence[str]) -> Path | None:
    """The file after `--config`, found before the other flags are read."""
    for place, argument in enumerate(arguments):
        if argument == "--":
            return None
        if argument == "--config" and place + 1 < len(arguments):
            return Path(arguments[place + 1])
        if argument.startswith("--config="):
            return Path(argument.partition("=")[2])
    return None


def read_config(path: Path) -> dict[str, Any]:
    """The values of a TOML file by flag name.

    Raises:
        UsageError: it cannot be read, is no TOML, or holds a table.
    """
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UsageError(f"--config {path}", found=str(reason)) from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"--config {path} is not TOML", found=str(error)) from error
    for name, value in values.items():
        if isinstance(value, dict):
            raise UsageError(
                f"--config {path}",
                found=f"it has a table [{name}]",
                do="Write the flags at the top level, as `rtseg --print-config` does",
            )
    # an empty list says nothing, and cyclopts 4 takes it for a list of one
    return {name.replace("_", "-"): value for name, value in values.items() if value != []}


def to_toml(flags: Flags) -> str:
    """A TOML file that repeats the run; flags that were left open stand as comments."""
    lines = ["# rtseg --config FILE repeats this run; the command line wins over the file"]
    lines.append(_line("input", (flags.input, *flags.more) if flags.more else flags.input))
    for group in ("source", "model", "view", "output", "run"):
        lines += [*_lines(getattr(flags, group)), ""]
    return "\n".join(lines[:-1])


def _lines(group: Any) -> Iterator[str]:
    for field in fields(group):
        if field.name not in _NOT_PRINTED:
            yield _line(field.name.replace("_", "-"), getattr(group, field.name))


def _line(name: str, value: Any) -> str:
    if value is None:
        return f"# {name} ="
    return f"{name} = {_value(value)}"


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    # JSON's strings and numbers are TOML's, but for a character that TOML wants escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")


# ruff: noqa: B008 - the defaults are frozen


T = TypeVar("T")

HELP = """Real-time semantic segmentation of webcams, videos, streams and pictures.

rtseg --camera 0            a camera, in a window
rtseg clip.mp4 -o out.mp4   a clip, into a file
rtseg rtsp://host/stream    a stream
rtseg 0 clip.mp4            several at once, in a grid

Without a verb, rtseg runs; a file that is called like a verb is given with -i.
"""

WITH_A_WINDOW = ("run", "demo")

OTHER_WORDS = {"help": "--help", "version": "--version", "list": "models", "devices": "doctor"}
"""What other programs call something that we have too."""

KEYS = f"Keys in the window:\n\n{keys.as_text()}"

# Flags whose value may be a lone "-", which a parser of flags takes for one.
_TAKE_A_DASH = {
    "-o",
    "--output",
    "-i",
    "--input",
    "--source",
    "--mask-output",
    "--json",
    "--metrics",
}

_STDIN = "(standard input)"
"""Stands for a lone "-" while the flags are parsed; where none belongs, an error names it so."""

Inputs = Annotated[
    tuple[str, ...],
    Parameter(
        name=("--input", "-i", "--source"),
        group=options.SOURCE,
        negative=(),
        help=f"A source: {target_help()}; several are shown as a grid.",
        show_default=False,
    ),
]


def build_app(stop: Stop) -> App:
    """The program's verbs; `stop` is what a run listens to."""

    app = App(
        name="rtseg", version=__version__, help=HELP, help_epilogue=KEYS, help_format="plaintext"
    )

    def run(
        input: Inputs = (),
        *,
        source: SourceFlags = SourceFlags(),
        model: ModelFlags = ModelFlags(),
        view: ViewFlags = ViewFlags(),
        output: OutputFlags = OutputFlags(),
        run: RunFlags = RunFlags(),
    ) -> int:
        """Segment a camera, clip, stream or picture, or several at once (the default)."""
        named = tuple("-" if one == _STDIN else one for one in input)
        first = named[0] if named else None
        return _run(Flags(first, source, model, view, output, run, named[1:]), stop)

    app.default(run)
    app.command(run, name="run")
    add_verbs(app, stop)
    for name in app:
        if not name.startswith("-") and name not in WITH_A_WINDOW:
            app[name].help_epilogue = ""
    app.register_install_completion_command()
    return app


def prepare(app: App, arguments: Sequence[str]) -> list[str]:
    """The arguments as cyclopts takes them; a `--config` file is read on the way."""
    tokens = list(arguments)
    verbs = {name for name in app if not name.startswith("-")}
    if tokens and tokens[0] not in verbs:
        _check_verb(tokens[0], verbs)
    if not tokens or tokens[0] not in verbs or tokens[0] == "run":
        if path := config_file(tokens):
            app.config = [Dict(read_config(path), source=str(path), use_commands_as_keys=False)]
    else:
        tokens = [token for token in tokens if token != "--debug"]  # it belongs to every verb
    return _joined_dashes(tokens)


def _check_verb(word: str, verbs: Iterable[str]) -> None:
    """Raise UsageError for a word that is no file and was probably meant as a verb."""
    if word.isalpha() and not Path(word).exists():
        known = OTHER_WORDS.get(word.lower())
        for meant in [known] if known else get_close_matches(word, verbs, n=1, cutoff=0.6):
            found = "there is no such verb, nor such a file"
            raise UsageError(f"cannot run {word}", found=found, do=f"Did you mean rtseg {meant}?")


def usage_error(error: CycloptsError) -> UsageError:
    """A parse error in our words."""
    if isinstance(error, UnusedCliTokensError):
        extra = " ".join(error.unused_tokens or ())
        return UsageError(f"unexpected argument: {extra}", do="See rtseg --help")
    words = " ".join(str(error).split())
    return UsageError(words, do="" if words.endswith("?") else "See rtseg --help")


def _joined_dashes(tokens: Sequence[str]) -> list[str]:
    """`-o -` as `-o=-`, and a lone `-` as a source."""
    joined: list[str] = []
    for token in tokens:
        if token == "-" and joined and joined[-1] in _TAKE_A_DASH:
            joined[-1] += "=-"
        else:
            joined.append(_STDIN if token == "-" else token)
    return joined


def _run(flags: Flags, stop: Stop) -> int:
    if flags.run.print_config:
        print(to_toml(flags))
        return 0
    if flags.view.grid or len(flags.sources) > 1:
        from rtseg.cli.plan import make_grid_plan

        plans = _planned(make_grid_plan, flags)
        from rtseg.cli.grid import run_grid

        return run_grid(flags, plans, stop)
    from rtseg.cli.plan import make_plan

    plan = _planned(make_plan, flags)  # before the heavy libraries are imported
    from rtseg.cli.run import run_plan

    return run_plan(flags, plan, stop)


def _planned(make: Callable[[Flags], T], flags: Flags) -> T:
    """The plan; where there is no place for the pictures, a source that is not there comes first.

    Raises:
        SourceError: there is no such file.
        RtsegError: as `make` raises it.
    """
    try:
        return make(flags)
    except SinkError as error:
        failure = error
    for source in flags.sources:
        _check_there(source)
    raise failure


def _check_there(source: str) -> None:
    """Raise SourceError for the path of a file or folder that is not there."""
    from rtseg.sources import source_kind

    is_path = source_kind(source).is_path and not any(c in source for c in "*?[%")
    if is_path and not Path(source).exists():
        found = "there is no such file or folder"
        raise SourceError(f"cannot open {source}", found=found, do="Check the path")
