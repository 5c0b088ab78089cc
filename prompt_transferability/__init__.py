"""What happens to a soft prompt when it leaves the task, or the model, it was trained for."""

__version__ = "0.1.0"
