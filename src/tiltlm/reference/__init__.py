"""The reference policy: its log-probabilities, computed with frozen weights and stored for all runs."""

from tiltlm.reference.build import ReferenceSettings, build_reference, no_reference
from tiltlm.reference.digests import base_digest, model_digest, numeric_path
from tiltlm.reference.reference import Computed, Reference
from tiltlm.reference.store.store import ReferenceStore, default_store_folder

__all__ = [
    "Computed",
    "Reference",
    "ReferenceSettings",
    "ReferenceStore",
    "base_digest",
    "build_reference",
    "default_store_folder",
    "model_digest",
    "no_reference",
    "numeric_path",
]
