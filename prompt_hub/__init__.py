"""The import paths of the authors' README; all of it is `prompt_transferability.prompt_hub`."""
