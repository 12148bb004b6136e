"""Metadata and the pure-Python build of openlab; tool settings are in pyproject.toml."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
SHIPPED = ('configs', 'model_zoo')  # kept at the top of the repository, read by openlab/shipped.py

TEST = [
    'pytest>=8', 'pytest-xdist', 'pytest-cov', 'pytest-timeout', 'hypothesis', 'ruff', 'mypy',
    'types-PyYAML', 'build', 'wheel', 'setuptools', 'timm', 'transformers', 'pycocotools',
    'torchmetrics', 'scikit-image', 'selenium',
]
DOCS = ['mkdocs>=1.6', 'mkdocs-material', 'mkdocstrings[python]']
ALBUMENTATIONS = ['albumentations']
# Decodes JPEGs a little faster than OpenCV, to the same pixels.
JPEG = ['simplejpeg']
LLM = ['tokenizers', 'gguf', 'jinja2']
HF = ['huggingface_hub']
WANDB = ['wandb']
MLFLOW = ['mlflow']
TIMM = ['timm>=1.0']
TRANSFORMERS = ['transformers>=5']


class BuildWithShippedFiles(build_py):
    """Copy configs and the zoo index into the package; drop what an older build left behind."""

    def run(self):
        """Build; an editable install reads the files where they are instead."""
        target = Path(self.build_lib) / 'openlab'
        if not self.editable_mode and target.is_dir():
            shutil.rmtree(target)
        super().run()
        if not self.editable_mode:
            for source, copy in self.shipped_files():
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, copy)

    def shipped_files(self):
        """Pairs of a file at the top of the repository and its place in the build."""
        target = Path(self.build_lib) / 'openlab' / '_shipped'
        for part in SHIPPED:
            for source in sorted((ROOT / part).rglob('*')):
                if source.is_file() and '__pycache__' not in source.parts:
                    yield source, target / source.relative_to(ROOT)

    def get_outputs(self, include_bytecode=True):
        """List the shipped files too, so that an uninstall knows them."""
        outputs = super().get_outputs(include_bytecode)
        if self.editable_mode:
            return outputs
        return outputs + [str(copy) for _, copy in self.shipped_files()]


setup(
    name='openlab',
    version=re.search(
        r"^__version__ = '(.+)'", (ROOT / 'openlab/__init__.py').read_text('utf-8'), re.M
    )[1],
    description='One config-driven framework for vision and language models',
    long_description=(ROOT / 'README.md').read_text('utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    license_files=['LICENSE'],
    python_requires='>=3.10',
    packages=find_packages(include=['openlab', 'openlab.*']),
    package_data={'openlab': ['py.typed', '**/*.json', '**/*.yaml', 'visualization/report_page/*']},
    cmdclass={'build_py': BuildWithShippedFiles},
    install_requires=[
        'torch>=2.6', 'torchvision>=0.21', 'mmengine>=0.10.7', 'opencv-python>=4.8',
        'numpy>=1.26', 'pillow', 'addict', 'safetensors', 'rich', 'tensorboard', 'matplotlib',
        'scikit-learn', 'scipy', 'pyyaml', 'psutil', 'faster-coco-eval>=1.8', 'filelock',
    ],
    extras_require={
        'test': JPEG + TEST + ALBUMENTATIONS + LLM + WANDB + [
            'accelerate', 'mlflow-skinny', 'sqlalchemy', 'alembic'],
        'docs': DOCS,
        'albumentations': ALBUMENTATIONS,
        'llm': LLM,
        'jpeg': JPEG,
        'hf': HF,
        'wandb': WANDB,
        'mlflow': MLFLOW,
        'timm': TIMM,
        'transformers': TRANSFORMERS,
        'all': JPEG + TEST + DOCS + ALBUMENTATIONS + LLM + HF + WANDB + MLFLOW
        + TIMM + TRANSFORMERS,
    },
    entry_points={'console_scripts': ['openlab = openlab.cli:main']},
    classifiers=[
        'Development Status :: 3 - Alpha',
        'Intended Audience :: Science/Research',
        'Operating System :: OS Independent',
        'Programming Language :: Python :: 3',
        *(f'Programming Language :: Python :: 3.{minor}' for minor in range(10, 14)),
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
        'Typing :: Typed',
    ],
)
