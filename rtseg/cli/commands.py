"""The command line's grammar: verbs, flags and configuration file, read by cyclopts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, TypeVar

from cyclopts import App, CycloptsError, Parameter, UnusedCliTokensError
from cyclopts.config import Dict

from rtseg import __version__
from rtseg.cli import options
from rtseg.cli.config import config_file, read_config, to_toml
from rtseg.cli.options import Flags, ModelFlags, OutputFlags, RunFlags, SourceFlags, ViewFlags
from rtseg.cli.process import Stop
from rtseg.errors import SinkError, SourceError, UsageError
from rtseg.session import keys

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
        help="Camera number, video, picture, folder, glob, address, - (raw frames on stdin), "
        "or test:// (synthetic); several are shown as a grid.",
        show_default=False,
    ),
]


def build_app(stop: Stop) -> App:
    """The program's verbs; `stop` is what a run listens to."""
    from rtseg.cli.verbs import add_verbs

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
        from rtseg.cli.grid_plan import make_grid_plan

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
    from rtseg.sources import kind_of

    is_path = kind_of(source) in ("video", "pictures") and not any(c in source for c in "*?[%")
    if is_path and not Path(source).exists():
        found = "there is no such file or folder"
        raise SourceError(f"cannot open {source}", found=found, do="Check the path")
