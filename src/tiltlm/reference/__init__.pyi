from .build import build_reference
from .digests import base_digest, model_digest, model_facts, numeric_path
from .reference import Computed, Reference
from .reference_settings import ReferenceSettings, check_reference, default_store_folder
from .store.store import ReferenceStore

__all__ = [
    "Computed",
    "Reference",
    "ReferenceSettings",
    "ReferenceStore",
    "base_digest",
    "build_reference",
    "check_reference",
    "default_store_folder",
    "model_digest",
    "model_facts",
    "numeric_path",
]
