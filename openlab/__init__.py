"""openlab: one config-driven framework for vision and language models."""

__version__ = '0.1.0'
