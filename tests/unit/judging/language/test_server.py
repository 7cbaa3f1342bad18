"""What may pass is asked again, what will not stops at once, and the key stays where it is."""

import time

import pytest

from support.errors import raises
from support.fake_server import Say, fake_server, written
from tests_of_ladder import asker
from tiltlm.core import ConfigError, RunError
from tiltlm.judging import JudgementCache, PairItem, cached
from tiltlm.judging.language.judges import PairwiseJudge
from tiltlm.judging.language.server import MAX_REPLY, Server, ServerSettings

PAIRS = [PairItem("p", str(k), "x") for k in range(6)]
