"""From judged groups to examples: shaped scores, rules, advantages, corrections."""
