"""Sources by name: built-in ones, own classes, and what is said where there is none."""

import json

import pytest

from rmae_d2.errors import UserError
from rmae_d2.regions import FelzenszwalbSource
from rmae_d2.regions.sources.spec import SOURCES, SourceSpec


def test_named_sources():
    fh = SourceSpec.named("fh", {"scales": [20]})
    assert fh.load() is FelzenszwalbSource
    assert fh.params() == json.loads(json.dumps(FelzenszwalbSource([20]).params))
    assert fh.build() is fh.build()
    for name in SOURCES:
        assert SourceSpec.named(name).target == SOURCES[name]


def test_sources_that_are_not_there(tmp_path, bands):
    broken = tmp_path / "broken.py"
    broken.write_text("import no_such_package\n")
    for name, message in [
        ("panoptc", "did you mean panoptic"),
        ("watershed", "package.module:Class"),
        ("no_such_package:Slic", "cannot be imported.*path/to/file.py"),
        (f"{broken}:Slic", "No module named 'no_such_package'"),
        (f"{tmp_path / 'absent.py'}:Slic", "absent.py"),
        (
            "rmae_d2.regions.sources.felzenszwalb:FelzenszwalbSauce",
            "did you mean FelzenszwalbSource",
        ),
    ]:
        with pytest.raises(UserError, match=message):
            SourceSpec.named(name)
    with pytest.raises(UserError, match="needs an attribute `params`"):
        bands("NoParams").params()
    with pytest.raises(UserError, match="cannot be built"):
        bands(colour="red").build()
