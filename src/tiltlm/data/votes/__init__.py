"""Reading votes: files of other tools, and the database of a labelling project."""

from tiltlm.data.votes.reading import read_votes

__all__ = ["read_votes"]
