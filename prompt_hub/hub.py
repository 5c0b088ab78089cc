"""`from prompt_hub.hub import PromptHub`, as the authors' README has it."""

from prompt_transferability.prompt_hub import PromptHub

__all__ = ["PromptHub"]
