"""What to type where an optional package is missing works in a checkout and with a wheel."""

import ast
import re
import shlex

import pytest
from packaging.requirements import Requirement

from rmae_d2.errors import UserError
from rmae_d2.extras import how_to_install, needed
from tests.helpers import ROOT

_SETUP = ast.parse((ROOT / "setup.py").read_text())
(EXTRAS,) = (
    ast.literal_eval(node.value)
    for node in _SETUP.body
    if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "EXTRAS_REQUIRE"
)


@pytest.mark.parametrize("extra", sorted(EXTRAS.keys() - {"dev"}))
def test_the_command_names_the_packages(extra):
    pip, install, *given = shlex.split(how_to_install(extra))
    assert (pip, install) == ("pip", "install")
    assert {Requirement(text) for text in given} == {Requirement(text) for text in EXTRAS[extra]}


def test_an_extra_that_the_installed_package_does_not_know():
    """As in a checkout that is on the path only: there pip finds setup.py."""
    assert shlex.split(how_to_install("newest")) == ["pip", "install", "-e", f"{ROOT}[newest]"]


def test_a_package_that_is_missing():
    says = (
        r"the page needs no_such_package \(No module.*\): pip install 'starlette>=1.0' 'uvicorn>="
    )
    with pytest.raises(UserError, match=says):
        needed("no_such_package", "demo", "the page")
    assert needed("os.path", "demo", "the page").sep == "/"


def test_the_page_lists_them_all():
    page = (ROOT / "docs/install.md").read_text().partition("## Extras")[2]
    cells = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    assert {name for cell in cells for name in re.findall(r"`(\w+)`", cell)} == EXTRAS.keys()


def test_nothing_tells_people_to_install_what_is_not_published():
    texts = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "rmae_d2").rglob("*.py")]
    for path in texts:
        assert not re.search(r"pip install\s+['\"]?rmae[-_]d2", path.read_text()), path
