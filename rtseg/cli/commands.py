"""The verbs of the command line, and how its arguments are read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, TypeVar

from cyclopts import App, CycloptsError, Parameter, UnusedCliTokensError

from rtseg._version import __version__
from rtseg.addresses import shown
from rtseg.cli.flags import collect, print_config, takes, with_config
from rtseg.cli.options import (
    BATCH,
    LAYOUTS,
    RUN,
    BatchFlags,
    BenchFlags,
    DemoFlags,
    EvalFlags,
    ExportFlags,
    Flags,
    ServeFlags,
)
from rtseg.cli.process import Stop
from rtseg.errors import SinkError, SourceError, UsageError
from rtseg.session import keys

T = TypeVar("T")

HELP = """Real-time semantic segmentation of webcams, videos, streams and images.

rtseg --camera 0            a camera, in a window
rtseg clip.mp4 -o out.mp4   a clip, into a file
rtseg rtsp://host/stream    a stream
rtseg 0 clip.mp4            several at once, in a grid

Without a command, rtseg runs `run`: rtseg run --help lists its flags and keys.
Use -i for a file that is named like a command.
"""

KEYS = f"Keys in the window:\n\n{keys.as_text()}"

WITH_A_WINDOW = ("run", "demo")

OTHER_WORDS = {"help": "--help", "version": "--version", "list": "models", "devices": "doctor"}
"""Words of other programs for something that rtseg has, too."""

# Flags whose value may be a lone "-", which a parser of flags would take for one.
_TAKE_A_DASH = frozenset("-o --output -i --input --source --mask-output --json --metrics".split())

_FILE_WITH_A_DASH = re.compile(r"-[^=]*\.[A-Za-z][A-Za-z0-9]*")

_PLACE = re.compile(r"[^/\\]*:\d+")
"""The value of --web, in which no address or path of a source has its colon."""

USUAL_PLACE = "127.0.0.1:8765"

_STDIN = "(standard input)"
"""Stands for a lone "-" while the flags are parsed; where none belongs, an error names it so."""


def build_app(stop: Stop, verb: str | None = None) -> App:
    """The program's verbs.

    Args:
        stop: what a run listens to.
        verb: the only one that gets its flags, to start sooner; None gives all of them theirs,
            "" none.
    """

    def takes_flags_of(name: str) -> Callable[[Callable[..., int]], Callable[..., int]]:
        return takes(LAYOUTS[name] if verb in (None, name) else ())

    app = App(
        name="rtseg",
        version=__version__,
        help=HELP,
        help_epilogue=KEYS if verb != "" else "",
        help_format="plaintext",
    )

    @takes_flags_of("run")
    def run(**given: Any) -> int:
        """Segment a camera, clip, stream or image, or several at once (the default)."""
        if "input" in given:
            given["input"] = tuple("-" if one == _STDIN else one for one in given["input"])
        return _run(collect(Flags, RUN, with_config(RUN, given)), stop)

    @takes_flags_of("bench")
    def bench(**given: Any) -> int:
        """Benchmark models and backends: model only, pipeline and whole loop, in rounds."""
        from rtseg.cli.bench import bench

        return bench(collect(BenchFlags, LAYOUTS["bench"], given), stop)

    @takes_flags_of("eval")
    def evaluate(**given: Any) -> int:
        """Evaluate models on labelled images: IoU per class, mean IoU, and more."""
        from rtseg.cli.eval import evaluate

        return evaluate(collect(EvalFlags, LAYOUTS["eval"], given), stop)

    @takes_flags_of("train")
    def train(**given: Any) -> int:
        """Fine-tune a model on labelled images; needs rtseg[train]."""
        from rtseg.cli.train import train

        return train(given, stop)

    @takes_flags_of("data")
    def data(**given: Any) -> int:
        """Check labelled images: faults, splits, classes, augmented views; needs rtseg[train]."""
        from rtseg.cli.data import describe

        return describe(given, stop)

    @takes_flags_of("export")
    def export(**given: Any) -> int:
        """Export a model to ONNX, and check that its masks stay the same."""
        from rtseg.cli.export import export_file

        return export_file(collect(ExportFlags, LAYOUTS["export"], given), stop)

    @takes_flags_of("serve")
    def serve(**given: Any) -> int:
        """Serve a page with masks on your camera, and an API; needs rtseg[serve]."""
        from rtseg.cli.serve import serve

        return serve(collect(ServeFlags, LAYOUTS["serve"], given), stop)

    @takes_flags_of("batch")
    def batch(**given: Any) -> int:
        """Run a folder of clips, resumed where it stopped, on one machine or several."""
        from rtseg.cli.batch import batch

        flags = collect(BatchFlags, BATCH, with_config(BATCH, given))
        stop.debug |= flags.run.debug  # of the file
        return batch(flags, stop)

    @takes_flags_of("cameras")
    def cameras(*, measure: bool = True, json: bool = False) -> int:
        """List cameras with their modes and measured frame rates."""
        from rtseg.cli.cameras import print_cameras

        return stop.attend(lambda: print_cameras(measure=measure, as_json=json))

    @takes_flags_of("doctor")
    def doctor(*, json: bool = False) -> int:
        """Check versions, devices, providers, display, codecs and cache."""
        from rtseg.cli.doctor import examine

        return stop.attend(lambda: examine(as_json=json))

    @takes_flags_of("demo")
    def demo(**given: Any) -> int:
        """Segment an image of a person, panned and zoomed into a clip."""
        from rtseg.cli.demo import run_demo

        return run_demo(DemoFlags(**given), stop)

    app.default(run)
    app.command(run, name="run")
    app.command(_models_app(stop))
    for command in (train, data, bench, export, batch, serve, cameras, doctor, demo):
        app.command(command)
    app.command(evaluate, name="eval")
    for name in app:
        if not name.startswith("-") and name not in WITH_A_WINDOW:
            app[name].help_epilogue = ""
    app.register_install_completion_command()
    return app


def _models_app(stop: Stop) -> App:
    app = App(name="models", help="List, show, download and verify models.")

    def list_all() -> int:
        """List the models (the default)."""
        from rtseg.cli.models import list_models

        return stop.attend(list_models)

    def show(name: str) -> int:
        """Show everything about one model."""
        from rtseg.cli.models import show_model

        return stop.attend(lambda: show_model(name))

    def download(
        *names: str,
        everything: Annotated[
            bool, Parameter(name="--all", help="Download all of them.", negative=())
        ] = False,
    ) -> int:
        """Download published weights into the cache."""
        from rtseg.cli.models import download_models

        return stop.attend(lambda: download_models(names, everything=everything, stop=stop))

    def verify() -> int:
        """Check the downloaded files against their checksums."""
        from rtseg.cli.models import verify_models

        return stop.attend(verify_models)

    app.default(list_all)
    app.command(list_all, name="list")
    for verb in (show, download, verify):
        app.command(verb)
    return app


def verb_of(arguments: Sequence[str]) -> str | None:
    """The verb whose flags the arguments need; None if all do, "" if none does."""
    if "--install-completion" in arguments:
        return None
    if arguments and arguments[0] in ("-h", "--help"):
        return ""
    first = arguments[0] if arguments else "run"
    return first if first in (*LAYOUTS, "models") else "run"


def prepare(app: App, arguments: Sequence[str]) -> list[str]:
    """The arguments as cyclopts takes them."""
    tokens = list(arguments)
    verbs = {name for name in app if not name.startswith("-")}
    if tokens and tokens[0] not in verbs:
        _check_verb(tokens[0], verbs)
    if tokens and tokens[0] in verbs - {"run"}:
        tokens = [token for token in tokens if token != "--debug"]  # it belongs to every verb
    return _joined_dashes(tokens)


def _check_verb(word: str, verbs: Iterable[str]) -> None:
    """Raise UsageError for a word that is not a file and was probably meant as a verb."""
    if word.isalpha() and not Path(word).exists():
        known = OTHER_WORDS.get(word.lower())
        for meant in [known] if known else get_close_matches(word, verbs, n=1, cutoff=0.6):
            found = "no such command or file"
            raise UsageError(f"cannot run {word}", found=found, do=f"Did you mean rtseg {meant}?")


def usage_error(error: CycloptsError, verb: str) -> UsageError:
    """A parse error of the flags of `verb`, in our words."""
    see = f"See rtseg {verb} --help"
    if isinstance(error, UnusedCliTokensError):
        extra = " ".join(error.unused_tokens or ())
        return UsageError(f"unexpected argument: {extra}", do=see)
    words = " ".join(str(error).split())
    return UsageError(words, do="" if words.endswith("?") else see)


def _joined_dashes(tokens: Sequence[str]) -> list[str]:
    """`-o -` as `-o=-`, a lone `-` as a source, and likewise files that are called "-5.mp4"."""
    joined: list[str] = []
    for token in tokens:
        is_file = _FILE_WITH_A_DASH.fullmatch(token) is not None
        if joined and joined[-1] == "--web":  # its value may be left out
            joined[-1] += f"={token}" if _PLACE.fullmatch(token) else f"={USUAL_PLACE}"
            if _PLACE.fullmatch(token):
                continue
        if (token == "-" or is_file) and joined and joined[-1] in _TAKE_A_DASH:
            joined[-1] += f"={token}"
        elif is_file and Path(token).is_file():
            joined.append(f"./{token}")
        else:
            joined.append(_STDIN if token == "-" else token)
    if joined and joined[-1] == "--web":
        joined[-1] += f"={USUAL_PLACE}"
    return joined


def _run(flags: Flags, stop: Stop) -> int:
    stop.debug |= flags.run.debug  # of the file
    if flags.run.print_config:
        text = print_config(flags, RUN, without=("config", "print_config"))
        lines = text.splitlines()
        printed = [*map(shown, lines)]
        if printed != lines:
            printed.insert(1, "# of addresses the hosts alone are shown: write them in full here")
        print("\n".join(printed))
        return 0
    from rtseg.cli.plan import make_grid_plan, make_plan

    make: Callable[[Flags], Any] = make_plan
    if flags.run.grid or len(flags.sources) > 1:
        make = make_grid_plan
    plan = _planned(make, flags)
    from rtseg.cli.run import run_plan  # heavy libraries, after all that can be refused without

    return run_plan(flags, plan, stop)


def _planned(make: Callable[[Flags], T], flags: Flags) -> T:
    """The plan; if no output can be opened, a missing source is reported first.

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
