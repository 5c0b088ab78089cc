#!/usr/bin/env python3
"""Store the similarities of a study's prompts, by all metrics and groups of layers, for pages without its models.

    python tools/similarities.py results/smollm --models models --out results/similarity/smollm.csv

This takes one forward pass per prompt; nothing is trained. The table contains only numbers, no vectors.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch

from prompt_transferability.evidence import pair_similarities, write_similarities
from prompt_transferability.experiments import Sources
from prompt_transferability.provenance import environment, recorded_command
from prompt_transferability.results import Results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, help="folder of a study")
    parser.add_argument("--models", help="folder of model folders and .gguf files")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, required=True, help="file for the table (.csv)")
    options, begun = parser.parse_args(), time.process_time()
    results = Results(options.results)
    study, sources, found, models = results.study, Sources(None, options.models, options.device), {}, {}
    for name in study.backbones:
        backbone = sources.backbone(name, study.layout, study.max_length, study.dtype)
        found[name] = pair_similarities(results.named_prompts(name), backbone)
        models[name] = {"fingerprint": backbone.fingerprint, "layers": backbone.num_layers}
    origin = {"command": recorded_command(["python", "tools/similarities.py", *sys.argv[1:]])}
    origin |= {"models": models, "processor seconds": round(time.process_time() - begun)}
    write_similarities(found, options.out, origin | {"threads": torch.get_num_threads()} | environment())


if __name__ == "__main__":
    main()
