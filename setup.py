"""Metadata of the package. Exact versions for development and CI are in requirements.txt."""

import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py


class BuildWithOptionFiles(build_py):
    """Put `options/` into the package; an editable installation reads it from the clone."""

    def run(self):
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib, 'ramit_arch', 'options', 'files')
            shutil.rmtree(target, ignore_errors=True)  # files of an earlier build
            shutil.copytree('options', target)


setup(
    name='ramit-arch',
    version='0.1.0',
    description='RAMiT, lightweight image restoration by reciprocal attention mixing, as a plugin for BasicSR',
    long_description=Path(__file__).with_name('README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    license_files=['LICENSE'],
    python_requires='>=3.10',
    packages=find_packages(include=['ramit_arch', 'ramit_arch.*']),
    package_data={
        'ramit_arch': ['weights/*'],
        'ramit_arch.archs': ['*.cpp'],
        'ramit_arch.evaluation': ['paper.yml'],
        'ramit_arch.preparation': ['datasets.yml'],
        'ramit_arch.web': ['static/*', 'static/samples/*'],
    },
    # The command's parser lives outside the package: importing ramit_arch imports torch, and `--help` must not.
    py_modules=['basicsr_command'],
    cmdclass={'build_py': BuildWithOptionFiles},
    entry_points={'console_scripts': ['basicsr = basicsr_command:main']},
    install_requires=[
        'torch>=2.4',
        'torchvision',
        'basicsr>=1.4.2,<1.5',
        'numpy>=1.24',
        'opencv-python>=4.8',
        'lmdb>=1.4',
        'pyyaml>=6.0',
        'pydantic>=2.7',
        'annotated-types>=0.6',
        'typing-extensions>=4.6',
        'scipy>=1.10',
        'pillow>=10.1',
        'tifffile>=2022.8.12',
        'safetensors>=0.4',
        'tqdm>=4.60',
        'filelock>=3.12',
    ],
    extras_require={
        'demo': ['scikit-image>=0.20'],
        'plot': ['matplotlib>=3.7'],
        'onnx': ['onnx>=1.16', 'onnxscript>=0.5', 'onnxruntime>=1.18'],
        'web': ['starlette>=1.0', 'uvicorn>=0.30'],
        'spandrel': ['spandrel>=0.4'],
        'video': ['av>=17.1'],
        'dev': [
            'pytest>=8',
            'pytest-xdist>=3.5',
            'hypothesis>=6.100',
            'fastjsonschema>=2.20',
            'playwright>=1.50',
            'ruff>=0.6',
            'mypy>=1.11',
            'types-PyYAML',
        ],
    },
    classifiers=[
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Programming Language :: Python :: 3.13',
        'Programming Language :: Python :: 3.14',
        'Topic :: Scientific/Engineering :: Image Processing',
    ],
)
