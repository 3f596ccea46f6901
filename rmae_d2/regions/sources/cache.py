"""On-disk cache of region records, so that nobody has to precompute regions to start training.

An entry is found by what the regions depend on: pixels of the decoded image, parameters of the
source, format of the record. Renaming or moving photos keeps the cache; changing a parameter
starts another one beside it:

    folder/<hash of parameters and format>/<first two hex digits>/<hash of the image>.regions

Any number of processes and machines may share a folder. Trouble with it costs time, never a run.
"""

import json
import logging
import os
from collections.abc import Callable, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import StoreError, UserError
from ...files import atomic_file
from ..record.codec import FORMAT_VERSION, warm_up
from ..record.record import EncodedRecord, RegionRecord

logger = logging.getLogger(__name__)


class RegionCache:
    """Records of one region source under one folder. Picklable.

    Attributes:
        folder: where this source's entries lie, below the folder given.
    """

    def __init__(self, folder: str | os.PathLike[str], params: Mapping[str, Any]) -> None:
        """Creates nothing, but compiles the decoder, which workers forked later inherit.

        Args:
            folder: shared by all sources, made when missing.
            params: everything besides the image that the regions depend on; JSON types.
        """
        text = json.dumps([FORMAT_VERSION, params], sort_keys=True)
        self.folder = Path(folder) / blake2b(text.encode(), digest_size=8).hexdigest()
        self._failed: set[str] = set()  # of "read", "write": what was reported already
        warm_up()

    def path(self, image_HWC: NDArray[np.uint8]) -> Path:
        """File of the entry for an image."""
        digest = blake2b(repr((image_HWC.shape, image_HWC.dtype.str)).encode(), digest_size=16)
        digest.update(np.ascontiguousarray(image_HWC).data)
        name = digest.hexdigest()
        return self.folder / name[:2] / f"{name}.regions"

    def get(
        self, image_HWC: NDArray[np.uint8], compute: Callable[[NDArray[np.uint8]], RegionRecord]
    ) -> RegionRecord | EncodedRecord:
        """The record of an image: from disk, encoded as it lies there, else computed and written.

        An entry that is damaged or of another size is reported and replaced. A folder that cannot be
        read or written is reported once a process; from the first failed write on, records are
        computed without being kept. Errors of `compute` pass through.
        """
        path = self.path(image_HWC)
        size = image_HWC.shape[:2]
        kept = self._read(path, size)
        if kept is not None:
            return kept
        record = compute(image_HWC)
        if record.size != size:
            raise UserError(f"the source made a record of {record.size} for an image {size}")
        self._write(path, record)
        return record

    def _read(self, path: Path, size: tuple[int, ...]) -> EncodedRecord | None:
        try:
            record = EncodedRecord(path.read_bytes())
            if record.size == size:
                return record
            fault = f"it is of size {record.size}, the image of {size}"
        except FileNotFoundError:
            return None
        except OSError as error:
            self._report("read", error)
            return None
        except StoreError as error:
            fault = str(error)
        logger.warning("Region cache entry %s is unusable (%s); computing it anew.", path, fault)
        return None

    def _write(self, path: Path, record: RegionRecord) -> None:
        if "write" in self._failed:
            return
        data = record.to_bytes()
        # Readers see a whole entry or none; writers of the same entry write the same bytes, so
        # the last one wins. A power cut may leave a short file, which reading finds.
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(path, durable=False) as file:
                file.write(data)
        except (OSError, UserError) as error:
            self._report("write", error)

    def _report(self, action: str, error: OSError | UserError) -> None:
        if action not in self._failed:
            self._failed.add(action)
            logger.warning(
                "REGION CACHE: CANNOT %s %s (%s). The run goes on, but regions that are not there "
                "are computed again in every epoch, which is slow. Free space, correct the "
                "folder's permissions, or name another folder as cache_dir.",
                action.upper(), self.folder, error,
            )  # fmt: skip
