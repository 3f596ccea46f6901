"""``from_pretrained``, ``save_pretrained`` and ``push_to_hub`` for our networks: huggingface_hub's mixin."""

from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import ModelHubMixin
from huggingface_hub.errors import HTTPError

from ..errors import UserError
from ..hub_files import what_it_says

M = TypeVar("M", bound="HubModel")


class HubModel(ModelHubMixin):
    """huggingface_hub's mixin with the file format of `rmae_d2.save_pretrained` and `rmae_d2.load`.

    These two functions also serve models that cannot derive from this class. They work on files, in a layer
    well above the networks, so they are called through the top-level package.
    """

    # Not None, so that the mixin collects no __init__ arguments: a model is built from its run's config.
    _hub_mixin_config: Any = {}

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls: type[M], pretrained_model_name_or_path: str | Path, **options: Any
    ) -> M:
        """Returns the result of `rmae_d2.load`, with its options; UserError if it is not of this class.

        Replaces the mixin's method, which requests config.json first and fails with a traceback when offline.
        """
        import rmae_d2

        model = rmae_d2.load(pretrained_model_name_or_path, **options)
        if not isinstance(model, cls):
            raise UserError(
                f"{pretrained_model_name_or_path} is a {type(model).__name__}, no {cls.__name__}: "
                "rmae_d2.load takes either"
            )
        return model

    def _save_pretrained(self, save_directory: Path) -> None:
        import rmae_d2

        rmae_d2.save_pretrained(self, save_directory)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """See huggingface_hub's method; raises a one-line UserError if the hub refuses or is unreachable."""
        try:
            return super().push_to_hub(repo_id, **options)
        except (OSError, HTTPError) as error:
            raise UserError(
                f"{repo_id} was not pushed ({what_it_says(error)}). `hf auth login` makes this machine "
                "known to the hub; rmae_d2.save_pretrained writes the same files to a folder"
            ) from error
