"""twin: a capacity planner and digital twin for LLM serving."""

__version__ = "0.1.0"
