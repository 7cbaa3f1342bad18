"""Drawing the samples of a round: by the policy, its engine, and its rivals."""
