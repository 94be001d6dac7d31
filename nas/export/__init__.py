"""Trained learners as files: written without loss, read without a database."""

from nas.export.description import Description, Scored
from nas.export.embedding import Embedding
from nas.export.files import check, check_free, load, save
from nas.export.model import Loaded, Model, rebuild

__all__ = [
    "Description",
    "Embedding",
    "Loaded",
    "Model",
    "Scored",
    "check",
    "check_free",
    "load",
    "rebuild",
    "save",
]
