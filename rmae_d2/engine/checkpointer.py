"""A run's checkpoints: written atomically, and found again.

output_dir/
  model_0000999.pth   model, trainer (iteration, optimizer, loss scale), ema; iterations count from 0
  model_0000999/      the same for an FSDP run, see rmae_d2.checkpoint.sharded
  model_final.pth     the same, after the last step; always a single file
  last_checkpoint     the newest one's name, as in Detectron2

Each of them can resume any run, whatever the number of processes and ``train.parallel``.
"""

import logging
import re
from pathlib import Path
from typing import Any

from detectron2.utils import comm
from torch import Tensor, nn

from ..checkpoint import atomic_save
from ..checkpoint.formats import check_finite
from ..checkpoint.sharded import read_checkpoint, read_sharded, remove_checkpoint, save_sharded
from ..errors import CheckpointError, UserError
from ..files import atomic_file, is_being_written
from .parallel import as_sharded, gathered_on_main, is_sharded, local, mesh_of, unwrap

logger = logging.getLogger(__name__)

FINAL = "model_final"
_LONGEST_NAME = 255  # bytes
_NUMBERED = re.compile(r"^model_(\d{7,})(\.pth)?$")


class Checkpointer:
    """Saves and restores a run; called identically by all processes.

    Args:
        model: possibly wrapped in DDP or sharded by FSDP.
        folder: the run's output folder.
        parts: further objects with ``state_dict`` and ``load_state_dict``, saved under their names.
    """

    def __init__(self, model: nn.Module, folder: str, **parts: Any) -> None:
        self.model = unwrap(model)
        self.folder = Path(folder)
        self.parts = parts

    def save(self, name: str, iteration: int) -> Path:
        """Write ``name.pth``, or the folder ``name`` for an FSDP run, and mark it as the last.

        ``model_final`` is always a single file.

        Raises:
            CheckpointError: the disk is full; what was there before is kept.
        """
        main = comm.is_main_process()
        sharded = is_sharded(self.model)
        in_folder = sharded and name != FINAL
        path = self.folder / (name if in_folder else f"{name}.pth")
        if sharded or main:
            content = {"model": self.model.state_dict(), "iteration": iteration}
            content.update({key: part.state_dict() for key, part in self.parts.items()})
            if in_folder:
                save_sharded(content, str(path))
            else:
                content = gathered_on_main(content)
        if main and not in_folder:
            atomic_save(content, str(path))
        if main:
            self._mark(path)
        return path

    def _mark(self, path: Path) -> None:
        try:
            with atomic_file(self.folder / "last_checkpoint") as file:
                file.write(path.name.encode())
        except UserError as error:
            raise CheckpointError(
                f"{path} is whole, but {error}: make room, then continue with --resume"
            ) from error

    def prune(self, keep: int, iteration: int) -> None:
        """Delete numbered checkpoints up to ``iteration`` except for the ``keep`` newest; 0 keeps all.

        It does not matter who wrote them. Later ones, broken or left behind when the run was set back, are
        kept.
        """
        if keep > 0 and comm.is_main_process():
            past = [p for p in self.numbered() if _number(p) <= iteration]
            for path in past[keep:]:
                remove_checkpoint(path)

    def sweep(self) -> None:
        """Delete partial files left by a run killed while saving, but nothing that is being written now."""
        for pattern in ("*.pth.*tmp*", "model_*.tmp", "last_checkpoint.*tmp*"):
            for path in self.folder.glob(pattern):
                if not is_being_written(path):
                    remove_checkpoint(path)

    def numbered(self) -> list[Path]:
        """Checkpoints with an iteration in their name, newest first."""
        found = [p for p in self.folder.glob("model_*") if _NUMBERED.match(p.name)]
        found = [p for p in found if _is_checkpoint(p)]
        return sorted(found, key=_number, reverse=True)

    def candidates(self) -> list[Path]:
        """Checkpoints to continue from, in order of preference: the marked one, then newest first."""
        name = self._marked()
        marked = [self.folder / name] if name else []
        final = self.folder / f"{FINAL}.pth"
        # An extended run has numbered checkpoints after its model_final.
        rest = sorted([final, *self.numbered()], key=_age) if final.exists() else self.numbered()
        return list(dict.fromkeys(p for p in [*marked, *rest] if _is_checkpoint(p)))

    def _marked(self) -> str | None:
        """The name in last_checkpoint, if it is that of a checkpoint in this folder."""
        try:
            with open(self.folder / "last_checkpoint", "rb") as file:
                text = file.read(_LONGEST_NAME + 1).decode().strip()
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            problem = f"is damaged ({error!s:.80})"
        else:
            if _is_name(text) and _is_checkpoint(self.folder / text):
                return text
            problem = f"names no checkpoint of this folder ({text!r:.80})"
        logger.warning("%s %s; looking for the newest", self.folder / "last_checkpoint", problem)
        return None

    def resume(self) -> tuple[Path, int] | None:
        """Restore the newest complete checkpoint.

        Returns:
            the checkpoint and the iteration to continue with; None if the folder holds no checkpoint.

        Raises:
            CheckpointError: there are checkpoints, but none is complete and fits.
        """
        candidates = self.candidates()
        self._check_same([path.name for path in candidates])
        for path in candidates:
            try:
                content = self._read(path)
            except CheckpointError as error:
                logger.error("%s; trying an earlier checkpoint", error)
                continue
            iteration = self._restore(path, content)
            logger.info("resumed at iteration %d from %s", iteration, path)
            return path, iteration
        if candidates:
            raise CheckpointError(
                f"{self.folder}: none of {len(candidates)} checkpoints is readable. Start again in another "
                "train.output_dir"
            )
        return None

    def _check_same(self, names: list[str]) -> None:
        """Refuse to continue on several machines from checkpoints that only one of them has."""
        found = comm.all_gather(names)
        if any(other != names for other in found):
            lists = "; ".join(", ".join(some) or "none" for some in found)
            raise CheckpointError(
                f"{self.folder}: the processes found different checkpoints ({lists:.300}): train.output_dir "
                "must be on storage that all machines share"
            )

    def _read(self, path: Path) -> dict[str, Any]:
        """Read a checkpoint's content: whole, or in shards if both this run and the checkpoint are sharded.

        Raises:
            CheckpointError: in all processes, if one cannot read it or finds NaN or infinite weights.
        """
        content: dict[str, Any] = {}
        message = None
        try:
            if path.is_dir() and is_sharded(self.model):
                content = read_sharded(str(path), mesh_of(self.model))
            else:
                content = read_checkpoint(str(path))
            _check_content(path, content)
        except CheckpointError as error:
            message = str(error)
        failed = next((other for other in comm.all_gather(message) if other), None)
        if failed:
            raise CheckpointError(failed)
        return content

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
            own = self.model.state_dict() if is_sharded(self.model) else {}
            self.model.load_state_dict(as_sharded(content["model"], own))
            for key, part in self.parts.items():
                part.load_state_dict(content[key])
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"{path}: was written by another model or optimizer configuration: {error!s:.600}\n"
                "Resume with the configuration the run began with (--config-file "
                f"{self.folder / 'config.yaml'}), or start from these weights in another train.output_dir "
                f"with train.init_checkpoint={path}"
            ) from error
        return int(content["iteration"]) + 1


