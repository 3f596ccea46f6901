"""The evaluation loader for pre-training: every image once, or once for each of several region sources."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch.utils.data import Dataset

from ..errors import UserError
from ..modeling.batch import Batch
from .loader import EvalLoader, Sample, build_eval_loader
from .mappers import RegionDatasetMapper, RegionSource


class SeveralSourcesLoader:
    """Several evaluation loaders in sequence; ``region_source`` in a sample names its loader."""

    def __init__(self, loaders: Mapping[str, EvalLoader]) -> None:
        self.loaders = dict(loaders)

    def __len__(self) -> int:
        return sum(map(len, self.loaders.values()))

    def __iter__(self) -> Iterator[Batch]:
        for name, loader in self.loaders.items():
            for samples in loader:
                batch = Batch.of(samples)
                yield replace(batch, facts=[{**f, "region_source": name} for f in batch.facts])


def build_reconstruction_loader(
    dataset: Sequence[Sample] | Dataset[Sample],
    mapper: RegionDatasetMapper,
    *,
    also: Sequence[RegionSource] = (),
    batch_size: int = 1,
    num_workers: int = 4,
    seed: int = 0,
) -> EvalLoader | SeveralSourcesLoader:
    """`build_eval_loader`, with the same images repeated for further region sources to report on.

    Crops, flips and masks are the same for all sources.

    Args:
        dataset: dataset dicts, or a map-style data set of them.
        mapper: with the source used in training, or another one.
        also: further sources. Their samples have ``region_source``, the name of the source in its
            ``params``, such as ``instances``; for the mapper's own source it is empty.
        batch_size, num_workers, seed: as in `build_eval_loader`.

    Raises:
        UserError: two further sources have the same name, or the mapper has no source.
    """
    options: dict[str, Any] = {"batch_size": batch_size, "num_workers": num_workers, "seed": seed}
    own = build_eval_loader(dataset, mapper, **options)
    if not also:
        return own
    if mapper.regions is None:
        raise UserError(
            "dataloader.test.also names region sources for a model without regions: leave it empty, or give "
            "dataloader.train.mapper.regions"
        )
    loaders = {"": own}
    for source in also:
        name = getattr(source, "params", {}).get("source", type(source).__name__)
        name = str(name).replace(" ", "_")
        if name in loaders:
            raise UserError(f"dataloader.test.also has two region sources named {name!r}")
        loaders[name] = build_eval_loader(dataset, mapper.with_regions(source), **options)
    return SeveralSourcesLoader(loaders)
