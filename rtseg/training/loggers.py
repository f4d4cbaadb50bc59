"""Loggers beside metrics.csv, each through Lightning's own: rows of `LOGGERS`."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from rtseg.documents import read_json
from rtseg.errors import SinkError, UsageError, first_line
from rtseg.files import write_file
from rtseg.images import read_image
from rtseg.options import imported
from rtseg.training.folder import RunFolder
from rtseg.training.options import LOGGERS


class Logger(Protocol):
    """An open logger.

    Args:
        name: of the model.
        run: the `run` of an earlier part of the same run; "" for a new one.

    Attributes:
        lightning: the logger of Lightning that takes settings and figures.
        run: what the service calls the run; "" if it has no name for it.
    """

    lightning: Any
    run: str

    def __init__(self, folder: RunFolder, name: str, run: str) -> None: ...

    def image(self, name: str, path: Path, step: int) -> None:
        """Log a PNG file."""

    def close(self) -> None:
        """End it."""


class TensorBoard:
    """Writes into `tensorboard/` of the run folder."""

    def __init__(self, folder: RunFolder, name: str, run: str) -> None:
        from lightning.fabric.loggers import TensorBoardLogger

        self.lightning = TensorBoardLogger(
            folder.path, folder.tensorboard.name, "", default_hp_metric=False
        )
        self.run = ""

    def image(self, name: str, path: Path, step: int) -> None:
        """Log a PNG file."""
        image = read_image(path, SinkError)[..., ::-1]
        self.lightning.experiment.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        """End it."""
        self.lightning.finalize("success")


class Wandb:
    """Weights & Biases: its project is "rtseg" unless WANDB_PROJECT names one."""

    def __init__(self, folder: RunFolder, name: str, run: str) -> None:
        from lightning.pytorch.loggers import WandbLogger

        project = os.environ.get("WANDB_PROJECT", "rtseg")
        where = {"save_dir": folder.path, "project": project}
        self.lightning = WandbLogger(name, id=run or None, resume="allow", **where)
        self.run = str(self.lightning.experiment.id)

    def image(self, name: str, path: Path, step: int) -> None:
        """Log a PNG file."""
        self.lightning.log_image(name, [str(path)], step=step)

    def close(self) -> None:
        """End it; the next run of this process would otherwise be part of it."""
        self.lightning.experiment.finish()


class MLflow:
    """MLflow: its experiment is "rtseg"; without MLFLOW_TRACKING_URI, in the run folder."""

    def __init__(self, folder: RunFolder, name: str, run: str) -> None:
        from lightning.pytorch.loggers import MLFlowLogger

        self.lightning = MLFlowLogger(
            os.environ.get("MLFLOW_EXPERIMENT_NAME", "rtseg"),
            name,
            os.environ.get("MLFLOW_TRACKING_URI"),
            save_dir=str(folder.path / "mlruns"),
            run_id=run or None,
        )
        self.run = str(self.lightning.run_id)

    def image(self, name: str, path: Path, step: int) -> None:
        """Log a PNG file."""
        self.lightning.experiment.log_artifact(self.run, str(path), f"{name}/{step:08d}")

    def close(self) -> None:
        """End it."""
        self.lightning.finalize("success")


class Loggers:
    """The loggers of a run. One that fails later is dropped with a warning: metrics.csv has it all.

    Args:
        names: keys of `LOGGERS`.
        model: its name.
        settings: of the run.
        resumed: continue the runs that an earlier part began.
        warn: called with a line for each that fails.

    Raises:
        UsageError: one cannot be opened.
        SinkError: the folder cannot be written.
    """

    def __init__(
        self,
        names: Sequence[str],
        folder: RunFolder,
        model: str,
        settings: Mapping[str, Any],
        *,
        resumed: bool,
        warn: Callable[[str], None],
    ) -> None:
        self._warn, self._open = warn, dict[str, Logger]()
        runs: dict[str, str] = {}
        if resumed and folder.loggers.exists():
            runs = read_json(folder.loggers, dict[str, str], UsageError)
        for one in dict.fromkeys(names):
            kind: type[Logger] = imported(LOGGERS[one].open)
            try:
                opened = kind(folder, model, runs.get(one, ""))
                opened.lightning.log_hyperparams(settings)
            except Exception as error:  # of many types, from services and networks
                raise UsageError(f"cannot open --logger {one}", found=first_line(error)) from error
            self._open[one] = opened
            runs[one] = opened.run
        if self._open:
            write_file(folder.loggers, json.dumps(runs, indent=2) + "\n")

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Log figures of a step, without those that are not numbers."""
        known = {_plain(name): value for name, value in figures.items() if math.isfinite(value)}
        self._each(lambda logger: logger.lightning.log_metrics(known, step))

    def image(self, name: str, path: Path, step: int) -> None:
        """Log a PNG file."""
        self._each(lambda logger: logger.image(name, path, step))

    def close(self) -> None:
        """Send what is left."""
        self._each(lambda logger: logger.close())

    def _each(self, call: Callable[[Logger], None]) -> None:
        for name, logger in list(self._open.items()):
            try:
                call(logger)
            except Exception as error:  # of many types, from services and networks
                del self._open[name]
                self._warn(f"--logger {name} failed and gets no more: {first_line(error)}")


def _plain(name: str) -> str:
    """A name of letters that every service takes."""
    return re.sub(r"[^\w .\-/]", "_", name, flags=re.ASCII)


def check_loggers(names: Sequence[str]) -> None:
    """Raise UsageError unless the packages of these loggers are installed."""
    for name in names:
        package = LOGGERS[name].package
        if find_spec(package) is None:
            raise UsageError(
                f"--logger {name} needs the package {package}",
                found="it cannot be found",
                do=f"Install it: python -m pip install {package}",
            )