def holds_run(folder: Path) -> bool:
    """Whether a folder contains checkpoints or traces of them."""
    certain = (folder / "last_checkpoint", folder / f"{FINAL}.pth")
    numbered = (p for p in folder.glob("model_*") if _NUMBERED.match(p.name))
    return any(p.exists() for p in certain) or any(map(_is_checkpoint, numbered))


def _check_content(path: Path, content: Any) -> None:
    """Refuse content that is not a run's checkpoint or that must not be trained on."""
    if not isinstance(content, dict) or not isinstance(content.get("iteration"), int):
        raise CheckpointError(f"{path}: holds no state of a run")
    for name in ("model", "ema"):
        weights = content.get(name)
        if isinstance(weights, dict):
            tensors = {f"{name}.{k}": local(v) for k, v in weights.items() if isinstance(v, Tensor)}
            check_finite(tensors, str(path))


def _is_name(text: str) -> bool:
    """Whether a text names a file in a folder rather than one elsewhere."""
    fits = 0 < len(text.encode()) <= _LONGEST_NAME
    return fits and text.isprintable() and Path(text).name == text


def _is_checkpoint(path: Path) -> bool:
    """A checkpoint file has an extension; a checkpoint folder is only numbered."""
    return path.is_file() if path.suffix else path.is_dir() and bool(_NUMBERED.match(path.name))


def _number(path: Path) -> int:
    return int(path.stem.removeprefix("model_"))


def _age(path: Path) -> int:
    return -path.stat().st_mtime_ns
