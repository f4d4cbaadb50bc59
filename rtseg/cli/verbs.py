"""The verbs beside `run`; what they need is imported when they run."""

from __future__ import annotations

# ruff: noqa: B008 - the defaults are frozen
from typing import Annotated

from cyclopts import App, Parameter

from rtseg.cli.bench_flags import BenchFigureFlags, BenchFlags, BenchNetworkFlags, ClockFlags
from rtseg.cli.evaluate_flags import EvalFlags, FigureFlags, NetworkFlags, SetFlags
from rtseg.cli.export_flags import ExportFlags, ProofFlags
from rtseg.cli.flag import Text, flag
from rtseg.cli.process import Stop
from rtseg.cli.train_flags import (
    DatasetFlags,
    PictureFlags,
    StartFlags,
    TrainFlags,
    TrainingFlags,
    TrainRunFlags,
)

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
        from rtseg.cli.evaluate import evaluate

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
