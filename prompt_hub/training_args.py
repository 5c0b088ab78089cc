"""`from prompt_hub.training_args import PromptTrainingArguments`, as the authors' README has it."""

from prompt_transferability.prompt_hub import PromptTrainingArguments

__all__ = ["PromptTrainingArguments"]
