"""``from_pretrained``, ``save_pretrained`` and ``push_to_hub`` of our networks: huggingface_hub's mixin."""

from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import ModelHubMixin
from huggingface_hub.errors import HTTPError

from ..errors import UserError
from ..hub_files import what_it_says

M = TypeVar("M", bound="HubModel")


class HubModel(ModelHubMixin):
    """The mixin with our files: those of `rmae_d2.save_pretrained` and `rmae_d2.load`.

    These two, which also serve models that are not ours to give a base class, know of files and lie floors
    above the networks; so they are called by the package's front door.
    """

    # Not None: the mixin is to collect no arguments of __init__, for a model is built from its run's config.
    _hub_mixin_config: Any = {}

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls: type[M], pretrained_model_name_or_path: str | Path, **options: Any
    ) -> M:
        """What `rmae_d2.load` gives, with its options; UserError where it is none of this class.

        Instead of the mixin's, which asks for a config.json first and has a traceback for a missing network.
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
        """See huggingface_hub's; UserError, in one line, where the hub refuses or is not reached."""
        try:
            return super().push_to_hub(repo_id, **options)
        except (OSError, HTTPError) as error:
            raise UserError(
                f"{repo_id} was not pushed ({what_it_says(error)}). `hf auth login` makes this machine "
                "known to the hub; rmae_d2.save_pretrained writes the same files to a folder"
            ) from error
