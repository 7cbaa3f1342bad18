"""Writers of one process take turns."""

import threading

from support.errors import raises
from tiltlm.core.errors import RunError
from tiltlm.labeling.store.turns import Turns


def test_turns_come_in_the_order_in_which_they_were_asked_for() -> None:
    turns, order = Turns(), []

    def ask(number: int) -> None:
        with turns.turn(10):
            order.append(number)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    with turns.turn(10):
        for asked, thread in enumerate(threads, 1):
            thread.start()
            while len(turns._waiting) < asked:
                pass
    for thread in threads:
        thread.join()
    assert order == list(range(8))


def test_a_turn_that_does_not_come_is_given_up_and_hinders_nobody() -> None:
    turns = Turns()
    with turns.turn(10), raises(RunError, "busy"), turns.turn(0.01):
        pass
    with turns.turn(0.01):
        pass


def test_an_error_within_a_turn_ends_it() -> None:
    turns = Turns()
    try:
        with turns.turn(1):
            raise KeyError
    except KeyError:
        pass
    with turns.turn(0.01):
        pass
