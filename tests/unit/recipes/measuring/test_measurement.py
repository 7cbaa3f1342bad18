"""The reference that KL is measured to is the objective's own."""

from types import SimpleNamespace

from tiltlm.models import Policy
from tiltlm.recipes.measuring import measurement
from tiltlm.reference import ReferenceSettings


def test_kl_is_measured_to_the_revision_of_the_reference(monkeypatch):
    asked = []
    monkeypatch.setattr(measurement, "build_reference", lambda settings, *_, **__: asked.append(settings))
    reference = SimpleNamespace(name="someone/model", starts_as_policy=False, has_weights=True)
    ready = SimpleNamespace(policy=object.__new__(Policy), reference=reference)
    training = SimpleNamespace(max_tokens=100)
    settings = ReferenceSettings("someone/model", revision="v2", store="somewhere")
    measurement.kl_reference(ready, SimpleNamespace(reference=settings, training=training))
    assert asked == [ReferenceSettings("someone/model", revision="v2", cache=False)]
