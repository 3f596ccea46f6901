"""Executes notebooks in place, by this Python, and leaves outputs that belong into the repository.

make notebooks
.venv/bin/python notebooks/execute.py notebooks/features_for_a_classifier.ipynb
"""

import hashlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
import papermill

FOLDER = Path(__file__).resolve().parent
_KERNEL = "rmae_d2_this_python"
_KERNELSPEC = {"display_name": "Python 3", "language": "python", "name": "python3"}
#: What the log says of this machine and this hour: speed, memory, time left; terminals' colours.
_OF_THE_HOUR = re.compile(r"  eta: [\d:]+|  [\d.]+ images/s  mfu: .*|\x1b\[[\d;]*m")


def execute(
    notebook: Path, output: Path, cwd: Path, parameters: Mapping[str, Any] | None = None
) -> nbformat.NotebookNode:
    """Executes a notebook from its first cell to its last, whatever kernels are installed.

    Args:
        notebook: to read.
        output: to write, also where a cell fails.
        cwd: in which its cells run.
        parameters: instead of those in its cell ``parameters``.

    Returns:
        the executed notebook.

    Raises:
        papermill.PapermillExecutionError: a cell failed.
    """
    line = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    before = os.environ.get("JUPYTER_PATH")
    with tempfile.TemporaryDirectory() as folder:
        spec = Path(folder, "kernels", _KERNEL, "kernel.json")
        spec.parent.mkdir(parents=True)
        spec.write_text(json.dumps({**_KERNELSPEC, "argv": line}))
        os.environ["JUPYTER_PATH"] = os.pathsep.join([folder, *([before] if before else [])])
        try:
            return papermill.execute_notebook(
                str(notebook),
                str(output),
                parameters=dict(parameters or {}),
                kernel_name=_KERNEL,
                cwd=str(cwd),
                progress_bar=False,
            )
        finally:
            os.environ.pop("JUPYTER_PATH")
            if before is not None:
                os.environ["JUPYTER_PATH"] = before


def code_digest(notebook: nbformat.NotebookNode) -> str:
    """SHA-256 of all code, by which a test tells whether outputs are of the code beside them."""
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256(json.dumps(sources).encode()).hexdigest()


def clean(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Takes out what differs from run to run, so that a change of the outputs is a change of results."""
    for cell in notebook.cells:
        cell.metadata = {key: cell.metadata[key] for key in ("tags",) if cell.metadata.get(key)}
        if cell.cell_type == "code":
            cell.outputs = _joined(cell.outputs)
    language = {"name": "python", "file_extension": ".py"}
    executed = {"executed_code_sha256": code_digest(notebook)}
    notebook.metadata = {"kernelspec": _KERNELSPEC, "language_info": language, "rmae_d2": executed}
    return nbformat.from_dict(notebook)


def _joined(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Text that came in pieces as one output."""
    joined: list[nbformat.NotebookNode] = []
    for output in outputs:
        if output.output_type == "stream":
            output.text = _OF_THE_HOUR.sub("", output.text)
            if joined and joined[-1].get("name") == output.name:
                joined[-1].text += output.text
                continue
        joined.append(output)
    return joined


def main(paths: list[str]) -> None:
    """Executes and rewrites the notebooks named, else all of this folder."""
    for path in [Path(p) for p in paths] or sorted(FOLDER.glob("*.ipynb")):
        print(path.name, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            executed = execute(path, Path(folder, path.name), path.resolve().parent)
        nbformat.write(clean(executed), path)


if __name__ == "__main__":
    main(sys.argv[1:])
