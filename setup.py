"""Hands the metadata of settings.ini to setuptools."""

from configparser import ConfigParser
from pathlib import Path

from setuptools import setup

config = ConfigParser(delimiters=["="], interpolation=None)
config.read(Path(__file__).with_name("settings.ini"), encoding="utf-8")
settings = config["DEFAULT"]


def lines(key: str) -> list[str]:
    """The non-empty lines of a setting."""
    return [line for line in settings[key].splitlines() if line]


extras = {key.removesuffix("_requirements"): lines(key) for key in settings if key.endswith("_requirements")}

setup(
    name=settings["lib_name"],
    version=settings["version"],
    description=settings["description"],
    keywords=settings["keywords"].split(),
    author=settings["author"],
    license=settings["license"],
    license_files=["LICENSE"],
    classifiers=lines("classifiers"),
    python_requires=f">={settings['min_python']}",
    install_requires=lines("requirements"),
    extras_require=extras,
    entry_points={
        "console_scripts": lines("console_scripts"),
        "nbdev": [f"{settings['lib_name']} = {settings['lib_name']}._modidx:d"],
    },
    packages=[settings["lib_name"], "prompt_hub"],  # the second: the README's import paths
    package_data={settings["lib_name"]: ["micro_models/*/*", "authors_release.sha256"]},
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    zip_safe=False,
)
