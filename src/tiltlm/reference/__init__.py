"""The reference policy: its log-probabilities, computed with frozen weights and stored for all runs."""

from tiltlm.reference.build import build_reference
from tiltlm.reference.digests import base_digest, model_digest, numeric_path
from tiltlm.reference.reference import Computed, Reference
from tiltlm.reference.reference_settings import ReferenceSettings, check_reference, default_store_folder
from tiltlm.reference.store.store import ReferenceStore

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
    "numeric_path",
]
