"""Checkpoints of a run: whole or not there, and found again.

output_dir/
  model_0000999.pth   model, trainer (iteration, optimizer, loss scale), ema; iteration counts from 0
  model_final.pth     the same, after the last step
  last_checkpoint     the newest one's name, as Detectron2 has it
"""

import logging
import os
import re
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..checkpoint import CheckpointError, atomic_save
from ..checkpoint.formats import read_file

logger = logging.getLogger(__name__)

_NUMBERED = re.compile(r"^model_(\d{7,})\.pth$")


class Checkpointer:
    """Saves and restores a run.

    Args:
        model: maybe wrapped in DDP.
        folder: the run's output folder.
        parts: further objects with ``state_dict`` and ``load_state_dict``, saved under their names.
    """

    def __init__(self, model: nn.Module, folder: str, **parts: Any) -> None:
        self.model = model.module if isinstance(model, DistributedDataParallel) else model
        self.folder = Path(folder)
        self.parts = parts

    def save(self, name: str, iteration: int) -> Path:
        """Writes ``name.pth`` and marks it as the last.

        Raises:
            CheckpointError: where the disk is full; what was there before stays.
        """
        path = self.folder / f"{name}.pth"
        content = {"model": self.model.state_dict(), "iteration": iteration}
        content.update({key: part.state_dict() for key, part in self.parts.items()})
        atomic_save(content, str(path))
        marker = self.folder / f"last_checkpoint.tmp{os.getpid()}"
        try:
            marker.write_text(path.name)
            marker.replace(self.folder / "last_checkpoint")
        except OSError as error:
            marker.unlink(missing_ok=True)
            raise CheckpointError(
                f"{path} is whole, but {self.folder / 'last_checkpoint'} could not be written "
                f"({error}): make room, then continue with --resume"
            ) from error
        return path

    def prune(self, keep: int, iteration: int) -> None:
        """Deletes the numbered checkpoints up to ``iteration`` but the ``keep`` newest; 0 keeps all.

        Whoever wrote them. Later ones, from which a run was set back or which are broken, are left alone.
        """
        if keep > 0:
            past = [p for p in self.numbered() if _number(p) <= iteration]
            for path in past[keep:]:
                path.unlink(missing_ok=True)

    def sweep(self) -> None:
        """Deletes the unfinished files of a run that was killed while it saved."""
        for pattern in ("*.pth.tmp*", "last_checkpoint.tmp*"):
            for path in self.folder.glob(pattern):
                path.unlink(missing_ok=True)

    def numbered(self) -> list[Path]:
        """Checkpoints with an iteration in their name, newest first."""
        found = [p for p in self.folder.glob("model_*.pth") if _NUMBERED.match(p.name)]
        return sorted(found, key=_number, reverse=True)

    def candidates(self) -> list[Path]:
        """Where a run may continue from, in order of preference: the marked one, then the newest."""
        marker = self.folder / "last_checkpoint"
        marked = [self.folder / marker.read_text().strip()] if marker.exists() else []
        final = self.folder / "model_final.pth"
        # A run that was prolonged has numbered checkpoints after its model_final.
        rest = sorted([final, *self.numbered()], key=_age) if final.exists() else self.numbered()
        return list(dict.fromkeys(p for p in [*marked, *rest] if p.is_file()))

    def resume(self) -> int | None:
        """Restores the newest complete checkpoint.

        Returns:
            the iteration to continue with; None where the folder holds no checkpoint.

        Raises:
            CheckpointError: where checkpoints are there, but none is whole or fits.
        """
        candidates = self.candidates()
        for path in candidates:
            try:
                content = read_file(str(path))
            except CheckpointError as error:
                logger.error("%s; trying an earlier checkpoint", error)
                continue
            iteration = self._restore(path, content)
            logger.info("resumed at iteration %d from %s", iteration, path)
            return iteration
        if candidates:
            raise CheckpointError(
                f"{self.folder}: none of {len(candidates)} checkpoints is readable. Start again in another "
                "train.output_dir"
            )
        return None

    def _restore(self, path: Path, content: dict[str, Any]) -> int:
        missing = {"model", *self.parts} - set(content)
        if missing:
            raise CheckpointError(
                f"{path}: cannot be resumed, it lacks {', '.join(sorted(missing))}. Resume with the "
                "configuration the run began with (train.ema.decay cannot be switched on later), or "
                f"begin another run with these weights: train.init_checkpoint={path} and another "
                "train.output_dir"
            )
        try:
            self.model.load_state_dict(content["model"])
            for key, part in self.parts.items():
                part.load_state_dict(content[key])
        except (RuntimeError, ValueError, KeyError) as error:
            raise CheckpointError(
                f"{path}: was written by another model or optimizer configuration: {error!s:.600}\n"
                "Resume with the configuration the run began with, or start from these weights in another "
                f"train.output_dir with train.init_checkpoint={path}"
            ) from error
        return int(content["iteration"]) + 1


def _number(path: Path) -> int:
    return int(path.stem.removeprefix("model_"))


def _age(path: Path) -> int:
    return -path.stat().st_mtime_ns
