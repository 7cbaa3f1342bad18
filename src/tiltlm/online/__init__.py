"""Rounds of fresh samples: draw, judge, make examples, train, and again with the policy that came out."""
