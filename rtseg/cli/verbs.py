"""The verbs beside `run`; what they need is imported when they run."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter

from rtseg.cli.signals import Stop

Names = Annotated[tuple[str, ...], Parameter(help="Names of `rtseg models`.", negative=())]

_NO_SHOW = "Write rtseg-demo.mp4 instead of opening a window."


def add(app: App, stop: Stop) -> None:
    """Add them to the program."""
    app.command(_models_app(stop))

    def cameras() -> int:
        """List the cameras, their modes and the rate each really gives."""
        from rtseg.cli.cameras import print_cameras

        return stop.attend(print_cameras)

    def doctor() -> int:
        """Say what this machine has: versions, devices, providers, display, codecs, cache."""
        from rtseg.cli.doctor import examine

        return stop.attend(examine)

    def demo(
        *,
        seconds: Annotated[float, Parameter(help="Length of the clip.")] = 10.0,
        no_show: Annotated[
            bool, Parameter(name=("--no-show", "--headless"), help=_NO_SHOW, negative=())
        ] = False,
    ) -> int:
        """Segment a picture of a person, panned and zoomed into a clip."""
        from rtseg.cli.demo import run_demo

        return run_demo(stop, seconds, no_show=no_show)

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
