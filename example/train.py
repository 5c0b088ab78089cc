"""Prompt training, evaluation and activated neurons on one task: the example of the authors' README.

    python example/train.py --output_dir outputs --dataset sst2 --learning_rate 1e-2

`--help` lists the arguments: those of `transformers.TrainingArguments` and the authors' own. `example/train.sh` uses
those of the README. Without a network, add `--backbone micro-roberta --dataset micro/sst2 --prompt_len 10`.
"""

import sys

from transformers import HfArgumentParser

from prompt_hub.hub import PromptHub
from prompt_hub.training_args import PromptTrainingArguments


def main() -> None:
    (args,) = HfArgumentParser(PromptTrainingArguments).parse_args_into_dataclasses()
    trainer = PromptHub(args=args)
    print(trainer.train_prompt())
    print("evaluation:", trainer.eval_prompt())

    before, _ = trainer.activated_neuron(args.backbone, args.dataset)
    print(f"activated neurons: {(before > 0).float().mean():.1%} of {before.numel():,}")
    metrics, mask = trainer.mask_activated_neuron(args.backbone, args.dataset, ratio=0.2)
    print(f"evaluation without the {int(mask.sum()):,} most activated neurons:", metrics)


if __name__ == "__main__":
    try:
        main()
    except (ModuleNotFoundError, OSError, ValueError) as error:
        sys.exit(f"{sys.argv[0]}: {error}")
    except KeyboardInterrupt:
        sys.exit(f"{sys.argv[0]}: interrupted; continue with --resume_from_checkpoint and a folder checkpoint-…")
